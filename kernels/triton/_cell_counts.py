"""First launch of count_windows and select_windows: small-object pixels of every bin, and labels.

One program counts one tile of bins and alone writes them. Coarse logits are upsampled by corner
agreement, see _cells.py.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._cells import Cells, agreed_labels, mixed_columns, mixed_labels, quotient
from ._classes import WORDS, class_words, is_small, words_in_use
from ._launch import Launch, class_block, pow2
from ._upsample import first_argmax, first_tap
from ._window_grid import Axis, bin_of, bin_start, make_axis

INT32_MAX = (1 << 31) - 1
LABELS, OWN_SIZE, UPSAMPLED = 0, 1, 2  # the constexpr KIND


@triton.jit(do_not_specialize=WORDS)
def _cell_counts_kernel(
    seg_ptr,  # logits [B, N, h, w] or labels [B, H, W]
    labels_ptr,  # uint8 [B, H, W] contiguous, or None
    bins_ptr,  # int32 [B, bins_y, bins_x] contiguous
    mixed_ptr,  # int16 [programs, POINTS], scratch, or None
    seg_stride_b, seg_stride_n, seg_stride_y, seg_stride_x,
    num_classes, h, w, H, W,
    scale_y, scale_x, ratio_y, ratio_x,
    step_y, rest_y, flush_px_y, flush_bin_y, rest_bins_y, period_bins_y, unit_y, bins_y,
    step_x, rest_x, flush_px_x, flush_bin_x, rest_bins_x, period_bins_x, unit_x, bins_x,
    tile_bins_y, tile_bins_x, tiles_y, tiles_x,
    word0, word1, word2, word3, word4, word5, word6, word7,
    KIND: tl.constexpr,
    N: tl.constexpr,
    CLASS_BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,  # classes whose loads are in flight at once over source pixels
    NUM_WORDS: tl.constexpr,
    WRITE_LABELS: tl.constexpr,
    ONE_BIN: tl.constexpr,  # every tile is one bin
    ONE_ROW: tl.constexpr,  # every tile is one row of bins
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,  # pixels of a tile, at most
    POINTS: tl.constexpr,
    POINTS_X: tl.constexpr,
    LANES: tl.constexpr,
    CELL_Y: tl.constexpr,
    CELL_X: tl.constexpr,  # pixels of a cell evaluated at once
    CELL_ROWS: tl.constexpr,  # CELL_Y rounded up to a power of two
):  # fmt: skip
    program = tl.program_id(0)
    tile_x = program % tiles_x
    tile_y = (program // tiles_x) % tiles_y
    b = (program // (tiles_x * tiles_y)).to(tl.int64)
    first_y = tile_y * tile_bins_y
    end_y = tl.minimum(first_y + tile_bins_y, bins_y)
    first_x = tile_x * tile_bins_x
    end_x = tl.minimum(first_x + tile_bins_x, bins_x)
    y0 = bin_start(
        first_y, H, step_y, rest_y, flush_px_y, flush_bin_y, rest_bins_y, period_bins_y, unit_y
    )
    y1 = bin_start(
        end_y, H, step_y, rest_y, flush_px_y, flush_bin_y, rest_bins_y, period_bins_y, unit_y
    )
    x0 = bin_start(
        first_x, W, step_x, rest_x, flush_px_x, flush_bin_x, rest_bins_x, period_bins_x, unit_x
    )
    x1 = bin_start(
        end_x, W, step_x, rest_x, flush_px_x, flush_bin_x, rest_bins_x, period_bins_x, unit_x
    )
    image_ptr = seg_ptr + b * seg_stride_b
    if CLASS_BLOCK > 0:
        image_ptr = seg_ptr + tl.multiple_of(b * seg_stride_b, CLASS_BLOCK)
    bins_ptr += b * bins_y * bins_x
    if WRITE_LABELS:
        labels_ptr += b * H * W
    if not ONE_BIN:
        # A tile of single pixels may have one bin more than its block has columns.
        for bin_y in range(first_y, end_y):
            for start_x in range(first_x, end_x, BLOCK_X):
                bin_x = start_x + tl.arange(0, BLOCK_X)
                tl.store(bins_ptr + bin_y * bins_x + bin_x, 0, mask=bin_x < end_x)
    if KIND == 2:
        mixed_ptr += program.to(tl.int64) * POINTS
        row0 = first_tap(y0, scale_y, h)
        column0 = first_tap(x0, scale_x, w)
        cell_label, mixed = agreed_labels(
            image_ptr, mixed_ptr, seg_stride_n, seg_stride_y, seg_stride_x,
            row0, first_tap(y1 - 1, scale_y, h), column0, first_tap(x1 - 1, scale_x, w),
            h, w, N, CLASS_BLOCK, POINTS, POINTS_X, UNROLL,
        )  # fmt: skip
    # Zeroed bins and the list of mixed cells are read by other threads from here on.
    tl.debug_barrier()

    pixel = tl.arange(0, BLOCK_Y * BLOCK_X)
    y = y0 + pixel // BLOCK_X
    x = x0 + pixel % BLOCK_X
    inside = (y < y1) & (x < x1)
    if KIND == 0:
        label = tl.load(
            image_ptr + y.to(tl.int64) * seg_stride_y + x.to(tl.int64) * seg_stride_x,
            mask=inside,
            other=0,
        )
        known = inside
    elif KIND == 1:
        offsets = y.to(tl.int64) * seg_stride_y + x.to(tl.int64) * seg_stride_x
        _, label = first_argmax(image_ptr, offsets, inside, seg_stride_n, N, CLASS_BLOCK)
        known = inside
    else:
        slot = (first_tap(y, scale_y, h) - row0) * POINTS_X + first_tap(x, scale_x, w) - column0
        label = tl.gather(cell_label, tl.where(inside, slot, 0), 0)
        known = inside & (label >= 0)
    if WRITE_LABELS:
        tl.store(labels_ptr + y.to(tl.int64) * W + x, label.to(tl.uint8), mask=known)
    small = known & is_small(
        label, word0, word1, word2, word3, word4, word5, word6, word7, NUM_WORDS
    )
    if ONE_BIN:
        total = tl.sum(small.to(tl.int32), 0)
    elif ONE_ROW:
        # Down the columns first: one addition per column instead of one per pixel.
        sums = tl.sum(tl.reshape(small.to(tl.int32), [BLOCK_Y, BLOCK_X]), 0)
        across = x0 + tl.arange(0, BLOCK_X)
        column_bin = bin_of(across, step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x)
        tl.atomic_add(bins_ptr + first_y * bins_x + column_bin, sums, mask=sums > 0, sem="relaxed")
    else:
        of_y = bin_of(y, step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y)
        of_x = bin_of(x, step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x)
        tl.atomic_add(bins_ptr + of_y * bins_x + of_x, 1, mask=small, sem="relaxed")

    if KIND == 2:
        # One lane per column of a cell. LANES // CELL_X cells at a time.
        for start in range(0, mixed, LANES // CELL_X):
            listed, row, column, top, bottom, left, right = mixed_columns(
                mixed_ptr, start, mixed, row0, column0, y0, y1, x0, x1,
                scale_y, scale_x, ratio_y, ratio_x, h, w, H, W, POINTS_X, LANES, CELL_X,
            )  # fmt: skip
            for dy in range(0, tl.max(tl.where(listed, bottom - top, 0), 0), CELL_Y):
                for dx in range(0, tl.max(tl.where(listed, right - left, 0), 0), CELL_X):
                    py, px, wanted, found = mixed_labels(
                        image_ptr, seg_stride_n, seg_stride_y, seg_stride_x, num_classes,
                        listed, row, column, top, bottom, left, right, dy, dx,
                        scale_y, scale_x, h, w, H, W, LANES, CELL_Y, CELL_X, CELL_ROWS,
                    )  # fmt: skip
                    if WRITE_LABELS:
                        at = labels_ptr + py.to(tl.int64) * W + px
                        tl.store(at, found.to(tl.uint8), mask=wanted)
                    hit = wanted & is_small(
                        found, word0, word1, word2, word3, word4, word5, word6, word7, NUM_WORDS
                    )
                    if ONE_BIN:
                        total += tl.sum(tl.sum(hit.to(tl.int32), 0), 0)
                    else:
                        hit_y = bin_of(
                            py, step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y
                        )
                        hit_x = bin_of(
                            px, step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x
                        )
                        tl.atomic_add(bins_ptr + hit_y * bins_x + hit_x, 1, mask=hit, sem="relaxed")
    if ONE_BIN:
        tl.store(bins_ptr + first_y * bins_x + first_x, total)


def tile_width(seg: Tensor, height: int, width: int) -> int:
    """Pixels of a tile along x, by the size of the whole task; along y they are at most 32.

    Wider tiles read fewer source pixels twice (a tile of 32 x 128 at x4 reads 1.3 times its share,
    one of 32 x 32 1.6 times), narrower ones give small images enough programs to fill a GPU: at 512
    x 512 there are 256 of 32 x 32.
    """
    if seg.is_floating_point() and 2 * seg.shape[-1] > width:
        return 32  # so many source pixels under a wide tile that they would not fit its registers
    area = height * width * seg.shape[0]
    return 128 if area >= 1 << 22 else 64 if area >= 1 << 20 else 32


def bin_grid(
    op: str, seg: Tensor, height: int, width: int, window: int, stride: int, flush: bool
) -> tuple[Axis, Axis]:
    """The window grid of an image, cut into tiles."""
    # A tile is one row of bins from strides of 8 on: then columns are summed before they are added.
    y = make_axis(height, window, stride, flush, min(stride, 32) if stride >= 8 else 16)
    x = make_axis(width, window, stride, flush, tile_width(seg, height, width))
    # Within an image pixels, bins and windows are numbered in 32 bits.
    largest = max(height, width, y.bins * x.bins, y.windows * x.windows)
    if largest > INT32_MAX:
        raise NotImplementedError(
            f"{op}: backend 'triton' takes grids of less than 2^31 windows and cells, "
            f"got {largest}; 'reference' can run this"
        )
    return y, x


def plan_cell_counts(
    seg: Tensor, table: bytes, y: Axis, x: Axis, bins: Tensor, scratch: Any, labels: Tensor | None
) -> Launch:
    """The launch that counts bins.

    Args:
        seg: logits [B, N, h, w] or a label map [B, H, W], not empty, any strides.
        table: 256 bytes, 1 where the class is small.
        y: rows of the grid.
        x: its columns.
        bins: int32, at least B * y.bins * x.bins elements; all of those are written.
        scratch: function (name, dtype, numel) -> Tensor.
        labels: uint8 [B, H, W] contiguous to be written, or None.
    """
    logits = seg.is_floating_point()
    batch, (h, w) = seg.shape[0], seg.shape[-2:]
    kind = LABELS if not logits else OWN_SIZE if (h, w) == (y.size, x.size) else UPSAMPLED
    classes = seg.shape[1] if logits else 1
    programs = batch * y.tiles * x.tiles
    block_y, block_x = pow2(y.tile_px), pow2(x.tile_px)
    cells = Cells(h, w, y.size, x.size, block_y, block_x)
    mixed = scratch("mixed", torch.int16, programs * cells.points) if kind == UPSAMPLED else None
    strides = seg.stride() if logits else (seg.stride(0), 0, *seg.stride()[1:])
    warps = 8 if max(block_y * block_x, cells.points if kind == UPSAMPLED else 0) >= 2048 else 4
    return Launch(
        _cell_counts_kernel,
        programs,
        {
            "seg_ptr": seg,
            "labels_ptr": labels,
            "bins_ptr": bins,
            "mixed_ptr": mixed,
            **dict(zip(("seg_stride_b", "seg_stride_n", "seg_stride_y", "seg_stride_x"), strides)),
            "num_classes": classes,
            **{"h": h, "w": w, "H": y.size, "W": x.size},
            **{"scale_y": quotient(h, y.size), "scale_x": quotient(w, x.size)},
            **{"ratio_y": quotient(y.size, h), "ratio_x": quotient(x.size, w)},
            **y.args("y"),
            **x.args("x"),
            **{"tile_bins_y": y.tile_bins, "tile_bins_x": x.tile_bins},
            **{"tiles_y": y.tiles, "tiles_x": x.tiles},
            **class_words(table),
        },
        {
            "KIND": kind,
            "N": classes,
            "CLASS_BLOCK": class_block(seg) if logits else 0,
            "NUM_WORDS": words_in_use(table),
            "WRITE_LABELS": labels is not None,
            "ONE_BIN": y.tile_bins == x.tile_bins == 1,
            "ONE_ROW": y.tile_bins == 1,
            "BLOCK_Y": block_y,
            "BLOCK_X": block_x,
            "LANES": 32 * warps,
            "UNROLL": 16 if cells.points <= 64 * warps else 8,
            **(cells.constants() if kind == UPSAMPLED else Cells(1, 1, 1, 1, 1, 1).constants()),
        },
        num_warps=warps,
        max_registers=128,
    )
