"""Coarse labels of a tile by corner agreement, as device functions.

Pixels with the same first taps form a cell; where the four source pixels at its corners have the
same first argmax with finite values, all its pixels have that label, for weights are not negative
and every rounding step is monotone (should two classes round to the same number, the label may
differ from evaluation's at that tie). The rest, the mixed cells, are listed and evaluated together,
so that lanes stay busy though boundaries are thin and crooked.
"""

from __future__ import annotations

import numpy as np
import triton
import triton.language as tl

from ._launch import ceil_div, pow2
from ._upsample import (
    bilinear_argmax,
    first_argmax,
    first_output,
    second_weight,
    to_second_tap,
)


@triton.jit
def agreed_labels(image_ptr, mixed_ptr, stride_n, stride_y, stride_x, first_row, last_row,
                  first_column, last_column, h, w, N: tl.constexpr, CLASS_BLOCK: tl.constexpr,
                  POINTS: tl.constexpr, POINTS_X: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Labels of the cells of a tile, [POINTS], -1 where mixed; lists and counts the mixed ones.

    Slot i stands for the source pixel (first_row + i // POINTS_X, first_column + i % POINTS_X) and
    for the cell whose upper left corner it is.
    """
    slot = tl.arange(0, POINTS)
    row = first_row + slot // POINTS_X
    column = first_column + slot % POINTS_X
    offsets = (
        tl.minimum(row, h - 1).to(tl.int64) * stride_y
        + tl.minimum(column, w - 1).to(tl.int64) * stride_x
    )
    valid = (row <= last_row + 1) & (column <= last_column + 1)
    best, label = first_argmax(image_ptr, offsets, valid, stride_n, N, CLASS_BLOCK, UNROLL)
    # A corner at infinity proves nothing about the pixels between.
    label = tl.where(tl.abs(best) < float("inf"), label, -1)
    beside = tl.gather(label, tl.minimum(slot + 1, POINTS - 1), 0)
    pair = tl.where(label == beside, label, -1)
    below = tl.gather(pair, tl.minimum(slot + POINTS_X, POINTS - 1), 0)
    label = tl.where(pair == below, pair, -1)
    mixed = ((row <= last_row) & (column <= last_column) & (label < 0)).to(tl.int32)
    rank = tl.cumsum(mixed, 0) - 1
    tl.store(mixed_ptr + rank, slot.to(tl.int16), mask=mixed != 0)
    return label, tl.sum(mixed, 0)


@triton.jit
def mixed_columns(
    mixed_ptr, start, mixed, row0, column0, y0, y1, x0, x1,
    scale_y, scale_x, ratio_y, ratio_x, h, w, H, W,
    POINTS_X: tl.constexpr, LANES: tl.constexpr, CELL_X: tl.constexpr,
):  # fmt: skip
    """Mixed cells from number `start` on, LANES // CELL_X of them, one lane per column.

    Returns:
        which lanes have a cell; its source row and column; its pixels in the tile: first row, end,
        first column, end.
    """
    lane = tl.arange(0, LANES)
    entry = start + lane // CELL_X
    listed = (entry < mixed) & (lane < LANES // CELL_X * CELL_X)
    cell = tl.load(mixed_ptr + entry, mask=listed, other=0).to(tl.int32)
    row = row0 + cell // POINTS_X
    column = column0 + cell % POINTS_X
    top = tl.maximum(first_output(row, scale_y, ratio_y, h, H), y0)
    bottom = tl.minimum(first_output(row + 1, scale_y, ratio_y, h, H), y1)
    left = tl.maximum(first_output(column, scale_x, ratio_x, w, W), x0)
    right = tl.minimum(first_output(column + 1, scale_x, ratio_x, w, W), x1)
    return listed, row, column, top, bottom, left, right


@triton.jit
def mixed_labels(
    image_ptr, stride_n, stride_y, stride_x, num_classes,
    listed, row, column, top, bottom, left, right, dy, dx,
    scale_y, scale_x, h, w, H, W,
    LANES: tl.constexpr, CELL_Y: tl.constexpr, CELL_X: tl.constexpr, CELL_ROWS: tl.constexpr,
):  # fmt: skip
    """Labels of CELL_Y x CELL_X pixels of each cell, from its pixel (dy, dx) on.

    Once around for most cells; those at the image's border have more pixels.

    Returns:
        rows [CELL_ROWS, LANES] and columns [1, LANES] of pixels, which of them are in their cell,
        and their labels.
    """
    lane = tl.arange(0, LANES)
    line = dy + tl.arange(0, CELL_ROWS)
    py = top[None, :] + line[:, None]
    px = left + dx + lane % CELL_X
    wanted = (
        (listed & (px < right))[None, :] & (line < dy + CELL_Y)[:, None] & (py < bottom[None, :])
    )
    p00 = image_ptr + row.to(tl.int64) * stride_y + column.to(tl.int64) * stride_x
    p01 = p00 + to_second_tap(column, w, W, stride_x)
    below = to_second_tap(row, h, H, stride_y)
    found = bilinear_argmax(
        p00, p01, p00 + below, p01 + below,
        second_weight(py, row[None, :], scale_y),
        second_weight(px, column, scale_x),
        listed, stride_n, num_classes,
    )  # fmt: skip
    return py, px[None, :], wanted, found


class Cells:
    """Shapes of the blocks over source pixels and cells."""

    def __init__(self, h: int, w: int, H: int, W: int, block_y: int, block_x: int) -> None:
        # Cells that `block` pixels touch, at most: (block - 1) / ratio + 1, one for rounding, one
        # because source positions start anywhere; corners are one more.
        points_y = (block_y - 1) * h // H + 4
        self.points_x = (block_x - 1) * w // W + 4
        self.points = pow2(points_y * self.points_x)
        self.cell_y = min(ceil_div(H, h), 4)  # each row of pixels takes registers of its lane
        self.cell_x = min(ceil_div(W, w), 8)

    def constants(self) -> dict[str, int]:
        """The constexprs of these shapes."""
        return {
            "POINTS": self.points,
            "POINTS_X": self.points_x,
            "CELL_Y": self.cell_y,
            "CELL_X": self.cell_x,
            "CELL_ROWS": pow2(self.cell_y),
        }


def quotient(a: int, b: int) -> float:
    """Quotient a / b in float32."""
    return float(np.float32(a) / np.float32(b))
