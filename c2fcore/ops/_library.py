"""Registration with torch.library, and when a call has to go through it.

Eager calls on plain tensors go to the backend directly, which saves the dispatcher's 5
microseconds. Calls that something else must see (torch.compile, fake tensors, autograd, functorch,
tensor subclasses) go through `torch.ops.c2fcore.*`, with the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from .. import _backend, _cuda, _native, _triton, _watchers

T = TypeVar("T")

LIBRARY = torch.library.Library("c2fcore", "DEF")
_MOST_KNOWN: Final = 1024  # checked calls per op; some 300 bytes each


def define(
    schema: str,
    check: Callable[..., Any],
    fake: Callable[..., Any],
    complete: Callable[[Any], Any] | None = None,
) -> None:
    """Registers an op for CPU and CUDA tensors.

    A call hands its arguments, less the last one (the backend's name), to the backend chosen for
    its first one. Eager calls do the same without the dispatcher, see `dispatched`.

    Args:
        schema: the op's schema; the first argument is a Tensor, the last one `str backend`.
        check: raises what is wrong with these arguments, which torch.ops takes as they come. It
            does not look into the tensors.
        fake: the shape function, of arguments that were checked.
        complete: makes what a backend returns fit the schema, where a direct call need not.
    """
    op, arguments = schema.split("(", 1)
    tensors = arguments.count("Tensor ")
    known = remembered(lambda *args: check(*args) or True, tensors)

    def run(*args: Any) -> Any:
        known(*args[:-1]) or check(*args[:-1])
        found = _backend.choose(op, args[-1], args[0])(*args[:-1])
        return found if complete is None else complete(found)

    def checked_fake(*args: Any) -> Any:
        check(*args[:-1])
        return fake(*args)

    define_as(schema, checked_fake, run)


def define_as(schema: str, fake: Callable[..., Any], run: Callable[..., Any]) -> None:
    """Registers an op for CPU and CUDA tensors that is `run` for both, whatever the backend."""
    op = schema.split("(", 1)[0]

    def kernel(*args: Any) -> Any:
        found = run(*args)
        if getattr(forward_ad, "_current_level", -1) >= 0 and args[0].is_floating_point():
            _refuse_tangents(op, found)
        return found

    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(op, kernel, key)
    torch.library.register_fake(f"c2fcore::{op}", fake, lib=LIBRARY)


def _refuse_tangents(op: str, found: Any) -> None:
    """Raises if an op called in forward mode answers with floats, which would have tangents of 0.

    The public ops take the reference then. Others call torch.ops, and graphs of torch.export do.
    """
    if any(t.is_floating_point() for t in (found if isinstance(found, tuple) else (found,))):
        raise NotImplementedError(
            f"{op}: torch.ops.c2fcore.{op} has no derivative in forward mode; the functions of "
            "c2fcore.ops have"
        )


def register(
    op: str,
    by_kernels: Callable[..., Any],
    reference: Callable[..., Any],
    unread: torch.dtype | None = None,
) -> None:
    """Enters the backends of an op.

    Args:
        op: its name.
        by_kernels: allocates the outputs, and has its first argument, the function (op, *arguments)
            -> None of a backend for GPUs, fill them.
        reference: the same with PyTorch's own operations.
        unread: dtype of first tensors that only the reference reads.
    """

    def backend(run: Callable[..., Any], module: Any, gpu: bool) -> _backend.Backend:
        def why_not(first: Tensor, grad: bool) -> str:
            if first.dtype == unread:
                return f"does not read {str(unread).removeprefix('torch.')} images"
            return module.why_not(first, grad)  # type: ignore[no-any-return]

        return _backend.Backend(run, module.missing, why_not if unread else module.why_not, gpu)

    _backend.register(
        op,
        cuda=backend(partial(by_kernels, _cuda.run), _cuda, gpu=True),
        triton=backend(partial(by_kernels, _triton.run), _triton, gpu=True),
        cpu=backend(_backend.Deferred(partial(_native.function, op)), _native, gpu=False),
        reference=_backend.Backend(reference),
    )


def remembered(check: Callable[..., T], tensors: int = 1) -> Callable[..., T | None]:
    """`check`, a function of a call's arguments, asked once.

    What is returned answers an eager call on plain tensors that nothing else must see, and any
    other with None: that one has to be checked, and to ask `dispatched` and `differentiated`. Nor
    does it answer for tensors without memory.

    Args:
        check: does not look into the tensors of Windows and of the first arguments.
        tensors: how many these first arguments are. What is a tensor further on (class ids, a
            number) holds what is checked: such a call is answered with None.
    """
    known: dict[bytes, T] = {}
    find: Callable[..., T | None] | None = None  # at the first call: loads the native module

    def checked(*args: Any) -> T | None:
        nonlocal find
        if torch.compiler.is_dynamo_compiling():  # dynamo cannot trace native functions
            return None
        if find is None:
            find = _native.call_finder(tensors, known)
        found = find(*args)
        return check_anew(*args) if found is None else found

    def check_anew(*args: Any) -> T | None:
        if _watchers.watched() or getattr(forward_ad, "_current_level", -1) >= 0:
            return None
        key = _native.call_key()(tensors, *args)
        if key is None or any(isinstance(t, Tensor) and t.is_meta for t in args[:tensors]):
            return None
        found = check(*args)
        # Another thread may have changed a list of the arguments meanwhile: then `found` does not
        # belong to `key`.
        if _native.call_key()(tensors, *args) == key:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[key] = found
        return found

    return checked


def dispatched(*tensors: Tensor) -> bool:
    """Whether a call with these tensors must go through the dispatcher."""
    if _watchers.watched():
        return True
    for t in tensors:  # noqa: SIM110 - a generator costs half a microsecond
        if (type(t) is not Tensor and type(t) is not Parameter) or t.is_meta:
            return True
    return False


def keep(ctx: Any, *tensors: Tensor) -> None:
    """Saves tensors for the backward pass; copies of those of inference mode, which cannot be."""
    ctx.save_for_backward(*(t.clone() if t.is_inference() else t for t in tensors))


def needs_grad(*tensors: Tensor) -> bool:
    """Whether autograd will want a gradient of one of these."""
    for t in tensors:  # a generator costs half a microsecond
        if t.requires_grad:
            return torch.is_grad_enabled()
    return False


def differentiated() -> bool:
    """Whether torch.func or forward-mode AD may differentiate a call.

    Both see only PyTorch's own operations, and would take a registered op for a constant.
    """
    # torch.compile guards on the level: it compiles again where the level differs.
    if getattr(forward_ad, "_current_level", -1) >= 0:
        return True
    if torch.compiler.is_compiling() or _watchers.transforms() is None:
        return False
    return any(t.key().name in ("Grad", "Jvp") for t in _watchers.all_transforms() or ())
