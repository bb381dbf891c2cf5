"""The oldest Triton that the kernels are for: its code answers right, and is as good.

`make test` installs it beside the environment's own; processes are started here that find it first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from c2fcore import _triton

ROOT = Path(__file__).resolve().parents[1]
OLDEST = Path(sys.prefix) / "triton-oldest"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_triton.interpreted(), reason="the interpreter replaces the compiler"),
    pytest.mark.skipif(bool(_triton.unfit()), reason=_triton.unfit()),
    pytest.mark.skipif(not OLDEST.exists(), reason=f"no {OLDEST}: `make test` installs it"),
]


def run(*command: str | Path) -> str:
    """What a Python program prints whose `triton` is the oldest."""
    places = [str(OLDEST), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_it_is_the_oldest() -> None:
    assert run("-c", "import triton; print(triton.__version__)").startswith("3.6.")


def test_answers() -> None:
    run("-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", "tests/test_triton_ptx.py")


def test_no_kernel_spills() -> None:
    rows = run("benchmarks/kernel_table.py", "--sm", "90").splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    stacks = {tuple(row[:2]): row[8] for row in cells if len(row) == 9 and row[2] == "90"}
    assert len(stacks) > 30
    assert set(stacks.values()) == {"0"}, stacks


def test_memory_is_accessed_as_by_the_newest() -> None:
    """Lanes lie along columns: see `along_last` in kernels/triton/_ptx.py."""
    names = (
        *("512, x4 fp32", "select_windows cover 2048", "zoom", "targets"),
        *("labels given, answers agree", "512, answers agree", "6144, x4 fp16", "labels 4096"),
    )
    found = run("benchmarks/instructions.py", *names, "--backend", "triton").splitlines()
    table = (ROOT / "benchmarks" / "results" / "instructions.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
    newest = {row[0]: int(row[5]) for row in cells if len(row) == 12 and row[3] == "triton"}
    assert len(found) > 10
    for row in found:
        name, *_, passes = (cell.strip() for cell in row.split("|")[1:7])
        assert int(passes) < 1.1 * newest[name], row
