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

from ._cell_rows import agreed_rows
from ._cells import (
    Cells,
    agreed_columns,
    agreed_labels,
    agreed_total,
    quotient,
    store_agreed,
)
from ._classes import WORDS, class_words, is_small, words_in_use
from ._launch import Launch, class_block, column_block, pow2
from ._mixed import contenders, corner_offsets, mixed_columns, mixed_labels
from ._upsample import first_argmax, first_tap
from ._window_grid import NONE, Axis, bin_beside, bin_of, bin_start, make_axis

INT32_MAX = (1 << 31) - 1
LABELS, OWN_SIZE, UPSAMPLED = 0, 1, 2  # the constexpr KIND
QUAD = 4  # labels that are one store
LARGE = 1 << 24  # pixels from which on tiles are as wide as can be
MOST_POINTS = 1024  # source pixels of a tile: eight of each thread of four warps
MOST_PX = 384  # of other tiles along x
# Pixels along x, how many at least, and warps of tiles whose cells are gone over row by row.
WIDE, ROW_PX, ROW_WARPS = 480, MOST_PX + 1, 2


@triton.jit(do_not_specialize=WORDS)
def _cell_counts_kernel(
    seg_ptr,  # logits [B, N, h, w] or labels [B, H, W]
    labels_ptr,  # uint8 [B, H, W] contiguous, or None
    bins_ptr,  # int32 [B, bins_y, bins_x] contiguous
    mixed_ptr,  # int32 [programs, POINTS], scratch, or None
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
    COLUMN_BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,  # classes whose loads are in flight at once over source pixels
    NUM_WORDS: tl.constexpr,
    WRITE_LABELS: tl.constexpr,
    ONE_BIN: tl.constexpr,  # every tile is one bin
    ONE_ROW: tl.constexpr,  # every tile is one row of bins
    BINS_X: tl.constexpr,  # bins of a row of a tile, at most
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,  # pixels of a tile, at most
    CHUNK_X: tl.constexpr,  # columns of labels stored at once
    QUADS: tl.constexpr,  # four labels are one store
    QUAD_BINS: tl.constexpr,  # four pixels beside each other are in one bin
    BY_ROW: tl.constexpr,  # cells of a wide tile are gone over row by row
    POINTS: tl.constexpr,
    POINTS_Y: tl.constexpr,
    POINTS_X: tl.constexpr,
    ROWS: tl.constexpr,  # POINTS_Y rounded up to a power of two
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    CELL_Y: tl.constexpr,
    CELL_X: tl.constexpr,  # pixels of a cell evaluated at once
    CELL_ROWS: tl.constexpr,  # CELL_Y rounded up to a power of two
    GROUP: tl.constexpr,
    DYADIC: tl.constexpr,
    MOST_Y: tl.constexpr,
    MOST_X: tl.constexpr,
    FIRST_Y: tl.constexpr,
    FIRST_X: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row_of_all = program // tiles_x
    tile_x = program - row_of_all * tiles_x
    image = row_of_all // tiles_y
    tile_y = row_of_all - image * tiles_y
    b = image.to(tl.int64)
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
        bin_x = first_x + tl.arange(0, BINS_X)
        if ONE_ROW:
            tl.store(bins_ptr + first_y * bins_x + bin_x, 0, mask=bin_x < end_x)
        else:
            for bin_y in range(first_y, end_y):
                tl.store(bins_ptr + bin_y * bins_x + bin_x, 0, mask=bin_x < end_x)
    across = x0 + tl.arange(0, BLOCK_X)
    if KIND == 2:
        mixed_ptr += program.to(tl.int64) * POINTS
        row0 = first_tap(y0, scale_y, h)
        last_row = first_tap(y1 - 1, scale_y, h)
        column0 = first_tap(x0, scale_x, w) // COLUMN_BLOCK * COLUMN_BLOCK
        last_column = first_tap(x1 - 1, scale_x, w)
    if KIND == 2 and BY_ROW:
        across, sums, mixed = agreed_rows(
            image_ptr, labels_ptr, mixed_ptr, seg_stride_n, seg_stride_y, seg_stride_x,
            row0, last_row, column0, last_column, y0, y1, x0, x1,
            scale_y, scale_x, ratio_y, h, w, H, W,
            word0, word1, word2, word3, word4, word5, word6, word7, NUM_WORDS,
            N, COLUMN_BLOCK, UNROLL, POINTS_X, LANES, BLOCK_X, DYADIC,
            WRITE_LABELS, QUADS, QUAD_BINS,
        )  # fmt: skip
    elif KIND == 2:
        cell_label, mixed = agreed_labels(
            image_ptr, mixed_ptr, seg_stride_n, seg_stride_y, seg_stride_x,
            row0, last_row, column0, last_column, h, w,
            N, CLASS_BLOCK, COLUMN_BLOCK, POINTS, POINTS_X, LANES, UNROLL,
        )  # fmt: skip
        if WRITE_LABELS:
            store_agreed(
                cell_label, labels_ptr, row0, column0, y0, y1, x0, x1, scale_y, scale_x, h, w, W,
                POINTS, POINTS_X, BLOCK_Y, CHUNK_X, QUADS,
            )  # fmt: skip
        cell_small = is_small(
            cell_label, word0, word1, word2, word3, word4, word5, word6, word7, NUM_WORDS, N
        )
    # Zeroed bins, the list of mixed cells and what stands for their labels: other threads touch
    # them from here on.
    tl.debug_barrier()

    if KIND == 2 and ONE_BIN:
        total = agreed_total(
            cell_small, row0, column0, y0, y1, x0, x1,
            scale_y, scale_x, ratio_y, ratio_x, h, w, H, W, POINTS, POINTS_X, ROWS, COLUMNS, DYADIC,
        )  # fmt: skip
    elif KIND == 2 and ONE_ROW and not BY_ROW:
        sums = agreed_columns(
            cell_small, across, row0, column0, y0, y1, scale_y, scale_x, ratio_y, h, w, H,
            POINTS, POINTS_Y, POINTS_X, ROWS, COLUMNS, LANES, BLOCK_X, DYADIC,
        )  # fmt: skip
        sums = tl.where(across < x1, sums, 0)
    elif not BY_ROW:
        pixel = tl.arange(0, BLOCK_Y * BLOCK_X)
        y = y0 + pixel // BLOCK_X
        x = x0 + pixel % BLOCK_X
        inside = (y < y1) & (x < x1)
        if KIND == 2:
            slot = (first_tap(y, scale_y, h) - row0) * POINTS_X + first_tap(x, scale_x, w) - column0
            small = tl.gather(cell_small.to(tl.int32), tl.where(inside, slot, 0), 0) != 0
        else:
            offsets = y.to(tl.int64) * seg_stride_y + x.to(tl.int64) * seg_stride_x
            if KIND == 0:
                label = tl.load(image_ptr + offsets, mask=inside, other=0)
            else:
                _, label = first_argmax(image_ptr, offsets, inside, seg_stride_n, N, CLASS_BLOCK)
            if WRITE_LABELS:
                tl.store(labels_ptr + y.to(tl.int64) * W + x, label.to(tl.uint8), mask=inside)
            small = is_small(
                label, word0, word1, word2, word3, word4, word5, word6, word7, NUM_WORDS
            )
        small = inside & small
        if ONE_BIN:
            total = tl.sum(small.to(tl.int32), 0)
        elif ONE_ROW:
            # Down the columns first: one addition per column instead of one per pixel.
            sums = tl.sum(tl.reshape(small.to(tl.int32), [BLOCK_Y, BLOCK_X]), 0)
    if ONE_ROW and not ONE_BIN:
        row_ptr = bins_ptr + first_y * bins_x
        bin_x = bin_beside(across, x0, step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x)
        tl.atomic_add(row_ptr + bin_x, sums, mask=sums > 0, sem="relaxed")
    elif not ONE_BIN:
        of_y = bin_of(y, step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y)
        of_x = bin_of(x, step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x, unit_x)
        tl.atomic_add(bins_ptr + of_y * bins_x + of_x, 1, mask=small, sem="relaxed")

    if KIND == 2:
        # One lane per column of a cell. LANES // CELL_X cells at a time.
        for start in range(0, mixed, LANES // GROUP):
            listed, row, column, one, other, top, bottom, left, right = mixed_columns(
                mixed_ptr, start, mixed, row0, column0, y0, y1, x0, x1,
                scale_y, scale_x, ratio_y, ratio_x, h, w, H, W, POINTS_X, LANES, GROUP, DYADIC,
            )  # fmt: skip
            first, beside, below = corner_offsets(
                row, column, seg_stride_y, seg_stride_x, h, w, H, W
            )
            contend, most = contenders(
                image_ptr, seg_stride_n, first, beside, below, one, other,
                0, min(N, 32), LANES, GROUP,
            )  # fmt: skip
            for dy in range(0, tl.where(row0 == 0, FIRST_Y, MOST_Y), CELL_Y):
                for dx in range(0, tl.where(column0 == 0, FIRST_X, MOST_X), CELL_X):
                    py, px, wanted, found = mixed_labels(
                        image_ptr, seg_stride_n, first, beside, below, one, other, contend, most,
                        num_classes, listed, row, column, top, bottom, left, right, dy, dx,
                        scale_y, scale_x, N, LANES, GROUP, CELL_Y, CELL_X, CELL_ROWS,
                    )  # fmt: skip
                    if WRITE_LABELS:
                        at = labels_ptr + py.to(tl.int64) * W + px
                        tl.store(at, found.to(tl.uint8), mask=wanted)
                    hit = wanted & is_small(
                        found, word0, word1, word2, word3, word4, word5, word6, word7, NUM_WORDS, N
                    )
                    if ONE_BIN:
                        total += tl.sum(tl.sum(hit.to(tl.int32), 0), 0)
                    elif ONE_ROW:
                        hits = tl.sum(hit.to(tl.int32), 0, keep_dims=True)
                        hit_x = bin_beside(
                            px, x0, step_x, rest_x, flush_px_x, rest_bins_x, period_bins_x
                        )
                        tl.atomic_add(row_ptr + hit_x, hits, mask=hits > 0, sem="relaxed")
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

    Wider tiles read fewer source pixels twice (a tile of 32 x 384 at x4 reads 1.28 times its share,
    one of 32 x 32 1.6 times) and compute less per pixel, narrower ones give small images enough
    programs to fill a GPU: at 512 x 512 there are 256 of 32 x 32.
    """
    area = height * width * seg.shape[0]
    widest = MOST_PX if area >= LARGE else 192 if area >= 1 << 22 else 64 if area >= 1 << 20 else 32
    h, w = seg.shape[-2:]
    if not seg.is_floating_point():
        return min(widest, 128)  # every pixel is looked at by itself
    block = column_block(seg)
    for columns in (MOST_PX, 192, 128, 64):
        points = Cells(h, w, height, width, 32, columns, block).points
        if columns <= widest and points <= MOST_POINTS:
            return columns
    return 32


def row_width(seg: Tensor, height: int, width: int) -> int:
    """Pixels along x of a tile whose cells are gone over row by row; 0 where they should not."""
    if not seg.is_floating_point() or height * width * seg.shape[0] < LARGE or class_block(seg):
        return 0
    h, w = seg.shape[-2:]
    # As many source pixels as a row of a program's threads has, or a few times that.
    points = Cells(h, w, height, width, 32, WIDE, column_block(seg)).points_x
    return WIDE if 32 * ROW_WARPS < points <= 128 * ROW_WARPS else 0


def bin_grid(
    op: str, seg: Tensor, height: int, width: int, window: int, stride: int, flush: bool
) -> tuple[Axis, Axis]:
    """The window grid of an image, cut into tiles."""
    # A tile is one row of bins from strides of 8 on: then columns are summed before they are added.
    y = make_axis(height, window, stride, flush, min(stride, 32) if stride >= 8 else 16)
    # Bins of several rows are counted pixel by pixel, which takes registers.
    widest = min(tile_width(seg, height, width), MOST_PX if y.tile_bins == 1 else 128)
    by_row = row_width(seg, height, width)
    if y.tile_bins == 1 and 2 * min(stride, width - window + 1) <= by_row:
        widest = by_row
    x = make_axis(width, window, stride, flush, widest)
    # Within an image pixels, bins and windows are numbered in 32 bits.
    largest = max(height, width, y.bins * x.bins, y.windows * x.windows)
    if largest > INT32_MAX:
        raise NotImplementedError(
            f"{op}: backend 'triton' takes grids of less than 2^31 windows and cells, "
            f"got {largest}; 'reference' can run this"
        )
    return y, x


def quad_bins(x: Axis) -> bool:
    """Whether tiles and bins start at multiples of 4, and the axis ends at one."""
    cuts = [x.size, x.stride, x.rest, x.unit, *([x.flush_px] if x.flush_px != NONE else [])]
    return all(cut % QUAD == 0 for cut in cuts)


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
    by_row = kind == UPSAMPLED and y.tile_bins == 1 < x.tile_bins and x.tile_px >= ROW_PX
    strides = seg.stride() if logits else (seg.stride(0), 0, *seg.stride()[1:])
    if kind == UPSAMPLED:
        cells = Cells(h, w, y.size, x.size, y.tile_px, x.tile_px, column_block(seg), by_row)
        mixed = scratch("mixed", torch.int32, programs * cells.points)
        warps = ROW_WARPS if by_row else 4 if cells.points <= MOST_POINTS else 8
    else:
        cells, mixed = Cells(1, 1, 1, 1, 1, 1), None
        warps = 8 if block_y * block_x >= 2048 else 4
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
            "BY_ROW": by_row,
            "NUM_WORDS": words_in_use(table),
            "WRITE_LABELS": labels is not None,
            "ONE_BIN": y.tile_bins == x.tile_bins == 1,
            "ONE_ROW": y.tile_bins == 1,
            "BINS_X": pow2(x.tile_bins),
            "BLOCK_Y": block_y,
            "BLOCK_X": block_x,
            "CHUNK_X": min(max(block_x, QUAD), 128),
            "QUADS": labels is not None and quad_bins(x) and labels.data_ptr() % QUAD == 0,
            "QUAD_BINS": quad_bins(x),
            "LANES": 32 * warps,
            "UNROLL": 16 if cells.points <= 128 * warps else 8,
            **cells.constants(),
        },
        num_warps=warps,
        max_registers=128,
    )
