"""The cpu backend touches nothing beside inputs and outputs: where they end, memory does, too.

An access past either end ends the process with a segmentation fault: it is made in another one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import flat
from torch import Tensor

from c2fcore import Windows, _native, ops
from c2fcore.testing import samples

SEEDS = 40
NONE, READ_AND_WRITE = 0, 3  # PROT_NONE, PROT_READ | PROT_WRITE


class Memory:
    """Pages of zeros between two that nobody may touch."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
            ctypes.c_long,
        ]
        self.libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.taken: list[tuple[int, int]] = []

    def take(self, size: int, at_end: bool) -> Any:
        """`size` bytes, behind which comes a page that is protected, or before which."""
        inner = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        whole = inner + 2 * mmap.PAGESIZE
        start = self.libc.mmap(None, whole, NONE, flags, -1, 0)
        self.taken.append((start, whole))
        first = start + mmap.PAGESIZE
        assert self.libc.mprotect(first, inner, READ_AND_WRITE) == 0
        return (ctypes.c_uint8 * size).from_address(first + (inner - size if at_end else 0))

    def holds(self, x: Tensor) -> bool:
        """Whether a tensor lies here."""
        return any(first < x.data_ptr() < first + size for first, size in self.taken)

    def release(self) -> None:
        """All that was taken, which nothing may hold any more."""
        while self.taken:
            self.libc.munmap(*self.taken.pop())


def moved(x: Tensor, memory: Memory, at_end: bool) -> Tensor:
    """The same tensor, strides included, with nothing readable beside its first or last element."""
    if x.numel() == 0:
        return x
    steps = ((side - 1) * step for side, step in zip(x.shape, x.stride(), strict=True))
    reach = 1 + sum(steps)
    room = memory.take(reach * x.element_size(), at_end)
    flat = torch.frombuffer(room, dtype=x.dtype)
    flat.copy_(x.as_strided((reach,), (1,), x.storage_offset()))
    return flat.as_strided(x.shape, x.stride())


@contextmanager
def outputs_in(memory: Memory, at_end: bool) -> Iterator[None]:
    """Meanwhile the native modules' outputs lie there: made by torch.empty, small ones, too."""
    empty = torch.empty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", None, raising=False)
        patch.setattr(torch, "empty", lambda *a, **kw: moved(empty(*a, **kw), memory, at_end))
        yield


def every_call() -> None:
    """All samples and some drawn ones at both ends; prints what it is about to call."""
    memory = Memory()
    for op in samples.OPS:
        call: Callable[..., Any] = partial(getattr(ops, op), backend="cpu")
        if op == "select_windows":
            call = partial(call, _return_labels=True)
        for sample in (*samples.of(op), *(samples.drawn(op, seed) for seed in range(SEEDS))):
            for at_end in (True, False):
                print(op, sample, "end" if at_end else "start", flush=True)
                args = [
                    Windows(*(moved(t, memory, at_end) for t in arg[:3]), arg.window)
                    if isinstance(arg, Windows)
                    else moved(arg, memory, at_end)
                    if isinstance(arg, Tensor)
                    else arg
                    for arg in sample.args()
                ]
                args[0].requires_grad_(op == "extract_patches" and args[0].is_floating_point())
                with outputs_in(memory, at_end):
                    found = call(*args, **sample.options)
                    if args[0].requires_grad:
                        torch.autograd.grad(found, args[0], found.detach())
                made = flat(found if op == "select_windows" else [found])
                assert all(memory.holds(x) for x in made if x.numel()), "an output lies elsewhere"
                if op == "aggregate" and found.dtype == torch.uint8:  # labels edited in place
                    labels = moved(found, memory, at_end)
                    call(*args, **sample.options, _labels=labels)
                    del labels
                del args, found, made
                memory.release()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="maps memory as Linux does")
@pytest.mark.skipif(_native.cpu().module is None, reason=_native.cpu().reason)
@pytest.mark.parametrize("isa", ["portable", "avx2"])
def test_nothing_beside_inputs_and_outputs_is_touched(isa: str) -> None:
    portable = _native.load("_cpu_portable", "cpu").module
    if isa == "avx2" and not (portable and portable.cpu_has_avx2()):
        pytest.skip("this processor has no AVX2")
    code = "import test_protected; test_protected.every_call()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True,
        env={**os.environ, "C2F_CPU_ISA": isa}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-2000:]
    assert done.stdout.count("\n") > 500
