"""What the CUDA backend launches, without a GPU: the plans of _cuda_jit, and nothing run."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from triton_cases import AnyCase, arguments, meta

from c2fcore import _cuda, _native, _nvrtc


class Launches:
    """Stands for the launcher of _cuda_jit, and keeps what it is asked for."""

    def missing(self) -> str:
        return ""

    def __call__(
        self, op: str, name: str, blocks: int, threads: int, shared: int, *rest: int
    ) -> None:
        arguments, size, *_ = rest
        struct = ctypes.c_uint64.from_address(arguments).value
        self.kernel, self.threads = _nvrtc.Kernel(op, name, size), threads
        self.launch = blocks, ctypes.string_at(struct, size), shared


class OnGpu:
    """What a plan asks of a CUDA tensor; one without memory is aligned as if it had some."""

    device = torch.device("cuda:0")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape, self.dtype, self.stride = tensor.shape, tensor.dtype, tensor.stride
        self.tensor = tensor

    def data_ptr(self) -> int:
        return self.tensor.data_ptr() or 1 << 20


class Sizes:
    """A workspace that has no memory, and how much it is asked for."""

    def __init__(self) -> None:
        self.bytes = 0

    def scratch(self, name: str, count: int) -> OnGpu:
        self.bytes += count
        return OnGpu(meta(count, dtype=torch.uint8))

    def tickets(self, count: int) -> OnGpu:
        return OnGpu(meta(count))


def call(launcher: Any, op: str, *arguments: Any) -> None:
    """Calls the native function of an op with tensors as if they were on a GPU."""
    module, reason = _native.load("_cuda_jit", "cpu")
    assert module is not None, reason
    stream = SimpleNamespace(cuda_stream=0)
    module.set_launcher(launcher)
    try:
        with mock.patch.object(torch.cuda, "current_stream", return_value=stream):
            getattr(module, op)(
                *(OnGpu(a) if isinstance(a, torch.Tensor) else a for a in arguments)
            )
    finally:
        module.set_launcher(None)
        _cuda._load.cache_clear()  # who needs the launcher next sets it again


def planned(case: AnyCase) -> tuple[Launches, int]:
    """The launch of a case, and bytes of its workspace."""
    launches, sizes, given = Launches(), Sizes(), list(arguments(case))
    if case.op == "extract_patches_backward":  # its sums end in float32
        given[4] = meta(*given[4].shape, dtype=torch.float32)
    call(launches, case.op, *given, sizes)
    return launches, sizes.bytes
