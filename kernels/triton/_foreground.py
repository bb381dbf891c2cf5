"""p_f, the fine network's probability of a small object, at the pixels of a tile."""

from __future__ import annotations

import triton
import triton.language as tl

from ._coarse import coarse_taps, interpolated
from ._windows import NO_SLOT, next_window, window_origin


@triton.jit
def foreground(
    fine_ptr, origins_ptr, used, owner, alone, window, H, W, y, x, inside, y0, y1, x0, x1,
    stride_patch, stride_c, stride_y, stride_x, resize_y, resize_x,
    TWO_CHANNELS: tl.constexpr,
    RESIZED: tl.constexpr,
    SLOTS: tl.constexpr,
    NONE: tl.constexpr = NO_SLOT,
):  # fmt: skip
    """Mean over the covering windows, summed in slot order, of the sigmoid of their fine logit.

    Args:
        fine_ptr: logits of the image's slots, [n, 1 or 2, hf, wf].
        origins_ptr: int32 [n, 2].
        used: slots in use.
        owner: pixels covered by a slot below it are left out; 0: none are.
        alone: the only slot whose window may reach the pixels, if that is known; -1.
        window: side of a window.
        H: rows of the image.
        W: its columns.
        y: rows of the pixels, [R, 1].
        x: their columns, [1, X].
        inside: which of them are to be looked at, [R, X].
        y0: rectangle that holds them: first row.
        y1: its end.
        x0: first column.
        x1: its end.
        stride_patch: of the fine logits.
        stride_c: between the two channels.
        stride_y: of rows.
        stride_x: of columns.
        resize_y: Resize of rows from a fine answer to a window.
        resize_x: its columns.
        TWO_CHANNELS: the foreground logit is l1 - l0.
        RESIZED: hf x wf is not window x window.
        SLOTS: see `next_window`.
        NONE: what `next_window` returns if there is none.

    Returns:
        p_f, float32 [R, X], and whether it stands: a pixel counts as not covered where it is NaN.
    """
    total = tl.zeros_like(inside).to(tl.float32)
    covers = tl.zeros_like(total)
    slot = alone
    if alone < 0:
        slot = next_window(origins_ptr, used, -1, window, H, W, y0, y1, x0, x1, SLOTS)
    while slot < NONE:
        top, left = window_origin(origins_ptr, slot, window, H, W)
        row = y - top
        column = x - left
        here = inside & (row >= 0) & (row < window) & (column >= 0) & (column < window)
        if slot < owner:
            inside = inside & ~here
        else:
            patch_ptr = fine_ptr + slot.to(tl.int64) * stride_patch
            at00, at01, at10, at11, wy, wx = coarse_taps(
                tl.minimum(tl.maximum(row, 0), window - 1),
                tl.minimum(tl.maximum(column, 0), window - 1), stride_y, stride_x,
                resize_y, resize_x, RESIZED,
            )  # fmt: skip
            logit = interpolated(
                patch_ptr, stride_c, at00, at01, at10, at11, wy, wx, RESIZED, TWO_CHANNELS
            )
            p = tl.div_rn(1.0, 1.0 + tl.exp(-logit))
            total += tl.where(here, p, 0.0)
            covers += tl.where(here, 1.0, 0.0)
        if alone < 0:
            slot = next_window(origins_ptr, used, slot, window, H, W, y0, y1, x0, x1, SLOTS)
        else:
            slot = tl.zeros_like(slot) + NONE
    covered = inside & (covers > 0) & (total == total)
    if alone < 0:
        total = tl.div_rn(total, tl.maximum(covers, 1.0))
    return total, covered
