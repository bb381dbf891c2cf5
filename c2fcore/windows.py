"""Windows: where the second look goes, and the grid they are taken from."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Windows(NamedTuple):
    """Windows of a batch, as `ops.select_windows` returns them.

    Attributes:
        origins: int32 [B, n, 2], top-left corners as (y, x) in full-size pixels; (0, 0) in unused
            slots.
        counts: int32 [B, n], small-object pixels of each window; for strategy "cover" the pixels
            that no earlier window of the image had covered. 0 in unused slots.
        num: int32 [B], how many leading slots of each image are in use.
        window: side of every window in pixels.
    """

    origins: Tensor
    counts: Tensor
    num: Tensor
    window: int


def grid_origins(size: int, window: int, stride: int, edge: str) -> list[int]:
    """Start positions of the windows along one axis, in pixels.

    Windows start at i * stride while they fit. With edge "flush" a last one is added at size -
    window when the regular ones do not reach the border; with edge "drop" it is not.
    """
    origins = list(range(0, size - window + 1, stride))
    if edge == "flush" and (size - window) % stride != 0:
        origins.append(size - window)
    return origins


def grid_shape(height: int, width: int, window: int, stride: int, edge: str) -> tuple[int, int]:
    """Number of window rows R and columns S of an image."""
    if edge == "flush":  # rounded up, without a branch that torch.compile would compile twice
        return -((window - height) // stride) + 1, -((window - width) // stride) + 1
    return (height - window) // stride + 1, (width - window) // stride + 1
