"""Compiles launches ahead of time, as a call would, for a GPU that need not be there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ._launch import Launch

_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.uint16: "*u16",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


class Resources(NamedTuple):
    """What one compiled kernel takes.

    Attributes:
        registers: per thread.
        shared: bytes per program.
        stack: bytes per thread in local memory, spilled registers among them; 0 means no spill.
        warps: warps per program.
    """

    registers: int
    shared: int
    stack: int
    warps: int


def compile_launch(launch: Launch, capability: int) -> Any:
    """The compiled kernel of a launch for sm_<capability>, e.g. 80, 90 or 100.

    Arguments are specialised as a call would: integers equal to 1 become constants, multiples of 16
    and aligned pointers are marked. Tensors may be on the "meta" device; those count as aligned.
    """
    source = ASTSource(launch.kernel, *_specialise(launch))
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=launch.options())


def signature(launch: Launch) -> tuple[Any, ...]:
    """What decides the code of a launch: launches with equal answers share a compiled kernel."""
    return (launch.kernel.__name__, *map(repr, (*_specialise(launch), launch.options())))


def _specialise(launch: Launch) -> tuple[dict[str, Any], dict[Any, Any], dict[Any, Any]]:
    signature: dict[str, Any] = {}
    constants: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}

    def kind(value: Any, path: tuple[int, ...], special: bool) -> Any:
        if isinstance(value, tuple):
            kinds = [kind(part, (*path, i), special) for i, part in enumerate(value)]
            return type(value)(*kinds) if hasattr(value, "_fields") else tuple(kinds)
        if value is None or (special and type(value) is int and value == 1):
            constants[path] = value
            return "constexpr"
        if isinstance(value, Tensor):
            if value.is_meta or value.data_ptr() % 16 == 0:
                attributes[path] = [["tt.divisibility", 16]]
            return _POINTERS[value.dtype]
        if isinstance(value, float):
            return "fp32"
        if special and value % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"

    for index, parameter in enumerate(launch.kernel.params):
        name = parameter.name
        if parameter.is_constexpr:
            signature[name] = "constexpr"
            constants[(index,)] = launch.constants[name]
        else:
            value = launch.args[name]
            signature[name] = kind(value, (index,), not parameter.do_not_specialize)
    return signature, constants, attributes


def resources(launch: Launch, capability: int) -> Resources:
    """Compiles a launch and reads what the machine code takes."""
    compiled = compile_launch(launch, capability)
    usage = _cuobjdump("--dump-resource-usage", compiled.asm["cubin"])
    found = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage))
    # Triton allocates shared memory at the launch; the static part in the cubin is none of it.
    return Resources(
        registers=int(found["REG"]),
        shared=int(compiled.metadata.shared),
        stack=int(found["STACK"]) + int(found["LOCAL"]),
        warps=launch.num_warps,
    )


def _cuobjdump(option: str, cubin: bytes) -> str:
    # nvidia's tools lie beside the compiler in triton's own package.
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [str(tool), option, file.name], text=True, capture_output=True, check=True
        )
    return done.stdout
