"""select_windows: the windows worth a second look, in two launches.

The first counts bins (_cell_counts.py). The second has one program per image, since every choice of
"top" and "cover" depends on the one before: it works in rounds of a few hundred nanoseconds that
one block can synchronise, and a GPU cannot. Where the counts of all windows fit the registers of a
program (`_few_kernel`) a round is one reduction, and for "cover" a sum over the bins of the window
just taken. With more windows _select_many.py keeps one key per row of windows in memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._cell_counts import INT32_MAX, bin_grid, plan_cell_counts
from ._launch import Launch, pow2
from ._select_many import plan_many
from ._selection import clear_bins, clear_slots, key_gain, key_index, make_key
from ._window_grid import window_args, window_bins, window_sum

FEW = 2048  # windows, rows and columns rounded up to powers of two


@triton.jit
def _covered(bins_ptr, bins_x, top, bottom, left, right, t0, t1, u0, u1,
             ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """What the bins [t0, t1) x [u0, u1) hold in each of ROWS x COLUMNS windows."""
    total = tl.zeros([ROWS, COLUMNS], tl.int32)
    for t in range(t0, t1):
        across = tl.zeros([COLUMNS], tl.int32)
        for u in tl.range(u0, u1, loop_unroll_factor=4):
            across += tl.where((left <= u) & (u < right), tl.load(bins_ptr + t * bins_x + u), 0)
        total += tl.where(((top <= t) & (t < bottom))[:, None], across[None, :], 0)
    return total


@triton.jit
def _few_kernel(
    bins_ptr,  # int32 [B, bins_y, bins_x]; used up by COVER
    origins_ptr,  # int32 [B, n, 2] contiguous
    counts_ptr,  # int32 [B, n] contiguous
    num_ptr,  # int32 [B]
    n, min_pixels,
    rows, columns, window, regular_y, regular_x, most_y, most_x,
    step_y, rest_y, flush_px_y, flush_bin_y, rest_bins_y, period_bins_y, unit_y, bins_y,
    step_x, rest_x, flush_px_x, flush_bin_x, rest_bins_x, period_bins_x, unit_x, bins_x,
    COVER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    bins_ptr += b * bins_y * bins_x
    origins_ptr += b * n * 2
    counts_ptr += b * n
    i = tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    _, top, bottom = window_bins(
        i, window, regular_y, step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y
    )
    _, left, right = window_bins(
        j, window, regular_x, step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x
    )
    index = i[:, None] * columns + j[None, :]
    valid = (i < rows)[:, None] & (j < columns)[None, :]
    gains = tl.zeros([ROWS, COLUMNS], tl.int32)
    for t in range(most_y):
        for u in range(most_x):
            gains += tl.load(
                bins_ptr + (top + t)[:, None] * bins_x + (left + u)[None, :],
                mask=valid & (top + t < bottom)[:, None] & (left + u < right)[None, :],
                other=0,
            )
    taken = 0
    best = tl.max(tl.max(make_key(gains, index), 1), 0)
    while (taken < n) & (key_gain(best) >= min_pixels):
        chosen = key_index(best)
        y, t0, t1 = window_bins(
            chosen // columns, window, regular_y,
            step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y,
        )  # fmt: skip
        x, u0, u1 = window_bins(
            chosen % columns, window, regular_x,
            step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x,
        )  # fmt: skip
        tl.store(origins_ptr + taken * 2, y)
        tl.store(origins_ptr + taken * 2 + 1, x)
        tl.store(counts_ptr + taken, key_gain(best))
        taken += 1
        if COVER:
            gains -= _covered(
                bins_ptr, bins_x, top, bottom, left, right, t0, t1, u0, u1, ROWS, COLUMNS
            )
            tl.debug_barrier()
            clear_bins(bins_ptr, bins_x, t0, t1, u0, u1)
            tl.debug_barrier()
        else:
            gains = tl.where(index == chosen, 0, gains)
        best = tl.max(tl.max(make_key(gains, index), 1), 0)
    tl.store(num_ptr + b, taken)
    clear_slots(origins_ptr, counts_ptr, taken, n)


@triton.jit
def _all_kernel(
    bins_ptr, origins_ptr, counts_ptr, num_ptr,  # as in _few_kernel
    n, min_pixels,
    rows, columns, window, regular_y, regular_x, most_y, most_x,
    step_y, rest_y, flush_px_y, flush_bin_y, rest_bins_y, period_bins_y, unit_y, bins_y,
    step_x, rest_x, flush_px_x, flush_bin_x, rest_bins_x, period_bins_x, unit_x, bins_x,
    BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    origins_ptr += b * n * 2
    counts_ptr += b * n
    found = 0
    for start in range(0, rows * columns, BLOCK):
        index = start + tl.arange(0, BLOCK)
        valid = index < rows * columns
        y, x, sums = window_sum(
            bins_ptr + b * bins_y * bins_x, index, valid, columns,
            window, regular_y, regular_x, most_y, most_x, bins_x,
            step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y,
            step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x,
        )  # fmt: skip
        enough = (valid & (sums >= min_pixels)).to(tl.int32)
        slot = found + tl.cumsum(enough, 0) - 1
        kept = (enough != 0) & (slot < n)
        tl.store(origins_ptr + slot * 2, y, mask=kept)
        tl.store(origins_ptr + slot * 2 + 1, x, mask=kept)
        tl.store(counts_ptr + slot, sums, mask=kept)
        found += tl.sum(enough, 0)
    taken = tl.minimum(found, n)
    tl.store(num_ptr + b, taken)
    clear_slots(origins_ptr, counts_ptr, taken, n)


def plan_select_windows(
    seg: Tensor,
    table: bytes,
    height: int,
    width: int,
    window: int,
    stride: int,
    flush: bool,
    n: int,
    strategy: str,
    min_pixels: int,
    origins: Tensor,
    counts: Tensor,
    num: Tensor,
    labels: Tensor | None,
    scratch: Any,
) -> list[Launch]:
    """The launches of `select_windows`."""
    batch = seg.shape[0]
    if batch == 0:
        return []
    step = window if strategy == "all" else stride
    y, x = bin_grid("select_windows", seg, height, width, window, step, flush)
    bins = scratch("bins", torch.int32, batch * y.bins * x.bins)
    if n > INT32_MAX // 2:
        raise NotImplementedError(
            f"select_windows: backend 'triton' takes n below 2^30, got {n}; 'reference' runs it"
        )
    args = {
        "bins_ptr": bins,
        **{"origins_ptr": origins, "counts_ptr": counts, "num_ptr": num},
        **{"n": n, "min_pixels": min(min_pixels, INT32_MAX)},
        **window_args(y, x, window),
    }
    block_rows, block_columns = pow2(y.windows), pow2(x.windows)
    if strategy == "all":
        select = Launch(_all_kernel, batch, args, {"BLOCK": 512}, num_warps=4)
    elif block_rows * block_columns <= FEW:
        select = Launch(
            _few_kernel,
            batch,
            args,
            {"COVER": strategy == "cover", "ROWS": block_rows, "COLUMNS": block_columns},
            num_warps=8 if block_rows * block_columns > 1024 else 4,
        )
    else:
        select = plan_many(args, batch, y, x, strategy == "cover", scratch)
    return [plan_cell_counts(seg, table, y, x, bins, scratch, labels), select]


def select_windows(
    seg: Tensor,
    table: bytes,
    height: int,
    width: int,
    window: int,
    stride: int,
    flush: bool,
    n: int,
    strategy: str,
    min_pixels: int,
    origins: Tensor,
    counts: Tensor,
    num: Tensor,
    labels: Tensor | None,
    scratch: Any,
) -> None:
    """Chooses up to n windows per image.

    Args:
        seg: logits [B, N, h, w] or a label map [B, H, W], any strides.
        table: 256 bytes, 1 where the class is small.
        height: H.
        width: W.
        window: side k, pixels.
        stride: distance of neighbouring windows, pixels; taken as k for "all".
        flush: whether windows that end at the border are added.
        n: slots per image.
        strategy: "top", "cover" or "all".
        min_pixels: fewest (new) small-object pixels of a window taken, at least 1.
        origins: int32 [B, n, 2] contiguous, to be written.
        counts: int32 [B, n] contiguous, to be written.
        num: int32 [B], to be written.
        labels: uint8 [B, H, W] contiguous for the labels counted, or None.
        scratch: function (name, dtype, numel) -> Tensor of the current stream's workspace.
    """
    for launch in plan_select_windows(
        seg, table, height, width, window, stride, flush, n, strategy, min_pixels,
        origins, counts, num, labels, scratch,
    ):  # fmt: skip
        launch.run()
