"""Selection among more windows than a program has registers for; still one program per image.

Kept in memory, per image: `gains`, what each window would add, and `row_best`, the key of the best
window in each row of windows. A round takes the largest of the row keys. "top" then empties that
window and looks at its row again; "cover" takes what the window held out of the windows that
overlap it, first summed across each of its bin rows (`across`), then down, empties its bins, and
looks at the rows of those windows again. Nothing else can have changed.

Costs, estimated and not measured, at 6000 x 6000 with windows of 128 at stride 32 (33,856 windows,
184 a row): the start reads each bin 5 times and each sum 5 times, about 340,000 loads from the L2
and L1 of one multiprocessor, some 10 us; a round of "cover" is some 600 instructions of each of 8
warps and four barriers, 0.7 us. Both grow with the windows that overlap one, (2 k / s)^2, so a
stride of a few pixels is slow, but correct.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ._launch import Launch, pow2
from ._selection import (
    clear_slots,
    key_format,
    key_gain,
    key_place,
    load_edges,
    make_key,
    store_edges,
)
from ._window_grid import Axis, window_bins, window_start


@triton.jit
def _all_edges(edges_ptr, window, axis, BLOCK: tl.constexpr):
    """edges[i] for all windows of an axis."""
    for start in range(0, axis.windows, BLOCK):
        i = start + tl.arange(0, BLOCK)
        _, first, last = window_bins(i, window, axis)
        store_edges(edges_ptr, i, axis.windows, first, last)


@triton.jit
def _sum_across(bins_ptr, across_ptr, edges_x_ptr, t0, t1, u0, u1, j0, j1, columns, most_x, bins_x,
                BLOCK: tl.constexpr):  # fmt: skip
    """across[t, j]: what bins [u0, u1) of row t hold inside column j of windows.

    For t in [t0, t1), j in [j0, j1).
    """
    width = j1 - j0
    for start in range(0, (t1 - t0) * width, BLOCK):
        lane = start + tl.arange(0, BLOCK)
        valid = lane < (t1 - t0) * width
        t = t0 + lane // width
        j = j0 + lane % width
        left, right = load_edges(edges_x_ptr, j, valid)
        left, right = tl.maximum(left, u0), tl.minimum(right, u1)
        sums = tl.zeros([BLOCK], tl.int32)
        ptrs = bins_ptr + t * bins_x + left
        for u in tl.range(0, most_x, loop_unroll_factor=4):
            sums += tl.load(ptrs + u, mask=left + u < right, other=0)
        tl.store(across_ptr + t * columns + j, sums, mask=valid)


@triton.jit
def _sum_down(across_ptr, gains_ptr, edges_y_ptr, t0, t1, i0, i1, j0, j1, columns, most_y,
              FIRST: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Sums of across over bin rows [t0, t1): what windows [i0, i1) x [j0, j1) gain, or lose."""
    width = j1 - j0
    for start in range(0, (i1 - i0) * width, BLOCK):
        lane = start + tl.arange(0, BLOCK)
        valid = lane < (i1 - i0) * width
        i = i0 + lane // width
        j = j0 + lane % width
        top, bottom = load_edges(edges_y_ptr, i, valid)
        top, bottom = tl.maximum(top, t0), tl.minimum(bottom, t1)
        at = i * columns + j
        sums = tl.zeros([BLOCK], tl.int32)
        ptrs = across_ptr + top * columns + j
        for t in tl.range(0, most_y, loop_unroll_factor=4):
            sums += tl.load(ptrs + t * columns, mask=top + t < bottom, other=0)
        if not FIRST:
            sums = tl.load(gains_ptr + at, mask=valid, other=0) - sums
        tl.store(gains_ptr + at, sums, mask=valid)


@triton.jit
def _best_of_rows(gains_ptr, row_best_ptr, i0, i1, columns,
                  KEY: tl.constexpr, PLACE_BITS: tl.constexpr,
                  ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """row_best[i] for rows [i0, i1): the largest key."""
    for start_row in range(i0, i1, ROWS):
        i = start_row + tl.arange(0, ROWS)
        row_best = tl.zeros([ROWS], KEY)
        for start in range(0, columns, COLUMNS):
            j = start + tl.arange(0, COLUMNS)
            place = i[:, None] * columns + j[None, :]
            valid = (i < i1)[:, None] & (j < columns)[None, :]
            gains = tl.load(gains_ptr + place, mask=valid, other=0)
            key = tl.where(valid, make_key(gains, place, KEY, PLACE_BITS), 0)
            row_best = tl.maximum(row_best, tl.max(key, 1))
        tl.store(row_best_ptr + i, row_best, mask=i < i1)


@triton.jit
def _best(row_best_ptr, rows, KEY: tl.constexpr, BLOCK: tl.constexpr):
    best = tl.zeros([BLOCK], KEY)
    for start in range(0, rows, BLOCK):
        i = start + tl.arange(0, BLOCK)
        best = tl.maximum(best, tl.load(row_best_ptr + i, mask=i < rows, other=0))
    return tl.max(best, 0)


@triton.jit
def _clear_bins(bins_ptr, bins_x, t0, t1, u0, u1, BLOCK: tl.constexpr):
    """Sets the bins [t0, t1) x [u0, u1) to 0."""
    width = u1 - u0
    for start in range(0, (t1 - t0) * width, BLOCK):
        lane = start + tl.arange(0, BLOCK)
        at = (t0 + lane // width) * bins_x + u0 + lane % width
        tl.store(bins_ptr + at, 0, mask=lane < (t1 - t0) * width)


@triton.jit
def _overlapping(start, window, axis):
    """Windows [first, last) along an axis that share pixels with the window at pixel `start`."""
    first = tl.where(start < window, 0, (start - window) // axis.stride + 1)
    last = tl.minimum((start + window - 1) // axis.stride + 1, axis.regular)
    return first, tl.where(axis.flush_px < start + window, axis.windows, last)


@triton.jit
def _many_kernel(
    bins_ptr,  # int32 [B, bins_y, bins_x]; used up by COVER
    edges_ptr,  # int32 [B, rows + columns, 2], scratch
    across_ptr,  # int32 [B, bins_y, columns], scratch
    gains_ptr,  # int32 [B, rows, columns], scratch
    row_best_ptr,  # KEY [B, rows], scratch
    origins_ptr,  # int32 [B, n, 2] contiguous
    counts_ptr,  # int32 [B, n] contiguous
    num_ptr,  # int32 [B]
    n, min_pixels, window,
    grid_y,  # Axis
    grid_x,
    COVER: tl.constexpr,
    KEY: tl.constexpr,
    PLACE_BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    rows = grid_y.windows
    columns = grid_x.windows
    bins_y = grid_y.bins
    bins_x = grid_x.bins
    most_y = grid_y.window_bins
    most_x = grid_x.window_bins
    bins_ptr += b * bins_y * bins_x
    edges_y_ptr = edges_ptr + b * 2 * (rows + columns)
    edges_x_ptr = edges_y_ptr + 2 * rows
    across_ptr += b * bins_y * columns
    gains_ptr += b * rows * columns
    row_best_ptr += b * rows
    origins_ptr += b * n * 2
    counts_ptr += b * n
    _all_edges(edges_y_ptr, window, grid_y, COLUMNS)
    _all_edges(edges_x_ptr, window, grid_x, COLUMNS)
    tl.debug_barrier()
    _sum_across(
        bins_ptr, across_ptr, edges_x_ptr, 0, bins_y, 0, bins_x, 0, columns,
        columns, most_x, bins_x, 4 * BLOCK,
    )  # fmt: skip
    tl.debug_barrier()
    _sum_down(
        across_ptr, gains_ptr, edges_y_ptr, 0, bins_y, 0, rows, 0, columns,
        columns, most_y, True, 4 * BLOCK,
    )  # fmt: skip
    tl.debug_barrier()
    _best_of_rows(
        gains_ptr, row_best_ptr, 0, rows, columns, KEY, PLACE_BITS, 2048 // COLUMNS, COLUMNS
    )
    tl.debug_barrier()
    taken = 0
    best = _best(row_best_ptr, rows, KEY, BLOCK)
    while (taken < n) & (key_gain(best, PLACE_BITS) >= min_pixels):
        place = key_place(best, PLACE_BITS)
        i, j = place // columns, place % columns
        y = window_start(i, grid_y)
        x = window_start(j, grid_x)
        tl.store(origins_ptr + taken * 2, y)
        tl.store(origins_ptr + taken * 2 + 1, x)
        tl.store(counts_ptr + taken, key_gain(best, PLACE_BITS))
        taken += 1
        if COVER:
            t0, t1 = load_edges(edges_y_ptr, i, True)
            u0, u1 = load_edges(edges_x_ptr, j, True)
            i0, i1 = _overlapping(y, window, grid_y)
            j0, j1 = _overlapping(x, window, grid_x)
            _sum_across(
                bins_ptr, across_ptr, edges_x_ptr, t0, t1, u0, u1, j0, j1,
                columns, most_x, bins_x, BLOCK,
            )  # fmt: skip
            tl.debug_barrier()
            _sum_down(
                across_ptr, gains_ptr, edges_y_ptr, t0, t1, i0, i1, j0, j1,
                columns, most_y, False, BLOCK,
            )  # fmt: skip
            _clear_bins(bins_ptr, bins_x, t0, t1, u0, u1, BLOCK)
        else:
            i0, i1 = i, i + 1
            tl.store(gains_ptr + place, 0)
        tl.debug_barrier()
        _best_of_rows(
            gains_ptr, row_best_ptr, i0, i1, columns, KEY, PLACE_BITS, 2048 // COLUMNS, COLUMNS
        )
        tl.debug_barrier()
        best = _best(row_best_ptr, rows, KEY, BLOCK)
    tl.store(num_ptr + b, taken)
    clear_slots(origins_ptr, counts_ptr, taken, n)


def plan_many(
    args: dict[str, Any], batch: int, y: Axis, x: Axis, window: int, cover: bool, scratch: Any
) -> Launch:
    """The launch that selects among any number of windows."""
    keys = key_format(window, y.windows * x.windows)
    kind = torch.int32 if keys["KEY"] is tl.int32 else torch.int64
    return Launch(
        _many_kernel,
        batch,
        {
            **args,
            "edges_ptr": scratch("edges", torch.int32, batch * 2 * (y.windows + x.windows)),
            "across_ptr": scratch("across", torch.int32, batch * y.bins * x.windows),
            "gains_ptr": scratch("gains", torch.int32, batch * y.windows * x.windows),
            "row_best_ptr": scratch(f"row_best_{kind}", kind, batch * y.windows),
        },
        {
            **{"COVER": cover, "BLOCK": 256, "COLUMNS": min(pow2(x.windows), 256)},
            **keys,
        },
        num_warps=8,
    )
