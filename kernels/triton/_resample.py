"""Resampling of a patch along one axis, as F.interpolate does it, as device functions.

An axis of `in_size` source positions gives `out_size` outputs. TAPS is the number of sources of an
output: 1 (nearest, and no resizing), 2 (bilinear) or 4 (bicubic, a = -0.75). An output's cell is
the integer part of its source position, -1 included for bicubic; its taps are the neighbours from
the cell on (bicubic: from one before it), clamped to the axis.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._ptx import difference_in_unit


@triton.jit
def _unclamped(dst, scale):
    return tl.fma(dst.to(tl.float32) + 0.5, scale + 0.0, -0.5)


@triton.jit
def position(dst, scale, TAPS: tl.constexpr):
    """Source position (float32) of output `dst`, before clamping; scale = in / out."""
    if TAPS == 1:
        return dst.to(tl.float32) * scale
    at = _unclamped(dst, scale)
    return tl.maximum(at, 0.0) if TAPS == 2 else at


@triton.jit
def cell_of(dst, scale, in_size, TAPS: tl.constexpr):
    """The cell of `dst`. Rounding may reach in_size on long axes; the cell does not."""
    at = position(dst, scale, TAPS)
    if TAPS == 4:  # the others are not negative
        at = tl.floor(at)
    return tl.minimum(at.to(tl.int32), in_size - 1)


@triton.jit
def first_in_cell(
    cell, scale, ratio, in_size, out_size, TAPS: tl.constexpr, DYADIC: tl.constexpr = False
):  # fmt: skip
    """Smallest output whose cell is at least `cell`; out_size if there is none. ratio = out / in.

    Exact: the estimate is off by at most one, and position's own arithmetic decides. DYADIC: the
    ratio is 2, 4, 8, ..., and nothing is rounded.
    """
    if DYADIC:
        steps = (tl.zeros([], tl.float32) + ratio).to(tl.int32)
        estimate = cell * steps
        if TAPS > 1:
            estimate += steps >> 1
    else:
        wanted = cell.to(tl.float32)
        if TAPS > 1:
            estimate = tl.ceil((wanted + 0.5) * ratio - 0.5).to(tl.int32)
        else:
            estimate = tl.ceil(wanted * ratio).to(tl.int32)
        before = position(estimate - 1, scale, TAPS) >= wanted
        estimate = tl.where(before, estimate - 1, estimate)
        after = position(estimate, scale, TAPS) < wanted
        estimate = tl.where(after, estimate + 1, estimate)
    found = tl.minimum(tl.maximum(estimate, 0), out_size)
    if TAPS == 2:
        found = tl.where(cell <= 0, 0, found)
    return tl.where(cell >= in_size, out_size, found)


@triton.jit
def _near(x):
    """Keys' kernel for |x| <= 1."""
    return tl.fma(tl.fma(x, 1.25, -2.25) * x, x, 1.0)


@triton.jit
def _far(x):
    """Keys' kernel for 1 < |x| < 2."""
    return tl.fma(tl.fma(tl.fma(x, -0.75, 3.75), x, -6.0), x, 3.0)


@triton.jit
def tap_weight(dst, cell, scale, TAP: tl.constexpr, TAPS: tl.constexpr):
    """Weight of tap number TAP of output `dst` in `cell`."""
    if TAPS == 1:
        return tl.zeros_like(dst).to(tl.float32) + 1.0
    # Negative positions are in cell 0 if clamped: clamping the difference then does the same.
    t = difference_in_unit(_unclamped(dst, scale), cell.to(tl.float32))
    if TAPS == 2:
        return t if TAP == 1 else 1.0 - t
    if TAP == 0:
        return _far(t + 1.0)
    if TAP == 1:
        return _near(t)
    if TAP == 2:
        return _near(1.0 - t)
    return _far((1.0 - t) + 1.0)


@triton.jit
def tap_source(cell, in_size, TAP: tl.constexpr, TAPS: tl.constexpr):
    """Source position of tap number TAP of the outputs in `cell`."""
    at = cell + TAP - (1 if TAPS == 4 else 0)
    return tl.minimum(tl.maximum(at, 0), in_size - 1)


@triton.jit
def of_channel(values, c, COUNT: tl.constexpr):
    """values[c] of a tuple of COUNT numbers, for integers c of any shape."""
    found = tl.zeros_like(c).to(tl.float32) + values[0]
    for i in tl.static_range(1, COUNT):
        found = tl.where(c == i, values[i], found)
    return found
