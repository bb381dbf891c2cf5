"""The compiled modules: which build of the CPU kernels fits this processor, or why none does."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _watchers
from .windows import Windows

T = TypeVar("T")


class Native(NamedTuple):
    """A loaded module, or None and the reason."""

    module: ModuleType | None
    reason: str


_forked = False


def _after_fork() -> None:
    """In a forked process the CPU module starts threads of its own: OpenMP's are gone."""
    global _forked
    _forked = True
    module = cpu().module if cpu.cache_info().currsize else None
    if module is not None:
        module.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


@functools.lru_cache(maxsize=1)
def cpu() -> Native:
    """The CPU module for this processor.

    Both builds come from the same sources; the AVX2 one is taken where the processor has AVX2, FMA
    and F16C. C2F_CPU_ISA=portable|avx2 demands one of them. On 64-bit Arm there is one, with NEON.
    """
    wanted = os.environ.get("C2F_CPU_ISA", "auto")
    if wanted not in ("auto", "portable", "avx2"):
        raise ValueError(f"C2F_CPU_ISA must be auto, portable or avx2, got {wanted!r}")
    portable = load("_cpu_portable", "cpu")
    if portable.module is None or wanted == "portable":
        return portable
    if not portable.module.cpu_has_avx2():
        if wanted == "avx2":
            return Native(None, "C2F_CPU_ISA=avx2, but this processor lacks AVX2, FMA or F16C")
        return portable
    avx2 = load("_cpu_avx2", "cpu")
    return avx2 if avx2.module is not None or wanted == "avx2" else portable


def function(op: str) -> Callable[..., Any]:
    """The native function of an op, where the module loads.

    It makes its outputs, and runs on as many threads as torch uses.
    """
    return getattr(cpu().module, op)  # type: ignore[no-any-return]


@functools.cache
def call_key() -> Callable[..., bytes | None]:
    """The function (tensors, *arguments of a call) that says what it is, but for what tensors hold.

    Equal bytes mean equal arguments of equal types, and tensors of equal dtype, device and shape.
    None where there are tensors but for Windows and the first `tensors` arguments, other ones than
    plain tensors, or arguments of unexpected types, and without native modules always.
    """
    module: Any = load("_cpu_portable", "cpu").module
    if module is None:
        return lambda *args: None
    parameter, size = torch.nn.Parameter, torch.Size
    module.call_key_types(torch.Tensor, parameter, size, torch.dtype, Windows)
    return module.call_key  # type: ignore[no-any-return]


def call_finder(tensors: int, known: dict[bytes, T]) -> Callable[..., T | None]:
    """The function (*arguments of a call) that gives what `known` has under the call's key.

    None where it has nothing, or something but the caller has to see the call: see `_watchers`.
    """
    module: Any = load("_cpu_portable", "cpu").module
    if module is None:
        return lambda *args: None
    call_key()
    functions = (_watchers.modes, _watchers.transforms, _watchers.tracing)
    module.call_watchers(*functions, vars(torch.compiler), vars(forward_ad))
    return module.call_finder(tensors, known)  # type: ignore[no-any-return]


def missing() -> str:
    """Why the CPU module is missing, "" if it is there."""
    return cpu().reason


def why_not(tensor: Tensor, grad: bool) -> str:
    """Why a call with this first tensor cannot run, "" if it can."""
    if not tensor.is_cpu:
        return f"takes CPU tensors, got {tensor.device}"
    return "has no gradient" if grad else ""


def load(name: str, backend: str) -> Native:
    """A compiled module of a backend."""
    try:
        module = importlib.import_module(f"c2fcore.{name}")
    except ImportError as error:
        return Native(None, _build_reason(backend) or f"c2fcore.{name} does not load: {error}")
    if _forked and backend == "cpu":
        module.after_fork()
    return Native(module, "")


def _build_reason(backend: str) -> str:
    """Why the build left a backend out, if it did."""
    try:
        from ._build_info import BUILT  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return ""
    ok, reason = BUILT.get(backend, (True, ""))
    return "" if ok else f"not built: {reason}"
