"""Coarse logits at full size: bilinear taps and first argmax, as device functions.

Taps are those of F.interpolate(size=..., mode="bilinear", align_corners=False):
source = max(0, scale * (dst + 0.5) - 0.5), scale = in / out, in float32 rounded once (a fused
multiply-add). All four taps are multiplied, also those of weight 0, so that a NaN or infinity among
them counts; along an axis that is not resized both taps are the pixel itself.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def source_position(dst, scale):
    """Clamped source position (float32) of output position `dst`."""
    return tl.maximum(tl.fma(dst.to(tl.float32) + 0.5, scale + 0.0, -0.5), 0.0)


@triton.jit
def first_tap(dst, scale, in_size):
    """Index of the first of the two taps of `dst`."""
    # Rounding may reach in_size on long axes; the tap must not.
    return tl.minimum(source_position(dst, scale).to(tl.int32), in_size - 1)


@triton.jit
def second_weight(dst, first, scale):
    """Weight of the second tap of `dst`, whose first tap is `first`; the other's is 1 minus it."""
    return tl.minimum(source_position(dst, scale) - first.to(tl.float32), 1.0)


@triton.jit
def to_second_tap(first, in_size, out_size, stride):
    """Elements from the first tap to the second, `stride` or 0."""
    return tl.where((first < in_size - 1) & (in_size != out_size), stride, 0)


@triton.jit
def first_output(tap, scale, ratio, in_size, out_size):
    """Smallest output position whose first tap is at least `tap`; out_size for tap >= in_size.

    The inverse of first_tap for out_size >= in_size, exact: the estimate is off by at most one, and
    first_tap's own arithmetic decides. ratio = out / in.
    """
    estimate = tl.ceil((tap.to(tl.float32) + 0.5) * ratio - 0.5).to(tl.int32)
    wanted = tap.to(tl.float32)
    estimate = tl.where(source_position(estimate - 1, scale) >= wanted, estimate - 1, estimate)
    estimate = tl.where(source_position(estimate, scale) < wanted, estimate + 1, estimate)
    found = tl.where(tap <= 0, 0, tl.minimum(estimate, out_size))
    return tl.where(tap >= in_size, out_size, found)


@triton.jit
def first_argmax(
    base_ptr, offsets, valid, stride_n, N: tl.constexpr, CLASS_BLOCK: tl.constexpr,
    UNROLL: tl.constexpr = 8,
):  # fmt: skip
    """Largest of N logits at each position and the first class that has it.

    Args:
        base_ptr: pointer to the logits of class 0 of an image.
        offsets: int64 [P], elements from there to a position.
        valid: [P]; others give -inf and class 0. None where all positions may be read.
        stride_n: elements between classes.
        N: number of classes.
        CLASS_BLOCK: 0 for one load per class, else how many classes are read at once: see
            `_launch.class_block`, which says where that can be.
        UNROLL: classes per step: enough loads in flight, few enough for the registers.

    Returns:
        best, float32 [P], -inf where no logit is above it; label, int32 [P], then 0.
    """
    best = tl.zeros_like(offsets.to(tl.float32)) + float("-inf")
    label = tl.zeros_like(offsets.to(tl.int32))
    if CLASS_BLOCK > 0:
        lanes = tl.arange(0, CLASS_BLOCK)
        ptrs = base_ptr + tl.multiple_of(offsets, CLASS_BLOCK)[:, None] + lanes[None, :]
        for c0 in range(0, N, CLASS_BLOCK):
            if valid is None:
                value = tl.load(ptrs).to(tl.float32)
            else:
                value = tl.load(ptrs, mask=valid[:, None], other=float("-inf")).to(tl.float32)
            ptrs += CLASS_BLOCK
            value = tl.where(value == value, value, float("-inf"))
            top = tl.max(value, axis=1)
            lane = tl.min(tl.where(value == top[:, None], lanes[None, :], CLASS_BLOCK), axis=1)
            better = top > best
            best = tl.where(better, top, best)
            label = tl.where(better, c0 + lane, label)
    else:
        ptrs = base_ptr + offsets
        for c in tl.range(0, N, loop_unroll_factor=UNROLL):
            if valid is None:
                value = tl.load(ptrs).to(tl.float32)
            else:
                value = tl.load(ptrs, mask=valid, other=float("-inf")).to(tl.float32)
            better = value > best
            best = tl.where(better, value, best)
            label = tl.where(better, c, label)
            ptrs += stride_n
    return best, label


@triton.jit
def bilinear_argmax(p00, p01, p10, p11, wy, wx, stride_n, n, UNROLL: tl.constexpr):
    """First argmax of N interpolated logits; NaN counts as -inf, none above it gives class 0.

    One lane per column of pixels that share their taps; its R pixels stay in its thread while a
    step has at least as many lanes as the program has threads.

    Args:
        p00: pointers to class 0 of the first tap along y and x, [L], all of them to be read: a load
            that needs no mask is one instruction.
        p01: of the second tap along x.
        p10: of the second tap along y.
        p11: of both second taps.
        wy: weights of the second taps along y, [R, L].
        wx: along x, [L].
        stride_n: elements between classes.
        n: number of classes; not a constexpr, or ptxas would unroll short loops and hoist their
            loads into more registers than there are.
        UNROLL: classes per step, of four loads each.

    Returns:
        int32 [R, L].
    """
    wy0 = 1.0 - wy
    wx0 = 1.0 - wx
    best = tl.zeros_like(wy) + float("-inf")
    label = tl.zeros_like(wy).to(tl.int32)
    for c in tl.range(0, n, loop_unroll_factor=UNROLL):
        left = tl.load(p00).to(tl.float32)
        right = tl.load(p01).to(tl.float32)
        top = tl.fma(right, wx, left * wx0)
        left = tl.load(p10).to(tl.float32)
        right = tl.load(p11).to(tl.float32)
        bottom = tl.fma(right, wx, left * wx0)
        value = tl.fma(bottom[None, :], wy, top[None, :] * wy0)
        better = value > best
        best = tl.where(better, value, best)
        label = tl.where(better, c, label)
        p00 += stride_n
        p01 += stride_n
        p10 += stride_n
        p11 += stride_n
    return label
