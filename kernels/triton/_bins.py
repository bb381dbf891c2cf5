"""Bins of a tile: which ones a program counts, and how it adds its pixels to them."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from ._divider import divided
from ._window_grid import bin_beside, bin_of, bin_start


class TileBins(NamedTuple):
    """Bins [first_y, end_y) x [first_x, end_x) of an image, their pixels [y0, y1) x [x0, x1)."""

    first_y: tl.tensor
    end_y: tl.tensor
    first_x: tl.tensor
    end_x: tl.tensor
    y0: tl.tensor
    y1: tl.tensor
    x0: tl.tensor
    x1: tl.tensor


@triton.jit
def tile_bins(program, grid_y, grid_x):
    """Image, int64, and bins that a program counts."""
    row_of_all, tile_x = divided(program, grid_x.tiles)
    image, tile_y = divided(row_of_all, grid_y.tiles)
    first_y = tile_y * grid_y.tile_bins
    end_y = tl.minimum(first_y + grid_y.tile_bins, grid_y.bins)
    first_x = tile_x * grid_x.tile_bins
    end_x = tl.minimum(first_x + grid_x.tile_bins, grid_x.bins)
    return image.to(tl.int64), TileBins(
        first_y, end_y, first_x, end_x,
        bin_start(first_y, grid_y), bin_start(end_y, grid_y),
        bin_start(first_x, grid_x), bin_start(end_x, grid_x),
    )  # fmt: skip


@triton.jit
def clear_bins(bins_ptr, tile, grid_x, BINS_X: tl.constexpr, ONE_ROW: tl.constexpr):
    """Sets the bins of a tile, at most BINS_X a row, to 0. ONE_ROW: it has one row of bins."""
    bin_x = tile.first_x + tl.arange(0, BINS_X)
    if ONE_ROW:
        at = bins_ptr + tile.first_y * grid_x.bins + bin_x
        tl.store(at, 0, mask=bin_x < tile.end_x)
    else:
        for bin_y in range(tile.first_y, tile.end_y):
            at = bins_ptr + bin_y * grid_x.bins + bin_x
            tl.store(at, 0, mask=bin_x < tile.end_x)


@triton.jit
def store_total(bins_ptr, tile, grid_x, total):
    """For tiles of one bin: stores its count."""
    tl.store(bins_ptr + tile.first_y * grid_x.bins + tile.first_x, total)


@triton.jit
def add_columns(bins_ptr, tile, grid_x, x, counts):
    """For tiles of one row of bins: adds the counts of pixel columns `x`."""
    at = bins_ptr + tile.first_y * grid_x.bins + bin_beside(x, tile.x0, grid_x)
    tl.atomic_add(at, counts, mask=counts > 0, sem="relaxed")


@triton.jit
def add_pixels(bins_ptr, grid_y, grid_x, y, x, small):
    """For tiles of any bins: adds the pixels (y, x) that are `small`."""
    at = bins_ptr + bin_of(y, grid_y) * grid_x.bins + bin_of(x, grid_x)
    tl.atomic_add(at, 1, mask=small, sem="relaxed")
