"""Gradient of extract_patches in the image: a gather, so that every sum has a fixed order.

A program makes one tile of one plane. It takes the windows that reach the tile in slot order; each
pixel sums the outputs that read it, with the weights of the forward pass, row by row of outputs.
Weights along x are the same for all these rows, and are kept in registers if there are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import triton
import triton.language as tl
from torch import Tensor

from ._divider import divided, divider
from ._launch import Launch, ceil_div, pow2, require_image, require_resized, strides_of
from ._ptx import along_last
from ._resample import cell_of, first_in_cell, of_channel, tap_source, tap_weight
from ._upsample import quotient, unclamped_positions
from ._windows import NO_SLOT, next_window, slot_block, slots_in_use, window_origin
from .extract_patches import CHANNELS, axis_args, gains_and_biases

HELD = 12  # most weights along x of a pixel that are kept in registers


@triton.jit
def _outputs_of(source, scale, ratio, window, side, TAPS: tl.constexpr):
    """Outputs [first, end) that may have `source` among their taps."""
    # Taps are the cell and the one after it; bicubic ones reach one further on both sides.
    before: tl.constexpr = 0 if TAPS == 1 else TAPS // 2
    after: tl.constexpr = 2 if TAPS == 4 else 1
    first = first_in_cell(source - before, scale, ratio, window, side, TAPS)
    end = first_in_cell(source + after, scale, ratio, window, side, TAPS)
    # Clamped taps: outputs whose taps lie outside the window read its first or last source.
    first = tl.where(source == 0, 0, first)
    return first, tl.where(source == window - 1, side, end)


@triton.jit
def _weight_of(dst, source, scale, window, TAPS: tl.constexpr):
    """Weight of `source` in output `dst`."""
    cell = cell_of(dst, scale, window, TAPS)
    total = tl.zeros_like(dst).to(tl.float32)
    for t in tl.static_range(TAPS):
        here = tap_source(cell, window, t, TAPS) == source
        total += tl.where(here, tap_weight(dst, cell, scale, t, TAPS), 0.0)
    return total


@triton.jit
def _along_x(dst, end, column, scale, window, stride_x, TAPS: tl.constexpr):
    """Where outputs `dst` of a row are, and their weights; those from `end` on have none."""
    # Outputs from `end` on lie outside the patch; their computed weights may not be finite.
    weight = tl.where(dst < end, _weight_of(dst, column, scale, window, TAPS), 0.0)
    return dst.to(tl.int64) * stride_x, weight


@triton.jit
def _add(row_ptr, place, weight, wanted, total):
    """`total` after an output of each pixel, which weighs nothing if it is not wanted."""
    grad = tl.load(row_ptr + along_last(place), mask=wanted, other=0.0)
    return tl.fma(grad.to(tl.float32), weight, total)


@triton.jit(do_not_specialize=["last_x"])
def _extract_patches_backward_kernel(
    grad_ptr,  # [B*n, C, side, side]
    origins_ptr,  # int32 [B, n, 2] contiguous
    num_ptr,  # int32 [B]
    found_ptr,  # [B, C, H, W] contiguous
    grad_stride_patch, grad_stride_c, grad_stride_y, grad_stride_x,
    n, C, H, W, window, side, scale, ratio,
    gains,  # tuple of CHANNELS floats
    c0,
    tiles_y,  # Divider
    tiles_x,  # Divider
    last_x,  # where the last tile of a row starts
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    READS: tl.constexpr,  # most outputs of a row that read a pixel; 0: too many to hold weights of
    SLOTS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    NONE: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    # The last tile of a row is moved back until it fits. The compiler then knows no multiple for x
    # and gives neighbouring columns to neighbouring lanes: a thread computes weights of one column.
    program, tile_x = divided(program, tiles_x)
    own_x0 = tile_x * BLOCK_X
    x0 = tl.minimum(own_x0, last_x)
    program, tile_y = divided(program, tiles_y)
    y0 = tile_y * BLOCK_Y
    c = program % CHANNELS
    b = (program // CHANNELS).to(tl.int64)
    y = y0 + tl.arange(0, BLOCK_Y)[:, None]
    x = x0 + tl.arange(0, BLOCK_X)[None, :]
    y1 = tl.minimum(y0 + BLOCK_Y, H)
    x1 = x0 + BLOCK_X
    origins_ptr += b * n * 2
    used = slots_in_use(num_ptr, b, n)
    total = tl.zeros([BLOCK_Y, BLOCK_X], tl.float32)
    slot = next_window(origins_ptr, used, -1, window, H, W, y0, y1, x0, x1, SLOTS)
    while slot < NONE:
        top, left = window_origin(origins_ptr, slot, window, H, W)
        row = y - top
        column = x - left
        first_y, end_y = _outputs_of(row, scale, ratio, window, side, TAPS)
        first_x, end_x = _outputs_of(column, scale, ratio, window, side, TAPS)
        end_y = tl.where((row >= 0) & (row < window), end_y, first_y)
        end_x = tl.where((column >= 0) & (column < window), end_x, first_x)
        plane_ptr = grad_ptr + (b * n + slot) * grad_stride_patch
        plane_ptr += (c + c0).to(tl.int64) * grad_stride_c
        found = tl.zeros([BLOCK_Y, BLOCK_X], tl.float32)
        places = ()
        weights = ()
        for j in tl.static_range(READS):
            place, weight = _along_x(first_x + j, end_x, column, scale, window, grad_stride_x, TAPS)
            places = places + (place,)
            weights = weights + (weight,)
        for i in range(tl.max(tl.max(end_y - first_y, 1), 0)):
            at_y = first_y + i
            row_ptr = plane_ptr + at_y.to(tl.int64) * grad_stride_y
            across = tl.zeros([BLOCK_Y, BLOCK_X], tl.float32)
            for j in tl.static_range(READS):
                wanted = (at_y < end_y) & (first_x + j < end_x)
                across = _add(row_ptr, places[j], weights[j], wanted, across)
            if READS == 0:
                for j in range(tl.max(tl.max(end_x - first_x, 1), 0)):
                    place, weight = _along_x(
                        first_x + j, end_x, column, scale, window, grad_stride_x, TAPS
                    )
                    wanted = (at_y < end_y) & (first_x + j < end_x)
                    across = _add(row_ptr, place, weight, wanted, across)
            weight_y = _weight_of(at_y, row, scale, window, TAPS)
            found = tl.fma(across, tl.where(at_y < end_y, weight_y, 0.0), found)
        total = tl.fma(found, of_channel(gains, c, CHANNELS), total)
        slot = next_window(origins_ptr, used, slot, window, H, W, y0, y1, x0, x1, SLOTS)
    at = found_ptr + ((b * C + c + c0) * H + y) * W + x
    tl.store(at, total.to(found_ptr.dtype.element_ty), mask=(y < y1) & (x >= own_x0))


@lru_cache(maxsize=256)
def _most_reads(taps: int, window: int, side: int) -> int:
    """Outputs along an axis that read the same source, at most."""
    # The host's version of `cell_of` and `_outputs_of`.
    at = unclamped_positions(window, side)
    if taps == 1:
        at = np.float32(quotient(window, side)) * np.arange(side, dtype=np.float32)
    cell = np.floor(at).clip(-1 if taps == 4 else 0, window - 1)
    source = np.arange(window)
    first = np.searchsorted(cell, source - taps // 2)
    end = np.searchsorted(cell, source + max(taps // 2, 1))
    first[0], end[-1] = 0, side
    return int((end - first).max())


def plan_extract_patches_backward(
    grad: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    found: Tensor,
    mode: str,
    scale: float,
    std: Sequence[float] | None,
    scratch: Any,
) -> list[Launch]:
    """The launches of `extract_patches_backward`: one per 32 channels."""
    batch, channels, height, width = found.shape
    if found.numel() == 0:
        return []
    taps, axis = axis_args(mode, window, grad.shape[2])
    gains, _ = gains_and_biases(channels, scale, None, std)
    n = origins.shape[1]
    op, side = "extract_patches_backward", grad.shape[2]
    require_image(op, height, width, n)
    require_resized(op, "windows", (window, window), (side, side))
    reads = _most_reads(taps, window, side)
    block_y, block_x = 32, min(32, pow2(width + 1) // 2)
    tiles_y, tiles_x = ceil_div(height, block_y), ceil_div(width, block_x)
    return [
        Launch(
            _extract_patches_backward_kernel,
            batch * min(CHANNELS, channels - c0) * tiles_y * tiles_x,
            {
                "grad_ptr": grad,
                "origins_ptr": origins,
                "num_ptr": num,
                "found_ptr": found,
                **strides_of("grad", grad, ("patch", "c", "y", "x")),
                **{"n": n, "C": channels, "H": height, "W": width},
                **axis,
                "gains": gains[c0 : c0 + CHANNELS],
                **{"c0": c0, "tiles_y": divider(tiles_y), "tiles_x": divider(tiles_x)},
                "last_x": width - block_x,
            },
            {
                "CHANNELS": min(CHANNELS, channels - c0),
                "TAPS": taps,
                "READS": reads if reads <= HELD else 0,
                "SLOTS": slot_block(n),
                "BLOCK_Y": block_y,
                "BLOCK_X": block_x,
                "NONE": NO_SLOT,
            },
            num_warps=4,
            max_registers=255,
        )
        for c0 in range(0, channels, CHANNELS)
    ]


def extract_patches_backward(
    grad: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    found: Tensor,
    mode: str,
    scale: float,
    std: Sequence[float] | None,
    scratch: Any,
) -> None:
    """Gradient of `extract_patches`.

    Args:
        grad: of the patches, [B*n, C, p, p], float16/bfloat16/float32, any strides.
        origins: int32 [B, n, 2] contiguous.
        num: int32 [B] contiguous, slots in use.
        window: side k, pixels.
        found: gradient of the image [B, C, H, W], contiguous, to be written.
        mode: as in the forward call.
        scale: as in the forward call.
        std: as in the forward call.
        scratch: not used.
    """
    for launch in plan_extract_patches_backward(
        grad, origins, num, window, found, mode, scale, std, scratch
    ):
        launch.run()
