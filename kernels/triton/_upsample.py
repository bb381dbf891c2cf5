"""Coarse logits at full size: bilinear taps and first argmax, as device functions.

Taps are those of F.interpolate(size=..., mode="bilinear", align_corners=False):
source = max(0, scale * (dst + 0.5) - 0.5), scale = in / out, in float32 rounded once (a fused
multiply-add). All four taps are multiplied, also those of weight 0, so that a NaN or infinity among
them counts; along an axis that is not resized both taps are the pixel itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray

from ._launch import pow2
from ._ptx import difference_in_unit

NOT_FINITE = 1 << 14  # added to labels, which are below it


class Logits(NamedTuple):
    """The coarse logits of an image, on the device."""

    ptr: tl.tensor  # to those of class 0
    stride_n: tl.tensor  # elements
    stride_y: tl.tensor
    stride_x: tl.tensor


class Resize(NamedTuple):
    """An axis of coarse logits and of the image; an argument of kernels as it is."""

    small: int  # source pixels
    full: int  # pixels
    scale: float  # small / full
    ratio: float  # full / small


@lru_cache(maxsize=256)
def resize(small: int, full: int) -> Resize:
    """The Resize of an axis; quotients are rounded to float32."""
    return Resize(small, full, quotient(small, full), quotient(full, small))


def quotient(a: int, b: int) -> float:
    """Quotient a / b in float32."""
    return float(np.float32(a) / np.float32(b))


def unclamped_positions(small: int, full: int) -> NDArray[np.float32]:
    """Source positions of all output positions, rounded as kernels round them."""
    # float64 holds the product of two float32 exactly: one rounding, as in an fma.
    return ((np.arange(full) + 0.5) * quotient(small, full) - 0.5).astype(np.float32)


def dyadic(small: int, full: int) -> bool:
    """Whether source positions are exact in float32: the ratio of the sizes is a power of two."""
    return full % small == 0 and pow2(full // small) == full // small and full < 1 << 22


@triton.jit
def _unclamped(dst, axis):
    return tl.fma(dst.to(tl.float32) + 0.5, axis.scale + 0.0, -0.5)


@triton.jit
def source_position(dst, axis):
    """Clamped source position (float32) of output position `dst`."""
    return tl.maximum(_unclamped(dst, axis), 0.0)


@triton.jit
def first_tap(dst, axis):
    """Index of the first of the two taps of `dst`."""
    # On long axes a position may round up to the end; the tap must stay inside.
    return tl.minimum(source_position(dst, axis).to(tl.int32), axis.small - 1)


@triton.jit
def second_weight(dst, first, axis):
    """Weight of the second tap of `dst`, whose first tap is `first`; the other's is 1 minus it."""
    # Negative positions have first tap 0: clamping the weight then clamps the position.
    return difference_in_unit(_unclamped(dst, axis), first.to(tl.float32))


@triton.jit
def to_second_tap(first, axis, stride):
    """Elements from the first tap to the second, `stride` or 0."""
    return tl.where((first < axis.small - 1) & (axis.small != axis.full), stride, 0)


@triton.jit
def inner_output(tap, axis, DYADIC: tl.constexpr):
    """Smallest output position whose first tap is at least `tap`, which is between 0 and the last.

    The inverse of first_tap for axes that do not shrink, exact: the estimate is off by at most one,
    and first_tap's own arithmetic decides. DYADIC: the ratio is a power of two, and nothing is
    rounded.
    """
    if DYADIC:
        steps = (tl.zeros([], tl.float32) + axis.ratio).to(tl.int32)
        return tap * steps + (steps >> 1)
    estimate = tl.ceil((tap.to(tl.float32) + 0.5) * axis.ratio - 0.5).to(tl.int32)
    wanted = tap.to(tl.float32)
    estimate = tl.where(_unclamped(estimate - 1, axis) >= wanted, estimate - 1, estimate)
    estimate = tl.where(_unclamped(estimate, axis) < wanted, estimate + 1, estimate)
    return tl.minimum(estimate, axis.full)


@triton.jit
def first_output(tap, axis, DYADIC: tl.constexpr):
    """As `inner_output`, of any tap: 0 for the first one, the end for those past the last."""
    found = tl.where(tap <= 0, 0, inner_output(tap, axis, DYADIC))
    return tl.where(tap >= axis.small, axis.full, found)


@triton.jit
def outputs_of(tap, first, last, start, end, axis, DYADIC: tl.constexpr):
    """Output positions [begin, beyond) of those in [start, end) whose first tap is `tap`.

    The first taps of all those are `first` to `last`; a `tap` before them has none.
    """
    begin = tl.where(tap <= first, start, inner_output(tap, axis, DYADIC))
    return begin, tl.where(tap >= last, end, inner_output(tap + 1, axis, DYADIC))


@triton.jit
def first_argmax(
    base_ptr, offsets, valid, stride_n, N: tl.constexpr, CLASS_BLOCK: tl.constexpr,
    UNROLL: tl.constexpr = 8,
):  # fmt: skip
    """Largest of N logits at each position and the first class that has it.

    Args:
        base_ptr: pointer to the logits of class 0 of an image.
        offsets: int64, of any shape P, elements from there to a position.
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
        # float16 is compared without conversion.
        OWN: tl.constexpr = base_ptr.dtype.element_ty == tl.float16
        if OWN:
            best = best.to(tl.float16)
        for c in tl.range(0, N, loop_unroll_factor=UNROLL):
            if valid is None:
                value = tl.load(ptrs)
            else:
                value = tl.load(ptrs, mask=valid, other=float("-inf"))
            if not OWN:
                value = value.to(tl.float32)
            better = value > best
            best = tl.where(better, value, best)
            label = tl.where(better, c, label)
            ptrs += stride_n
        best = best.to(tl.float32)
    return best, label


@triton.jit
def marked(best, label, MARK: tl.constexpr = NOT_FINITE):
    """Labels, with a mark where the largest logit is infinite or there is none.

    An infinite corner proves nothing about the pixels in between.
    """
    return tl.where(tl.abs(best) < float("inf"), label, label | MARK)
