"""Windows on the device: where they are, and which of them reach a rectangle, in slot order."""

from __future__ import annotations

import triton
import triton.language as tl

from ._launch import pow2

NO_SLOT = (1 << 31) - 1


def slot_block(n: int) -> int:
    """The constexpr SLOTS of kernels that look for windows: how many they look at in one step."""
    return min(max(pow2(n), 16), 256)


@triton.jit
def slots_in_use(num_ptr, b, n):
    """`num` of image b, whatever that tensor holds within 0..n."""
    return tl.minimum(tl.maximum(tl.load(num_ptr + b), 0), n)


@triton.jit
def window_origin(origins_ptr, slot, window, H, W, valid=None):
    """Upper left pixel of the windows in `slot`, moved into the image should they leave it.

    The host cannot see origins without waiting for the device, so nothing else keeps addresses
    inside the image.
    """
    y = tl.load(origins_ptr + slot * 2, mask=valid)
    x = tl.load(origins_ptr + slot * 2 + 1, mask=valid)
    y = tl.minimum(tl.maximum(y, 0), H - window)
    x = tl.minimum(tl.maximum(x, 0), W - window)
    return y, x


@triton.jit
def next_window(origins_ptr, used, after, window, H, W, y0, y1, x0, x1, SLOTS: tl.constexpr,
                left_out=None, NONE: tl.constexpr = NO_SLOT):  # fmt: skip
    """Lowest slot above `after` whose window reaches the rectangle [y0, y1) x [x0, x1).

    Args:
        origins_ptr: int32 [n, 2] of an image.
        used: slots in use.
        after: slot, -1 to begin with.
        window: side of a window.
        H: rows of the image.
        W: columns of the image.
        y0: the rectangle, which is inside the image.
        y1: its end.
        x0: its first column.
        x1: their end.
        SLOTS: slots looked at in one step.
        left_out: slot that does not count, if any.
        NONE: the answer when there is none.
    """
    found = NONE
    start = after + 1
    while start < used:
        slot = start + tl.arange(0, SLOTS)
        valid = slot < used
        if left_out is not None:
            valid = valid & (slot != left_out)
        y, x = window_origin(origins_ptr, slot, window, H, W, valid)
        reaches = valid & (y < y1) & (y + window > y0) & (x < x1) & (x + window > x0)
        found = tl.min(tl.where(reaches, slot, NONE), 0)
        start = tl.where(found < NONE, used, start + SLOTS)
    return found
