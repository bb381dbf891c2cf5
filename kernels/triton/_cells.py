"""Coarse labels of a tile by corner agreement, as device functions.

Pixels with the same first taps form a cell; where the four source pixels at its corners have the
same first argmax with finite values, all its pixels have that label, for weights are not negative
and every rounding step is monotone (where two classes round to the same number, the label may
differ from what evaluating the pixel gives). The other cells, the mixed ones, are listed and
evaluated together, so that lanes stay busy though boundaries are thin and crooked.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import triton
import triton.language as tl

from ._launch import ceil_div, pow2
from ._ptx import along_last
from ._upsample import (
    NOT_FINITE,
    dyadic,
    first_argmax,
    first_output,
    first_tap,
    marked,
    unclamped_positions,
)


@triton.jit
def labels_of_points(mixed_ptr, CELLS: tl.constexpr):
    """Where a tile's labels of source pixels are kept, int16: behind its list of mixed cells."""
    return (mixed_ptr + CELLS.points).to(tl.pointer_type(tl.int16), bitcast=True)


@triton.jit
def _list_mixed(mixed_ptr, mixed, CELLS: tl.constexpr, LANES: tl.constexpr):
    """Lists the slots of the `mixed` cells [points]; returns how many there are."""
    # Each thread numbers its own cells; one scan over the threads' totals then gives the ranks.
    SPAN: tl.constexpr = LANES if CELLS.points > LANES else CELLS.points
    own = tl.reshape(mixed.to(tl.int32), [CELLS.points // SPAN, SPAN])
    number = tl.sum(own, 0)
    rank = (tl.cumsum(number, 0) - number)[None, :] + tl.cumsum(own, 0) - 1
    slot = tl.reshape(tl.arange(0, CELLS.points), [CELLS.points // SPAN, SPAN])
    tl.store(mixed_ptr + rank, slot, mask=own != 0)
    return tl.sum(number, 0)


class Tile(NamedTuple):
    """Pixels [y0, y1) x [x0, x1) of an image, and the source pixels that are their first taps."""

    y0: tl.tensor
    y1: tl.tensor
    x0: tl.tensor
    x1: tl.tensor
    row0: tl.tensor  # of slot 0
    last_row: tl.tensor
    column0: tl.tensor  # of slot 0: the first column, or the one before it
    first_column: tl.tensor
    last_column: tl.tensor


@triton.jit
def tile_over(y0, y1, x0, x1, resize_y, resize_x, CELLS: tl.constexpr):
    """The tile of these pixels."""
    BLOCK: tl.constexpr = CELLS.column_block
    row0 = first_tap(y0, resize_y)
    last_row = first_tap(y1 - 1, resize_y)
    first_column = first_tap(x0, resize_x)
    column0 = first_column // BLOCK * BLOCK
    last_column = first_tap(x1 - 1, resize_x)
    return Tile(y0, y1, x0, x1, row0, last_row, column0, first_column, last_column)


@triton.jit
def agreed_labels(
    logits, mixed_ptr, tile, resize_y, resize_x, N: tl.constexpr, CLASS_BLOCK: tl.constexpr,
    CELLS: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
    MARK: tl.constexpr = NOT_FINITE,
):  # fmt: skip
    """Labels of the cells of a tile, [points], -1 where mixed; lists and counts the mixed ones.

    Slot i stands for the source pixel (row0 + i // points_x, column0 + i % points_x) and for the
    cell whose upper left corner it is. Slots of no cell have any label.
    """
    POINTS: tl.constexpr = CELLS.points
    POINTS_X: tl.constexpr = CELLS.points_x
    BLOCK: tl.constexpr = CELLS.column_block
    stride_n = logits.stride_n
    first = tl.arange(0, POINTS // BLOCK) * BLOCK
    # Slots past the last corner read that one again: unmasked, a load is one instruction.
    last = tl.minimum(tile.last_row, resize_y.small - 2) + 1
    row = tl.minimum(tile.row0 + first // POINTS_X, last).to(tl.int64)
    column = tile.column0 + first % POINTS_X
    if BLOCK > 1:
        # Blocks past the image read the last one: a border cell may count as mixed for that.
        column = tl.multiple_of(tl.minimum(column, resize_x.small - BLOCK), BLOCK)
        offsets = tl.multiple_of(row * logits.stride_y, BLOCK) + column
        offsets = offsets[:, None] + tl.arange(0, BLOCK)[None, :]
        stride_n = tl.multiple_of(stride_n, BLOCK)
    else:
        last = tl.minimum(tile.last_column, resize_x.small - 2) + 1
        column = tl.minimum(column, last).to(tl.int64)
        offsets = row * logits.stride_y + column * logits.stride_x
    best, label = first_argmax(logits.ptr, offsets, None, stride_n, N, CLASS_BLOCK, UNROLL)
    label = tl.reshape(marked(best, label), [POINTS])
    slot = tl.arange(0, POINTS)
    tl.store(labels_of_points(mixed_ptr, CELLS) + slot, label.to(tl.int16))
    corner = tl.arange(0, 4 * POINTS)
    beside = corner // POINTS % 2 + corner // (2 * POINTS) * POINTS_X
    corner = tl.gather(label, (corner % POINTS + beside) % POINTS, 0)
    corner = tl.reshape(corner, [4, POINTS])
    lowest = tl.min(corner, 0)
    highest = tl.max(corner, 0)
    label = tl.where((lowest == highest) & (lowest < MARK), lowest, -1)
    row = tile.row0 + slot // POINTS_X
    column = tile.column0 + slot % POINTS_X
    mixed = (row <= tile.last_row) & (column <= tile.last_column) & (label < 0)
    return label, _list_mixed(mixed_ptr, mixed, CELLS, LANES)


@triton.jit
def slot_of(y, x, tile, resize_y, resize_x, CELLS: tl.constexpr):
    """Slot of the cell that pixels (y, x) of a tile are in."""
    row = first_tap(y, resize_y) - tile.row0
    return row * CELLS.points_x + first_tap(x, resize_x) - tile.column0


@triton.jit
def store_agreed(
    cell_label, labels_ptr, tile, resize_y, resize_x, CELLS: tl.constexpr,
    BLOCK_Y: tl.constexpr, CHUNK_X: tl.constexpr, QUADS: tl.constexpr,
):  # fmt: skip
    """Stores the labels of a tile; pixels of mixed cells are 255 until theirs is known.

    QUADS: x0, x1, the image's width and the address of the labels are multiples of 4, so four are
    one store.
    """
    QUARTER: tl.constexpr = CHUNK_X // 4
    y = tile.y0 + tl.arange(0, BLOCK_Y)
    quad = tl.arange(0, 4 * QUARTER)
    quad = quad // QUARTER + quad % QUARTER * 4  # first pixels of all quads, then second ones, ...
    for start in range(tile.x0, tile.x1, CHUNK_X):
        x = tl.reshape(start + quad, [4, 1, QUARTER])
        slot = slot_of(y[None, :, None], x, tile, resize_y, resize_x, CELLS)
        slot = tl.reshape(tl.minimum(slot, CELLS.points - 1), [4 * BLOCK_Y * QUARTER])
        found = tl.reshape(tl.gather(cell_label, slot, 0), [4, BLOCK_Y, QUARTER]) & 255
        word = tl.sum(found << (8 * tl.arange(0, 4))[:, None, None], 0)
        x = start + 4 * tl.arange(0, QUARTER)
        column = along_last(x.to(tl.int64)[None, :])
        at = labels_ptr + y.to(tl.int64)[:, None] * resize_x.full + column
        inside = (y < tile.y1)[:, None]
        if QUADS:
            at = at.to(tl.pointer_type(tl.int32), bitcast=True)
            tl.store(at, word, mask=inside & (x < tile.x1)[None, :])
        else:
            for i in tl.static_range(4):
                byte = (word >> (8 * i)).to(tl.uint8)
                tl.store(at + i, byte, mask=inside & (x + i < tile.x1)[None, :])


@triton.jit
def _cell_pixels(first, start, end, axis, COUNT: tl.constexpr, DYADIC: tl.constexpr):
    """Pixels in [start, end) along an axis of the COUNT cells from `first` on."""
    cell = first + tl.arange(0, COUNT)
    begin = tl.maximum(first_output(cell, axis, DYADIC), start)
    return tl.maximum(tl.minimum(first_output(cell + 1, axis, DYADIC), end) - begin, 0)


@triton.jit
def agreed_total(small, tile, resize_y, resize_x, CELLS: tl.constexpr):
    """Pixels of a tile that are in a cell of which `small` [points] holds."""
    slot = tl.arange(0, CELLS.points)
    height = _cell_pixels(tile.row0, tile.y0, tile.y1, resize_y, CELLS.rows, CELLS.dyadic)
    width = _cell_pixels(tile.column0, tile.x0, tile.x1, resize_x, CELLS.columns, CELLS.dyadic)
    area = tl.gather(height, tl.minimum(slot // CELLS.points_x, CELLS.rows - 1), 0)
    area *= tl.gather(width, slot % CELLS.points_x, 0)
    return tl.sum(tl.where(small, area, 0), 0)


@triton.jit
def agreed_columns(
    small, x, tile, resize_y, resize_x, CELLS: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """As `agreed_total`, of each column `x` [P] of pixels; 0 past the tile.

    Cells, weighted by their rows of pixels, are summed before columns of pixels look them up: no
    step visits the pixels of the tile one by one.
    """
    POINTS_X: tl.constexpr = CELLS.points_x
    ROWS: tl.constexpr = CELLS.rows
    COLUMNS: tl.constexpr = CELLS.columns
    height = _cell_pixels(tile.row0, tile.y0, tile.y1, resize_y, ROWS, CELLS.dyadic)
    slot = tl.arange(0, CELLS.points)
    rows = tl.gather(height, tl.minimum(slot // POINTS_X, ROWS - 1), 0)
    rows = tl.where(small, rows, 0)
    # Each of PARTS threads sums every PARTS-th row of a column; columns of pixels sum the parts.
    PARTS: tl.constexpr = min(LANES // COLUMNS, ROWS) if LANES > COLUMNS else 1
    entry = tl.arange(0, ROWS * COLUMNS)
    row = entry // COLUMNS
    rows = tl.gather(rows, tl.minimum(row * POINTS_X + entry % COLUMNS, CELLS.points - 1), 0)
    rows = tl.where(row < CELLS.points_y, rows, 0)
    parts = tl.sum(tl.reshape(rows, [ROWS // PARTS, PARTS * COLUMNS]), 0)
    column = first_tap(x, resize_x) - tile.column0
    column = tl.minimum(column, COLUMNS - 1)
    part = (tl.arange(0, PARTS) * COLUMNS)[:, None] + column[None, :]
    found = tl.gather(parts, tl.reshape(part, [PARTS * x.shape[0]]), 0)
    found = tl.sum(tl.reshape(found, [PARTS, x.shape[0]]), 0)
    return tl.where(x < tile.x1, found, 0)


def _most_points(small: int, full: int, block: int) -> int:
    """Source pixels along an axis that are corners of the cells of `block` pixels, at most."""
    # The first taps of the first and the last pixel differ by at most the distance of their source
    # positions, rounded up; rounding moves a position by less than 2^-22 of `small`.
    apart = (block - 1) * small / full + small * 2.0**-21
    return math.ceil(apart) + 2


@lru_cache(maxsize=256)
def _cell_sides(small: int, full: int) -> tuple[int, int]:
    """Pixels along an axis of a cell, at most: of any one, and of any but the first one."""
    if small == full:  # which may be too long to write down
        return 1, 1
    taps = unclamped_positions(small, full).astype(np.int64)  # as `first_tap`
    sides = np.bincount(np.clip(taps, 0, small - 1))
    return int(sides.max()), int(sides[1:].max() if small > 1 else sides[0])


class Cells(NamedTuple):
    """Shapes of the blocks over source pixels and cells: a constexpr of kernels."""

    column_block: int  # source pixels beside each other that are one load
    points: int  # source pixels of a tile, at most, and their slots
    scratch: int  # words of a program: its list of mixed cells, labels of source pixels
    points_y: int
    points_x: int
    rows: int  # points_y rounded up to a power of two
    columns: int
    cell_y: int
    cell_x: int  # pixels of a cell evaluated at once
    cell_rows: int  # cell_y rounded up to a power of two
    group: int  # lanes of a cell
    lane_columns: int  # columns of a cell's pixels that a lane evaluates
    dyadic: bool  # a power of two between the sizes
    most_y: int
    most_x: int  # pixels of a cell, at most, save those at
    first_y: int  # the upper border
    first_x: int  # and the left one


@lru_cache(maxsize=256)
def cells_over(
    h: int, w: int, H: int, W: int, block_y: int, block_x: int,
    column_block: int = 1, by_row: bool = False,
) -> Cells:  # fmt: skip
    """Of tiles of block_y x block_x pixels."""
    points_y = _most_points(h, H, block_y)
    points_x = _most_points(w, W, block_x)
    # A row's first source pixel is the first of a block, unless whole blocks take more slots.
    rows = 1 if by_row else points_y
    blocks = ceil_div(points_x + column_block - 1, column_block) * column_block
    if pow2(rows * blocks) == pow2(rows * points_x):
        points_x = blocks
    else:
        column_block = 1
    if by_row:
        points_x = pow2(points_x)
    points = points_y * points_x if by_row else pow2(points_y * points_x)
    first_y, most_y = _cell_sides(h, H)
    first_x, most_x = _cell_sides(w, W)
    cell_y, cell_x = min(most_y, 4), min(most_x, 8)  # each row takes registers of its lane
    # With many cells (by_row) half the lanes, two columns each; with few, a lane per column.
    lane_columns = 2 if by_row and cell_x >= 4 else 1
    return Cells(
        column_block=column_block,
        points=points,
        scratch=points + points // 2,
        points_y=points_y,
        points_x=points_x,
        rows=pow2(points_y),
        columns=pow2(points_x),
        cell_y=cell_y,
        cell_x=cell_x,
        cell_rows=pow2(cell_y),
        group=pow2(cell_x) // lane_columns,
        lane_columns=lane_columns,
        dyadic=dyadic(h, H) and dyadic(w, W),
        most_y=most_y,
        most_x=most_x,
        first_y=first_y,
        first_x=first_x,
    )
