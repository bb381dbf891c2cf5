"""Scores of aggregate: N planes of float32, written once; their bytes are what the launch costs.

A program makes rows of pixels that lie between the same two rows of logits, a column to a thread:
what is interpolated along x serves all of them. Up to 16 classes are held in registers, and their
exponentials after them; more are interpolated again, eight at a time, for each pass; rule
"official" has one pass only. A tile that no window reaches takes the short way: maximum, sum,
planes.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._classes import WORDS, is_small
from ._divider import divided, divider
from ._foreground import foreground
from ._launch import Launch, ceil_div, pow2
from ._logit_rows import (
    Source,
    interpolated_rows,
    logits_of,
    most_rows,
    rows_of_tile,
    two_rows,
)
from ._merge import any_of
from ._ptx import along_last
from ._upsample import Resize, dyadic, first_tap, second_weight, to_second_tap
from ._windows import slots_in_use

KEPT = 16  # most classes that are one block; 32 spill with triton 3.6


@triton.jit
def _beyond(cls, NONE: tl.constexpr = 1 << 30):
    return tl.zeros_like(cls) + NONE


@triton.jit
def _first_of(among, c, NONE: tl.constexpr = 1 << 30):
    """The first class `among` those of a block, NONE where there is none."""
    return tl.min(tl.where(among, c, NONE), 0)


@triton.jit
def _best(value, c, among, best, cls, NONE: tl.constexpr = 1 << 30):
    """Largest logit `among` the classes and the first class that has it, after another block."""
    value = tl.where(among, value, float("-inf"))
    top = tl.max(value, 0)
    first = _first_of(among & (value == top[None]), c)
    better = (first < NONE) & ((cls < 0) | (top > best))
    return tl.where(better, top, best), tl.where(better, first, cls)


@triton.jit
def _p(kept, value, c, top, scale, hot, KEEP: tl.constexpr):
    """Softmax; where the largest logit is infinite, class `hot` has probability 1."""
    if KEEP:
        return kept
    one_hot = tl.where(c == hot[None], 1.0, 0.0)
    return tl.where(hot[None] < 0, tl.exp(value - top[None]) * scale[None], one_hot)


@triton.jit
def _store_scores(
    kept, wy, below, source, out_ptr, plane, wanted, p_f, covered, reached, num_classes, words,
    OFFICIAL: tl.constexpr, SECOND_SOFTMAX: tl.constexpr, RESIZED: tl.constexpr, N: tl.constexpr,
    NUM_WORDS: tl.constexpr, KEEP: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Writes all planes of STEP rows of pixels; `reached`: a window reaches the tile."""
    of_block = tl.arange(0, CLASSES)[:, None, None]
    stop = CLASSES if KEEP else num_classes
    if OFFICIAL:
        added = tl.where(covered, p_f, 0.0)[None]
        for c0 in range(0, stop, CLASSES):
            c = c0 + of_block
            value = logits_of(kept, wy, below, c, source, N, CLASSES, RESIZED, KEEP)
            value += tl.where(is_small(c, words, NUM_WORDS), added, 0.0)
            tl.store(out_ptr + c * plane, value, mask=wanted & (c < N))
    else:
        top = tl.zeros_like(p_f) + float("-inf")
        total = tl.zeros_like(p_f)
        kept_p = 0.0
        if KEEP:
            top = tl.max(kept, 0)
            kept_p = tl.exp(kept - top[None])
            total = tl.sum(kept_p, 0)
        else:
            for c0 in range(0, num_classes, CLASSES):
                value = logits_of(kept, wy, below, c0 + of_block, source, N, CLASSES, RESIZED, KEEP)
                higher = tl.maximum(top, tl.max(value, 0))
                e = tl.where(value > float("-inf"), tl.exp(value - higher[None]), 0.0)
                total = tl.where(total > 0, total * tl.exp(top - higher), 0.0) + tl.sum(e, 0)
                top = higher
        scale = 1.0 / total
        if KEEP:
            kept_p *= scale[None]
        infinite = tl.abs(top) == float("inf")
        hot = tl.zeros_like(p_f).to(tl.int32) - 1
        if any_of(infinite):
            first = _beyond(hot)
            for c0 in range(0, stop, CLASSES):
                c = c0 + of_block
                value = logits_of(kept, wy, below, c, source, N, CLASSES, RESIZED, KEEP)
                first = tl.minimum(first, _first_of(value >= top[None], c))
            hot = tl.where(infinite, first, -1)
            if KEEP:
                one_hot = tl.where(of_block == hot[None], 1.0, 0.0)
                kept_p = tl.where(infinite[None], one_hot, kept_p)

        # `addition` to the probability of one class, `target`; -1: of none.
        target = tl.zeros_like(hot) - 1
        addition = tl.zeros_like(p_f)
        factor = addition + 1.0
        if reached:
            # c*, the first class with the largest logit.
            winner = _beyond(hot)
            for c0 in range(0, stop, CLASSES):
                c = c0 + of_block
                value = logits_of(kept, wy, below, c, source, N, CLASSES, RESIZED, KEEP)
                winner = tl.minimum(winner, _first_of(value == top[None], c))
            demoted = is_small(winner, words, NUM_WORDS, N)
            conflict = covered & (demoted != (p_f >= 0.5))
            if any_of(conflict):
                # The first class with the largest logit on the other side of C.
                best = tl.zeros_like(p_f) + float("-inf")
                for c0 in range(0, stop, CLASSES):
                    c = c0 + of_block
                    value = logits_of(kept, wy, below, c, source, N, CLASSES, RESIZED, KEEP)
                    other = (is_small(c, words, NUM_WORDS) != demoted[None]) & (c < N)
                    best, target = _best(value, c, other, best, target)
                conflict = conflict & (target >= 0)
                addition = tl.where(conflict, tl.where(demoted, 1.0 - p_f, p_f), 0.0)
                factor = 1.0 / (1.0 + addition)
            if SECOND_SOFTMAX:
                # Values lie in [0, 2]: no maximum is needed.
                total = tl.zeros_like(p_f)
                for c0 in range(0, stop, CLASSES):
                    c = c0 + of_block
                    value = logits_of(kept, wy, below, c, source, N, CLASSES, RESIZED, KEEP)
                    p = _p(kept_p, value, c, top, scale, hot, KEEP)
                    merged = p + tl.where(c == target[None], addition[None], 0.0)
                    total += tl.sum(tl.where(c < N, tl.exp(merged), 0.0), 0)
                factor = 1.0 / total
            for c0 in range(0, stop, CLASSES):
                c = c0 + of_block
                value = logits_of(kept, wy, below, c, source, N, CLASSES, RESIZED, KEEP)
                p = _p(kept_p, value, c, top, scale, hot, KEEP)
                merged = p + tl.where(c == target[None], addition[None], 0.0)
                if SECOND_SOFTMAX:
                    merged = tl.where(covered[None], tl.exp(merged) * factor[None], p)
                else:
                    merged *= factor[None]  # 1 where nothing was added
                tl.store(out_ptr + c * plane, merged, mask=wanted & (c < N))
        else:
            for c0 in range(0, stop, CLASSES):
                c = c0 + of_block
                value = logits_of(kept, wy, below, c, source, N, CLASSES, RESIZED, KEEP)
                p = _p(kept_p, value, c, top, scale, hot, KEEP)
                tl.store(out_ptr + c * plane, p, mask=wanted & (c < N))


@triton.jit(do_not_specialize=[*WORDS, "last_x"])
def _merge_probs_kernel(
    coarse_ptr,  # [B, N, h, w]
    probs_ptr,  # float32 [B, N, H, W] contiguous
    fine_ptr,  # [B*n, 1 or 2, hf, wf]
    origins_ptr,  # int32 [B, n, 2] contiguous
    num_ptr,  # int32 [B]
    coarse_stride_b, coarse_stride_n, coarse_stride_y, coarse_stride_x,
    fine_stride_patch, fine_stride_c, fine_stride_y, fine_stride_x,
    num_classes,  # N; loops that know it unroll
    resize_y,  # Resize
    resize_x,
    n, window,
    fine_y,  # Resize, of a window
    fine_x,
    tiles_y,  # Divider
    tiles_x,  # Divider
    last_x,  # where the last tile of a row starts
    groups,  # Divider: tiles of rows between the same two rows of logits
    word0, word1, word2, word3, word4, word5, word6, word7,
    OFFICIAL: tl.constexpr,
    SECOND_SOFTMAX: tl.constexpr,
    RESIZED: tl.constexpr,
    BY_CELL: tl.constexpr,  # tiles are those, and not the ROWS rows after the tile before
    DYADIC: tl.constexpr,  # of rows: a power of two between the sizes
    N: tl.constexpr,
    NUM_WORDS: tl.constexpr,
    TWO_CHANNELS: tl.constexpr,
    FINE_RESIZED: tl.constexpr,
    SLOTS: tl.constexpr,
    KEEP: tl.constexpr,
    CLASSES: tl.constexpr,
    ROWS: tl.constexpr,  # of a tile
    STEP: tl.constexpr,  # of them at once: all, or one
    BLOCK_X: tl.constexpr,
):  # fmt: skip
    words = (word0, word1, word2, word3, word4, word5, word6, word7)
    program = tl.program_id(0)
    program, tile_x = divided(program, tiles_x)
    b, tile_y = divided(program, tiles_y)
    b = b.to(tl.int64)
    H = resize_y.full
    W = resize_x.full
    y0, y1, row = rows_of_tile(tile_y, groups, resize_y, ROWS, BY_CELL, RESIZED, DYADIC)
    if y0 >= y1:
        return
    x0 = tile_x * BLOCK_X
    # The last tile is moved back until it fits, so that loads need no mask, and does not store the
    # columns that others have. The compiler then knows no multiple for x: it lays lanes along the
    # columns, but does not exchange values between threads for wider stores.
    x = tl.minimum(x0, last_x) + tl.arange(0, BLOCK_X)[None, :]
    line = y0 + tl.arange(0, ROWS)[:, None]
    p_f, covered = foreground(
        fine_ptr + b * n * fine_stride_patch, origins_ptr + b * n * 2,
        slots_in_use(num_ptr, b, n), 0, -1, window, H, W, line, x, (line < y1) & (x >= x0), y0, y1,
        x0, tl.minimum(x0 + BLOCK_X, W),
        fine_stride_patch, fine_stride_c, fine_stride_y, fine_stride_x,
        fine_y, fine_x, TWO_CHANNELS, FINE_RESIZED, SLOTS,
    )  # fmt: skip
    reached = any_of(covered)
    column = first_tap(x, resize_x) if RESIZED else x
    image_ptr = coarse_ptr + b * coarse_stride_b
    top = row.to(tl.int64) * coarse_stride_y
    bottom = top + to_second_tap(row, resize_y, coarse_stride_y)
    left = (column.to(tl.int64) * coarse_stride_x)[None]
    right = left + to_second_tap(column, resize_x, coarse_stride_x)[None]
    source = Source(
        image_ptr + along_last(top + left, 3), image_ptr + along_last(top + right, 3),
        image_ptr + along_last(bottom + left, 3), image_ptr + along_last(bottom + right, 3),
        second_weight(x, column, resize_x)[None], coarse_stride_n, coarse_stride_y,
    )  # fmt: skip
    plane = tl.zeros_like(b) + H
    plane *= W
    probs_ptr += b * N * plane
    of_block = tl.arange(0, CLASSES)[:, None, None]
    rows = (0.0, 0.0)
    if KEEP and RESIZED:
        rows = two_rows(of_block, source, N, CLASSES)

    for first in range(y0, y1, STEP):
        y = first + tl.arange(0, STEP)[:, None]
        wanted = ((y < y1) & (x >= x0))[None]
        out_ptr = (probs_ptr + y.to(tl.int64) * W + x)[None]
        below = (tl.minimum(y, H - 1) - y0)[None]
        wy = second_weight(y, row, resize_y)[None]
        p_row, covered_row = p_f, covered
        if STEP < ROWS:
            here = line == first
            p_row = tl.sum(tl.where(here, p_f, 0.0), 0)[None]
            covered_row = tl.sum((here & covered).to(tl.int32), 0)[None] > 0
        value = 0.0
        if KEEP:
            value = interpolated_rows(rows, wy, below, of_block, source, N, CLASSES, RESIZED)
        _store_scores(
            value, wy, below, source, out_ptr, plane, wanted, p_row, covered_row, reached,
            num_classes, words, OFFICIAL, SECOND_SOFTMAX, RESIZED, N, NUM_WORDS, KEEP, CLASSES,
        )  # fmt: skip


def plan_probs(args: dict[str, Any], constants: dict[str, Any], rule: str, probs: Tensor) -> Launch:
    """The launch that writes scores, from the arguments that aggregate's launches share."""
    batch, classes, height, width = probs.shape
    axis: Resize = args["resize_y"]
    keep = classes <= KEPT
    # At ratios below 1.5 hardly any rows of pixels share a row of logits: no cutting by cell.
    by_cell = 2 * axis.full >= 3 * axis.small
    # Of more classes all rows of a tile are held, and where they are read together by neighbouring
    # threads, those of the exchange.
    rows = 4 if keep or args["coarse_stride_n"] != 1 else 1
    groups = 1
    if by_cell:
        most = most_rows(axis.small, axis.full)
        rows = min(pow2(most), 8 if keep else rows)
        groups = ceil_div(most, rows)
    elif constants["RESIZED"]:
        rows = 1
    block_x = min(64, pow2(width + 1) // 2)  # no more than there are
    tiles_y = (axis.small + 1) * groups if by_cell else ceil_div(height, rows)
    tiles_x = ceil_div(width, block_x)
    return Launch(
        _merge_probs_kernel,
        batch * tiles_y * tiles_x,
        {
            **args,
            "probs_ptr": probs,
            "num_classes": classes,
            **{"tiles_y": divider(tiles_y), "tiles_x": divider(tiles_x)},
            "last_x": width - block_x,
            "groups": divider(groups),
        },
        {
            **constants,
            "SECOND_SOFTMAX": rule == "paper",
            "BY_CELL": by_cell,
            "DYADIC": dyadic(axis.small, axis.full),
            "KEEP": keep,
            "CLASSES": pow2(classes) if keep else 8,
            "ROWS": rows,
            "STEP": 1 if keep else rows,
            "BLOCK_X": block_x,
        },
        num_warps=2,
        max_registers=255,
    )
