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
def _store_row(label, slots, labels_ptr, x, top, bottom, x1, width, QUADS: tl.constexpr):
    """Stores the labels of a row of cells, [columns], at its pixels."""
    QUARTER: tl.constexpr = x.shape[0]
    found = tl.reshape(tl.gather(label, slots, 0), [4, QUARTER]) & 255
    word = tl.sum(found << (8 * tl.arange(0, 4))[:, None], 0)
    for y in range(top, bottom):
        at = labels_ptr + (tl.zeros([], tl.int64) + y) * width + x
        if QUADS:
            tl.store(at.to(tl.pointer_type(tl.int32), bitcast=True), word, mask=x < x1)
        else:
            for i in tl.static_range(4):
                tl.store(at + i, (word >> (8 * i)).to(tl.uint8), mask=x + i < x1)


@triton.jit
def _pixel_columns(x0, BLOCK_X: tl.constexpr, SPAN: tl.constexpr):
    """First columns of spans of pixels; all columns, the first ones of all spans in front."""
    first = x0 + tl.arange(0, BLOCK_X // SPAN) * SPAN
    return first, tl.reshape(first[None, :] + tl.arange(0, SPAN)[:, None], [BLOCK_X])


@triton.jit
def agreed_rows(
    logits, labels_ptr, mixed_ptr, tile, resize_y, resize_x, words,
    N: tl.constexpr, NUM_WORDS: tl.constexpr, CELLS: tl.constexpr, LANES: tl.constexpr,
    UNROLL: tl.constexpr, BLOCK_X: tl.constexpr,
    WRITE_LABELS: tl.constexpr, QUADS: tl.constexpr, QUAD_BINS: tl.constexpr,
):  # fmt: skip
    """Counts the small pixels of agreed cells, by column of pixels, and lists the mixed cells.

    Returns:
        columns of pixels, or first ones of quads, their counts, and the number of mixed cells.
    """
    COLUMNS: tl.constexpr = CELLS.points_x
    BLOCK: tl.constexpr = CELLS.column_block
    stride_n = logits.stride_n
    slot = tl.arange(0, COLUMNS)
    pair = tl.arange(0, 2 * COLUMNS)
    pair = tl.minimum(pair % COLUMNS + pair // COLUMNS, COLUMNS - 1)
    column = tile.column0 + tl.arange(0, COLUMNS // BLOCK) * BLOCK
    if BLOCK > 1:
        # Past the image, the last block: a cell at the border may count as mixed for that.
        column = tl.multiple_of(tl.minimum(column, resize_x.small - BLOCK), BLOCK)
        offsets = (column[:, None] + tl.arange(0, BLOCK)[None, :]).to(tl.int64)
        stride_n = tl.multiple_of(stride_n, BLOCK)
    else:
        offsets = tl.minimum(column, resize_x.small - 1).to(tl.int64) * logits.stride_x
    if WRITE_LABELS:
        quad, pixel = _pixel_columns(tile.x0, BLOCK_X, 4)
        slots = first_tap(pixel, resize_x) - tile.column0
        slots = tl.minimum(slots, COLUMNS - 1)
    small_px = tl.zeros([COLUMNS], tl.int32)
    upper_low = tl.zeros([COLUMNS], tl.int32)
    upper_high = tl.zeros([COLUMNS], tl.int32)
    listed = 0
    for i in range(tile.row0, tile.last_row + 2):
        row = tl.zeros([], tl.int32) + i
        start = tl.minimum(row, resize_y.small - 1).to(tl.int64) * logits.stride_y
        row_ptr = logits.ptr + tl.multiple_of(start, BLOCK)
        best, label = first_argmax(row_ptr, offsets, None, stride_n, N, 0, UNROLL)
        # A corner at infinity proves nothing about the pixels between.
        label = tl.reshape(tl.where(tl.abs(best) < float("inf"), label, -1), [COLUMNS])
        side = tl.reshape(tl.gather(label, pair, 0), [2, COLUMNS])
        low = tl.min(side, 0)
        high = tl.max(side, 0)
        if row > tile.row0:
            lowest = tl.minimum(low, upper_low)
            highest = tl.maximum(high, upper_high)
            cell = tl.where(lowest == highest, lowest, -1)
            top = tl.maximum(first_output(row - 1, resize_y, CELLS.dyadic), tile.y0)
            bottom = tl.minimum(first_output(row, resize_y, CELLS.dyadic), tile.y1)
            if WRITE_LABELS:
                _store_row(
                    cell, slots, labels_ptr, quad, top, bottom, tile.x1, resize_x.full, QUADS
                )
            small = is_small(cell, words, NUM_WORDS, N)
            small_px += tl.where(small, bottom - top, 0)
            mixed = (cell < 0) & (tile.column0 + slot <= tile.last_column)
            if tl.max(mixed.to(tl.int32), 0) > 0:
                entry = mixed_entry((row - 1 - tile.row0) * COLUMNS + slot, lowest, highest)
                listed = list_mixed(mixed_ptr, entry, mixed, listed, COLUMNS, LANES)
        upper_low = low
        upper_high = high
    # Four pixels beside each other are in one bin, or each may be in its own.
    SPAN: tl.constexpr = 4 if QUAD_BINS else 1
    first, pixel = _pixel_columns(tile.x0, BLOCK_X, SPAN)
    slots = first_tap(pixel, resize_x) - tile.column0
    found = tl.gather(small_px, tl.minimum(slots, COLUMNS - 1), 0)
    found = tl.sum(tl.reshape(found, [SPAN, BLOCK_X // SPAN]), 0)
    return first, tl.where(first < tile.x1, found, 0), listed
