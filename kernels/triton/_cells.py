"""Coarse labels of a tile by corner agreement, as device functions.

Pixels with the same first taps form a cell; where the four source pixels at its corners have the
same first argmax with finite values, all its pixels have that label, for weights are not negative
and every rounding step is monotone (should two classes round to the same number, the label may
differ from evaluation's at that tie). The rest, the mixed cells, are listed and evaluated together,
so that lanes stay busy though boundaries are thin and crooked.
"""

from __future__ import annotations

import math

import numpy as np
import triton
import triton.language as tl

from ._launch import ceil_div, pow2
from ._upsample import (
    bilinear_argmax,
    first_argmax,
    first_output,
    first_tap,
    second_weight,
    to_second_tap,
)


@triton.jit
def agreed_labels(image_ptr, mixed_ptr, stride_n, stride_y, stride_x, first_row, last_row,
                  first_column, last_column, h, w, N: tl.constexpr, CLASS_BLOCK: tl.constexpr,
                  POINTS: tl.constexpr, POINTS_X: tl.constexpr, LANES: tl.constexpr,
                  UNROLL: tl.constexpr):  # fmt: skip
    """Labels of the cells of a tile, [POINTS], -1 where mixed; lists and counts the mixed ones.

    Slot i stands for the source pixel (first_row + i // POINTS_X, first_column + i % POINTS_X) and
    for the cell whose upper left corner it is. Slots of no cell have any label.
    """
    slot = tl.arange(0, POINTS)
    row = first_row + slot // POINTS_X
    column = first_column + slot % POINTS_X
    # Slots past the last corner read that one again: a load that needs no mask is one instruction.
    offsets = (
        tl.minimum(row, tl.minimum(last_row, h - 2) + 1).to(tl.int64) * stride_y
        + tl.minimum(column, tl.minimum(last_column, w - 2) + 1).to(tl.int64) * stride_x
    )
    best, label = first_argmax(image_ptr, offsets, None, stride_n, N, CLASS_BLOCK, UNROLL)
    # A corner at infinity proves nothing about the pixels between.
    label = tl.where(tl.abs(best) < float("inf"), label, -1)
    corner = tl.arange(0, 4 * POINTS)
    beside = corner // POINTS % 2 + corner // (2 * POINTS) * POINTS_X
    corner = tl.gather(label, (corner % POINTS + beside) % POINTS, 0)
    corner = tl.reshape(corner, [4, POINTS])
    label = tl.where(tl.min(corner, 0) == tl.max(corner, 0), label, -1)
    mixed = ((row <= last_row) & (column <= last_column) & (label < 0)).to(tl.int32)
    # Each thread numbers its own first: what threads have is added up once, not slot by slot.
    SPAN: tl.constexpr = LANES if LANES < POINTS else POINTS
    own = tl.reshape(mixed, [POINTS // SPAN, SPAN])
    number = tl.sum(own, 0)
    up_to = tl.cumsum(number, 0)
    rank = (up_to - number)[None, :] + tl.cumsum(own, 0) - 1
    listed = tl.reshape(slot, [POINTS // SPAN, SPAN]).to(tl.int16)
    tl.store(mixed_ptr + rank, listed, mask=own != 0)
    return label, tl.sum(number, 0)


@triton.jit
def store_agreed(
    cell_label, labels_ptr, row0, column0, y0, y1, x0, x1, scale_y, scale_x, h, w, W,
    POINTS: tl.constexpr, POINTS_X: tl.constexpr, BLOCK_Y: tl.constexpr, CHUNK_X: tl.constexpr,
    QUADS: tl.constexpr,
):  # fmt: skip
    """Stores the labels of a tile; pixels of mixed cells are 255 until theirs is known.

    QUADS: x0, x1, W and the address of the labels are multiples of 4, so four are one store.
    """
    QUARTER: tl.constexpr = CHUNK_X // 4
    y = y0 + tl.arange(0, BLOCK_Y)
    quad = tl.arange(0, 4 * QUARTER)
    quad = quad // QUARTER + quad % QUARTER * 4  # first pixels of all quads, then second ones, ...
    below = ((first_tap(y, scale_y, h) - row0) * POINTS_X)[None, :, None]
    for start in range(x0, x1, CHUNK_X):
        beside = first_tap(start + quad, scale_x, w) - column0
        slot = below + tl.reshape(beside, [4, 1, QUARTER])
        slot = tl.reshape(tl.minimum(slot, POINTS - 1), [4 * BLOCK_Y * QUARTER])
        found = tl.reshape(tl.gather(cell_label, slot, 0), [4, BLOCK_Y, QUARTER]) & 255
        word = tl.sum(found << (8 * tl.arange(0, 4))[:, None, None], 0)
        x = start + 4 * tl.arange(0, QUARTER)
        at = labels_ptr + y.to(tl.int64)[:, None] * W + x[None, :]
        inside = (y < y1)[:, None]
        if QUADS:
            at = at.to(tl.pointer_type(tl.int32), bitcast=True)
            tl.store(at, word, mask=inside & (x < x1)[None, :])
        else:
            for i in tl.static_range(4):
                tl.store(
                    at + i, (word >> (8 * i)).to(tl.uint8), mask=inside & (x + i < x1)[None, :]
                )


@triton.jit
def _cell_pixels(
    first, start, end, scale, ratio, in_size, out_size, CELLS: tl.constexpr
):  # fmt: skip
    """Pixels in [start, end) along an axis of the cells from `first` on, [CELLS]."""
    cell = first + tl.arange(0, CELLS)
    begin = tl.maximum(first_output(cell, scale, ratio, in_size, out_size), start)
    return tl.maximum(
        tl.minimum(first_output(cell + 1, scale, ratio, in_size, out_size), end) - begin, 0
    )


@triton.jit
def agreed_total(
    small, row0, column0, y0, y1, x0, x1, scale_y, scale_x, ratio_y, ratio_x, h, w, H, W,
    POINTS: tl.constexpr, POINTS_X: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Pixels of a tile that are in a cell of which `small` [POINTS] holds."""
    slot = tl.arange(0, POINTS)
    height = _cell_pixels(row0, y0, y1, scale_y, ratio_y, h, H, ROWS)
    width = _cell_pixels(column0, x0, x1, scale_x, ratio_x, w, W, COLUMNS)
    area = tl.gather(height, tl.minimum(slot // POINTS_X, ROWS - 1), 0)
    area *= tl.gather(width, slot % POINTS_X, 0)
    return tl.sum(tl.where(small, area, 0), 0)


@triton.jit
def agreed_columns(
    small, x, row0, column0, y0, y1, scale_y, scale_x, ratio_y, h, w, H,
    POINTS: tl.constexpr, POINTS_Y: tl.constexpr, POINTS_X: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, BLOCK_X: tl.constexpr,
):  # fmt: skip
    """As `agreed_total`, of each column `x` [BLOCK_X] of pixels.

    Cells are weighted by their rows of pixels and added up before columns of pixels look at them:
    no step goes over the pixels of the tile.
    """
    height = _cell_pixels(row0, y0, y1, scale_y, ratio_y, h, H, ROWS)
    slot = tl.arange(0, POINTS)
    rows = tl.gather(height, tl.minimum(slot // POINTS_X, ROWS - 1), 0)
    rows = tl.where(small, rows, 0)
    # A thread adds up every PARTS-th row of a column; columns of pixels add up the parts.
    PARTS: tl.constexpr = min(LANES // COLUMNS, ROWS) if LANES > COLUMNS else 1
    entry = tl.arange(0, ROWS * COLUMNS)
    row = entry // COLUMNS
    rows = tl.gather(rows, tl.minimum(row * POINTS_X + entry % COLUMNS, POINTS - 1), 0)
    rows = tl.where(row < POINTS_Y, rows, 0)
    parts = tl.sum(tl.reshape(rows, [ROWS // PARTS, PARTS * COLUMNS]), 0)
    column = tl.minimum(first_tap(x, scale_x, w) - column0, COLUMNS - 1)
    part = (tl.arange(0, PARTS) * COLUMNS)[:, None] + column[None, :]
    found = tl.gather(parts, tl.reshape(part, [PARTS * BLOCK_X]), 0)
    return tl.sum(tl.reshape(found, [PARTS, BLOCK_X]), 0)


@triton.jit
def mixed_columns(
    mixed_ptr, start, mixed, row0, column0, y0, y1, x0, x1,
    scale_y, scale_x, ratio_y, ratio_x, h, w, H, W,
    POINTS_X: tl.constexpr, LANES: tl.constexpr, CELL_X: tl.constexpr,
):  # fmt: skip
    """Mixed cells from number `start` on, LANES // CELL_X of them, one lane per column.

    Returns:
        which lanes have a cell; its source row and column, those of the tile's first cell in other
        lanes; its pixels in the tile: first row, end, first column, end.
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
    # Loops of four warps ptxas unrolls by itself; told to, it runs out of registers.
    UNROLL: tl.constexpr = 2 if LANES > 128 else 1
    found = bilinear_argmax(
        p00, p01, p00 + below, p01 + below,
        second_weight(py, row[None, :], scale_y),
        second_weight(px, column, scale_x),
        stride_n, num_classes, UNROLL,
    )  # fmt: skip
    return py, px[None, :], wanted, found


def _most_points(small: int, full: int, block: int) -> int:
    """Source pixels along an axis that are corners of the cells of `block` pixels, at most."""
    # First taps of the first and the last pixel are apart by their distance at the source, rounded
    # up; rounding moves each position, below `small`, by less than 2^-22 of that.
    apart = (block - 1) * small / full + small * 2.0**-21
    return math.ceil(apart) + 2


class Cells:
    """Shapes of the blocks over source pixels and cells."""

    def __init__(self, h: int, w: int, H: int, W: int, block_y: int, block_x: int) -> None:
        self.points_y = _most_points(h, H, block_y)
        self.points_x = _most_points(w, W, block_x)
        self.points = pow2(self.points_y * self.points_x)
        self.cell_y = min(ceil_div(H, h), 4)  # each row of pixels takes registers of its lane
        self.cell_x = min(ceil_div(W, w), 8)

    def constants(self) -> dict[str, int]:
        """The constexprs of these shapes."""
        return {
            "POINTS": self.points,
            "POINTS_Y": self.points_y,
            "POINTS_X": self.points_x,
            "ROWS": pow2(self.points_y),
            "COLUMNS": pow2(self.points_x),
            "CELL_Y": self.cell_y,
            "CELL_X": self.cell_x,
            "CELL_ROWS": pow2(self.cell_y),
        }


def quotient(a: int, b: int) -> float:
    """Quotient a / b in float32."""
    return float(np.float32(a) / np.float32(b))
