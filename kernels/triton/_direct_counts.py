"""Small-object pixels of every bin where each pixel has its own label or logits."""

from __future__ import annotations

import triton
import triton.language as tl

from ._bins import add_columns, add_pixels, clear_bins, store_total, tile_bins
from ._classes import WORDS, is_small
from ._upsample import first_argmax


@triton.jit(do_not_specialize=WORDS)
def _direct_counts_kernel(
    seg_ptr,  # logits [B, N, H, W] or labels [B, H, W]
    labels_ptr,  # uint8 [B, H, W] contiguous, or None
    bins_ptr,  # int32 [B, bins_y, bins_x] contiguous
    seg_stride_b, seg_stride_n, seg_stride_y, seg_stride_x,
    grid_y,  # Axis
    grid_x,
    word0, word1, word2, word3, word4, word5, word6, word7,
    N: tl.constexpr,  # 0: a label map
    CLASS_BLOCK: tl.constexpr,
    NUM_WORDS: tl.constexpr,
    WRITE_LABELS: tl.constexpr,
    ONE_BIN: tl.constexpr,  # every tile is one bin
    ONE_ROW: tl.constexpr,  # every tile is one row of bins
    BINS_X: tl.constexpr,  # bins of a row of a tile, at most
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,  # pixels of a tile, at most
):  # fmt: skip
    words = (word0, word1, word2, word3, word4, word5, word6, word7)
    b, tile = tile_bins(tl.program_id(0), grid_y, grid_x)
    bins_ptr += b * grid_y.bins * grid_x.bins
    if not ONE_BIN:
        clear_bins(bins_ptr, tile, grid_x, BINS_X, ONE_ROW)
        tl.debug_barrier()  # other threads add to them

    pixel = tl.arange(0, BLOCK_Y * BLOCK_X)
    y = tile.y0 + pixel // BLOCK_X
    x = tile.x0 + pixel % BLOCK_X
    inside = (y < tile.y1) & (x < tile.x1)
    offsets = y.to(tl.int64) * seg_stride_y + x.to(tl.int64) * seg_stride_x
    if N == 0:
        label = tl.load(seg_ptr + b * seg_stride_b + offsets, mask=inside, other=0)
    else:
        # Blocks of classes are aligned to their size: class_block in _launch.py. For planar maps
        # the hint would be 1, and replace the better one that the compiler finds by itself.
        image = b * seg_stride_b
        if CLASS_BLOCK > 0:
            image = tl.multiple_of(image, CLASS_BLOCK)
        _, label = first_argmax(seg_ptr + image, offsets, inside, seg_stride_n, N, CLASS_BLOCK)
    if WRITE_LABELS:
        at = labels_ptr + b * grid_y.size * grid_x.size + y.to(tl.int64) * grid_x.size + x
        tl.store(at, label.to(tl.uint8), mask=inside)
    small = inside & is_small(label, words, NUM_WORDS)
    if ONE_BIN:
        store_total(bins_ptr, tile, grid_x, tl.sum(small.to(tl.int32), 0))
    elif ONE_ROW:
        # Down the columns first: one addition per column instead of one per pixel.
        counts = tl.sum(tl.reshape(small.to(tl.int32), [BLOCK_Y, BLOCK_X]), 0)
        add_columns(bins_ptr, tile, grid_x, tile.x0 + tl.arange(0, BLOCK_X), counts)
    else:
        add_pixels(bins_ptr, grid_y, grid_x, y, x, small)
