"""Coarse labels of a wide tile by corner agreement, as in _cells.py, but row by row of cells.

A thread keeps a few columns of source pixels and goes down the tile: what a row of cells needs of
the one above stays in its registers, and the height of a row is one number for all threads. That
takes a sixth fewer instructions, a third where labels are written, but one row after the other:
small images have too few tiles for it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._cells import list_mixed, mixed_entry
from ._classes import is_small
from ._upsample import first_argmax, first_output, first_tap


@triton.jit
def _store_row(label, slots, labels_ptr, x, top, bottom, x1, W, QUADS: tl.constexpr):
    """Stores the labels of a row of cells, [COLUMNS], at its pixels."""
    QUARTER: tl.constexpr = x.shape[0]
    found = tl.reshape(tl.gather(label, slots, 0), [4, QUARTER]) & 255
    word = tl.sum(found << (8 * tl.arange(0, 4))[:, None], 0)
    for y in range(top, bottom):
        at = labels_ptr + (tl.zeros([], tl.int64) + y) * W + x
        if QUADS:
            tl.store(at.to(tl.pointer_type(tl.int32), bitcast=True), word, mask=x < x1)
        else:
            for i in tl.static_range(4):
                tl.store(at + i, (word >> (8 * i)).to(tl.uint8), mask=x + i < x1)


@triton.jit
def agreed_rows(
    image_ptr, labels_ptr, mixed_ptr, stride_n, stride_y, stride_x, row0, last_row, column0,
    last_column, y0, y1, x0, x1, scale_y, scale_x, ratio_y, h, w, H, W,
    word0, word1, word2, word3, word4, word5, word6, word7, NUM_WORDS: tl.constexpr,
    N: tl.constexpr, COLUMN_BLOCK: tl.constexpr, UNROLL: tl.constexpr,
    COLUMNS: tl.constexpr, LANES: tl.constexpr, BLOCK_X: tl.constexpr, DYADIC: tl.constexpr,
    WRITE_LABELS: tl.constexpr, QUADS: tl.constexpr, QUAD_BINS: tl.constexpr,
):  # fmt: skip
    """Counts the small pixels of agreed cells, by column of pixels, and lists the mixed cells.

    Returns:
        columns of pixels, or first ones of quads, their counts, and the number of mixed cells.
    """
    slot = tl.arange(0, COLUMNS)
    pair = tl.arange(0, 2 * COLUMNS)
    pair = tl.minimum(pair % COLUMNS + pair // COLUMNS, COLUMNS - 1)
    column = column0 + tl.arange(0, COLUMNS // COLUMN_BLOCK) * COLUMN_BLOCK
    if COLUMN_BLOCK > 1:
        # Past the image, the last block: a cell at the border may count as mixed for that.
        column = tl.multiple_of(tl.minimum(column, w - COLUMN_BLOCK), COLUMN_BLOCK)
        offsets = (column[:, None] + tl.arange(0, COLUMN_BLOCK)[None, :]).to(tl.int64)
        stride_n = tl.multiple_of(stride_n, COLUMN_BLOCK)
    else:
        offsets = tl.minimum(column, w - 1).to(tl.int64) * stride_x
    if WRITE_LABELS:
        quad = x0 + tl.arange(0, BLOCK_X // 4) * 4
        pixel = tl.reshape(quad[None, :] + tl.arange(0, 4)[:, None], [BLOCK_X])
        slots = tl.minimum(first_tap(pixel, scale_x, w) - column0, COLUMNS - 1)
    small_px = tl.zeros([COLUMNS], tl.int32)
    upper_low = tl.zeros([COLUMNS], tl.int32)
    upper_high = tl.zeros([COLUMNS], tl.int32)
    listed = 0
    for i in range(row0, last_row + 2):
        row = tl.zeros([], tl.int32) + i
        start = tl.minimum(row, h - 1).to(tl.int64) * stride_y
        row_ptr = image_ptr + tl.multiple_of(start, COLUMN_BLOCK)
        best, label = first_argmax(row_ptr, offsets, None, stride_n, N, 0, UNROLL)
        # A corner at infinity proves nothing about the pixels between.
        label = tl.reshape(tl.where(tl.abs(best) < float("inf"), label, -1), [COLUMNS])
        side = tl.reshape(tl.gather(label, pair, 0), [2, COLUMNS])
        low = tl.min(side, 0)
        high = tl.max(side, 0)
        if row > row0:
            lowest = tl.minimum(low, upper_low)
            highest = tl.maximum(high, upper_high)
            cell = tl.where(lowest == highest, lowest, -1)
            top = tl.maximum(first_output(row - 1, scale_y, ratio_y, h, H, DYADIC), y0)
            bottom = tl.minimum(first_output(row, scale_y, ratio_y, h, H, DYADIC), y1)
            if WRITE_LABELS:
                _store_row(cell, slots, labels_ptr, quad, top, bottom, x1, W, QUADS)
            small = is_small(
                cell, word0, word1, word2, word3, word4, word5, word6, word7, NUM_WORDS, N
            )
            small_px += tl.where(small, bottom - top, 0)
            mixed = (cell < 0) & (column0 + slot <= last_column)
            if tl.max(mixed.to(tl.int32), 0) > 0:
                entry = mixed_entry((row - 1 - row0) * COLUMNS + slot, lowest, highest)
                listed = list_mixed(mixed_ptr, entry, mixed, listed, COLUMNS, LANES)
        upper_low = low
        upper_high = high
    # Four pixels beside each other are in one bin, or each may be in its own.
    SPAN: tl.constexpr = 4 if QUAD_BINS else 1
    at = x0 + tl.arange(0, BLOCK_X // SPAN) * SPAN
    pixel = tl.reshape(at[None, :] + tl.arange(0, SPAN)[:, None], [BLOCK_X])
    found = tl.gather(small_px, tl.minimum(first_tap(pixel, scale_x, w) - column0, COLUMNS - 1), 0)
    found = tl.sum(tl.reshape(found, [SPAN, BLOCK_X // SPAN]), 0)
    return at, tl.where(at < x1, found, 0), listed
