"""Plugin: the launches of _cuda_jit, by name, on the emulator of the CUDA kernels.

    C2F_CUDA_ON_HOST=build/cuda_on_host/_cuda_jit_on_host... C2F_EMULATOR=.../_cuda_on_host... \\
        pytest -p jit_on_host tests/test_count_windows.py --backend cuda

All is as on a GPU but what CuPy does there: compiling a kernel, loading it, starting it. An op that
takes more than one launch fails.
C2F_KERNELS_RUN names a file for the names of the kernels that were started.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from c2fcore import _cuda, _nvrtc

started: list[str] = []
CHANNELS = 64  # of one launch of extract_patches
emulator = _cuda.from_file(os.environ["C2F_EMULATOR"])


def _named(kernel: _nvrtc.Kernel, capability: int) -> tuple[str, bytes]:
    return f"{kernel.op}:{kernel.name}", b""


class Emulated:
    """Stands for CuPy and the GPU."""

    Error = ()  # nothing is CUDA's: what the emulator finds is raised as it is

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def enter(self, device: int) -> int:
        return device

    def leave(self, before: int) -> None:
        pass

    def capability(self, device: int) -> int:
        return 90

    def load(self, code: bytes, name: str) -> int:
        self.loaded.append(name)
        return len(self.loaded) - 1

    def allow_shared(self, function: int, size: int) -> None:
        assert size <= 227 << 10

    def launch(self, function: int, blocks: int, threads: int, shared: int, *rest: int) -> None:
        op, _, name = self.loaded[function].partition(":")
        stream, arguments = rest
        assert stream == 0
        started.append(name)
        emulator.launch(op, name, blocks, threads, shared, arguments)


class Launcher(_nvrtc.Launcher):
    def missing(self) -> str:
        return ""


module = _cuda._load().module
assert module is not None
assert module.compiled_by == "NVRTC"
module.set_launcher(Launcher(Emulated, _named))


def pytest_sessionfinish() -> None:
    if path := os.environ.get("C2F_KERNELS_RUN"):
        Path(path).write_text("\n".join(sorted(set(started))))


def _in_one_launch(op: str) -> None:
    """Has every call of an op fail that is more than one launch: three make the whole glue."""
    native = getattr(module, op)

    def run(first: torch.Tensor, *args: Any) -> None:
        before = len(started)
        native(first, *args)
        most = -(-first.shape[1] // CHANNELS) if op.startswith("extract_patches") else 1
        launches = started[before:]
        assert len(launches) <= most, launches

    setattr(module, op, run)


for op in (
    *("count_windows", "select_windows", "aggregate"),
    *("extract_patches", "extract_patches_backward", "extract_targets"),
):
    _in_one_launch(op)
