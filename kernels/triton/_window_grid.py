"""Windows along an axis, and the bins they are unions of, on host and device.

Starts and ends of all windows cut an axis into intervals that never straddle a window's border, so
counts of intervals add up to exact counts of windows, for any window, stride and edge. The
intervals have a closed form, so kernels need no table: with s the stride and k the window, starts
lie at i * s, ends at i * s + k, that is at offset k mod s into a period of s; a flush window adds
its start F = H - k. A period is [0, rest) and [rest, s) with rest = k mod s, each cut into bins of
`unit` pixels (the last one may be shorter), and bins are numbered through; from F on they are
numbered one higher. Where F falls on a cut the bin before it is empty, which does no harm.

A tile is the bins that one program counts. Tiles never share a bin, so each program initialises its
own sums.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import triton
import triton.language as tl

from ._divider import Divider, divided, divider
from ._launch import ceil_div

NONE = (1 << 31) - 1  # flush start and bin of an axis without a flush window


class Axis(NamedTuple):
    """Windows, bins and tiles along one axis of `size` pixels; an argument of kernels as it is."""

    size: int
    stride: int
    windows: int
    regular: int  # windows at i * stride; one more, if any, starts at flush_px
    flush_px: int
    flush_bin: int
    rest: int  # k mod s
    rest_bins: int  # bins of [0, rest)
    period_bins: int
    unit: int
    bins: int
    window_bins: int  # most bins of a window
    tile_bins: int
    tile_px: int  # most pixels of a tile
    tiles: Divider
    by_stride: Divider
    by_unit: Divider
    by_windows: Divider

    def edges(self) -> list[int]:
        """First pixels of all bins, and the axis' end: what `bin_start` computes on the device."""
        found = []
        for e in range(self.bins):
            period, inside = divmod(e - (e > self.flush_bin), self.period_bins)
            after = inside - self.rest_bins
            at = inside * self.unit if after < 0 else self.rest + after * self.unit
            found.append(self.flush_px if e == self.flush_bin else period * self.stride + at)
        return [*found, self.size]


@lru_cache(maxsize=256)
def make_axis(size: int, window: int, stride: int, flush: bool, tile_px: int) -> Axis:
    """The axis; no tile is longer than `tile_px` pixels."""
    # A stride that fits only one window gives the same grid as the shortest such stride.
    stride = min(stride, size - window + 1)
    regular = (size - window) // stride + 1
    flush_px = size - window if flush and (size - window) % stride != 0 else NONE
    rest = window % stride
    unit = tile_px if stride > tile_px else stride
    rest_bins = ceil_div(rest, unit)
    period_bins = rest_bins + ceil_div(stride - rest, unit)
    # One bin per tile, or as many whole periods as fit.
    tile_bins = 1 if 2 * stride > tile_px else tile_px // stride * period_bins

    def bin_of(px: int) -> int:
        period, at = divmod(px, stride)
        inside = at // unit if at < rest else rest_bins + (at - rest) // unit
        return period * period_bins + inside + (px >= flush_px)

    flush_bin = bin_of(flush_px) if flush_px != NONE else NONE
    starts = [0, (regular - 1) * stride, *([flush_px] if flush_px != NONE else [])]
    bins = bin_of(size - 1) + 1
    windows = regular + (flush_px != NONE)
    return Axis(
        size=size,
        stride=stride,
        windows=windows,
        regular=regular,
        flush_px=flush_px,
        flush_bin=flush_bin,
        rest=rest,
        rest_bins=rest_bins,
        period_bins=period_bins,
        unit=unit,
        bins=bins,
        # Windows that start before F and end after it have one bin more than others.
        window_bins=max(bin_of(o + window - 1) - bin_of(o) for o in starts) + 2,
        tile_bins=tile_bins,
        tile_px=min(max(unit, stride * (tile_bins // period_bins)), size),
        tiles=divider(ceil_div(bins, tile_bins)),
        by_stride=divider(stride),
        by_unit=divider(unit),
        by_windows=divider(windows),
    )


@triton.jit
def bin_start(e, axis):
    """First pixel of bin `e`; the end of the axis for bins past the last."""
    base = tl.where(e > axis.flush_bin, e - 1, e)
    inside = base % axis.period_bins
    after = axis.rest + (inside - axis.rest_bins) * axis.unit
    offset = tl.where(inside < axis.rest_bins, inside * axis.unit, after)
    start = (base // axis.period_bins) * axis.stride + offset
    return tl.minimum(tl.where(e == axis.flush_bin, axis.flush_px, start), axis.size)


@triton.jit
def bin_of(px, axis):
    """Bin of pixel `px`."""
    period, at = divided(px, axis.by_stride)
    before = at < axis.rest
    inside, _ = divided(tl.where(before, at, at - axis.rest), axis.by_unit)
    inside += tl.where(before, 0, axis.rest_bins)
    return period * axis.period_bins + inside + (px >= axis.flush_px).to(tl.int32)


@triton.jit
def bin_beside(px, first, axis):
    """Bin of pixel `px`, as `bin_of`, less than 2^11 past `first`, where a tile has several bins.

    Strides are short there, so not cut further, and float32 division by one is safe: adding a half
    keeps quotients further from whole numbers than rounding can move them.
    """
    period, _ = divided(first, axis.by_stride)
    at = px - period * axis.stride
    further = ((at.to(tl.float32) + 0.5) * (1.0 / axis.stride)).to(tl.int32)
    at -= further * axis.stride
    inside = tl.where(at < axis.rest, 0, axis.rest_bins)
    return (period + further) * axis.period_bins + inside + (px >= axis.flush_px).to(tl.int32)


@triton.jit
def window_start(i, axis):
    """First pixel of window `i`."""
    return tl.where(i < axis.regular, i * axis.stride, axis.flush_px)


@triton.jit
def window_bins(i, window, axis):
    """First pixel, first bin and bin past the last of window `i`, of side `window`."""
    start = window_start(i, axis)
    return start, bin_of(start, axis), bin_of(start + window - 1, axis) + 1


@triton.jit
def window_sum(bins_ptr, index, valid, window, grid_y, grid_x):
    """First row, first column and sum of the bins of windows `index` [P] (row-major)."""
    row, column = divided(index, grid_x.by_windows)
    y, top, bottom = window_bins(row, window, grid_y)
    x, left, right = window_bins(column, window, grid_x)
    ptrs = bins_ptr + top * grid_x.bins + left
    sums = tl.zeros_like(index)
    for _i in range(grid_y.window_bins):
        for j in range(grid_x.window_bins):
            sums += tl.load(ptrs + j, mask=valid & (top < bottom) & (left + j < right), other=0)
        top += 1
        ptrs += grid_x.bins
    return y, x, sums
