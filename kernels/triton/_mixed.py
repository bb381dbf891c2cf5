"""Labels of the pixels of mixed cells (_cells.py), as device functions.

Of a mixed cell only those classes are evaluated that can be largest in it, mostly two.

At every pixel the largest value is at least the mean of any two classes' values, here of the lowest
and the highest label of the cell's corners. A class that is below the mean at all corners is below
it everywhere between them. By enough: weights are not negative and every rounding step is monotone,
so of the class that is left out rounding does not count, and that of the two and of their mean is
less than 16 * 2^-24 of their sizes, weighted as they are; so is the margin, which is four times
that. Where anything is not finite the comparison fails at that corner and keeps the class.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._upsample import first_output, second_weight, to_second_tap


@triton.jit
def mixed_columns(
    mixed_ptr, start, mixed, row0, column0, y0, y1, x0, x1,
    scale_y, scale_x, ratio_y, ratio_x, h, w, H, W,
    POINTS_X: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr, DYADIC: tl.constexpr,
):  # fmt: skip
    """Mixed cells from number `start` on, LANES // GROUP of them, one lane per column of pixels.

    Returns:
        which lanes have a cell; its source row and column, those of the last mixed cell in other
        lanes; two labels of its corners; its pixels in the tile: first row, end, first column, end.
    """
    entry = start + tl.arange(0, LANES) // GROUP
    listed = entry < mixed
    cell = tl.load(mixed_ptr + tl.minimum(entry, mixed - 1))
    slot = cell & 0xFFFF
    row = row0 + slot // POINTS_X
    column = column0 + slot % POINTS_X
    one = tl.maximum(((cell >> 16) & 255) - 1, 0)
    other = (cell >> 24) & 255
    top = tl.maximum(first_output(row, scale_y, ratio_y, h, H, DYADIC), y0)
    bottom = tl.minimum(first_output(row + 1, scale_y, ratio_y, h, H, DYADIC), y1)
    left = tl.maximum(first_output(column, scale_x, ratio_x, w, W, DYADIC), x0)
    right = tl.minimum(first_output(column + 1, scale_x, ratio_x, w, W, DYADIC), x1)
    return listed, row, column, one, other, top, bottom, left, right


@triton.jit
def corner_offsets(row, column, stride_y, stride_x, h, w, H, W):
    """Elements to a cell's first corner, from there to the one beside and to the one below it."""
    first = row.to(tl.int64) * stride_y + column.to(tl.int64) * stride_x
    return first, to_second_tap(column, w, W, stride_x), to_second_tap(row, h, H, stride_y)


@triton.jit
def _own_corner(first, beside, below, part, LANES: tl.constexpr, GROUP: tl.constexpr):
    """The corner that a lane looks at for its cell: one, or in turn two or four of them."""
    corner = tl.arange(0, LANES) % GROUP
    if GROUP < 4:
        corner = corner * (4 // GROUP) + part
    return first + tl.where(corner % 2 != 0, beside, 0) + tl.where(corner // 2 % 2 != 0, below, 0)


@triton.jit
def _to_lanes(x, LANES: tl.constexpr, GROUP: tl.constexpr):
    """What was found of a cell, for each of its lanes."""
    return tl.reshape(tl.broadcast_to(x[:, None], [LANES // GROUP, GROUP]), [LANES])


@triton.jit
def contenders(
    image_ptr, stride_n, first, beside, below, one, other, c0, classes,
    LANES: tl.constexpr, GROUP: tl.constexpr,
    MARGIN: tl.constexpr = 2.0**-18, LEAST: tl.constexpr = 2.0**-100,
):  # fmt: skip
    """Bits of the `classes`, at most 32, from `c0` on that may be largest in a lane's cell.

    The lanes of a cell share its corners.

    Returns:
        int32 [LANES], and how many bits a lane has at most.
    """
    PARTS: tl.constexpr = 4 // GROUP if GROUP < 4 else 1
    found = tl.zeros([LANES], tl.int32)
    for part in tl.static_range(PARTS):
        at = image_ptr + _own_corner(first, beside, below, part, LANES, GROUP)
        value0 = tl.load(at + one.to(tl.int64) * stride_n).to(tl.float32)
        value1 = tl.load(at + other.to(tl.int64) * stride_n).to(tl.float32)
        margin = tl.fma(tl.abs(value0) + tl.abs(value1), MARGIN, LEAST)
        bound = tl.fma(value0, 0.5, value1 * 0.5) - margin
        at += (tl.zeros([], tl.int64) + c0) * stride_n
        bit = tl.full([], 1, tl.int32)
        for _ in tl.range(0, classes, loop_unroll_factor=8):
            found |= tl.where(tl.load(at).to(tl.float32) < bound, 0, bit)
            bit = bit << 1
            at += stride_n
    if GROUP > 1:
        found = tl.reduce_or(tl.reshape(found, [LANES // GROUP, GROUP]), 1)
        found = _to_lanes(found, LANES, GROUP)
    return found, tl.max(_bits(found), 0)


@triton.jit
def _bits(x):
    """How many bits of each number are set."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (x * 0x01010101 >> 24) & 63


@triton.jit
def _offer(
    best, label, at, beside, below, wy, wx, stride_n, c0, contend, most
):  # fmt: skip
    """The largest value of those seen, and the first class that has it; then of `contend`, too."""
    wy0 = 1.0 - wy
    wx0 = 1.0 - wx
    for _ in range(most):
        # The lowest bit's number, from the exponent it has as a float. In lanes without one more,
        # class c0 again: either it cannot be largest or it was seen.
        lowest = contend & -contend
        contend ^= lowest
        power = lowest.to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True) >> 23
        c = tl.maximum(power - 127, 0)
        p00 = at + c.to(tl.int64) * stride_n
        p10 = p00 + below
        left = tl.load(p00).to(tl.float32)
        right = tl.load(p00 + beside).to(tl.float32)
        top = tl.fma(right, wx, left * wx0)
        left = tl.load(p10).to(tl.float32)
        right = tl.load(p10 + beside).to(tl.float32)
        bottom = tl.fma(right, wx, left * wx0)
        value = tl.fma(bottom[None, :], wy, top[None, :] * wy0)
        better = value > best
        best = tl.where(better, value, best)
        label = tl.where(better, c0 + c[None, :], label)
    return best, label


@triton.jit
def mixed_labels(
    image_ptr, stride_n, first, beside, below, one, other, contend, most, num_classes,
    listed, row, column, top, bottom, left, right, dy, dx, scale_y, scale_x,
    N: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr,
    CELL_Y: tl.constexpr, CELL_X: tl.constexpr, CELL_ROWS: tl.constexpr, WORD: tl.constexpr = 32,
):  # fmt: skip
    """Labels of CELL_Y x CELL_X pixels of each cell, from its pixel (dy, dx) on.

    Once around for most cells; those at the image's border have more pixels.

    Returns:
        rows [CELL_ROWS, LANES] and columns [1, LANES] of pixels, which of them are in their cell,
        and their labels: first argmax of N interpolated logits; NaN counts as -inf, none above it
        gives class 0.
    """
    lane = tl.arange(0, LANES) % GROUP
    line = dy + tl.arange(0, CELL_ROWS)
    py = top[None, :] + line[:, None]
    px = left + dx + lane
    wanted = (
        (listed & (lane < CELL_X) & (px < right))[None, :]
        & (line < dy + CELL_Y)[:, None]
        & (py < bottom[None, :])
    )
    at = image_ptr + first
    wy = second_weight(py, row[None, :], scale_y)
    wx = second_weight(px, column, scale_x)
    best = tl.zeros_like(wy) + float("-inf")
    label = tl.zeros_like(wy).to(tl.int32)
    best, label = _offer(best, label, at, beside, below, wy, wx, stride_n, 0, contend, most)
    for c0 in range(WORD, N, WORD):
        more, most = contenders(
            image_ptr, stride_n, first, beside, below, one, other,
            c0, tl.minimum(num_classes - c0, WORD), LANES, GROUP,
        )  # fmt: skip
        best, label = _offer(
            best, label, at + (tl.zeros([], tl.int64) + c0) * stride_n, beside, below, wy, wx,
            stride_n, c0, more, most,
        )  # fmt: skip
    return py, px[None, :], wanted, label
