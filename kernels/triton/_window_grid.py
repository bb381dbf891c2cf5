"""Windows along an axis, and the bins they are unions of, on host and device.

Starts and ends of all windows cut an axis into intervals that never straddle a window's border, so
counts over intervals make exact counts over windows, whatever window, stride and edge are. The
intervals have a closed form, so kernels need no table: with s the stride and k the window, starts
lie at i * s, ends at i * s + k, that is at offset k mod s into a period of s; a flush window adds
its start F = H - k. A period is [0, rest) and [rest, s) with rest = k mod s, each cut into bins of
`unit` pixels (the last one may be shorter), and bins are numbered through; from F on they are
numbered one higher. Where F falls on a cut the bin before it is empty, which does no harm.

A tile is the bins one program counts. Tiles never share a bin, so sums need no initialisation by
anyone but their program.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import triton
import triton.language as tl

from ._launch import ceil_div

NONE = (1 << 31) - 1  # flush start and bin of an axis without a flush window


class Axis(NamedTuple):
    """Windows, bins and tiles along one axis of `size` pixels; what kernels need, by value."""

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
    tiles: int

    def args(self, axis: str) -> dict[str, int]:
        """The geometry arguments every kernel on this grid takes, for axis "y" or "x"."""
        return {
            f"step_{axis}": self.stride,
            f"rest_{axis}": self.rest,
            f"flush_px_{axis}": self.flush_px,
            f"flush_bin_{axis}": self.flush_bin,
            f"rest_bins_{axis}": self.rest_bins,
            f"period_bins_{axis}": self.period_bins,
            f"unit_{axis}": self.unit,
            f"bins_{axis}": self.bins,
        }

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
    # A stride past the last fitting start gives the same windows as the first one past it.
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
    return Axis(
        size=size,
        stride=stride,
        windows=regular + (flush_px != NONE),
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
        tiles=ceil_div(bins, tile_bins),
    )


def window_args(y: Axis, x: Axis, window: int) -> dict[str, int]:
    """Arguments of kernels that go over windows of side `window`."""
    return {
        **{"rows": y.windows, "columns": x.windows, "window": window},
        **{"regular_y": y.regular, "regular_x": x.regular},
        **{"most_y": y.window_bins, "most_x": x.window_bins},
        **y.args("y"),
        **x.args("x"),
    }


@triton.jit
def bin_start(e, size, stride, rest, flush_px, flush_bin, rest_bins, period_bins, unit):
    """First pixel of bin `e`; `size` for bins past the end."""
    base = tl.where(e > flush_bin, e - 1, e)
    inside = base % period_bins
    offset = tl.where(inside < rest_bins, inside * unit, rest + (inside - rest_bins) * unit)
    start = tl.where(e == flush_bin, flush_px, (base // period_bins) * stride + offset)
    return tl.minimum(start, size)


@triton.jit
def bin_of(px, stride, rest, flush_px, rest_bins, period_bins, unit):
    """Bin of pixel `px`."""
    at = px % stride
    inside = tl.where(at < rest, at // unit, rest_bins + (at - rest) // unit)
    return (px // stride) * period_bins + inside + (px >= flush_px).to(tl.int32)


@triton.jit
def bin_beside(px, first, stride, rest, flush_px, rest_bins, period_bins):
    """Bin of pixel `px`, as `bin_of`, less than 2^11 past `first`, where a tile has several bins.

    There strides are short, thus not cut further, and dividing by one in float32 is exact: the half
    keeps quotients from whole numbers by more than rounding moves them.
    """
    period = first // stride
    at = px - period * stride
    further = ((at.to(tl.float32) + 0.5) * (1.0 / stride)).to(tl.int32)
    at -= further * stride
    inside = tl.where(at < rest, 0, rest_bins)
    return (period + further) * period_bins + inside + (px >= flush_px).to(tl.int32)


@triton.jit
def window_start(i, regular, stride, flush_px):
    """First pixel of window `i`."""
    return tl.where(i < regular, i * stride, flush_px)


@triton.jit
def window_bins(
    i, window, regular, stride, rest, flush_px, rest_bins, period_bins, unit
):  # fmt: skip
    """First pixel, first bin and bin past the last of window `i`."""
    start = window_start(i, regular, stride, flush_px)
    first = bin_of(start, stride, rest, flush_px, rest_bins, period_bins, unit)
    last = bin_of(start + window - 1, stride, rest, flush_px, rest_bins, period_bins, unit)
    return start, first, last + 1


@triton.jit
def window_sum(
    bins_ptr, index, valid, columns, window, regular_y, regular_x, most_y, most_x, bins_x,
    step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y,
    step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x,
):  # fmt: skip
    """First row, first column and sum of the bins of windows `index` [P] (row-major)."""
    y, top, bottom = window_bins(
        index // columns, window, regular_y,
        step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y,
    )  # fmt: skip
    x, left, right = window_bins(
        index % columns, window, regular_x,
        step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x,
    )  # fmt: skip
    ptrs = bins_ptr + top * bins_x + left
    sums = tl.zeros_like(index)
    for _i in range(most_y):
        for j in range(most_x):
            sums += tl.load(ptrs + j, mask=valid & (top < bottom) & (left + j < right), other=0)
        top += 1
        ptrs += bins_x
    return y, x, sums
