"""Boundary IoU of label maps, after Cheng et al., "Boundary IoU", CVPR 2021, eq. (3).

Boundary IoU of a class compares only the pixels of each mask that lie within d pixels of its own
contour: |G_d n P_d| / |G_d u P_d| with G_d the pixels of G that a square of side 2d+1 around them
does not find inside G. As in the authors' code outside the image is not inside a mask, so that an
object cut by the border has a contour there. Ignored pixels are in no mask, of the truth or of the
answer. A band that holds every object whole makes boundary IoU the IoU.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .. import _checks
from ..data.catalogue import IGNORED

_WHO = "boundary"


def width_of(ratio: float, height: int, width: int) -> int:
    """Width d in pixels as the authors take it: a share of the image's diagonal, at least 1.

    They use 0.02 for COCO and LVIS and 0.005 for the larger images of Cityscapes.
    """
    return max(1, round(ratio * math.hypot(height, width)))


def band(labels: Tensor, width: int) -> Tensor:
    """Where a pixel lies within `width` pixels of the contour of its own class's mask.

    All classes at once: a pixel is inside its class's mask by more than `width` exactly if the
    smallest and the largest label in the square around it are equal. Both are found along rows,
    then columns, in log2(width) steps.

    Args:
        labels: integers [H, W], on any device.
        width: d in pixels, at least 1.

    Returns:
        Bool [H, W].

    Raises:
        ValueError: another rank, or a width below 1.
    """
    width = _checks.integer(_WHO, "width", width, 1)
    if labels.ndim != 2:
        raise ValueError(f"{_WHO}: labels must be [H, W], got shape {tuple(labels.shape)}")
    near = torch.ones(labels.shape, dtype=torch.bool, device=labels.device)
    height, length = labels.shape
    if min(height, length) > 2 * width:
        side = 2 * width + 1
        low = _extreme(_extreme(labels, side, torch.minimum).mT, side, torch.minimum).mT
        high = _extreme(_extreme(labels, side, torch.maximum).mT, side, torch.maximum).mT
        near[width : height - width, width : length - width] = low != high
    return near


def counts(predicted: Tensor, truth: Tensor, num_classes: int, width: int) -> Tensor:
    """Pixels of the bands of both masks, per class.

    Args:
        predicted: integers [H, W].
        truth: integers [H, W]; pixels of 255 are in no mask.
        num_classes: ids are 0..N-1.
        width: d in pixels.

    Returns:
        int64 [N, 3]: in both bands (of one class), in the truth's, in the answer's. Counts of
        several images may be added.
    """
    if predicted.shape != truth.shape:
        raise ValueError(
            f"{_WHO}: predicted and truth must have one shape, got {tuple(predicted.shape)} and "
            f"{tuple(truth.shape)}"
        )
    ignored = truth == IGNORED
    # One label for all ignored pixels of both maps, which no class has. In bytes where they do:
    # most of the time is memory traffic.
    dtype = torch.uint8 if num_classes < 256 else torch.int32
    nothing = torch.tensor(num_classes, dtype=dtype, device=truth.device)
    bands = []
    for labels in (predicted, truth):
        known = torch.where(ignored, nothing, labels.to(dtype))
        bands.append(torch.where(band(known, width), known, nothing))
    of_answer, of_truth = bands
    both = torch.where(of_answer == of_truth, of_truth, nothing)
    found = [torch.bincount(b.flatten(), minlength=num_classes + 1) for b in (both, *bands[::-1])]
    return torch.stack([f[:num_classes] for f in found], dim=1)


def iou(found: Tensor) -> Tensor:
    """Boundary IoU per class, float64 [N], of what `counts` gave; NaN for a class in no map."""
    both, of_truth, of_answer = found.double().unbind(1)
    return both / (of_truth + of_answer - both)


def _extreme(values: Tensor, side: int, op: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The extreme of every `side` neighbours along the last axis: [.., L] to [.., L - side + 1]."""
    left = values.shape[-1] - side + 1
    reach = 1
    while 2 * reach <= side:
        values = op(values[..., :-reach], values[..., reach:])
        reach *= 2
    return op(values[..., :left], values[..., side - reach : side - reach + left])
