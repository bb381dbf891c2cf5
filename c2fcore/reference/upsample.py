"""Coarse logits at full size, and the labels they give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._classes import ClassSet, class_set


def upsample_logits(logits: Tensor, size: tuple[int, int], finite: bool = False) -> Tensor:
    """Logits [B, N, h, w] at full size [B, N, H, W], in float32 (float64 stays).

    Bilinear, align_corners=False; not touched if already of that size. An interpolated value that
    is NaN (a NaN among its four taps, or infinities that cancel, taps of weight 0 included) counts
    as -inf. `finite` says that there is none of these, as `surely_finite` finds out.
    """
    full = logits if logits.dtype == torch.float64 else logits.float()
    if tuple(logits.shape[-2:]) != tuple(size):
        full = F.interpolate(full, size=size, mode="bilinear", align_corners=False)
    if finite:
        return full
    return torch.nan_to_num(full, nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def resampled_backward(grad: Tensor, size: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Gradient of maps [P, C, *size], of that of what F.interpolate made of them.

    Args:
        grad: [P, C, H, W].
        size: the maps' own.
        mode: "nearest", "bilinear" or "bicubic", align_corners=False.
    """
    if not grad.is_cpu and torch.are_deterministic_algorithms_enabled() and mode != "nearest":
        return _by_matrices(grad, size, mode)  # aten's adds in any order there, and raises
    backward = getattr(torch.ops.aten, f"upsample_{mode}2d_backward")
    corners = () if mode == "nearest" else (False,)
    shapes = (list(grad.shape[-2:]), [*grad.shape[:2], *size])
    found: Tensor = backward(grad, *shapes, *corners, None, None)
    return found


def _by_matrices(grad: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """The same as two products with the weights of every row and of every column."""
    rows, columns = (
        F.interpolate(
            torch.eye(own, dtype=grad.dtype, device=grad.device)[None, None],
            size=(full, own),
            mode=mode,
            align_corners=False,
        )[0, 0]
        for own, full in zip(size, grad.shape[-2:], strict=True)
    )
    with torch.autocast(grad.device.type, enabled=False):
        return rows.T @ (grad @ columns)


def labels_of(logits: Tensor) -> Tensor:
    """Int64 [B, H, W], the lowest class of the largest logit; logits as from `upsample_logits`.

    max(dim) gives the indices of argmax in a quarter of its time on the CPU.
    """
    return logits.max(dim=1).indices


def probabilities(logits: Tensor, finite: bool = False) -> Tensor:
    """Softmax over dim 1. Where the largest logit is infinite its class takes everything."""
    p = logits.softmax(dim=1)
    if finite:
        return p
    top, c = logits.max(dim=1, keepdim=True)
    one_hot = torch.zeros_like(p).scatter_(1, c, 1.0)
    return torch.where(top.isfinite(), p, one_hot)


def label_map(seg: Tensor, size: tuple[int, int]) -> Tensor:
    """Integer labels [B, H, W] of logits [B, N, h, w], or of a label map, the latter as it is."""
    if not seg.is_floating_point():
        return seg
    finite = surely_finite(seg)
    if seg.device.type == "cpu" and tuple(seg.shape[-2:]) != tuple(size):
        # PyTorch's CPU interpolation and maximum are 1.5 times faster in this layout.
        seg = seg.contiguous(memory_format=torch.channels_last)
    return labels_of(upsample_logits(seg, size, finite))


def member_mask(
    labels: Tensor, small_classes: Iterable[int] | ClassSet, in_range: bool = False
) -> Tensor:
    """Bool, True where a label is in C; ids outside 0..255 never are.

    `in_range` says that the labels are known to be 0..255, which saves looking.
    """
    table = as_class_set(small_classes).mask(256, labels.device)
    known = in_range or labels.dtype == torch.uint8
    ids = (labels if known else labels.clamp(0, 255)).reshape(-1)
    ids = ids if ids.dtype in (torch.int32, torch.int64) else ids.int()
    inside = table.index_select(0, ids).reshape(labels.shape)  # a sixth of the time of table[ids]
    return inside if known else inside & (labels >= 0) & (labels <= 255)


def as_class_set(small_classes: Iterable[int] | ClassSet) -> ClassSet:
    """The class set of some ids."""
    if isinstance(small_classes, ClassSet):
        return small_classes
    return class_set(tuple(small_classes))


def surely_finite(logits: Tensor) -> bool:
    """Whether coarse logits are known to hold no NaN and no infinity.

    On the CPU one look at the small map saves passes over the large one; elsewhere the look would
    cost a synchronisation, under compilation a graph break, and the answer is no.
    """
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool(logits.isfinite().all())
