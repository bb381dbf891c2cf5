"""The gradient of aggregate's scores, an op of its own: PyTorch's operations, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..reference.aggregate import aggregate_backward
from . import _library
from ._extract_patches_backward import windows_of


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Of aggregate: what its gradient needs is its inputs, small beside the scores."""
    coarse, fine, origins, num, window, ids, _, _, rule, kind, _ = inputs
    if kind == "probs":  # labels are integers
        _library.keep(ctx, coarse, fine, origins, num)
        ctx.call = (window, ids, rule)


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Of aggregate, for torch.library.register_autograd."""
    wanted = ctx.needs_input_grad[:2]
    found = torch.ops.c2fcore.aggregate_backward(grad, *ctx.saved_tensors, *ctx.call, wanted)
    asked = (f if w else None for f, w in zip(found, wanted, strict=True))
    return (*asked, *[None] * 9)


def _gradients(
    grad: Tensor,
    coarse: Tensor,
    fine: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    ids: Sequence[int],
    rule: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients of coarse and fine; empty ones where they are not wanted."""
    windows = windows_of(origins, num, window)
    of_coarse, of_fine = aggregate_backward(
        grad, coarse, fine, windows, ids, rule=rule, of_coarse=wanted[0], of_fine=wanted[1]
    )
    return (
        coarse.new_empty(0) if of_coarse is None else of_coarse,
        fine.new_empty(0) if of_fine is None else of_fine,
    )


def _fake_backward(
    grad: Tensor,
    coarse: Tensor,
    fine: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    ids: Sequence[int],
    rule: str,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    of_coarse, of_fine = (
        t.new_empty(t.shape if asked else 0)
        for t, asked in zip((coarse, fine), wanted, strict=True)
    )
    return of_coarse, of_fine


def _setup_context_of_backward(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]
) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.call = inputs[5:]


def _backward_of_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """By autograd through the formulas, whose own graph is kept where derivatives go on."""
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, because a saved gradient may itself have been computed from the logits: only the
        # operations of `_gradients` are to be differentiated here.
        inputs = [t.view_as(t) for t in ctx.saved_tensors]
        found = _gradients(*inputs, *ctx.call)
    pairs = [(f, g) for f, g in zip(found, grads, strict=True) if f.requires_grad]
    if not pairs:  # linear in what stays constant
        return (None,) * len(ctx.needs_input_grad)
    outputs, given = zip(*pairs, strict=True)
    asked = [t for t, wanted in zip(inputs, ctx.needs_input_grad, strict=False) if wanted]
    answers = iter(
        torch.autograd.grad(outputs, asked, given, create_graph=further, allow_unused=True)
    )
    return tuple(next(answers) if wanted else None for wanted in ctx.needs_input_grad)


_library.define_as(
    "aggregate_backward(Tensor grad, Tensor coarse, Tensor fine, Tensor origins, Tensor num, "
    "int window, int[] small_classes, str rule, bool[] wanted) -> (Tensor, Tensor)",
    _fake_backward,
    _gradients,
)
torch.library.register_autograd(
    "c2fcore::aggregate_backward",
    _backward_of_backward,
    setup_context=_setup_context_of_backward,
    lib=_library.LIBRARY,
)
