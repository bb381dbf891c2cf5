"""Coarse labels of a tile by corner agreement, as device functions.

Pixels with the same first taps form a cell; where the four source pixels at its corners have the
same first argmax with finite values, all its pixels have that label, for weights are not negative
and every rounding step is monotone (should two classes round to the same number, the label may
differ from evaluation's at that tie). The rest, the mixed cells, are listed and evaluated together,
so that lanes stay busy though boundaries are thin and crooked.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import triton
import triton.language as tl

from ._launch import ceil_div, pow2
from ._upsample import first_argmax, first_output, first_tap


@triton.jit
def mixed_entry(slot, lowest, highest):
    """What is listed of a mixed cell: its slot, the lowest and the highest label of its corners.

    They are -1 and any, or both -1, or differ: the lower one plus 1 is at most 255.
    """
    return slot + ((lowest + 1) << 16) + (tl.maximum(highest, 0) << 24)


@triton.jit
def list_mixed(mixed_ptr, entry, mixed, listed, CELLS: tl.constexpr, LANES: tl.constexpr):
    """Lists the `mixed` ones [CELLS] behind those `listed`; returns how many there are then."""
    # Each thread numbers its own first: what threads have is added up once, not cell by cell.
    SPAN: tl.constexpr = LANES if LANES < CELLS else CELLS
    own = tl.reshape(mixed.to(tl.int32), [CELLS // SPAN, SPAN])
    number = tl.sum(own, 0)
    up_to = tl.cumsum(number, 0)
    rank = listed + (up_to - number)[None, :] + tl.cumsum(own, 0) - 1
    tl.store(mixed_ptr + rank, tl.reshape(entry, [CELLS // SPAN, SPAN]), mask=own != 0)
    return listed + tl.sum(number, 0)


@triton.jit
def agreed_labels(image_ptr, mixed_ptr, stride_n, stride_y, stride_x, first_row, last_row,
                  first_column, last_column, h, w, N: tl.constexpr, CLASS_BLOCK: tl.constexpr,
                  COLUMN_BLOCK: tl.constexpr, POINTS: tl.constexpr, POINTS_X: tl.constexpr,
                  LANES: tl.constexpr, UNROLL: tl.constexpr):  # fmt: skip
    """Labels of the cells of a tile, [POINTS], -1 where mixed; lists and counts the mixed ones.

    Slot i stands for the source pixel (first_row + i // POINTS_X, first_column + i % POINTS_X) and
    for the cell whose upper left corner it is. Slots of no cell have any label.
    """
    first = tl.arange(0, POINTS // COLUMN_BLOCK) * COLUMN_BLOCK
    # Slots past the last corner read that one again: a load that needs no mask is one instruction.
    row = tl.minimum(first_row + first // POINTS_X, tl.minimum(last_row, h - 2) + 1).to(tl.int64)
    column = first_column + first % POINTS_X
    if COLUMN_BLOCK > 1:
        # Past the image, the last block: a cell at the border may count as mixed for that.
        column = tl.multiple_of(tl.minimum(column, w - COLUMN_BLOCK), COLUMN_BLOCK)
        offsets = tl.multiple_of(row * stride_y, COLUMN_BLOCK) + column
        offsets = offsets[:, None] + tl.arange(0, COLUMN_BLOCK)[None, :]
        stride_n = tl.multiple_of(stride_n, COLUMN_BLOCK)
    else:
        column = tl.minimum(column, tl.minimum(last_column, w - 2) + 1).to(tl.int64)
        offsets = row * stride_y + column * stride_x
    best, label = first_argmax(image_ptr, offsets, None, stride_n, N, CLASS_BLOCK, UNROLL)
    # A corner at infinity proves nothing about the pixels between.
    label = tl.where(tl.abs(best) < float("inf"), label, -1)
    corner = tl.arange(0, 4 * POINTS)
    beside = corner // POINTS % 2 + corner // (2 * POINTS) * POINTS_X
    corner = tl.gather(tl.reshape(label, [POINTS]), (corner % POINTS + beside) % POINTS, 0)
    corner = tl.reshape(corner, [4, POINTS])
    lowest = tl.min(corner, 0)
    highest = tl.max(corner, 0)
    label = tl.where(lowest == highest, lowest, -1)
    slot = tl.arange(0, POINTS)
    row = first_row + slot // POINTS_X
    column = first_column + slot % POINTS_X
    mixed = (row <= last_row) & (column <= last_column) & (label < 0)
    entry = mixed_entry(slot, lowest, highest)
    return label, list_mixed(mixed_ptr, entry, mixed, 0, POINTS, LANES)


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
    first, start, end, scale, ratio, in_size, out_size, CELLS: tl.constexpr, DYADIC: tl.constexpr
):  # fmt: skip
    """Pixels in [start, end) along an axis of the cells from `first` on, [CELLS]."""
    cell = first + tl.arange(0, CELLS)
    begin = tl.maximum(first_output(cell, scale, ratio, in_size, out_size, DYADIC), start)
    beyond = first_output(cell + 1, scale, ratio, in_size, out_size, DYADIC)
    return tl.maximum(tl.minimum(beyond, end) - begin, 0)


@triton.jit
def agreed_total(
    small, row0, column0, y0, y1, x0, x1, scale_y, scale_x, ratio_y, ratio_x, h, w, H, W,
    POINTS: tl.constexpr, POINTS_X: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DYADIC: tl.constexpr,
):  # fmt: skip
    """Pixels of a tile that are in a cell of which `small` [POINTS] holds."""
    slot = tl.arange(0, POINTS)
    height = _cell_pixels(row0, y0, y1, scale_y, ratio_y, h, H, ROWS, DYADIC)
    width = _cell_pixels(column0, x0, x1, scale_x, ratio_x, w, W, COLUMNS, DYADIC)
    area = tl.gather(height, tl.minimum(slot // POINTS_X, ROWS - 1), 0)
    area *= tl.gather(width, slot % POINTS_X, 0)
    return tl.sum(tl.where(small, area, 0), 0)


@triton.jit
def agreed_columns(
    small, x, row0, column0, y0, y1, scale_y, scale_x, ratio_y, h, w, H,
    POINTS: tl.constexpr, POINTS_Y: tl.constexpr, POINTS_X: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LANES: tl.constexpr, BLOCK_X: tl.constexpr,
    DYADIC: tl.constexpr,
):  # fmt: skip
    """As `agreed_total`, of each column `x` [BLOCK_X] of pixels.

    Cells are weighted by their rows of pixels and added up before columns of pixels look at them:
    no step goes over the pixels of the tile.
    """
    height = _cell_pixels(row0, y0, y1, scale_y, ratio_y, h, H, ROWS, DYADIC)
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


def _most_points(small: int, full: int, block: int) -> int:
    """Source pixels along an axis that are corners of the cells of `block` pixels, at most."""
    # First taps of the first and the last pixel are apart by their distance at the source, rounded
    # up; rounding moves each position, below `small`, by less than 2^-22 of that.
    apart = (block - 1) * small / full + small * 2.0**-21
    return math.ceil(apart) + 2


@lru_cache(maxsize=256)
def _cell_sides(small: int, full: int) -> tuple[int, int]:
    """Pixels along an axis of a cell, at most: of any one, and of any but the first one."""
    # As `first_tap`; a float64 holds the product of two float32.
    scale = float(np.float32(small) / np.float32(full))
    position = ((np.arange(full) + 0.5) * scale - 0.5).astype(np.float32)
    sides = np.bincount(np.clip(position.astype(np.int64), 0, small - 1))
    return int(sides.max()), int(sides[1:].max() if small > 1 else sides[0])


def _dyadic(small: int, full: int) -> bool:
    """Whether positions at the source are exact in float32: a power of two between the sizes."""
    return full % small == 0 and pow2(full // small) == full // small and full < 1 << 22


class Cells:
    """Shapes of the blocks over source pixels and cells."""

    def __init__(
        self, h: int, w: int, H: int, W: int, block_y: int, block_x: int,
        column_block: int = 1, by_row: bool = False,
    ) -> None:  # fmt: skip
        self.points_y = _most_points(h, H, block_y)
        self.points_x = _most_points(w, W, block_x)
        # The first of them is the first of a block, unless blocks take more slots.
        rows = 1 if by_row else self.points_y
        blocks = ceil_div(self.points_x + column_block - 1, column_block) * column_block
        fit = pow2(rows * blocks) == pow2(rows * self.points_x)
        self.column_block = column_block if fit else 1
        self.points_x = blocks if fit else self.points_x
        if by_row:
            self.points_x = pow2(self.points_x)
            self.points = self.points_y * self.points_x
        else:
            self.points = pow2(self.points_y * self.points_x)
        self.first_y, self.most_y = _cell_sides(h, H)
        self.first_x, self.most_x = _cell_sides(w, W)
        self.dyadic = _dyadic(h, H) and _dyadic(w, W)
        self.cell_y = min(self.most_y, 4)  # each row of pixels takes registers of its lane
        self.cell_x = min(self.most_x, 8)

    def constants(self) -> dict[str, int]:
        """The constexprs of these shapes."""
        return {
            "COLUMN_BLOCK": self.column_block,
            "POINTS": self.points,
            "POINTS_Y": self.points_y,
            "POINTS_X": self.points_x,
            "ROWS": pow2(self.points_y),
            "COLUMNS": pow2(self.points_x),
            "CELL_Y": self.cell_y,
            "CELL_X": self.cell_x,
            "CELL_ROWS": pow2(self.cell_y),
            "DYADIC": self.dyadic,
            "GROUP": pow2(self.cell_x),
            "MOST_Y": self.most_y,
            "MOST_X": self.most_x,
            "FIRST_Y": self.first_y,
            "FIRST_X": self.first_x,
        }


def quotient(a: int, b: int) -> float:
    """Quotient a / b in float32."""
    return float(np.float32(a) / np.float32(b))
