"""Backend "cuda" on CPU tensors, by the machine for PTX: what NVRTC makes of the kernels.

All is as with _cuda_jit on a GPU but what CuPy does there: the module checks and plans, its
launcher compiles a kernel, and ptx_machine executes it.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import compare
import emulator_build
import numpy as np
import torch
from cuda_launches import Launches
from cuda_ptx import CudaMachine, CudaProgram
from ptx_machine import Buffer

from c2fcore import _backend, _cuda, _native, _nvrtc
from c2fcore.testing import samples

OPS = (*samples.OPS, "extract_patches_backward")


class Compiled(Launches):
    """The module _cuda_jit and its launcher.

    Attributes:
        programs: kernels that were started, by their names.
        races: that the machine saw.
    """

    def __init__(self) -> None:
        self.programs: dict[str, CudaProgram] = {}
        self.races: set[str] = set()
        self._module = _cuda.from_file(emulator_build.path_of("_cuda_jit_on_host"))
        self._module.set_launcher(self)
        self._of_call: list[torch.Tensor] = []
        self._workspace = _Workspace(self._of_call)
        for op in OPS:
            setattr(self._module, op, self._remembering(getattr(self._module, op)))

    def install(self, patch: Any) -> None:
        """Makes it the backend, until `patch` is undone."""
        patch.setattr(_cuda, "on_host", lambda: "compiled")
        patch.setattr(_cuda, "_load", cache(lambda: _native.Native(self._module, "")))
        patch.setattr(_cuda, "_workspace", lambda device: self._workspace)
        for op in OPS:
            patch.setitem(_backend._missing, (op, "cuda"), "")
        _cuda.missing.cache_clear()

    def __call__(self, *asked: Any) -> None:
        super().__call__(*asked)
        name, (blocks, argument, shared) = self.kernel.name, self.launch
        if name not in self.programs:
            entry, ptx = _nvrtc._compile(self.kernel, "compute_90")
            self.programs[name] = CudaProgram(ptx.decode(), entry)
        assert self.threads == self.programs[name].threads
        buffers = {b.address: b for b in map(buffer_of, self._of_call) if b.data.size}
        machine = CudaMachine(self.programs[name], blocks, list(buffers.values()), argument, shared)
        machine.run()
        self.races |= machine.races

    def _remembering(self, native: Any) -> Any:
        def run(*args: Any) -> None:
            self._of_call[:] = compare.flat(args)
            native(*args)

        return run


class _Workspace(_cuda.Workspace):
    """Its memory belongs to the call; no two calls have the same."""

    def __init__(self, of_call: list[torch.Tensor]) -> None:
        super().__init__(torch.device("cpu"))
        self._of_call = of_call

    def scratch(self, name: str, count: int) -> torch.Tensor:
        self._of_call.append((torch.arange(count) | 0x80).to(torch.uint8))
        return self._of_call[-1]

    def tickets(self, count: int) -> torch.Tensor:
        self._of_call.append(super().tickets(count))
        return self._of_call[-1]


def buffer_of(tensor: torch.Tensor) -> Buffer:
    """A tensor's whole storage."""
    storage = tensor.untyped_storage()
    place = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
    return Buffer("", np.frombuffer(place, np.uint8), storage.data_ptr())
