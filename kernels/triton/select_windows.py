"""select_windows: the windows worth a second look, in two launches.

The first counts bins (_cell_counts.py). The second has one program per image, since every choice of
"top" and "cover" depends on the one before: it works in rounds of a few hundred nanoseconds that
one block can synchronise, and a GPU cannot. Where the windows of an image fit the registers of a
program (`_few_kernel`) a round of "top" is one reduction. "cover" keeps, for every corner of a bin,
the sum of all bins above and to the left: four of them tell what any rectangle holds. A round takes
the window just chosen out of every sum, and reads the gains of all windows anew; it reads sums from
one place and writes them to another, so that it needs one barrier. With more windows
_select_many.py keeps one key per row of windows in memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._cell_counts import bin_grid, plan_cell_counts
from ._launch import Launch, pow2, require_image
from ._select_many import plan_many
from ._selection import (
    clear_slots,
    key_format,
    key_gain,
    key_place,
    load_edges,
    make_key,
    store_edges,
)
from ._window_grid import Axis, window_bins, window_start, window_sum

FEW = 2048  # windows, and bins, of an image; rows and columns rounded up to powers of two


@triton.jit
def _held(sums_ptr, pitch, top, bottom, left, right):
    """What the bins [top, bottom) x [left, right) hold; sums[t, u] is of all bins before t, u.

    Sums of more than 2^31 pixels wrap; their differences, of a window at most, are right again.
    """
    below = tl.load(sums_ptr + bottom * pitch + right) - tl.load(sums_ptr + bottom * pitch + left)
    above = tl.load(sums_ptr + top * pitch + right) - tl.load(sums_ptr + top * pitch + left)
    return below - above


@triton.jit
def _few_kernel(
    bins_ptr,  # int32 [B, bins_y, bins_x]
    sums_ptr,  # int32 [B, 2, bins_y + 1, bins_x + 1], scratch
    edges_ptr,  # int32 [B, rows + columns, 2], scratch
    origins_ptr,  # int32 [B, n, 2] contiguous
    counts_ptr,  # int32 [B, n] contiguous
    num_ptr,  # int32 [B]
    n, min_pixels, window,
    grid_y,  # Axis
    grid_x,
    COVER: tl.constexpr,
    KEY: tl.constexpr,
    PLACE_BITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BINS_Y: tl.constexpr,
    BINS_X: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    rows = grid_y.windows
    columns = grid_x.windows
    bins_y = grid_y.bins
    bins_x = grid_x.bins
    pitch = bins_x + 1
    area = (bins_y + 1) * pitch
    bins_ptr += b * bins_y * bins_x
    sums_ptr += b * 2 * area
    edges_y_ptr = edges_ptr + b * 2 * (rows + columns)
    edges_x_ptr = edges_y_ptr + 2 * rows
    origins_ptr += b * n * 2
    counts_ptr += b * n

    t = tl.arange(0, BINS_Y)[:, None]
    u = tl.arange(0, BINS_X)[None, :]
    inside = (t < bins_y) & (u < bins_x)
    bins = tl.load(bins_ptr + t * bins_x + u, mask=inside, other=0)
    corners = (t + 1) * pitch + u + 1
    tl.store(sums_ptr + corners, tl.cumsum(tl.cumsum(bins, 1), 0), mask=inside)
    for copy in tl.static_range(2):
        tl.store(sums_ptr + copy * area + (t + 1) * pitch, 0, mask=t < bins_y)
        tl.store(sums_ptr + copy * area + u + 1, 0, mask=u < bins_x)
        tl.store(sums_ptr + copy * area, 0)
    i = tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    _, top, bottom = window_bins(i, window, grid_y)
    _, left, right = window_bins(j, window, grid_x)
    store_edges(edges_y_ptr, i, rows, top, bottom)
    store_edges(edges_x_ptr, j, columns, left, right)
    tl.debug_barrier()

    # One-dimensional from here on: changes of layout would make each round wait. Bins first,
    bin_place = tl.arange(0, BINS_Y * BINS_X)
    t = bin_place // BINS_X
    u = bin_place % BINS_X
    inside = (t < bins_y) & (u < bins_x)
    corners = (t + 1) * pitch + u + 1
    sums = tl.load(sums_ptr + corners, mask=inside, other=0)
    # then windows, empty ones where there is none.
    place = tl.arange(0, ROWS * COLUMNS)
    i = place // COLUMNS
    j = place % COLUMNS
    valid = (i < rows) & (j < columns)
    top, bottom = load_edges(edges_y_ptr, i, valid)
    left, right = load_edges(edges_x_ptr, j, valid)
    gains = _held(sums_ptr, pitch, top, bottom, left, right)

    taken = 0
    best = tl.max(make_key(gains, place, KEY, PLACE_BITS), 0)
    while (taken < n) & (key_gain(best, PLACE_BITS) >= min_pixels):
        chosen = key_place(best, PLACE_BITS)
        row, column = chosen // COLUMNS, chosen % COLUMNS
        tl.store(origins_ptr + taken * 2, window_start(row, grid_y))
        tl.store(origins_ptr + taken * 2 + 1, window_start(column, grid_x))
        tl.store(counts_ptr + taken, key_gain(best, PLACE_BITS))
        if COVER:
            t0, t1 = load_edges(edges_y_ptr, row, True)
            u0, u1 = load_edges(edges_x_ptr, column, True)
            # The part of the window above and to the left of each bin's far corner.
            past_t = tl.maximum(tl.minimum(t + 1, t1), t0)
            past_u = tl.maximum(tl.minimum(u + 1, u1), u0)
            sums -= _held(sums_ptr + (taken % 2) * area, pitch, t0, past_t, u0, past_u)
            next_ptr = sums_ptr + ((taken + 1) % 2) * area
            tl.store(next_ptr + corners, sums, mask=inside)
            tl.debug_barrier()
            gains = _held(next_ptr, pitch, top, bottom, left, right)
        else:
            gains = tl.where(place == chosen, 0, gains)
        taken += 1
        best = tl.max(make_key(gains, place, KEY, PLACE_BITS), 0)
    tl.store(num_ptr + b, taken)
    clear_slots(origins_ptr, counts_ptr, taken, n)


@triton.jit
def _all_kernel(
    bins_ptr, origins_ptr, counts_ptr, num_ptr,  # as in _few_kernel
    n, min_pixels, window,
    grid_y,  # Axis
    grid_x,
    BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    origins_ptr += b * n * 2
    counts_ptr += b * n
    found = 0
    windows = grid_y.windows * grid_x.windows
    bins_ptr += b * grid_y.bins * grid_x.bins
    for start in range(0, windows, BLOCK):
        index = start + tl.arange(0, BLOCK)
        valid = index < windows
        y, x, sums = window_sum(bins_ptr, index, valid, window, grid_y, grid_x)
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


def fits_few(y: Axis, x: Axis) -> bool:
    """Whether windows and bins of an image fit the registers of a program."""
    bins, windows = pow2(y.bins) * pow2(x.bins), pow2(y.windows) * pow2(x.windows)
    return max(bins, windows) <= FEW


def plan_few(
    args: dict[str, Any], batch: int, y: Axis, x: Axis, window: int, cover: bool, scratch: Any
) -> Launch:
    """The launch that selects among windows that fit the registers of a program."""
    rows, columns = pow2(y.windows), pow2(x.windows)
    sums = batch * 2 * (y.bins + 1) * (x.bins + 1)
    return Launch(
        _few_kernel,
        batch,
        {
            **args,
            "sums_ptr": scratch("sums", torch.int32, sums),
            "edges_ptr": scratch("edges", torch.int32, batch * 2 * (y.windows + x.windows)),
        },
        {
            "COVER": cover,
            **key_format(window, rows * columns),
            **{"ROWS": rows, "COLUMNS": columns},
            **{"BINS_Y": pow2(y.bins), "BINS_X": pow2(x.bins)},
        },
        num_warps=8 if rows * columns >= 1024 else 4,
    )


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
    require_image("select_windows", height, width, n)
    step = window if strategy == "all" else stride
    y, x = bin_grid("select_windows", seg, height, width, window, step, flush)
    bins = scratch("bins", torch.int32, batch * y.bins * x.bins)
    args = {
        "bins_ptr": bins,
        **{"origins_ptr": origins, "counts_ptr": counts, "num_ptr": num},
        **{"n": n, "min_pixels": min_pixels},
        **{"window": window, "grid_y": y, "grid_x": x},
    }
    if strategy == "all":
        select = Launch(_all_kernel, batch, args, {"BLOCK": 512}, num_warps=4)
    else:
        plan = plan_few if fits_few(y, x) else plan_many
        select = plan(args, batch, y, x, window, strategy == "cover", scratch)
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
