"""One interpolated coarse logit per pixel, for pixels that are evaluated one by one."""

from __future__ import annotations

import triton
import triton.language as tl

from ._ptx import along_last
from ._upsample import first_tap, second_weight, to_second_tap


@triton.jit
def coarse_taps(y, x, stride_y, stride_x, resize_y, resize_x, RESIZED: tl.constexpr):
    """Offsets of the four taps of pixels y [R, 1], x [1, X], and the weights of the second ones."""
    if RESIZED:
        row = first_tap(y, resize_y)
        column = first_tap(x, resize_x)
        wy = second_weight(y, row, resize_y)
        wx = second_weight(x, column, resize_x)
    else:
        row = y
        column = x
        wy = tl.zeros_like(y).to(tl.float32)
        wx = tl.zeros_like(x).to(tl.float32)
    top = row.to(tl.int64) * stride_y
    left = column.to(tl.int64) * stride_x
    at00 = top + along_last(left)
    at01 = at00
    at10 = at00
    at11 = at00
    if RESIZED:
        right = along_last(left + to_second_tap(column, resize_x, stride_x))
        bottom = top + to_second_tap(row, resize_y, stride_y)
        at01 = top + right
        at10 = bottom + along_last(left)
        at11 = bottom + right
    return at00, at01, at10, at11, wy, wx


@triton.jit
def _tap(ptr, at, second, MARGIN: tl.constexpr):
    value = tl.load(ptr + at).to(tl.float32)
    if MARGIN:
        value = tl.load(ptr + second + at).to(tl.float32) - value
    return value


@triton.jit
def interpolated(
    ptr, second, at00, at01, at10, at11, wy, wx, RESIZED: tl.constexpr, MARGIN: tl.constexpr
):  # fmt: skip
    """The plane at `ptr` at the pixels of `coarse_taps`, float32; NaN stays NaN.

    With MARGIN, the plane `second` elements further on minus that one.
    """
    value = _tap(ptr, at00, second, MARGIN)
    if RESIZED:
        wx0 = 1.0 - wx
        top = tl.fma(_tap(ptr, at01, second, MARGIN), wx, value * wx0)
        left = _tap(ptr, at10, second, MARGIN)
        bottom = tl.fma(_tap(ptr, at11, second, MARGIN), wx, left * wx0)
        value = tl.fma(bottom, wy, top * (1.0 - wy))
    return value


@triton.jit
def coarse_logit(class_ptr, at00, at01, at10, at11, wy, wx, RESIZED: tl.constexpr):
    """As `interpolated`, but NaN counts as -inf."""
    value = interpolated(class_ptr, 0, at00, at01, at10, at11, wy, wx, RESIZED, False)
    return tl.where(value == value, value, float("-inf"))
