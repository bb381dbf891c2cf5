"""Logits of the pixels that lie between the same two rows of logits, as device functions.

What is interpolated along x serves all rows of pixels between them. Arithmetic is _upsample.py's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import triton
import triton.language as tl

from ._divider import divided
from ._upsample import first_tap, inner_output, unclamped_positions


class Source(NamedTuple):
    """Where the logits of a tile are, on the device: pointers to those of class 0, [1, 1, X]."""

    top_left: tl.tensor
    top_right: tl.tensor
    bottom_left: tl.tensor
    bottom_right: tl.tensor
    wx: tl.tensor  # weight of the right ones
    stride_n: tl.tensor
    stride_y: tl.tensor


@triton.jit
def _of_class(c, source, N: tl.constexpr, CLASSES: tl.constexpr):
    """Elements from class 0 to the classes c [CLASSES, 1, 1], the last one for those beyond it."""
    if N % CLASSES != 0:
        c = tl.minimum(c, N - 1)
    return c.to(tl.int64) * source.stride_n


@triton.jit
def _along_x(left, right, wx):
    value = tl.load(left).to(tl.float32) * (1.0 - wx)
    return tl.fma(tl.load(right).to(tl.float32), wx, value)


@triton.jit
def two_rows(c, source, N: tl.constexpr, CLASSES: tl.constexpr):
    """Both rows of logits of classes c at the columns of the pixels, [CLASSES, 1, X]."""
    at = _of_class(c, source, N, CLASSES)
    top = _along_x(source.top_left + at, source.top_right + at, source.wx)
    return top, _along_x(source.bottom_left + at, source.bottom_right + at, source.wx)


@triton.jit
def interpolated_rows(
    rows, wy, below, c, source, N: tl.constexpr, CLASSES: tl.constexpr, RESIZED: tl.constexpr
):  # fmt: skip
    """Logits of classes c at the pixels, [CLASSES, STEP, X], -inf for NaN and for c >= N.

    From two rows of them, at the weights wy [1, STEP, 1]; those of their own size are read, `below`
    [1, STEP, 1] rows down.
    """
    if RESIZED:
        top, bottom = rows
        value = tl.fma(bottom, wy, top * (1.0 - wy))
    else:
        at = _of_class(c, source, N, CLASSES) + below.to(tl.int64) * source.stride_y
        value = tl.load(source.top_left + at).to(tl.float32)
    value = tl.maximum(value, float("-inf"))  # of NaN and a number, the number
    if N % CLASSES != 0:
        value = tl.where(c < N, value, float("-inf"))
    return value


@triton.jit
def logits_of(
    kept, wy, below, c, source, N: tl.constexpr, CLASSES: tl.constexpr, RESIZED: tl.constexpr,
    KEEP: tl.constexpr,
):  # fmt: skip
    """As `interpolated_rows`; `kept` is that already where all classes are one block, KEEP."""
    if KEEP:
        return kept
    rows = (kept, kept)
    if RESIZED:
        rows = two_rows(c, source, N, CLASSES)
    return interpolated_rows(rows, wy, below, c, source, N, CLASSES, RESIZED)


@triton.jit
def rows_of_tile(
    tile_y, groups, axis, ROWS: tl.constexpr, BY_CELL: tl.constexpr, RESIZED: tl.constexpr,
    DYADIC: tl.constexpr,
):  # fmt: skip
    """Rows [y0, y1) of pixels of a tile, and the row of logits they are made of.

    Args:
        tile_y: number of the tile.
        groups: Divider, tiles between the same two rows of logits, BY_CELL.
        axis: Resize of the rows.
        ROWS: of a tile, at most.
        BY_CELL: tiles are cut where the row of logits changes. Otherwise all have ROWS rows, of one
            row of logits each: they are of their own size, or ROWS is 1.
        RESIZED: logits are not of the image's size.
        DYADIC: see `inner_output`.
    """
    if BY_CELL:
        # Rows before cell 0 read row 0 with weight 1, as the clamped position does.
        row, group = divided(tile_y, groups)
        cell = row - 1
        y0 = tl.where(cell < 0, 0, inner_output(tl.maximum(cell, 0), axis, DYADIC))
        y0 += group * ROWS
        end = tl.where(cell + 1 < axis.small, inner_output(cell + 1, axis, DYADIC), axis.full)
        return y0, tl.minimum(y0 + ROWS, end), tl.maximum(cell, 0)
    y0 = tile_y * ROWS
    row = first_tap(y0, axis) if RESIZED else y0
    return y0, tl.minimum(y0 + ROWS, axis.full), row


@lru_cache(maxsize=256)
def most_rows(small: int, full: int) -> int:
    """Rows of pixels between the same two rows of logits, at most."""
    cell = np.floor(unclamped_positions(small, full)).astype(np.int64)
    return int(np.bincount(cell + 1).max())
