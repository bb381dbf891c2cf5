"""The merge rule for pixels side by side: Eq. (1), read so that either network can overrule."""

from __future__ import annotations

import triton
import triton.language as tl

from ._classes import is_small
from ._coarse import coarse_logit, coarse_taps


@triton.jit
def any_of(found):
    """Whether any of [R, X] is true."""
    return tl.max(tl.max(found.to(tl.int32), 1), 0) > 0


@triton.jit
def parts_with(found, PARTS: tl.constexpr):
    """Bit k is set where any of the rows of part k of [R, X], of PARTS, is true."""
    if PARTS == 1:
        return any_of(found).to(tl.int32)
    R: tl.constexpr = found.shape[0]
    bit = tl.arange(0, R) // (R // PARTS)
    return tl.reduce_or(tl.reduce_or(found.to(tl.int32) << bit[:, None], 0), 0)


@triton.jit
def part_of(value, k, PARTS: tl.constexpr):
    """The rows of part k of a number each of [R, X], of PARTS."""
    if PARTS == 1:
        return value
    R: tl.constexpr = value.shape[0]
    X: tl.constexpr = value.shape[1]
    chosen = tl.arange(0, R) // (R // PARTS) == k
    value = tl.where(chosen[:, None], value, tl.zeros_like(value))
    return tl.sum(tl.reshape(value, [PARTS, R // PARTS, X]), 0)


@triton.jit
def _raised(
    logits, at00, at01, at10, at11, wy, wx, label, small, p_f, num_classes, words,
    RESIZED: tl.constexpr, NUM_WORDS: tl.constexpr, N: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Labels of pixels whose p_f contradicts them: the other side's best class if that wins.

    Its only rival is the coarse label, which has the largest logit.
    """
    own_ptr = logits.ptr + label.to(tl.int64) * logits.stride_n
    top = coarse_logit(own_ptr, at00, at01, at10, at11, wy, wx, RESIZED)
    total = tl.zeros_like(p_f)
    best = total + float("-inf")
    target = tl.zeros_like(label) - 1
    class_ptr = logits.ptr
    for i in tl.range(0, num_classes, loop_unroll_factor=UNROLL):
        c = tl.full([], 0, tl.int32) + i
        value = coarse_logit(class_ptr, at00, at01, at10, at11, wy, wx, RESIZED)
        class_ptr += logits.stride_n
        total += tl.exp(value - top)
        better = (value > best) & (is_small(c, words, NUM_WORDS, N) != small)
        best = tl.where(better, value, best)
        target = tl.where(better, c, target)
    if any_of(target < 0):
        # All classes on that side are at -inf: the first one, if the side has any.
        none = target < 0
        for i in range(num_classes):
            c = tl.full([], -1, tl.int32) + num_classes - i
            other = is_small(c, words, NUM_WORDS, N) != small
            target = tl.where(none & other, c, target)
    # Where the largest logit is infinite, its class has probability 1.
    finite = tl.abs(top) < float("inf")
    p = tl.where(finite, 1.0 / total, 1.0)
    raised = tl.where(finite, tl.exp(best - top) / total, 0.0)
    raised += tl.where(small, 1.0 - p_f, p_f)
    wins = (raised > p) | ((raised == p) & (target < label))
    return tl.where(wins & (target >= 0), target, label)


@triton.jit
def _official(
    logits, at00, at01, at10, at11, wy, wx, label, p_f, num_classes, words,
    RESIZED: tl.constexpr, NUM_WORDS: tl.constexpr, N: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """First argmax after p_f was added to the logits of C."""
    top = tl.zeros_like(p_f) + float("-inf")
    found = tl.zeros_like(label)
    class_ptr = logits.ptr
    for i in tl.range(0, num_classes, loop_unroll_factor=UNROLL):
        c = tl.full([], 0, tl.int32) + i
        value = coarse_logit(class_ptr, at00, at01, at10, at11, wy, wx, RESIZED)
        class_ptr += logits.stride_n
        value += tl.where(is_small(c, words, NUM_WORDS, N), p_f, 0.0)
        found = tl.where(value > top, c, found)
        top = tl.maximum(top, value)
    return found


@triton.jit
def merged_labels(
    logits, resize_y, resize_x, y, x, label, small, p_f, num_classes, words,
    RESIZED: tl.constexpr, OFFICIAL: tl.constexpr, NUM_WORDS: tl.constexpr, N: tl.constexpr,
    UNROLL: tl.constexpr = 4,
):  # fmt: skip
    """Labels of pixels after merging.

    Args:
        logits: Logits of the image.
        resize_y: Resize of its rows.
        resize_x: of its columns.
        y: rows of the pixels, [R, 1].
        x: their columns, [1, X].
        label: their coarse labels, int32 [R, X].
        small: whether those are in C.
        p_f: the fine network's probability of a small object. Except with OFFICIAL, results are
            valid only where p_f contradicts `small`.
        num_classes: number of classes.
        words: the set C.
        RESIZED: logits are not of the image's size.
        OFFICIAL: rule "official", which adds p_f to the logits of C.
        NUM_WORDS: of `words` in use.
        N: `num_classes` as a constexpr.
        UNROLL: classes whose loads are in flight together.
    """
    at00, at01, at10, at11, wy, wx = coarse_taps(
        y, x, logits.stride_y, logits.stride_x, resize_y, resize_x, RESIZED
    )
    if OFFICIAL:
        return _official(
            logits, at00, at01, at10, at11, wy, wx, label, p_f, num_classes, words,
            RESIZED, NUM_WORDS, N, UNROLL,
        )  # fmt: skip
    return _raised(
        logits, at00, at01, at10, at11, wy, wx, label, small, p_f, num_classes, words,
        RESIZED, NUM_WORDS, N, UNROLL,
    )  # fmt: skip
