"""Compiled Triton kernels on CPU tensors, by the machine for PTX."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from ptx_machine import BASE, Buffer, Machine, Program


class Executed:
    """Runs launches by the machine, and keeps the compiled programs.

    Args:
        sm: what is compiled for, e.g. 90.
        part: only the first of so many parts of a launch's blocks are run.
        watched: whether races are looked for.

    Attributes:
        races: that the machine saw.
        issued: instructions that warps executed.
        passes: of these through the memory pipe, where races are not looked for.
    """

    def __init__(self, sm: int, part: int = 1, watched: bool = True) -> None:
        self.sm, self.part, self.watched = sm, part, watched
        self.programs: dict[Any, tuple[Program, int]] = {}
        self.races: set[str] = set()
        self.issued = self.passes = 0

    def run(self, launch: Any) -> None:
        from c2fcore.kernels.triton import _compile

        key = _compile.signature(launch)
        if key not in self.programs:
            compiled = _compile.compile_launch(launch, self.sm)
            self.programs[key] = Program(compiled.asm["ptx"]), int(compiled.metadata.shared)
        program, shared = self.programs[key]
        buffers: dict[int, Buffer] = {}
        args: list[float] = []

        def add(value: Any, kind: Any, name: str) -> None:
            if isinstance(kind, tuple):
                for part, its in zip(value, kind, strict=True):
                    add(part, its, name)
            elif kind != "constexpr":
                tensor = isinstance(value, torch.Tensor)
                args.append(_address(value, name, buffers) if tensor else value)

        for name, kind in _compile._specialise(launch)[0].items():
            add(launch.args.get(name), kind, name)
        blocks = -(-launch.grid // self.part)
        machine = Machine(program, blocks, list(buffers.values()), args, shared, self.watched)
        machine.run()
        self.races |= machine.races
        self.issued += machine.issued
        self.passes += machine.passes


def _address(tensor: torch.Tensor, name: str, buffers: dict[int, Buffer]) -> int:
    """Where the machine sees a tensor; its whole storage is memory that may be touched."""
    storage = tensor.untyped_storage()
    first, size = storage.data_ptr(), storage.nbytes()
    if first not in buffers:
        free = max((b.address + b.data.size for b in buffers.values()), default=BASE)
        # Far from the others, and aligned as it is.
        address = (free // 4096 + 2) * 4096 + first % 256
        data = np.frombuffer((ctypes.c_uint8 * size).from_address(first), np.uint8)
        buffers[first] = Buffer(name, data, address)
    return buffers[first].address + tensor.data_ptr() - first
