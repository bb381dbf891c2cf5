"""Rules of the CUDA sources that no compiler checks."""

from __future__ import annotations

import re
from pathlib import Path

KERNELS = Path(__file__).resolve().parents[1] / "kernels" / "cuda"
MEETING = re.compile(
    r"__(syncthreads|syncwarp|threadfence|\w+_sync)\("
    r"|\b(last_ticket|block_is_last|add_and_release|wait_for_previous)\("
)
NEAR = 3  # lines above


def test_every_meeting_of_threads_is_argued() -> None:
    """Barriers, warp intrinsics, fences, tickets, waits for other launches: a comment is beside."""
    bare, seen = [], 0
    for path in sorted(KERNELS.glob("*.cuh")):
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            if not MEETING.search(line.split("//")[0]):
                continue
            seen += 1
            near = lines[max(0, number - NEAR) : number + 1]
            if not any("//" in each for each in near):
                bare.append(f"{path.name}:{number + 1}: {line.strip()}")
    assert seen > 30
    assert not bare


def test_no_load_of_supposed_constants() -> None:
    """Such loads may move above the wait of a kernel that was launched early (gpu.cuh)."""
    for path in sorted(KERNELS.glob("*.cuh")):
        code = "\n".join(line.split("//")[0] for line in path.read_text().splitlines())
        assert "__ldg(" not in code, path.name
        assert "__restrict__" not in code, path.name
        assert "ld.global.nc" not in code, path.name
