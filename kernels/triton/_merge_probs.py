"""Scores of aggregate: N planes of float32, written once; their bytes are what the launch costs.

A program makes a tile of 4 rows of pixels, a pixel to a thread, and goes through the classes in
blocks that a thread holds in registers. Up to 16 classes are one block, interpolated once; more are
interpolated again for each pass; rule "official" has one pass only. A tile that no window reaches
takes the short way: maximum, sum, planes.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._classes import WORDS, is_small
from ._coarse import coarse_logit, coarse_taps
from ._foreground import foreground
from ._launch import Launch, ceil_div, pow2
from ._windows import slots_in_use

KEPT = 16  # most classes that are one block; 32 spill with triton 3.6


@triton.jit
def _block(
    kept, first_ptr, c, stride_n, at00, at01, at10, at11, wy, wx, inside,
    N: tl.constexpr, RESIZED: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Logits of classes c [CLASSES, 1] at the pixels, -inf for NaN and for c >= N."""
    if KEEP:
        return kept
    class_ptr = first_ptr + c.to(tl.int64) * stride_n
    mask = inside & (c < N)
    value = coarse_logit(class_ptr, at00, at01, at10, at11, wy, wx, mask, RESIZED)
    return tl.where(c < N, value, float("-inf"))


@triton.jit
def _best(value, c, among, best, cls, NONE: tl.constexpr = 1 << 30):
    """Largest logit `among` the classes and the first class that has it, after another block."""
    value = tl.where(among, value, float("-inf"))
    top = tl.max(value, 0)[None, :]
    first = tl.min(tl.where(among & (value == top), c, NONE), 0)[None, :]
    better = (first < NONE) & ((cls < 0) | (top > best))
    return tl.where(better, top, best), tl.where(better, first, cls)


@triton.jit
def _p(value, c, top, scale, hot):
    """Softmax; where the largest logit is infinite, class `hot` takes everything."""
    return tl.where(hot < 0, tl.exp(value - top) * scale, tl.where(c == hot, 1.0, 0.0))


@triton.jit(do_not_specialize=WORDS)
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
    tiles_y, tiles_x,
    word0, word1, word2, word3, word4, word5, word6, word7,
    OFFICIAL: tl.constexpr,
    SECOND_SOFTMAX: tl.constexpr,
    RESIZED: tl.constexpr,
    N: tl.constexpr,
    NUM_WORDS: tl.constexpr,
    TWO_CHANNELS: tl.constexpr,
    FINE_RESIZED: tl.constexpr,
    SLOTS: tl.constexpr,
    KEEP: tl.constexpr,
    CLASSES: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):  # fmt: skip
    words = (word0, word1, word2, word3, word4, word5, word6, word7)
    program = tl.program_id(0)
    tile_x = program % tiles_x
    tile_y = (program // tiles_x) % tiles_y
    b = (program // (tiles_x * tiles_y)).to(tl.int64)
    H = resize_y.full
    W = resize_x.full
    y0 = tile_y * BLOCK_Y
    x0 = tile_x * BLOCK_X
    y1 = tl.minimum(y0 + BLOCK_Y, H)
    x1 = tl.minimum(x0 + BLOCK_X, W)
    pixel = tl.arange(0, BLOCK_Y * BLOCK_X)[None, :]
    y = y0 + pixel // BLOCK_X
    x = x0 + pixel % BLOCK_X
    inside = (y < y1) & (x < x1)
    p_f, covered = foreground(
        fine_ptr + b * n * fine_stride_patch, origins_ptr + b * n * 2,
        slots_in_use(num_ptr, b, n), 0, window, H, W, y, x, inside, y0, y1, x0, x1,
        fine_stride_patch, fine_stride_c, fine_stride_y, fine_stride_x,
        fine_y, fine_x, TWO_CHANNELS, FINE_RESIZED, SLOTS,
    )  # fmt: skip
    at00, at01, at10, at11, wy, wx = coarse_taps(
        tl.where(inside, y, 0), tl.where(inside, x, 0), coarse_stride_y, coarse_stride_x,
        resize_y, resize_x, RESIZED,
    )  # fmt: skip
    first_ptr = coarse_ptr + b * coarse_stride_b
    plane = tl.zeros_like(b) + H
    plane *= W
    out_ptr = probs_ptr + b * N * plane + y.to(tl.int64) * W + x
    line = tl.arange(0, CLASSES)[:, None]
    kept = 0.0
    if KEEP:
        kept = _block(
            0.0, first_ptr, line, coarse_stride_n, at00, at01, at10, at11, wy, wx, inside,
            N, RESIZED, False,
        )  # fmt: skip

    if OFFICIAL:
        added = tl.where(covered, p_f, 0.0)
        for c0 in range(0, num_classes, CLASSES):
            c = c0 + line
            value = _block(
                kept, first_ptr, c, coarse_stride_n, at00, at01, at10, at11, wy, wx, inside,
                N, RESIZED, KEEP,
            )  # fmt: skip
            small = is_small(c, words, NUM_WORDS)
            value += tl.where(small, added, 0.0)
            tl.store(out_ptr + c * plane, value, mask=inside & (c < N))
        return

    top = tl.zeros_like(p_f) + float("-inf")
    total = tl.zeros_like(p_f)
    for c0 in range(0, num_classes, CLASSES):
        value = _block(
            kept, first_ptr, c0 + line, coarse_stride_n, at00, at01, at10, at11, wy, wx, inside,
            N, RESIZED, KEEP,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(value, 0)[None, :])
        e = tl.where(value > float("-inf"), tl.exp(value - higher), 0.0)
        total = tl.where(total > 0, total * tl.exp(top - higher), 0.0) + tl.sum(e, 0)[None, :]
        top = higher
    scale = 1.0 / total
    infinite = inside & (tl.abs(top) == float("inf"))
    hot = tl.zeros_like(pixel) - 1
    if tl.max(tl.max(infinite.to(tl.int32), 1), 0) > 0:
        best = top
        cls = hot
        for c0 in range(0, num_classes, CLASSES):
            c = c0 + line
            value = _block(
                kept, first_ptr, c, coarse_stride_n, at00, at01, at10, at11, wy, wx, inside,
                N, RESIZED, KEEP,
            )  # fmt: skip
            best, cls = _best(value, c, (c < N) & (value == top), best, cls)
        hot = tl.where(infinite, cls, -1)

    if tl.max(tl.max(covered.to(tl.int32), 1), 0) == 0:
        for c0 in range(0, num_classes, CLASSES):
            c = c0 + line
            value = _block(
                kept, first_ptr, c, coarse_stride_n, at00, at01, at10, at11, wy, wx, inside,
                N, RESIZED, KEEP,
            )  # fmt: skip
            p = _p(value, c, top, scale, hot)
            tl.store(out_ptr + c * plane, p, mask=inside & (c < N))
        return

    # Outside C and in C: the largest logit and its class, -1 where there is none.
    best0 = tl.zeros_like(p_f) + float("-inf")
    best1 = best0
    class0 = tl.zeros_like(pixel) - 1
    class1 = class0
    for c0 in range(0, num_classes, CLASSES):
        c = c0 + line
        value = _block(
            kept, first_ptr, c, coarse_stride_n, at00, at01, at10, at11, wy, wx, inside,
            N, RESIZED, KEEP,
        )  # fmt: skip
        small = is_small(c, words, NUM_WORDS)
        best0, class0 = _best(value, c, ~small & (c < N), best0, class0)
        best1, class1 = _best(value, c, small & (c < N), best1, class1)
    # c*, the lowest class of the largest logit, is in C.
    demoted = (class0 < 0) | (best1 > best0) | ((best1 == best0) & (class1 < class0))
    target = tl.where(demoted, class0, class1)
    addition = tl.where(demoted, 1.0 - p_f, p_f)
    conflict = covered & (demoted != (p_f >= 0.5)) & (target >= 0)
    addition = tl.where(conflict, addition, 0.0)
    factor = 1.0 / (1.0 + addition)
    if SECOND_SOFTMAX:
        # Values lie in [0, 2]: no maximum is needed.
        total = tl.zeros_like(p_f)
        for c0 in range(0, num_classes, CLASSES):
            c = c0 + line
            value = _block(
                kept, first_ptr, c, coarse_stride_n, at00, at01, at10, at11, wy, wx, inside,
                N, RESIZED, KEEP,
            )  # fmt: skip
            merged = _p(value, c, top, scale, hot) + tl.where(c == target, addition, 0.0)
            total += tl.sum(tl.where(c < N, tl.exp(merged), 0.0), 0)[None, :]
        factor = 1.0 / total
    for c0 in range(0, num_classes, CLASSES):
        c = c0 + line
        value = _block(
            kept, first_ptr, c, coarse_stride_n, at00, at01, at10, at11, wy, wx, inside,
            N, RESIZED, KEEP,
        )  # fmt: skip
        p = _p(value, c, top, scale, hot)
        merged = p + tl.where(c == target, addition, 0.0)
        if SECOND_SOFTMAX:
            merged = tl.where(covered, tl.exp(merged) * factor, p)
        else:
            merged = tl.where(addition > 0, merged * factor, p)
        tl.store(out_ptr + c * plane, merged, mask=inside & (c < N))


def plan_probs(args: dict[str, Any], constants: dict[str, Any], rule: str, probs: Tensor) -> Launch:
    """The launch that writes scores, from the arguments that aggregate's launches share."""
    batch, classes, height, width = probs.shape
    # With many classes a thread needs more registers, and a program fewer threads. At 168 three
    # programs fit a multiprocessor; triton 3.6 spills up to 88 bytes a thread there on sm_100, and
    # would not at 192, where two fit.
    few = classes <= 4
    keep = classes <= KEPT
    block_y, block_x = 4, 64 if few else 32
    tiles_y, tiles_x = ceil_div(height, block_y), ceil_div(width, block_x)
    return Launch(
        _merge_probs_kernel,
        batch * tiles_y * tiles_x,
        {
            **args,
            "probs_ptr": probs,
            "num_classes": classes,
            "tiles_y": tiles_y,
            "tiles_x": tiles_x,
        },
        {
            **constants,
            "SECOND_SOFTMAX": rule == "paper",
            "KEEP": keep,
            "CLASSES": pow2(classes) if keep else 8,
            "BLOCK_Y": block_y,
            "BLOCK_X": block_x,
        },
        num_warps=8 if few else 4,
        max_registers=128 if few else 168 if classes <= 16 else 255,
    )
