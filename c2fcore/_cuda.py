"""The CUDA kernels: loaded when first needed, or why they cannot be; the memory they work in."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import _native, _nvrtc, _triton


def on_host() -> str:
    """Path of a module that runs the kernels on the CPU, on CPU tensors: C2F_CUDA_ON_HOST, or "".

    For tests (tests/cuda_on_host); slow.
    """
    return os.environ.get("C2F_CUDA_ON_HOST", "")


@functools.cache
def _load() -> _native.Native:
    """The module to run: with kernels that were built, or with those compiled when needed."""
    if on_host():
        return _native.Native(from_file(on_host()), "")
    why = "C2F_JIT=1 leaves out those that were built"
    if not _nvrtc.wanted():
        built = _native.load("_cuda_prebuilt", "cuda")
        if built.module is not None:
            return built
        why = built.reason
    found = _native.load("_cuda_jit", "cpu")
    if reason := found.reason or _nvrtc.missing():
        return _native.Native(None, f"{why}; and none can be compiled when needed: {reason}")
    assert found.module is not None
    found.module.set_launcher(_nvrtc.Launcher(_nvrtc.Cupy, _nvrtc.compiled))
    return found


def from_file(path: str) -> ModuleType:
    """A compiled module that is no part of the package."""
    spec = importlib.util.spec_from_file_location(Path(path).name.split(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def missing() -> str:
    """Why the CUDA kernels cannot run on this machine, "" if they can."""
    module, reason = _load()
    if module is None:
        return reason
    found: str = module.missing()
    if not found and not on_host() and not torch.cuda.is_available():
        return "this torch has no CUDA, or sees no device"
    return found


def compiled_by() -> str:
    """What compiled the kernels, "" if there are none."""
    return "" if missing() else str(getattr(_load().module, "compiled_by", "a C++ compiler"))


def why_not(tensor: Tensor, grad: bool) -> str:
    """Why a call with this first tensor cannot run, "" if it can."""
    if not tensor.is_cuda and not on_host():
        return f"takes CUDA tensors, got {tensor.device}"
    return "has no gradient" if grad else ""


def run(op: str, first: Tensor, *args: Any) -> None:
    """Runs the native function of an op on its first tensor's device, on the current stream there.

    The function gets the arguments and, last, the workspace.
    """
    native = getattr(_load().module, op)
    if first.is_cuda and first.device.index != torch.cuda.current_device():
        # torch answers for the current device when asked about streams and capture.
        with torch.cuda.device(first.device):
            native(first, *args, _workspace(first.device))
        return
    native(first, *args, _workspace(first.device))


class Workspace:
    """Device memory of kernels, allocated by torch: scratch, and counters that stay zero."""

    def __init__(self, device: torch.device) -> None:
        """For calls on one device."""
        self._device = device
        self._held = _Tickets()
        self._of_graphs = TicketPool()

    def scratch(self, name: str, count: int) -> Tensor:
        """At least `count` bytes of the current stream; content is garbage."""
        held = _triton.workspace(self._device, f"cuda {name}", torch.uint8, count)
        if on_host():  # garbage on purpose: fresh host memory would often be zero
            held.copy_(torch.arange(len(held)) | 0x80)
        return held

    def tickets(self, count: int) -> Tensor:
        """`count` int32 zeros that no other call running at the same time uses.

        Kernels leave them zero. They are kept per stream and thread; a captured call, which may be
        replayed beside anything, gets some of its own, and keeps them.
        """
        if self._device.type != "cuda":
            return torch.zeros(count, dtype=torch.int32)
        if torch.cuda.is_current_stream_capturing():
            own = self._of_graphs.take(count)
            if own is not None:
                return own
            # The fill is a node of the graph: each replay zeroes them before the kernel runs.
            return torch.zeros(count, dtype=torch.int32, device=self._device)
        self._of_graphs.fill(self._device)
        stream = torch.cuda.current_stream(self._device).cuda_stream
        held = self._held.by_stream.get(stream)
        if held is None or held.numel() < count:
            held = torch.zeros(max(count, 64), dtype=torch.int32, device=self._device)
            if not _triton.of_a_graph(held):
                self._held.by_stream[stream] = held
        return held


class TicketPool:
    """Counters for captured calls: zero before any capture, so that no graph has to zero them.

    A graph is not known to the call that is captured into it, nor when it ends: what was taken is
    not given back. The pool has a fixed size (256 KiB per device, some hundreds to two thousand
    captured calls); once it is used up, or where the first call of all is a captured one, the graph
    zeroes its own.
    """

    COUNT = 1 << 16

    def __init__(self) -> None:
        """An empty pool."""
        self._lock = threading.Lock()
        self._zeros: Tensor | None = None
        self._taken = 0

    def fill(self, device: torch.device) -> None:
        """At the first call that is not captured, and then no more.

        Waits for the device, this once: a graph may be replayed on any stream.
        """
        with self._lock:
            if self._zeros is not None:
                return
            zeros = torch.zeros(self.COUNT, dtype=torch.int32, device=device)
            if _triton.of_a_graph(zeros):
                return  # the graph's memory; a later call fills the pool
            if device.type == "cuda":
                done = torch.cuda.Event()
                done.record(torch.cuda.current_stream(device))
                done.synchronize()
            self._zeros = zeros

    def take(self, count: int) -> Tensor | None:
        """`count` of them that nobody else has or gets, or None."""
        with self._lock:
            if self._zeros is None or self._taken + count > self.COUNT:
                return None
            first = self._taken
            self._taken += -(-count // 32) * 32  # whole cache lines of 128 bytes
            return self._zeros[first : first + count]


class _Tickets(threading.local):
    def __init__(self) -> None:
        self.by_stream: dict[int, Tensor] = {}


@functools.cache
def _workspace(device: torch.device) -> Workspace:
    return Workspace(device)
