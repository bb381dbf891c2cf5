"""aggregate: the coarse and the fine answer, merged where they conflict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _arrays, _backend, _checks, reference
from .._classes import class_set
from ..windows import Windows
from . import _library
from ._aggregate_backward import backward, setup_context
from ._extract_patches_backward import windows_of
from .extract_patches import checked_windows

RULES = ("paper", "normalized", "official")
OUTPUTS = ("labels", "probs")


def aggregate(
    coarse: Any,
    fine: Any,
    windows: Windows,
    small_classes: Iterable[int],
    *,
    size: Sequence[int] | None = None,
    rule: str = "paper",
    output: str = "labels",
    backend: str = "auto",
    _labels: Tensor | None = None,
) -> Any:
    """Merges the coarse answer with the fine one inside the windows.

    With p the softmax of the coarse logits at full size, c* their argmax, and p_f the sigmoid of
    the fine foreground logit (one bilinear sample per pixel; the mean over the windows in use that
    cover the pixel, summed in slot order; a NaN counts as not covered), a covered pixel is treated
    by `rule`:

    - "paper" (Eq. 1 of the C2FNet paper): if c* is small and p_f < 0.5, 1 - p_f is added to the
      most probable class outside C; if c* is not small and p_f >= 0.5, p_f is added to the most
      probable class of C; then a softmax over all classes. Uncovered pixels keep p.
    - "normalized": the same additions, divided by their sum: the same labels, usable as
      probabilities.
    - "official": p_f is added to the coarse logits of every small class; "probs" returns these
      sums.

    Args:
        coarse: logits [B, N, h, w], float32/float16/bfloat16, any strides.
        fine: logits [B*n, 1 or 2, hf, wf] at any resolution; two channels give l1 - l0.
        windows: the windows that the fine patches came from.
        small_classes: distinct ids of the small classes C.
        size: full size (H, W), not below the logits' own; their own if None.
        rule: "paper", "normalized" or "official".
        output: "labels" or "probs".
        backend: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        uint8 [B, H, W], the argmax of the merged values (lowest class on a tie), or float32 [B, N,
        H, W]. "probs" is differentiable in coarse and fine, and twice: PyTorch's operations do
        that, whatever the backend. By torch.func and in forward mode on the reference, which "auto"
        takes for it. Where a NaN or an infinity decides no gradient passes.

    Raises:
        ValueError: a value breaks a rule above; the message says which, and the value.
        TypeError: a dtype is not among those above; a label map as `coarse` is refused, since
            merging needs the scores.
        NotImplementedError: the backend named lacks the derivatives of torch.func.
    """
    if not isinstance(coarse, Tensor):
        return _arrays.in_kind(
            aggregate,
            "coarse",
            coarse,
            fine,
            windows,
            small_classes,
            size=size,
            rule=rule,
            output=output,
            backend=backend,
            _labels=_labels,
        )
    merge = _checked(coarse, fine, windows, small_classes, size, rule, output)
    seen = merge is None
    if merge is None:
        coarse = _arrays.as_tensor("aggregate", "coarse", coarse)
        fine = _arrays.as_tensor("aggregate", "fine", fine)
        windows = _arrays.windows_as_tensors("aggregate", windows)
        merge = _check_aggregate(coarse, fine, windows, small_classes, size, rule, output)
    call = (coarse, fine, windows.origins, windows.num, windows.window, *merge)
    if output == "probs":
        if seen and _library.differentiated():
            return _backend.choose("aggregate", backend, coarse, grad=True)(*call)
        if _library.needs_grad(coarse, fine):
            return torch.ops.c2fcore.aggregate(*call, backend)
    if seen and _library.dispatched(coarse, fine, windows.origins, windows.num):
        return torch.ops.c2fcore.aggregate(*call, backend)
    return _backend.choose("aggregate", backend, coarse)(*call, _labels)


def _check_aggregate(
    coarse: Tensor,
    fine: Tensor,
    windows: Windows,
    small_classes: Iterable[int],
    size: Sequence[int] | None,
    rule: str,
    output: str,
) -> tuple[tuple[int, ...], int, int, str, str]:
    """Checks a call; returns the ids of C, H, W, rule and output."""
    op = "aggregate"
    if coarse.dtype not in _checks.LOGIT_DTYPES:
        hint = (
            ""
            if coarse.is_floating_point()
            else "; a label map has no scores to merge: pass logits"
        )
        raise TypeError(
            f"{op}: coarse must be float32/float16/bfloat16 logits, got {coarse.dtype}{hint}"
        )
    height, width, num_classes = _checks.segmentation(op, "coarse", coarse, size)
    ids = _checks.class_ids(op, small_classes, num_classes)
    # What is no tensor comes here as it is where it has a key of calls, as None has.
    fine = _arrays.as_tensor(op, "fine", fine)
    if fine.dtype not in _checks.LOGIT_DTYPES:
        raise TypeError(f"{op}: fine must be float32/float16/bfloat16 logits, got {fine.dtype}")
    shape, batch = fine.shape, coarse.shape[0]
    if len(shape) != 4 or shape[1] not in (1, 2) or shape[2] < 1 or shape[3] < 1:
        raise ValueError(f"{op}: fine must be [B*n, 1 or 2, hf, wf], got shape {tuple(shape)}")
    _checks.same_device(op, "fine", fine, coarse)
    hint = _checks.size_hint(coarse, size)
    n = _checks.windows(op, windows, batch, height, width, coarse, hint)
    if shape[0] != batch * n:
        raise ValueError(f"{op}: fine must have B*n patches, got {shape[0]} for B={batch}, n={n}")
    if rule not in RULES:
        _checks.choice(op, "rule", rule, RULES)
    if output not in OUTPUTS:
        _checks.choice(op, "output", output, OUTPUTS)
    return ids, height, width, rule, output


_checked = _library.remembered(_check_aggregate, tensors=2)


def _check_call(
    coarse: Tensor,
    fine: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    ids: Sequence[int],
    height: int,
    width: int,
    rule: str,
    output: str,
) -> None:
    windows = windows_of(origins, num, window)
    _check_aggregate(coarse, fine, windows, tuple(ids), (height, width), rule, output)


def _reference(
    coarse: Tensor,
    fine: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    ids: Sequence[int],
    height: int,
    width: int,
    rule: str,
    output: str,
    labels: Tensor | None = None,
) -> Tensor:
    merged = reference.aggregate(
        coarse,
        fine,
        windows_of(origins, num, window),
        ids,
        size=(height, width),
        rule=rule,
        output=output,
    )
    return merged if labels is None else labels.copy_(merged)


def _by_kernels(
    launch: Callable[..., None],
    coarse: Tensor,
    fine: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    ids: Sequence[int],
    height: int,
    width: int,
    rule: str,
    output: str,
    labels: Tensor | None = None,
) -> Tensor:
    out = labels
    if out is None:
        out = _fake(coarse, fine, origins, num, window, ids, height, width, rule, output)
    launch(
        "aggregate",
        coarse,
        fine,
        *checked_windows("aggregate", origins, num, window, height, width),
        class_set(tuple(ids)).table,
        height,
        width,
        rule,
        out,
        labels is not None,
    )
    return out


def _fake(
    coarse: Tensor,
    fine: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    ids: Sequence[int],
    height: int,
    width: int,
    rule: str,
    output: str,
    backend: str = "",
) -> Tensor:
    batch, num_classes = coarse.shape[:2]
    if output == "labels":
        return torch.empty(batch, height, width, dtype=torch.uint8, device=coarse.device)
    shape = (batch, num_classes, height, width)
    return torch.empty(shape, dtype=torch.float32, device=coarse.device)


_library.register("aggregate", _by_kernels, _reference)
_library.define(
    "aggregate(Tensor coarse, Tensor fine, Tensor origins, Tensor num, int window, "
    "int[] small_classes, SymInt height, SymInt width, str rule, str output, str backend) "
    "-> Tensor",
    _check_call,
    _fake,
)
torch.library.register_autograd(
    "c2fcore::aggregate", backward, setup_context=setup_context, lib=_library.LIBRARY
)
