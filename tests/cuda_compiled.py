"""Backend "cuda" on CPU tensors, by the machine for PTX: what NVRTC makes of the kernels.

All is as with _cuda_jit on a GPU but what CuPy does there: the module checks and plans, its
launcher compiles a kernel, and ptx_machine executes it.
"""

from __future__ import annotations

import ctypes
from functools import cache
from types import SimpleNamespace
from typing import Any

import compare
import emulator_build
import numpy as np
import torch
from cuda_launches import Launches, OnGpu, call
from cuda_ptx import CudaMachine, CudaProgram
from ptx_machine import Buffer

from c2fcore import _backend, _cuda, _native, _nvrtc
from c2fcore.testing import samples

OPS = (*samples.OPS, "extract_patches_backward")


class Executed(Launches):
    """A launcher for _cuda_jit: NVRTC compiles, and the machine runs.

    Args:
        part: only the first of so many parts of a launch's blocks are run.
        watched: whether races are looked for.

    Attributes:
        of_call: the tensors whose memory the next launch may touch.
        programs: kernels that were started, by their names.
        races: that the machine saw.
        issued: instructions that warps executed.
        passes: of these through the memory pipe, where races are not looked for.
    """

    def __init__(self, part: int = 1, watched: bool = True) -> None:
        self.part, self.watched = part, watched
        self.of_call: list[torch.Tensor] = []
        self.programs: dict[str, CudaProgram] = {}
        self.races: set[str] = set()
        self.issued = self.passes = 0

    def __call__(self, *asked: Any) -> None:
        super().__call__(*asked)
        name, (blocks, argument, shared) = self.kernel.name, self.launch
        if name not in self.programs:
            entry, ptx = _nvrtc._compile(self.kernel, "compute_90")
            self.programs[name] = CudaProgram(ptx.decode(), entry)
        program = self.programs[name]
        assert self.threads <= program.threads
        buffers = {b.address: b for b in map(buffer_of, self.of_call) if b.data.size}
        blocks = -(-blocks // self.part)
        machine = CudaMachine(
            program, blocks, list(buffers.values()), argument, shared, self.watched, self.threads
        )
        machine.run()
        self.races |= machine.races
        self.issued += machine.issued
        self.passes += machine.passes

    def call(self, op: str, *arguments: Any) -> None:
        """A native function of _cuda_jit proper, whose plans are those for a GPU."""
        self.of_call[:] = compare.flat(arguments)
        own = Workspace(self.of_call)
        workspace = SimpleNamespace(
            scratch=lambda name, count: OnGpu(own.scratch(name, count)),
            tickets=lambda count: OnGpu(own.tickets(count)),
        )
        call(self, op, *arguments, workspace)


class Compiled(Executed):
    """The module _cuda_jit and its launcher."""

    def __init__(self) -> None:
        super().__init__()
        self._module = _cuda.from_file(emulator_build.path_of("_cuda_jit_on_host"))
        self._module.set_launcher(self)
        self._workspace = Workspace(self.of_call)
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

    def _remembering(self, native: Any) -> Any:
        def run(*args: Any) -> None:
            self.of_call[:] = compare.flat(args)
            native(*args)

        return run


def aligned(count: int) -> torch.Tensor:
    """So many bytes, at a multiple of 256 as a GPU's are."""
    room = torch.empty(count + 255, dtype=torch.uint8)
    return room[-room.data_ptr() % 256 :][:count]


class Workspace(_cuda.Workspace):
    """Its memory belongs to the call; no two calls have the same."""

    def __init__(self, of_call: list[torch.Tensor]) -> None:
        super().__init__(torch.device("cpu"))
        self._of_call = of_call

    def scratch(self, name: str, count: int) -> torch.Tensor:
        self._of_call.append(aligned(count).copy_(torch.arange(count) | 0x80))
        return self._of_call[-1]

    def tickets(self, count: int) -> torch.Tensor:
        self._of_call.append(aligned(4 * count).zero_().view(torch.int32))
        return self._of_call[-1]


def buffer_of(tensor: torch.Tensor) -> Buffer:
    """A tensor's whole storage."""
    storage = tensor.untyped_storage()
    place = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
    return Buffer("", np.frombuffer(place, np.uint8), storage.data_ptr())
