"""Coarse labels of a wide tile by corner agreement, as in _cells.py, but row by row of cells.

A thread keeps pairs of columns of source pixels and goes down the tile: what a row of cells needs
of the one above stays in its registers, and the height of a row is one number for all threads. Two
labels, or two flags, are the halves of a word. That takes a third fewer instructions, nearly half
where labels are written, but rows are sequential: small images have too few tiles for it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._cells import labels_of_points
from ._classes import small_bit
from ._mixed import bits
from ._pairs import halves, pair_labels
from ._upsample import NOT_FINITE, first_output, first_tap


@triton.jit
def _store_row(label, slots, labels_ptr, x, top, bottom, x1, width, QUADS: tl.constexpr):
    """Stores the labels of a row of cells, [columns], at its pixels."""
    QUARTER: tl.constexpr = x.shape[0]
    found = tl.reshape(tl.gather(label, slots, 0), [4, QUARTER]) & 255
    word = tl.sum(found << (8 * tl.arange(0, 4))[:, None], 0)
    # Not range(top, bottom): triton 3.6 forgets a carried number that is but the bound of a loop.
    for i in range(bottom - top):
        at = labels_ptr + (tl.zeros([], tl.int64) + top + i) * width + x
        if QUADS:
            tl.store(at.to(tl.pointer_type(tl.int32), bitcast=True), word, mask=x < x1)
        else:
            for j in tl.static_range(4):
                tl.store(at + j, (word >> (8 * j)).to(tl.uint8), mask=x + j < x1)


@triton.jit
def _pixel_columns(x0, BLOCK_X: tl.constexpr, SPAN: tl.constexpr):
    """First columns of spans of pixels; all columns, ordered by their place in a span."""
    first = x0 + tl.arange(0, BLOCK_X // SPAN) * SPAN
    return first, tl.reshape(first[None, :] + tl.arange(0, SPAN)[:, None], [BLOCK_X])


@triton.jit
def _list_rows(mixed_ptr, even, odd, rows, COLUMNS: tl.constexpr):
    """Lists the mixed cells of pairs of columns: bit i of `even` and `odd` is row i from the last.

    Returns:
        how many there are.
    """
    PAIRS: tl.constexpr = COLUMNS // 2
    number = bits(even) + bits(odd)
    at = mixed_ptr + tl.cumsum(number, 0) - number
    slot = 2 * tl.arange(0, PAIRS)
    for i in range(rows):
        bit = (even >> (rows - 1 - i)) & 1
        tl.store(at, slot, mask=bit != 0)
        at += bit
        bit = (odd >> (rows - 1 - i)) & 1
        tl.store(at, slot + 1, mask=bit != 0)
        at += bit
        slot += COLUMNS
    return tl.sum(number, 0)


@triton.jit
def agreed_rows(
    logits, labels_ptr, mixed_ptr, tile, resize_y, resize_x, words,
    N: tl.constexpr, CLASS_BLOCK: tl.constexpr, NUM_WORDS: tl.constexpr, CELLS: tl.constexpr,
    UNROLL: tl.constexpr, BLOCK_X: tl.constexpr, TOGETHER: tl.constexpr,
    WRITE_LABELS: tl.constexpr, QUADS: tl.constexpr, MARK: tl.constexpr = NOT_FINITE,
):  # fmt: skip
    """Counts the small pixels of agreed cells, and lists the mixed cells; NUM_WORDS 0: no counts.

    Returns:
        small pixels of a column of each cell of a pair, summed down the tile: the left cell's in
        the low half of a word; and the number of mixed cells.
    """
    COLUMNS: tl.constexpr = CELLS.points_x
    PAIRS: tl.constexpr = COLUMNS // 2
    BLOCK: tl.constexpr = CLASS_BLOCK if CLASS_BLOCK > 0 else CELLS.column_block
    stride_n = logits.stride_n
    pair = tl.arange(0, PAIRS)
    if CLASS_BLOCK > 0:
        column = tl.minimum(tile.column0 + tl.arange(0, COLUMNS), resize_x.small - 1)
        offsets = column.to(tl.int64) * logits.stride_x
    elif BLOCK == 2:
        # Pairs past the image read the last pair: a border cell may count as mixed for that.
        column = tl.minimum(tile.column0 + 2 * pair, resize_x.small - 2)
        column = tl.multiple_of(column, 2)[:, None] + tl.arange(0, 2)[None, :]
        offsets = column.to(tl.int64)
        stride_n = tl.multiple_of(stride_n, 2)
    else:
        column = tile.column0 + 2 * pair[:, None] + tl.arange(0, 2)[None, :]
        offsets = tl.minimum(column, resize_x.small - 1).to(tl.int64) * logits.stride_x
    if WRITE_LABELS:
        quad, pixel = _pixel_columns(tile.x0, BLOCK_X, 4)
        slots = tl.minimum(first_tap(pixel, resize_x) - tile.column0, COLUMNS - 1)
    # Two cells share a word: the left one has its low half, the right one its high half.
    columns = tile.last_column - tile.column0 - 2 * pair
    wanted = (columns >= 0).to(tl.int32) + ((columns >= 1).to(tl.int32) << 16)
    small_px = tl.zeros([PAIRS], tl.int32)
    even = tl.zeros([PAIRS], tl.int32)
    odd = tl.zeros([PAIRS], tl.int32)
    upper = tl.zeros([PAIRS], tl.int32)
    upper_differ = tl.zeros([PAIRS], tl.int32)
    points_ptr = labels_of_points(mixed_ptr, CELLS).to(tl.pointer_type(tl.int32), bitcast=True)
    top = tile.y0
    for i in range(tile.row0, tile.last_row + 2):
        row = tl.zeros([], tl.int32) + i
        start = tl.minimum(row, resize_y.small - 1).to(tl.int64) * logits.stride_y
        row_ptr = logits.ptr + tl.multiple_of(start, BLOCK)
        word = pair_labels(row_ptr, offsets, stride_n, N, CLASS_BLOCK, UNROLL, TOGETHER)
        tl.store(points_ptr + pair, word)
        points_ptr += PAIRS
        following = tl.gather(word, tl.minimum(pair + 1, PAIRS - 1), 0)
        differ = word ^ (((word >> 16) & 0xFFFF) | (following << 16))
        if row > tile.row0:
            corners = differ | upper_differ | (word ^ upper) | (word & (MARK * 0x10001))
            mixed = ((corners + 0x7FFF7FFF) >> 15) & wanted  # 1 in each half that is not 0
            bottom = tl.minimum(first_output(row, resize_y, CELLS.dyadic), tile.y1)
            if WRITE_LABELS:
                label = halves(word | mixed * 255)
                _store_row(
                    label, slots, labels_ptr, quad, top, bottom, tile.x1, resize_x.full, QUADS
                )
            if NUM_WORDS > 0:
                low = small_bit(word & 255, words, NUM_WORDS, N)
                high = small_bit((word >> 16) & 255, words, NUM_WORDS, N)
                small_px += ((low | (high << 16)) & ~mixed) * (bottom - top)
            even = (even << 1) | (mixed & 1)
            odd = (odd << 1) | (mixed >> 16)
            top = bottom
        upper = word
        upper_differ = differ
    return small_px, _list_rows(mixed_ptr, even, odd, tile.last_row + 1 - tile.row0, COLUMNS)


@triton.jit
def counts_of_rows(
    small_px, tile, resize_x, CELLS: tl.constexpr, BLOCK_X: tl.constexpr, QUAD_BINS: tl.constexpr
):
    """What `agreed_rows` counted, by column of pixels, or with QUAD_BINS by four of them.

    Returns:
        first columns of pixels, and their counts.
    """
    # QUAD_BINS: four neighbouring pixels share a bin. Otherwise each may have its own.
    SPAN: tl.constexpr = 4 if QUAD_BINS else 1
    first, pixel = _pixel_columns(tile.x0, BLOCK_X, SPAN)
    slots = tl.minimum(first_tap(pixel, resize_x) - tile.column0, CELLS.points_x - 1)
    found = tl.gather(halves(small_px), slots, 0)
    found = tl.sum(tl.reshape(found, [SPAN, BLOCK_X // SPAN]), 0)
    return first, tl.where(first < tile.x1, found, 0)
