"""extract_patches: windows of an image, resampled and normalised, in one launch.

A program goes down the source rows of a strip of one patch. Each is resampled along x once, with
gain and bias applied (the weights along y add up to 1, so they commute), and kept while the outputs
below it need it; outputs that share their sources along y are made together. Lanes lie along a row
of the patches' memory: columns of one channel, or (column, channel) pairs for channels_last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._divider import divided, divider
from ._launch import (
    Launch,
    ceil_div,
    lanes_of_row,
    pow2,
    require_image,
    require_resized,
    strides_of,
)
from ._ptx import along_last
from ._resample import (
    cell_of,
    first_in_cell,
    of_channel,
    tap_source,
    tap_weight,
)
from ._upsample import dyadic, quotient
from ._windows import slots_in_use, window_origin

TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}
CHANNELS = 32  # per launch: gain and bias of each are passed by value
ENOUGH = 16 * 132  # warps that hide each other's loads: of an H100 or H200, 16 per multiprocessor


@triton.jit
def _source_row(row_ptr, columns, weights, gain, bias, TAPS: tl.constexpr):
    """A source row at the outputs of the lanes, [1, LANES]."""
    value = tl.load(row_ptr + columns[0]).to(tl.float32)
    if TAPS > 1:
        value *= weights[0]
    for t in tl.static_range(1, TAPS):
        more = tl.load(row_ptr + columns[t]).to(tl.float32)
        value = tl.fma(more, weights[t], value)
    return tl.fma(value, gain, bias)


# Not specialised on what depends on the number of windows, which changes from image to image.
@triton.jit(do_not_specialize=["n", "cells"])
def _extract_patches_kernel(
    image_ptr,  # [B, C, H, W]
    origins_ptr,  # int32 [B, n, 2] contiguous
    num_ptr,  # int32 [B]
    patches_ptr,  # [B*n, all channels, side, side], or with channels last, contiguous
    image_stride_b, image_stride_c, image_stride_y, image_stride_x,
    n, H, W, window, side, row, scale, ratio,
    out_stride_patch, out_stride_c, out_stride_y, out_stride_x,
    gains, biases,  # tuples of CHANNELS floats
    cells,
    slots,  # Divider: n
    strips,  # Divider
    lane_blocks,  # Divider
    planes,  # Divider
    CHANNELS_LAST: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    DYADIC: tl.constexpr,  # side / window is 2, 4, 8, ...
    ROWS: tl.constexpr,  # outputs made together along y
    LANES: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    program, block = divided(program, lane_blocks)
    lane = block * LANES + tl.arange(0, LANES)[None, :]
    program, strip = divided(program, strips)
    patch, plane = divided(program, planes)
    b, slot = divided(patch, slots)
    patch = patch.to(tl.int64)
    b = b.to(tl.int64)
    if CHANNELS_LAST:
        x = lane // CHANNELS
        c = lane % CHANNELS
    else:
        c = tl.zeros_like(lane) + plane
        x = lane
    valid = lane < row
    out_ptr = patches_ptr + patch * out_stride_patch
    if CHANNELS_LAST:
        out_ptr += lane
    else:
        out_ptr += plane.to(tl.int64) * out_stride_c
        out_ptr += lane.to(tl.int64) * out_stride_x
    line = tl.arange(0, ROWS)[:, None]
    first = strip * cells - (1 if TAPS == 4 else 0)
    y0 = tl.where(strip == 0, 0, first_in_cell(first, scale, ratio, window, side, TAPS, DYADIC))
    y1 = first_in_cell(first + cells, scale, ratio, window, side, TAPS, DYADIC)

    if slot >= slots_in_use(num_ptr, b, n):
        zero = tl.zeros([ROWS, LANES], tl.float32).to(patches_ptr.dtype.element_ty)
        for start in range(y0, y1, ROWS):
            y = start + line
            at = out_ptr + y.to(tl.int64) * out_stride_y
            tl.store(at, zero, mask=valid & (y < y1))
        return

    top, left = window_origin(origins_ptr, patch, window, H, W)
    image_ptr += b * image_stride_b + top.to(tl.int64) * image_stride_y
    image_ptr += left.to(tl.int64) * image_stride_x
    channel = c.to(tl.int64) * image_stride_c
    gain = of_channel(gains, c, CHANNELS)
    bias = of_channel(biases, c, CHANNELS)
    cell_x = cell_of(x, scale, window, TAPS)
    columns = ()
    weights = ()
    for t in tl.static_range(TAPS):
        source = tap_source(cell_x, window, t, TAPS)
        columns = columns + (along_last(channel + source.to(tl.int64) * image_stride_x),)
        weights = weights + (tap_weight(x, cell_x, scale, t, TAPS),)

    if TAPS == 1:
        for start in range(y0, y1, ROWS):
            y = start + line
            source_y = cell_of(y, scale, window, TAPS)
            wanted = valid & (y < y1)
            row_ptr = image_ptr + source_y.to(tl.int64) * image_stride_y
            value = _source_row(row_ptr, columns, weights, gain, bias, TAPS)
            at = out_ptr + y.to(tl.int64) * out_stride_y
            tl.store(at, value.to(patches_ptr.dtype.element_ty), mask=wanted)
    else:
        # Source rows of a cell, except the last one, which is read when the cell is reached.
        kept = ()
        for t in tl.static_range(TAPS - 1):
            source = tap_source(first, window, t, TAPS).to(tl.int64)
            kept = kept + (
                _source_row(
                    image_ptr + source * image_stride_y, columns, weights, gain, bias, TAPS
                ),
            )
        begin = y0
        for i in range(tl.minimum(cells, window - first)):
            cell = first + i
            source = tap_source(cell, window, TAPS - 1, TAPS).to(tl.int64)
            last = _source_row(
                image_ptr + source * image_stride_y, columns, weights, gain, bias, TAPS
            )
            end = first_in_cell(cell + 1, scale, ratio, window, side, TAPS, DYADIC)
            for start in range(begin, end, ROWS):
                y = start + line
                value = kept[0] * tap_weight(y, cell, scale, 0, TAPS)
                for t in tl.static_range(1, TAPS - 1):
                    value = tl.fma(kept[t], tap_weight(y, cell, scale, t, TAPS), value)
                value = tl.fma(last, tap_weight(y, cell, scale, TAPS - 1, TAPS), value)
                at = out_ptr + y.to(tl.int64) * out_stride_y
                tl.store(at, value.to(patches_ptr.dtype.element_ty), mask=valid & (y < end))
            begin = end
            if TAPS == 4:
                kept = (kept[1], kept[2], last)
            else:
                kept = (last,)


def axis_args(mode: str, window: int, side: int) -> tuple[int, dict[str, Any]]:
    """TAPS, and the arguments of the axes of patches of `side` pixels cut from `window` ones."""
    taps = 1 if side == window else TAPS[mode]
    return taps, {
        "window": window,
        "side": side,
        "scale": quotient(window, side),
        "ratio": quotient(side, window),
    }


def gains_and_biases(
    channels: int, scale: float, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(v * scale - mean) / std as v * gain + bias, per channel."""
    means = [0.0] * channels if mean is None else mean
    stds = [1.0] * channels if std is None else std
    gains = tuple(scale / s for s in stds)
    return gains, tuple(-m / s for m, s in zip(means, stds, strict=True))


def _cells(window: int, side: int, taps: int, warps: int, rows: int) -> int:
    """Source rows of a strip, a multiple of `rows`; a strip of all patches has `warps` warps.

    Taps of the lanes are found once per strip, and serve up to 128 rows of outputs if enough warps
    are left. Bilinear strips are shorter, as a program waits for each source row; for other modes
    short strips would repeat too many reads and taps.
    """
    most = ceil_div(side, 16 if taps == 2 else 32)
    strips = min(max(ENOUGH // warps, ceil_div(side, 128)), most)
    return ceil_div(ceil_div(window, strips), rows) * rows


def plan_extract_patches(
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    patches: Tensor,
    mode: str,
    scale: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    channels_last: bool,
    scratch: Any,
) -> list[Launch]:
    """The launches of `extract_patches`: one per 32 channels."""
    channels, side = patches.shape[1:3]
    if patches.numel() == 0:
        return []
    require_image("extract_patches", *image.shape[2:], origins.shape[1])
    require_resized("extract_patches", "windows", (window, window), (side, side))
    taps, axis = axis_args(mode, window, side)
    gains, biases = gains_and_biases(channels, scale, mean, std)
    launches = []
    for c0 in range(0, channels, CHANNELS):
        count = min(CHANNELS, channels - c0)
        together = channels_last and count == channels
        row = side * (count if together else 1)
        lanes = lanes_of_row(row)
        lane_blocks = ceil_div(row, lanes)
        rows = min(pow2(ceil_div(side, window)), 4) if taps > 1 else 1024 // lanes
        # Without resizing rows are independent and spread over warps; else a lane stays with its
        # columns, and a thread has eight lanes; of bicubic ones, four.
        warps = 4 if taps == 1 else max(lanes // (256 if taps == 2 else 128), 1)
        planes = 1 if together else count
        beside = len(patches) * planes * lane_blocks
        cells = _cells(window, side, taps, beside * warps, rows if taps == 1 else 1)
        strips = ceil_div(window + (taps == 4), cells)
        launches.append(
            Launch(
                _extract_patches_kernel,
                beside * strips,
                {
                    "image_ptr": image[:, c0:] if c0 else image,
                    "origins_ptr": origins,
                    "num_ptr": num,
                    "patches_ptr": patches[:, c0:] if c0 else patches,
                    **strides_of("image", image, "bcyx"),
                    "n": origins.shape[1],
                    **{"H": image.shape[2], "W": image.shape[3]},
                    **axis,
                    "row": row,
                    **strides_of("out", patches, ("patch", "c", "y", "x")),
                    **{"gains": gains[c0 : c0 + count], "biases": biases[c0 : c0 + count]},
                    **{"cells": cells, "slots": divider(origins.shape[1])},
                    "strips": divider(strips),
                    **{"lane_blocks": divider(lane_blocks), "planes": divider(planes)},
                },
                {
                    "CHANNELS_LAST": together,
                    "CHANNELS": count,
                    "TAPS": taps,
                    "DYADIC": window < side and dyadic(window, side),
                    "ROWS": rows,
                    "LANES": lanes,
                },
                num_warps=warps,
                max_registers=255 if taps == 4 else 168,
            )
        )
    return launches


def extract_patches(
    image: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    patches: Tensor,
    mode: str,
    scale: float,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    channels_last: bool,
    scratch: Any,
) -> None:
    """Cuts, resamples and normalises patches.

    Args:
        image: [B, C, H, W], uint8/uint16/int16/float16/bfloat16/float32, any strides.
        origins: int32 [B, n, 2] contiguous.
        num: int32 [B] contiguous, slots in use.
        window: side k, pixels.
        patches: [B*n, C, p, p] to be written, contiguous in the memory format wanted.
        mode: "nearest", "bilinear" or "bicubic".
        scale: factor of the values.
        mean: per channel, subtracted; or None.
        std: per channel, divided by; or None.
        channels_last: memory format of `patches`.
        scratch: not used.
    """
    for launch in plan_extract_patches(
        image, origins, num, window, patches, mode, scale, mean, std, channels_last, scratch
    ):
        launch.run()
