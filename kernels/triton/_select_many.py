"""Selection among more windows than a program has registers for; still one program per image.

Kept in memory, per image: `gains`, what each window would add, and `row_best`, the key of the best
window in each row of windows. A round takes the largest of the row keys. "top" then empties that
window and looks at its row again; "cover" takes what the window held out of the windows that
overlap it, first summed across each of its bin rows (`across`), then down, empties its bins, and
looks at the rows of those windows again. Nothing else can have changed.

At the start `across` has the sums of the columns of bins (`above`), so that a window is the
difference of two of their rows, summed along x. Lanes lie along x, and a warp looks at whole rows.

Costs, counted by the tests' machine for PTX and not measured, at 6144 x 6144 with windows of 128 at
stride 32 (35,721 windows, 189 a row): the start is 112,000 instructions of warps, some 16 us to
issue on one multiprocessor; a round of "cover" is 423 instructions of each of 8 warps and four
barriers, 0.5 us to issue. Both grow with the windows that overlap one, (2 k / s)^2, so a stride of
a few pixels is slow, but correct.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ._divider import divided
from ._launch import Launch
from ._ptx import along_last
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
def _sum_bins_above(bins_ptr, above_ptr, bins_y, bins_x, BLOCK: tl.constexpr, AHEAD: tl.constexpr):
    """above[t, u]: what the bins of column u hold in the rows before t, for t up to bins_y.

    AHEAD rows are read before sums of them are written: a store holds up every load that follows.
    Sums of more than 2^31 pixels wrap; their differences, of a window at most, are right again.
    """
    for start_u in range(0, bins_x, BLOCK):
        u = start_u + tl.arange(0, BLOCK)
        valid = u < bins_x
        sums = tl.zeros([BLOCK], tl.int32)
        tl.store(above_ptr + u, sums, mask=valid)
        for start_t in range(0, bins_y, AHEAD):
            held = ()
            for k in tl.static_range(AHEAD):
                t = start_t + k
                at = bins_ptr + t * bins_x + u
                held += (tl.load(at, mask=valid & (t < bins_y), other=0),)
            for k in tl.static_range(AHEAD):
                t = start_t + k
                sums += held[k]
                tl.store(above_ptr + (t + 1) * bins_x + u, sums, mask=valid & (t < bins_y))


@triton.jit
def _first_gains(above_ptr, gains_ptr, i, j, rows, columns, edges_y_ptr, edges_x_ptr, bins_x,
                 most_x):  # fmt: skip
    """What windows i [R, 1], j [1, C] hold, stored as their gains, too; 0 where there is none."""
    top, bottom = load_edges(edges_y_ptr, i, i < rows)
    left, right = load_edges(edges_x_ptr, j, j < columns)
    sums = tl.zeros_like(top + left)
    from_ptr = above_ptr + along_last((top * bins_x).to(tl.int64) + left)
    to_ptr = above_ptr + along_last((bottom * bins_x).to(tl.int64) + left)
    for u in tl.range(0, most_x, loop_unroll_factor=4):
        sums += tl.load(to_ptr + u, mask=left + u < right, other=0)
        sums -= tl.load(from_ptr + u, mask=left + u < right, other=0)
    tl.store(gains_ptr + i * columns + j, sums, mask=(i < rows) & (j < columns))
    return sums


@triton.jit
def _sum_across(bins_ptr, across_ptr, edges_x_ptr, t0, t1, u0, u1, j0, j1, columns, most_x, bins_x,
                ROWS: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """across[t, j]: what bins [u0, u1) of row t hold inside column j of windows.

    For t in [t0, t1), j in [j0, j1).
    """
    for start_j in range(j0, j1, LANES):
        j = start_j + tl.arange(0, LANES)[None, :]
        left, right = load_edges(edges_x_ptr, j, j < j1)
        left, right = tl.maximum(left, u0), tl.minimum(right, u1)
        for start_t in range(t0, t1, ROWS):
            t = start_t + tl.arange(0, ROWS)[:, None]
            sums = tl.zeros([ROWS, LANES], tl.int32)
            ptrs = bins_ptr + along_last((t * bins_x).to(tl.int64) + left)
            for u in tl.range(0, most_x, loop_unroll_factor=4):
                sums += tl.load(ptrs + u, mask=(left + u < right) & (t < t1), other=0)
            tl.store(across_ptr + t * columns + j, sums, mask=(t < t1) & (j < j1))


@triton.jit
def _sum_down(across_ptr, gains_ptr, edges_y_ptr, t0, t1, i0, i1, j0, j1, columns, most_y,
              ROWS: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """Takes the sums of across over bin rows [t0, t1) from windows [i0, i1) x [j0, j1)."""
    for start_i in range(i0, i1, ROWS):
        i = start_i + tl.arange(0, ROWS)[:, None]
        top, bottom = load_edges(edges_y_ptr, i, i < i1)
        top, bottom = tl.maximum(top, t0), tl.minimum(bottom, t1)
        for start_j in range(j0, j1, LANES):
            j = start_j + tl.arange(0, LANES)[None, :]
            valid = (i < i1) & (j < j1)
            at = gains_ptr + i * columns + j
            gains = tl.load(at, mask=valid, other=0)
            ptrs = across_ptr + top * columns + j
            for t in tl.range(0, most_y, loop_unroll_factor=4):
                gains -= tl.load(ptrs + t * columns, mask=(top + t < bottom) & (j < j1), other=0)
            tl.store(at, gains, mask=valid)


@triton.jit
def _store_row_best(row_best_ptr, i, end, best, LANES: tl.constexpr):
    """row_best[i] for rows i [R, 1] before `end`: the largest of the keys best [R, LANES].

    Keys may be of places without a window: they gain 0, which is never enough. Lane 0 of the warp
    that has a row stores: one lane for each row would be of other warps, and all would wait.
    """
    lane = tl.arange(0, LANES)[None, :]
    at = along_last(tl.where(lane == 0, i, 0).to(tl.int64))
    tl.store(row_best_ptr + at, tl.max(best, 1, keep_dims=True), mask=(i < end) & (lane == 0))


@triton.jit
def _sum_windows(above_ptr, gains_ptr, row_best_ptr, edges_y_ptr, edges_x_ptr, rows, columns,
                 bins_x, most_x, KEY: tl.constexpr, PLACE_BITS: tl.constexpr,
                 ROWS: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """The gains of all windows, and the largest key of each row of them."""
    for start_i in range(0, rows, ROWS):
        i = start_i + tl.arange(0, ROWS)[:, None]
        best = tl.zeros([ROWS, LANES], KEY)
        for start_j in range(0, columns, LANES):
            j = start_j + tl.arange(0, LANES)[None, :]
            gains = _first_gains(
                above_ptr, gains_ptr, i, j, rows, columns, edges_y_ptr, edges_x_ptr, bins_x, most_x
            )
            best = tl.maximum(best, make_key(gains, i * columns + j, KEY, PLACE_BITS))
        _store_row_best(row_best_ptr, i, rows, best, LANES)


@triton.jit
def _best_of_rows(gains_ptr, row_best_ptr, i0, i1, columns, KEY: tl.constexpr,
                  PLACE_BITS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """row_best[i] for rows [i0, i1): the largest key. A warp looks at whole rows."""
    for start_i in range(i0, i1, ROWS):
        i = start_i + tl.arange(0, ROWS)[:, None]
        best = tl.zeros([ROWS, LANES], KEY)
        for start_j in range(0, columns, 8 * LANES):
            for k in tl.static_range(8):
                j = start_j + k * LANES + tl.arange(0, LANES)[None, :]
                place = i * columns + j
                gains = tl.load(gains_ptr + place, mask=(i < i1) & (j < columns), other=0)
                best = tl.maximum(best, make_key(gains, place, KEY, PLACE_BITS))
        _store_row_best(row_best_ptr, i, i1, best, LANES)


@triton.jit
def _best(row_best_ptr, rows, KEY: tl.constexpr, BLOCK: tl.constexpr):
    best = tl.zeros([BLOCK], KEY)
    for start in range(0, rows, BLOCK):
        i = start + tl.arange(0, BLOCK)
        best = tl.maximum(best, tl.load(row_best_ptr + i, mask=i < rows, other=0))
    return tl.max(best, 0)


@triton.jit
def _clear_bins(bins_ptr, bins_x, t0, t1, u0, u1, ROWS: tl.constexpr, LANES: tl.constexpr):
    """Sets the bins [t0, t1) x [u0, u1) to 0."""
    for start_t in range(t0, t1, ROWS):
        t = start_t + tl.arange(0, ROWS)[:, None]
        for start_u in range(u0, u1, LANES):
            u = start_u + tl.arange(0, LANES)[None, :]
            tl.store(bins_ptr + t * bins_x + u, 0, mask=(t < t1) & (u < u1))


@triton.jit
def _overlapping(start, window, axis):
    """Windows [first, last) along an axis that share pixels with the window at pixel `start`."""
    before, _ = divided(tl.maximum(start - window, 0), axis.by_stride)
    first = tl.where(start < window, 0, before + 1)
    last, _ = divided(start + window - 1, axis.by_stride)
    last = tl.minimum(last + 1, axis.regular)
    return first, tl.where(axis.flush_px < start + window, axis.windows, last)


@triton.jit
def _many_kernel(
    bins_ptr,  # int32 [B, bins_y, bins_x]; used up by COVER
    edges_ptr,  # int32 [B, rows + columns, 2], scratch
    across_ptr,  # int32 [B, bins_y + 1, bins_x], scratch; by a round as [bins_y, columns]
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
    across_ptr += b * (bins_y + 1) * bins_x
    gains_ptr += b * rows * columns
    row_best_ptr += b * rows
    origins_ptr += b * n * 2
    counts_ptr += b * n
    _all_edges(edges_y_ptr, window, grid_y, BLOCK)
    _all_edges(edges_x_ptr, window, grid_x, BLOCK)
    _sum_bins_above(bins_ptr, across_ptr, bins_y, bins_x, BLOCK, 16)
    tl.debug_barrier()
    _sum_windows(
        across_ptr, gains_ptr, row_best_ptr, edges_y_ptr, edges_x_ptr, rows, columns,
        bins_x, most_x, KEY, PLACE_BITS, BLOCK // 8, 32,
    )  # fmt: skip
    tl.debug_barrier()
    taken = 0
    best = _best(row_best_ptr, rows, KEY, BLOCK)
    while (taken < n) & (key_gain(best, PLACE_BITS) >= min_pixels):
        place = key_place(best, PLACE_BITS)
        i, j = divided(place, grid_x.by_windows)
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
                columns, most_x, bins_x, BLOCK // 32, 32,
            )  # fmt: skip
            tl.debug_barrier()
            _sum_down(
                across_ptr, gains_ptr, edges_y_ptr, t0, t1, i0, i1, j0, j1,
                columns, most_y, BLOCK // 32, 32,
            )  # fmt: skip
            _clear_bins(bins_ptr, bins_x, t0, t1, u0, u1, BLOCK // 32, 32)
        else:
            i0, i1 = i, i + 1
            tl.store(gains_ptr + place, 0)
        tl.debug_barrier()
        _best_of_rows(gains_ptr, row_best_ptr, i0, i1, columns, KEY, PLACE_BITS, BLOCK // 32, 32)
        tl.debug_barrier()
        best = _best(row_best_ptr, rows, KEY, BLOCK)
    tl.store(num_ptr + b, taken)
    clear_slots(origins_ptr, counts_ptr, taken, n)


def plan_many(
    args: dict[str, Any], batch: int, y: Axis, x: Axis, window: int, cover: bool, scratch: Any
) -> Launch:
    """The launch that selects among any number of windows."""
    keys = key_format(window, y.windows * x.windows)
    warps = 8
    kind = torch.int32 if keys["KEY"] is tl.int32 else torch.int64
    return Launch(
        _many_kernel,
        batch,
        {
            **args,
            "edges_ptr": scratch("edges", torch.int32, batch * 2 * (y.windows + x.windows)),
            "across_ptr": scratch("across", torch.int32, batch * (y.bins + 1) * x.bins),
            "gains_ptr": scratch("gains", torch.int32, batch * y.windows * x.windows),
            "row_best_ptr": scratch(f"row_best_{kind}", kind, batch * y.windows),
        },
        {
            **{"COVER": cover, "BLOCK": 32 * warps},
            **keys,
        },
        num_warps=warps,
    )
