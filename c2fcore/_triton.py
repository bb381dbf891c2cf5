"""The Triton kernels: loaded when first needed, or why they cannot be; their workspace.

Importing this module imports nothing of triton, which takes its time and may not be installed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import threading
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

OLDEST = (3, 6)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes")


@functools.cache
def missing() -> str:
    """Why the Triton kernels cannot run on this machine, "" if they can."""
    installed = importlib.util.find_spec("triton") is not None
    if installed and not interpreted() and not torch.cuda.is_available():
        return "no CUDA device (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly, for tests)"
    return unfit() or (interpreter_broken(_version()) if interpreted() else "")


def unfit() -> str:
    """Why the installed Triton cannot compile the kernels, "" if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; it comes with torch for CUDA on Linux"
    try:
        version = _version()
        importlib.import_module("c2fcore.kernels.triton")
    except Exception as error:  # a broken installation fails in many ways, none of them ours
        return f"triton does not load: {error}"
    if version < OLDEST:
        wanted, found = (".".join(map(str, v)) for v in (OLDEST, version))
        return f"triton must be {wanted} or later, as comes with torch 2.10, found {found}"
    return ""


def _version() -> tuple[int, ...]:
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2])


def interpreter_broken(version: tuple[int, ...]) -> str:
    """Why the interpreter of this triton cannot run with the installed NumPy, "" if it can."""
    numpy = tuple(int(part) for part in np.__version__.split(".")[:2])
    if version < (3, 7) and numpy >= (2, 4):  # loops over range(tensor) raise TypeError
        return f"the interpreter of triton 3.6 needs NumPy below 2.4, found {np.__version__}"
    return ""


def why_not(tensor: Tensor, grad: bool) -> str:
    """Why a call with this first tensor cannot run, "" if it can."""
    if not tensor.is_cuda and not interpreted():
        return f"takes CUDA tensors, got {tensor.device}"
    return "has no gradient" if grad else ""


@functools.cache
def kernels(op: str) -> ModuleType:
    """The module of an op; for backends that are only chosen where `missing` is ""."""
    return importlib.import_module(f"c2fcore.kernels.triton.{op}")


def run(op: str, first: Tensor, *args: Any) -> None:
    """Runs the host function of an op on the device of its first tensor, on its current stream.

    The function gets the arguments and, last, the workspace: (name, dtype, numel) -> Tensor.
    """
    function = getattr(kernels(op), op)
    for given in (first, *args):  # the launcher would pass null pointers on
        if isinstance(given, Tensor) and not given.data_ptr() and given.numel():
            raise ValueError(
                f"{op}: tensors must hold their numbers in memory, got one without: freed, or of "
                "a compiler"
            )
    args = (*args, functools.partial(workspace, first.device))
    if first.is_cuda:
        with torch.cuda.device(first.device):
            function(first, *args)
    else:
        function(first, *args)


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.scratch: dict[tuple[str, torch.device, int], Tensor] = {}


_held = _PerThread()


def workspace(device: torch.device, name: str, dtype: torch.dtype, numel: int) -> Tensor:
    """Scratch of at least `numel` elements for kernels of the current stream; content is garbage.

    One tensor per name, always asked for with the same dtype; kept per device, stream and thread
    and grown as needed: calls that may run at the same time, or whose launches may interleave,
    never share it. While a CUDA graph is captured it comes from the graph's own memory instead, so
    that a replay on any stream has it to itself; while torch.compile warms up for a capture, it is
    not kept either.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.empty(numel, dtype=dtype, device=device)
    key = (name, device, torch.cuda.current_stream(device).cuda_stream)
    scratch = _held.scratch.get(key)
    if scratch is None or scratch.numel() < numel:
        _held.scratch.pop(key, None)  # freed first: both need not fit at once
        scratch = torch.empty(numel, dtype=dtype, device=device)
        if not of_a_graph(scratch):
            _held.scratch[key] = scratch
    return scratch


def of_a_graph(tensor: Tensor) -> bool:
    """Whether the memory of a CUDA tensor belongs to graphs, and must not be kept beyond a call.

    torch.compile(mode="reduce-overhead") runs once without capturing, but with the memory of the
    graphs to come: what is still held afterwards is an error there, and given out again.
    """
    if "torch._inductor.cudagraph_trees" not in sys.modules:
        return False  # everyone else sets the stream to capturing
    address = tensor.data_ptr()
    for segment in torch.cuda.memory_snapshot():
        if 0 <= address - segment["address"] < segment["total_size"]:
            return tuple(segment["segment_pool_id"]) != (0, 0)
    return False
