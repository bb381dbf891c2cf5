"""Selection among more windows than a program has registers for; still one program per image.

Kept in memory, per image: `across`, the bins of every bin row summed over the width of each column
of windows, and `row_best`, the key of the best window in each row of windows. A round takes the
largest of the row keys; "top" then computes that row again without the windows already taken, which
are those with keys not below the last one; "cover" empties the bins of the window, and computes
again the sums and rows that overlap it. Nothing else can have changed.

Costs, estimated and not measured, at 6000 x 6000 with windows of 128 at stride 32 (33,856 windows,
184 a row): the start reads each bin 5 times and each sum 5 times, about 340,000 loads from the L2
and L1 of one multiprocessor, some 10 us; a round of "cover" reads 5 x 9 windows of sums, 8 rows of
184 windows and 184 keys behind four barriers, 1 to 2 us. Both grow with the windows that overlap
one, (2 k / s)^2, so a stride of a few pixels is slow, though right.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ._launch import Launch, pow2
from ._selection import clear_bins, clear_slots, key_gain, key_index, make_key
from ._window_grid import Axis, window_bins


@triton.jit
def _sum_across(bins_ptr, across_ptr, t0, t1, j0, j1, columns, window, regular_x, most_x, bins_x,
                step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x,
                BLOCK: tl.constexpr):  # fmt: skip
    """across[t, j] for bin rows [t0, t1) and columns of windows [j0, j1)."""
    width = j1 - j0
    for start in range(0, (t1 - t0) * width, BLOCK):
        lane = start + tl.arange(0, BLOCK)
        valid = lane < (t1 - t0) * width
        t = t0 + lane // width
        j = j0 + lane % width
        _, left, right = window_bins(
            j, window, regular_x, step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x
        )
        sums = tl.zeros([BLOCK], tl.int32)
        ptrs = bins_ptr + t * bins_x + left
        for u in tl.range(0, most_x, loop_unroll_factor=4):
            sums += tl.load(ptrs + u, mask=valid & (left + u < right), other=0)
        tl.store(across_ptr + t * columns + j, sums, mask=valid)


@triton.jit
def _best_of_rows(across_ptr, row_best_ptr, i0, i1, below, columns, window, regular_y, most_y,
                  step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y,
                  ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """row_best[i] for rows [i0, i1): the largest key less than `below`, 0 if there is none."""
    for start_row in range(i0, i1, ROWS):
        i = start_row + tl.arange(0, ROWS)
        _, top, bottom = window_bins(
            i, window, regular_y, step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y
        )
        row_best = tl.zeros([ROWS], tl.int64)
        for start in range(0, columns, COLUMNS):
            j = start + tl.arange(0, COLUMNS)
            valid = (i < i1)[:, None] & (j < columns)[None, :]
            gains = tl.zeros([ROWS, COLUMNS], tl.int32)
            for t in tl.range(0, most_y, loop_unroll_factor=4):
                gains += tl.load(
                    across_ptr + (top + t)[:, None] * columns + j[None, :],
                    mask=valid & (top + t < bottom)[:, None],
                    other=0,
                )
            key = make_key(gains, i[:, None] * columns + j[None, :])
            key = tl.where(valid & (key < below), key, 0)
            row_best = tl.maximum(row_best, tl.max(key, 1))
        tl.store(row_best_ptr + i, row_best, mask=i < i1)


@triton.jit
def _best(row_best_ptr, rows, BLOCK: tl.constexpr):
    best = tl.zeros([BLOCK], tl.int64)
    for start in range(0, rows, BLOCK):
        i = start + tl.arange(0, BLOCK)
        best = tl.maximum(best, tl.load(row_best_ptr + i, mask=i < rows, other=0))
    return tl.max(best, 0)


@triton.jit
def _overlapping(start, window, regular, windows, step, flush_px):
    """Windows [first, last) along an axis that share pixels with the window at pixel `start`."""
    first = tl.where(start < window, 0, (start - window) // step + 1)
    last = tl.minimum((start + window - 1) // step + 1, regular)
    return first, tl.where(flush_px < start + window, windows, last)


@triton.jit
def _many_kernel(
    bins_ptr,  # int32 [B, bins_y, bins_x]; used up by COVER
    across_ptr,  # int32 [B, bins_y, columns], scratch
    row_best_ptr,  # int64 [B, rows], scratch
    origins_ptr,  # int32 [B, n, 2] contiguous
    counts_ptr,  # int32 [B, n] contiguous
    num_ptr,  # int32 [B]
    n, min_pixels,
    rows, columns, window, regular_y, regular_x, most_y, most_x,
    step_y, rest_y, flush_px_y, flush_bin_y, rest_bins_y, period_bins_y, unit_y, bins_y,
    step_x, rest_x, flush_px_x, flush_bin_x, rest_bins_x, period_bins_x, unit_x, bins_x,
    COVER: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    bins_ptr += b * bins_y * bins_x
    across_ptr += b * bins_y * columns
    row_best_ptr += b * rows
    origins_ptr += b * n * 2
    counts_ptr += b * n
    _sum_across(
        bins_ptr, across_ptr, 0, bins_y, 0, columns, columns, window, regular_x, most_x, bins_x,
        step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x, BLOCK,
    )  # fmt: skip
    tl.debug_barrier()
    everything = tl.full([], 1 << 62, tl.int64)
    _best_of_rows(
        across_ptr, row_best_ptr, 0, rows, everything, columns, window, regular_y, most_y,
        step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y, ROWS, COLUMNS,
    )  # fmt: skip
    tl.debug_barrier()
    taken = 0
    best = _best(row_best_ptr, rows, BLOCK)
    while (taken < n) & (key_gain(best) >= min_pixels):
        i = key_index(best) // columns
        y, t0, t1 = window_bins(
            i, window, regular_y, step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y
        )
        x, u0, u1 = window_bins(
            key_index(best) % columns, window, regular_x,
            step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x,
        )  # fmt: skip
        tl.store(origins_ptr + taken * 2, y)
        tl.store(origins_ptr + taken * 2 + 1, x)
        tl.store(counts_ptr + taken, key_gain(best))
        taken += 1
        if COVER:
            clear_bins(bins_ptr, bins_x, t0, t1, u0, u1)
            tl.debug_barrier()
            first_x, last_x = _overlapping(x, window, regular_x, columns, step_x, flush_px_x)
            _sum_across(
                bins_ptr, across_ptr, t0, t1, first_x, last_x,
                columns, window, regular_x, most_x, bins_x,
                step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x, BLOCK,
            )  # fmt: skip
            first_y, last_y = _overlapping(y, window, regular_y, rows, step_y, flush_px_y)
            below = everything
        else:
            first_y = i
            last_y = i + 1
            below = best
        tl.debug_barrier()
        _best_of_rows(
            across_ptr, row_best_ptr, first_y, last_y, below, columns, window, regular_y, most_y,
            step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y, ROWS, COLUMNS,
        )  # fmt: skip
        tl.debug_barrier()
        best = _best(row_best_ptr, rows, BLOCK)
    tl.store(num_ptr + b, taken)
    clear_slots(origins_ptr, counts_ptr, taken, n)


def plan_many(
    args: dict[str, Any], batch: int, y: Axis, x: Axis, cover: bool, scratch: Any
) -> Launch:
    """The launch that selects among any number of windows."""
    block_columns = min(pow2(x.windows), 256)
    return Launch(
        _many_kernel,
        batch,
        {
            **args,
            "across_ptr": scratch("across", torch.int32, batch * y.bins * x.windows),
            "row_best_ptr": scratch("row_best", torch.int64, batch * y.windows),
        },
        {
            "COVER": cover,
            "BLOCK": 1024,
            "ROWS": 2048 // block_columns,
            "COLUMNS": block_columns,
        },
        num_warps=8,
    )
