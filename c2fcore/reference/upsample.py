"""Coarse logits at full size, and the labels they give."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from .._classes import ClassSet, class_set


def upsample_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits [B, N, h, w] at full size [B, N, H, W], in float32 (float64 stays).

    Bilinear, align_corners=False; not touched if already of that size. An interpolated value that
    is NaN (a NaN among its four taps, or infinities that cancel, taps of weight 0 included) counts
    as -inf.
    """
    full = logits if logits.dtype == torch.float64 else logits.float()
    if tuple(logits.shape[-2:]) != tuple(size):
        full = F.interpolate(full, size=size, mode="bilinear", align_corners=False)
    if _surely_finite(logits):
        return full
    return torch.nan_to_num(full, nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def labels_of(logits: Tensor) -> Tensor:
    """Int64 [B, H, W], the lowest class of the largest logit; logits as from `upsample_logits`.

    max(dim) gives the indices of argmax in a quarter of its time on the CPU.
    """
    return logits.max(dim=1).indices


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over classes. Where the largest logit is infinite its class takes everything."""
    p = logits.softmax(dim=1)
    if _surely_finite(logits):
        return p
    top, c = logits.max(dim=1, keepdim=True)
    one_hot = torch.zeros_like(p).scatter_(1, c, 1.0)
    return torch.where(top.isfinite(), p, one_hot)


def label_map(seg: Tensor, size: tuple[int, int]) -> Tensor:
    """Integer labels [B, H, W] of logits [B, N, h, w], or of a label map, the latter as it is."""
    return labels_of(upsample_logits(seg, size)) if seg.is_floating_point() else seg


def member_mask(
    labels: Tensor, small_classes: Iterable[int] | ClassSet, in_range: bool = False
) -> Tensor:
    """Bool, True where a label is in C; ids outside 0..255 never are.

    `in_range` says that the labels are known to be 0..255, which saves looking.
    """
    table = as_class_set(small_classes).mask(256, labels.device)
    if in_range or labels.dtype == torch.uint8:
        return table[labels.long()]
    inside = table[labels.clamp(0, 255).long()]
    return inside & (labels >= 0) & (labels <= 255)


def as_class_set(small_classes: Iterable[int] | ClassSet) -> ClassSet:
    """The class set of some ids."""
    if isinstance(small_classes, ClassSet):
        return small_classes
    return class_set(tuple(small_classes))


def _surely_finite(logits: Tensor) -> bool:
    # Only a logit that is not finite can make NaN. On the CPU one look at the small map saves a
    # pass over the large one; elsewhere the look would cost a synchronisation, under compilation a
    # graph break.
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool(logits.isfinite().all())
