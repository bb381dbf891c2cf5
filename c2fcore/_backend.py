"""Which backend runs an op: the table, the choice, and the reasons.

Each op registers its backends here. A backend is in one of three states: it can run; it is missing
(`missing()` gives the reason: not built, no device); or it cannot take this particular call
(`why_not(...)` gives the reason: wrong device, needs a gradient). "auto" takes the first of ORDER
that can run, of the two for GPUs the faster one by measured rows, and neither before it has agreed
with the reference on that GPU; an explicit choice runs or raises with the reason.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from . import _gpu_order, _self_check

ORDER: Final = ("cuda", "triton", "cpu", "reference")  # fastest first
CHOICES: Final = ("auto", *reversed(ORDER))

_log = logging.getLogger("c2fcore")
_of_process: Final = os.environ.get("C2F_BACKEND") or "auto"  # looking at each call costs 1 us
_chosen: contextvars.ContextVar[str] = contextvars.ContextVar("c2fcore_backend", default="auto")
_logged: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Backend:
    """One implementation of one op.

    Attributes:
        run: the implementation; called with the op's checked arguments.
        missing: "" if it can run on this machine, else the reason. Called once per table.
        why_not: "" if it can take a call with this first tensor, with or without gradient.
        gpu: whether it is one for GPUs, which "auto" takes for their tensors alone.
    """

    run: Callable[..., Any]
    missing: Callable[[], str] = lambda: ""
    why_not: Callable[[Tensor, bool], str] = lambda tensor, grad: ""
    gpu: bool = False


class Deferred:
    """An implementation in a module that is loaded when it is first needed.

    Once nothing is missing, the table has the implementation itself.
    """

    def __init__(self, load: Callable[[], Callable[..., Any]]) -> None:
        self.load = load

    def __call__(self, *args: Any) -> Any:
        return self.load()(*args)


_table: dict[str, dict[str, Backend]] = {}
_missing: dict[tuple[str, str], str] = {}


def register(op: str, **implementations: Backend) -> None:
    """Enters the backends of an op, by name."""
    _table[op] = {name: implementations[name] for name in ORDER if name in implementations}


def missing(op: str, name: str) -> str:
    """Why backend `name` of `op` cannot run on this machine; "" if it can."""
    key = (op, name)
    reason = _missing.get(key)
    if reason is None:
        backend = _table[op].get(name)
        reason = backend.missing() if backend else "not part of this version"
        _missing[key] = reason
        if backend and not reason and isinstance(backend.run, Deferred):
            _table[op][name] = dataclasses.replace(backend, run=backend.run.load())
    return reason


def backends() -> dict[str, dict[str, tuple[bool, str]]]:
    """What can run here: {op: {backend: (ok, reason)}}.

    The reason is "" where ok, but for a GPU backend that has differed from the reference in this
    process: that one still runs, if it is named.
    """
    return {op: {name: _state(op, name) for name in ORDER} for op in sorted(_table)}


def _state(op: str, name: str) -> tuple[bool, str]:
    reason = missing(op, name)
    return not reason, reason or _self_check.refused(op, name)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Makes `name` the backend of every op called inside with backend="auto".

    Args:
        name: "auto", "reference", "cpu", "triton" or "cuda".

    Raises:
        ValueError: for another name.
    """
    _check_name("use_backend", name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def choose(op: str, requested: str, tensor: Tensor, grad: bool = False) -> Callable[..., Any]:
    """The implementation of `op` to run for a call whose first tensor is `tensor`.

    Raises:
        ValueError: unknown backend name.
        RuntimeError: the backend asked for is missing on this machine.
        NotImplementedError: it cannot take this call; another one can.
    """
    name = requested
    if name == "auto":
        name = _chosen.get()
    if name == "auto":
        name = _of_process
    if name != "auto":
        if type(name) is not str or _missing.get((op, name)) != "":
            _require(op, name)
        backend = _table[op][name]
        if reason := backend.why_not(tensor, grad):
            raise NotImplementedError(f"{op}: backend {name!r} {reason}; 'reference' can run this")
        return backend.run
    if tensor.is_cuda and (found := _on_gpu(op, tensor, grad)) is not None:
        return found
    for candidate, backend in _table[op].items():
        if backend.gpu:
            continue
        reason = backend.why_not(tensor, grad) or missing(op, candidate)
        if not reason:
            return backend.run
        _passed_over(op, candidate, reason)
    raise RuntimeError(f"{op}: no backend can run on {tensor.device}; see c2fcore.backends()")


def _on_gpu(op: str, tensor: Tensor, grad: bool) -> Callable[..., Any] | None:
    """The GPU backend to run; None if none can, or none has agreed with the reference."""
    device = tensor.get_device()
    # With a gradient neither backend can run, so any order does; torch.compile traces that case
    # and cannot trace a lookup by size.
    names = _gpu_order.CUDA_FIRST if grad else _gpu_order.order(op, device, tensor.numel())
    for name in names:
        backend = _table[op].get(name)
        if backend is None:
            continue
        reason = backend.why_not(tensor, grad) or missing(op, name)
        reason = reason or _self_check.why_not(op, name, device)
        if not reason:
            return backend.run
        _passed_over(op, name, reason)
    return None


def _passed_over(op: str, name: str, reason: str) -> None:
    if (op, name) not in _logged:
        _logged.add((op, name))
        _log.info("%s: backend %s passed over: %s", op, name, reason)


def of_process() -> str:
    """What C2F_BACKEND makes of "auto"; "auto" where it is not set.

    Raises:
        ValueError: it is set to something else than a backend's name.
    """
    if _of_process not in CHOICES:
        raise ValueError(_rule("C2F_BACKEND", _of_process))
    return _of_process


def takes_reference(op: str, requested: str, tensor: Tensor) -> bool:
    """Whether `choose` answers with the reference, which reads the device's memory on the host."""
    return choose(op, requested, tensor) is _table[op]["reference"].run


def _require(op: str, name: str) -> None:
    """Raises unless there is a backend of this name and it can run on this machine."""
    _check_name(op, name)
    if reason := missing(op, name):
        raise RuntimeError(f"{op}: backend {name!r} cannot run here: {reason}")


def _check_name(op: str, name: str) -> None:
    if not isinstance(name, str) or name not in CHOICES:
        what = "C2F_BACKEND" if name is _of_process else "backend"
        raise ValueError(f"{op}: {_rule(what, name)}")


def _rule(what: str, name: str) -> str:
    return f"{what} must be one of {', '.join(map(repr, CHOICES))}, got {name!r}"
