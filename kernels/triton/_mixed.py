"""Labels of the pixels of mixed cells (_cells.py), as device functions.

Only the classes that can be largest somewhere in a mixed cell are evaluated, mostly two.

At every pixel the largest value is at least the mean of any two classes' values, here of the lowest
and the highest label of the cell's corners. A class that is below the mean at all corners is below
it everywhere between them. Rounding needs a margin. That of the excluded class does no harm, since
weights are not negative and every rounding step is monotone; that of the two classes and of their
mean is less than 16 * 2^-24 of their magnitudes, weighted alike, and the margin is four times that.
Where anything is not finite, the comparison fails at that corner and keeps the class.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from ._cells import labels_of_points
from ._ptx import append_below, first_bit
from ._upsample import outputs_of, second_weight, to_second_tap


class Cell(NamedTuple):
    """The mixed cell of each lane, the last one in lanes beyond the list; all [LANES]."""

    listed: tl.tensor  # which lanes have one of their own
    row: tl.tensor  # of its first corner at the source
    column: tl.tensor
    one: tl.tensor  # two labels of its corners
    other: tl.tensor
    top: tl.tensor  # its pixels in the tile: first row, end, first column, end
    bottom: tl.tensor
    left: tl.tensor
    right: tl.tensor
    first: tl.tensor  # elements from the image's first logit to that of its first corner,
    beside: tl.tensor  # from there to the corner beside it
    below: tl.tensor  # and to the one below it


@triton.jit
def mixed_cells(
    mixed_ptr, start, mixed, logits, tile, resize_y, resize_x, CELLS: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    """Mixed cells from number `start` on of `mixed`; `group` lanes look at one."""
    entry = start + tl.arange(0, LANES) // CELLS.group
    listed = entry < mixed
    slot = tl.load(mixed_ptr + tl.minimum(entry, mixed - 1))
    slot = slot.to(tl.uint32, bitcast=True)  # to divide them is a shift, or a multiplication
    row = tile.row0 + (slot // CELLS.points_x).to(tl.int32)
    column = tile.column0 + (slot % CELLS.points_x).to(tl.int32)
    corner = labels_of_points(mixed_ptr, CELLS) + slot
    label00 = tl.load(corner)
    label01 = tl.load(corner + 1)
    label10 = tl.load(corner + CELLS.points_x)
    label11 = tl.load(corner + CELLS.points_x + 1)
    one = tl.minimum(tl.minimum(label00, label01), tl.minimum(label10, label11)).to(tl.int32) & 255
    other = (
        tl.maximum(tl.maximum(label00, label01), tl.maximum(label10, label11)).to(tl.int32) & 255
    )
    top, bottom = outputs_of(
        row, tile.row0, tile.last_row, tile.y0, tile.y1, resize_y, CELLS.dyadic
    )
    left, right = outputs_of(
        column, tile.first_column, tile.last_column, tile.x0, tile.x1, resize_x, CELLS.dyadic
    )
    first = row.to(tl.int64) * logits.stride_y + column.to(tl.int64) * logits.stride_x
    beside = to_second_tap(column, resize_x, logits.stride_x)
    below = to_second_tap(row, resize_y, logits.stride_y)
    return Cell(listed, row, column, one, other, top, bottom, left, right, first, beside, below)


@triton.jit
def _own_corner(cell, part, LANES: tl.constexpr, GROUP: tl.constexpr):
    """The corner that a lane reads for its cell in step `part`: of one step, of two or of four."""
    corner = tl.arange(0, LANES) % GROUP
    if GROUP < 4:
        corner = corner * (4 // GROUP) + part
    beside = tl.where(corner % 2 != 0, cell.beside, 0)
    return cell.first + beside + tl.where(corner // 2 % 2 != 0, cell.below, 0)


@triton.jit
def _to_lanes(x, LANES: tl.constexpr, GROUP: tl.constexpr):
    """One value per cell, repeated for each of its lanes."""
    return tl.reshape(tl.broadcast_to(x[:, None], [LANES // GROUP, GROUP]), [LANES])


@triton.jit
def contenders(
    logits, cell, c0, classes, CELLS: tl.constexpr, LANES: tl.constexpr,
    UNROLL: tl.constexpr = 8, MARGIN: tl.constexpr = 2.0**-18, LEAST: tl.constexpr = 2.0**-100,
):  # fmt: skip
    """Bits of the `classes`, at most 32, from `c0` on that may be largest in a lane's cell.

    The first class is the highest bit. The lanes of a cell share its corners.

    Returns:
        int32 [LANES], and how many bits a lane has at most.
    """
    GROUP: tl.constexpr = CELLS.group
    PARTS: tl.constexpr = 4 // GROUP if GROUP < 4 else 1
    stride_n = logits.stride_n
    found = tl.zeros([LANES], tl.int32)
    for part in tl.static_range(PARTS):
        at = logits.ptr + _own_corner(cell, part, LANES, GROUP)
        value0 = tl.load(at + cell.one.to(tl.int64) * stride_n).to(tl.float32)
        value1 = tl.load(at + cell.other.to(tl.int64) * stride_n).to(tl.float32)
        margin = tl.fma(tl.abs(value0) + tl.abs(value1), MARGIN, LEAST)
        bound = tl.fma(value0, 0.5, value1 * 0.5) - margin
        at += (tl.zeros([], tl.int64) + c0) * stride_n
        below = tl.zeros([LANES], tl.int32)
        for _ in tl.range(0, classes, loop_unroll_factor=UNROLL):
            below = append_below(below, tl.load(at).to(tl.float32), bound)
            at += stride_n
        found |= ~below << (32 - classes)
    if GROUP > 1:
        found = tl.reduce_or(tl.reshape(found, [LANES // GROUP, GROUP]), 1)
        found = _to_lanes(found, LANES, GROUP)
    return found, tl.max(bits(found), 0)


@triton.jit
def bits(x):
    """How many bits of each number are set."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (x * 0x01010101 >> 24) & 63


@triton.jit
def _offer(best, label, logits, cell, wy, wx, c0, contend, most):
    """`best` and its first class `label`, after also evaluating the classes in `contend`."""
    wy0 = 1.0 - wy
    wx0 = 1.0 - wx
    stride_n = logits.stride_n
    at = logits.ptr + cell.first + (tl.zeros([], tl.int64) + c0) * stride_n
    for _ in range(most):
        # Lanes whose list is exhausted repeat class c0: it is seen already, or cannot be largest.
        c, contend = first_bit(contend)
        p00 = at + c.to(tl.int64) * stride_n
        p10 = p00 + cell.below
        left = tl.load(p00).to(tl.float32)[None, None, :]
        right = tl.load(p00 + cell.beside).to(tl.float32)[None, None, :]
        top = tl.fma(right, wx, left * wx0)
        left = tl.load(p10).to(tl.float32)[None, None, :]
        right = tl.load(p10 + cell.beside).to(tl.float32)[None, None, :]
        bottom = tl.fma(right, wx, left * wx0)
        value = tl.fma(bottom, wy, top * wy0)
        better = value > best
        best = tl.where(better, value, best)
        label = tl.where(better, c0 + c[None, None, :], label)
    return best, label


@triton.jit
def mixed_labels(
    logits, cell, contend, most, num_classes, dy, dx, resize_y, resize_x,
    N: tl.constexpr, CELLS: tl.constexpr, LANES: tl.constexpr, WORD: tl.constexpr = 32,
):  # fmt: skip
    """Labels of cell_y x cell_x pixels of each cell, from its pixel (dy, dx) on.

    One call covers most cells; those at the image's border have more pixels.

    Returns:
        rows [cell_rows, 1, LANES] and columns [1, lane_columns, LANES] of pixels, which of them are
        in their cell, and their labels: first argmax of N interpolated logits; NaN counts as -inf,
        none above it gives class 0.
    """
    beside = tl.arange(0, CELLS.lane_columns)[:, None] * CELLS.group
    beside += (tl.arange(0, LANES) % CELLS.group)[None, :]
    line = dy + tl.arange(0, CELLS.cell_rows)[:, None]
    py = cell.top[None, :] + line
    px = cell.left[None, :] + dx + beside
    inside_y = (line < dy + CELLS.cell_y) & (py < cell.bottom[None, :])
    inside_x = cell.listed[None, :] & (beside < CELLS.cell_x) & (px < cell.right[None, :])
    wanted = inside_y[:, None, :] & inside_x[None, :, :]
    wy = second_weight(py, cell.row[None, :], resize_y)[:, None, :]
    wx = second_weight(px, cell.column[None, :], resize_x)[None, :, :]
    best = tl.zeros_like(wy + wx) + float("-inf")
    label = tl.zeros_like(best).to(tl.int32)
    best, label = _offer(best, label, logits, cell, wy, wx, 0, contend, most)
    for c0 in range(WORD, N, WORD):
        classes = tl.minimum(num_classes - c0, WORD)
        # Four loads in flight here: with eight, sm_100 spills.
        more, most = contenders(logits, cell, c0, classes, CELLS, LANES, 4)
        best, label = _offer(best, label, logits, cell, wy, wx, c0, more, most)
    return py[:, None, :], px[None, :, :], wanted, label
