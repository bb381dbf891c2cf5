"""Small-object pixels of every bin, and labels, from coarse logits: see _cells.py."""

from __future__ import annotations

import triton
import triton.language as tl

from ._bins import add_columns, add_pixels, clear_bins, store_total, tile_bins
from ._cell_rows import agreed_rows, counts_of_rows
from ._cells import (
    agreed_columns,
    agreed_labels,
    agreed_total,
    slot_of,
    store_agreed,
    tile_over,
)
from ._classes import WORDS, is_small, small_bit
from ._mixed import contenders, mixed_cells, mixed_labels
from ._upsample import Logits


@triton.jit(do_not_specialize=WORDS)
def _upsampled_counts_kernel(
    seg_ptr,  # logits [B, N, h, w]
    labels_ptr,  # uint8 [B, H, W] contiguous, or None
    bins_ptr,  # int32 [B, bins_y, bins_x] contiguous
    mixed_ptr,  # int32 [programs, CELLS.scratch], scratch
    seg_stride_b, seg_stride_n, seg_stride_y, seg_stride_x,
    num_classes,
    resize_y,  # Resize
    resize_x,
    grid_y,  # Axis
    grid_x,
    word0, word1, word2, word3, word4, word5, word6, word7,
    N: tl.constexpr,
    CLASS_BLOCK: tl.constexpr,
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
    TOGETHER: tl.constexpr,  # see pair_labels
    CELLS: tl.constexpr,  # Cells
    LANES: tl.constexpr,
):  # fmt: skip
    words = (word0, word1, word2, word3, word4, word5, word6, word7)
    program = tl.program_id(0)
    b, bins = tile_bins(program, grid_y, grid_x)
    tile = tile_over(bins.y0, bins.y1, bins.x0, bins.x1, resize_y, resize_x, CELLS)
    image = b * seg_stride_b
    if CLASS_BLOCK > 0:
        image = tl.multiple_of(image, CLASS_BLOCK)
    logits = Logits(seg_ptr + image, seg_stride_n, seg_stride_y, seg_stride_x)
    bins_ptr += b * grid_y.bins * grid_x.bins
    mixed_ptr += program.to(tl.int64) * CELLS.scratch
    if WRITE_LABELS:
        labels_ptr += b * grid_y.size * grid_x.size
    if not ONE_BIN:
        clear_bins(bins_ptr, bins, grid_x, BINS_X, ONE_ROW)

    if BY_ROW:
        small_px, mixed = agreed_rows(
            logits, labels_ptr, mixed_ptr, tile, resize_y, resize_x, words,
            N, CLASS_BLOCK, NUM_WORDS, CELLS, UNROLL, BLOCK_X, TOGETHER, WRITE_LABELS, QUADS,
        )  # fmt: skip
        x, counts = counts_of_rows(small_px, tile, resize_x, CELLS, BLOCK_X, QUAD_BINS)
    else:
        cell_label, mixed = agreed_labels(
            logits, mixed_ptr, tile, resize_y, resize_x, N, CLASS_BLOCK, CELLS, LANES, UNROLL
        )
        if WRITE_LABELS:
            store_agreed(
                cell_label, labels_ptr, tile, resize_y, resize_x, CELLS, BLOCK_Y, CHUNK_X, QUADS
            )
        cell_small = is_small(cell_label, words, NUM_WORDS, N)
    # From here on threads use zeroed bins, listed cells and placeholder labels that others wrote to
    # global memory; Triton inserts barriers for shared memory only. Today it would insert one right
    # here anyway: this one costs nothing, and no test would fail without it.
    tl.debug_barrier()

    if ONE_BIN:
        total = agreed_total(cell_small, tile, resize_y, resize_x, CELLS)
    elif ONE_ROW:
        if not BY_ROW:
            x = tile.x0 + tl.arange(0, BLOCK_X)
            counts = agreed_columns(cell_small, x, tile, resize_y, resize_x, CELLS, LANES)
        add_columns(bins_ptr, bins, grid_x, x, counts)
    else:
        pixel = tl.arange(0, BLOCK_Y * BLOCK_X)
        y = tile.y0 + pixel // BLOCK_X
        x = tile.x0 + pixel % BLOCK_X
        inside = (y < tile.y1) & (x < tile.x1)
        slot = tl.where(inside, slot_of(y, x, tile, resize_y, resize_x, CELLS), 0)
        small = inside & (tl.gather(cell_small.to(tl.int32), slot, 0) != 0)
        add_pixels(bins_ptr, grid_y, grid_x, y, x, small)

    for start in range(0, mixed, LANES // CELLS.group):
        cell = mixed_cells(mixed_ptr, start, mixed, logits, tile, resize_y, resize_x, CELLS, LANES)
        contend, most = contenders(logits, cell, 0, min(N, 32), CELLS, LANES)
        for dy in range(0, tl.where(tile.row0 == 0, CELLS.first_y, CELLS.most_y), CELLS.cell_y):
            for dx in range(
                0, tl.where(tile.column0 == 0, CELLS.first_x, CELLS.most_x), CELLS.cell_x
            ):
                py, px, wanted, label = mixed_labels(
                    logits, cell, contend, most, num_classes, dy, dx, resize_y, resize_x,
                    N, CELLS, LANES,
                )  # fmt: skip
                if WRITE_LABELS:
                    at = labels_ptr + py.to(tl.int64) * grid_x.size + px
                    tl.store(at, label.to(tl.uint8), mask=wanted)
                hit = tl.where(wanted, small_bit(label, words, NUM_WORDS, N), 0)
                if ONE_BIN:
                    total += tl.sum(hit)
                elif ONE_ROW:
                    add_columns(bins_ptr, bins, grid_x, px, tl.sum(hit, 0, keep_dims=True))
                else:
                    add_pixels(bins_ptr, grid_y, grid_x, py, px, hit != 0)
    if ONE_BIN:
        store_total(bins_ptr, bins, grid_x, total)
