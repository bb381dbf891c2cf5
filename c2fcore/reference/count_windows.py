"""count_windows in unfused PyTorch."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from .._classes import ClassSet
from ..windows import grid_origins
from .upsample import label_map, member_mask
from .window_sums import box_sums


def count_windows(
    seg: Tensor,
    small_classes: Iterable[int] | ClassSet,
    *,
    window: int,
    stride: int,
    size: tuple[int, int] | None = None,
    edge: str = "flush",
) -> Tensor:
    """Small-object pixels of every window, int32 [B, R, S].

    Args:
        seg: logits [B, N, h, w], taken to full size by bilinear interpolation before the argmax
            (lowest class on a tie; NaN counts as -inf), or an integer label map [B, H, W].
        small_classes: the ids of C.
        window: side k of a window, pixels.
        stride: distance s of neighbouring windows, pixels.
        size: full size (H, W) of logits; their own if None.
        edge: "flush" adds a last row (column) of windows at H - k (W - k) where the regular ones do
            not reach the border; "drop" does not.
    """
    height, width = size or (seg.shape[-2], seg.shape[-1])
    labels = label_map(seg, (height, width))
    mask = member_mask(labels, small_classes, in_range=seg.is_floating_point())
    tops = grid_origins(height, window, stride, edge)
    lefts = grid_origins(width, window, stride, edge)
    return box_sums(mask, [tops, lefts], [[window] * len(tops), [window] * len(lefts)])
