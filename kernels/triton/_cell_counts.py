"""First launch of count_windows and select_windows: small-object pixels of every bin, and labels.

One program counts one tile of bins and alone writes them: _direct_counts.py where each pixel has
its own label or logits, _upsampled_counts.py from coarse logits. Here are the tiles and the choice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._cells import Cells, cells_over
from ._classes import class_words, words_in_use
from ._direct_counts import _direct_counts_kernel
from ._launch import (
    MOST_NUMBERED,
    Launch,
    class_block,
    column_block,
    lacking,
    pow2,
    require_image,
    require_resized,
    strides_of,
)
from ._upsample import resize
from ._upsampled_counts import _upsampled_counts_kernel
from ._window_grid import NONE, Axis, make_axis

QUAD = 4  # labels that are one store
LARGE = 1 << 24  # from this many pixels on, tiles are as wide as possible
MOST_POINTS = 1024  # source pixels of a tile: eight of each thread of four warps
MOST_PX = 384  # of other tiles along x
# Tiles labelled row by row (_cell_rows.py): pixels along x, fewest of them, and warps.
WIDE, ROW_PX, ROW_WARPS = 480, MOST_PX + 1, 2


def tile_width(seg: Tensor, height: int, width: int) -> int:
    """Pixels of a tile along x, by the size of the whole task; along y they are at most 32.

    Wider tiles read fewer source pixels twice (a tile of 32 x 384 at x4 reads 1.28 times its share,
    one of 32 x 32 1.6 times) and compute less per pixel, narrower ones give small images enough
    programs to fill a GPU: at 512 x 512 there are 256 of 32 x 32.
    """
    area = height * width * seg.shape[0]
    widest = MOST_PX if area >= LARGE else 192 if area >= 1 << 22 else 64 if area >= 1 << 20 else 32
    h, w = seg.shape[-2:]
    if not seg.is_floating_point():
        return min(widest, 128)  # every pixel is looked at by itself
    block = column_block(seg)
    for columns in (MOST_PX, 192, 128, 64):
        points = cells_over(h, w, height, width, 32, columns, block).points
        if columns <= widest and points <= MOST_POINTS:
            return columns
    return 32


def row_width(seg: Tensor, height: int, width: int) -> int:
    """Pixels along x of tiles to be labelled row by row (_cell_rows.py); 0 where none should be."""
    if not seg.is_floating_point() or height * width * seg.shape[0] < LARGE:
        return 0
    h, w = seg.shape[-2:]
    # As many source pixels as a row of a program's threads has, or a few times that, of which whole
    # blocks of classes must fit into registers; and which of the cells below each other are mixed
    # is bits of a word.
    cells = cells_over(h, w, height, width, 32, WIDE, column_block(seg), by_row=True)
    most = 64 if class_block(seg) else 128
    fits = 32 * ROW_WARPS < cells.points_x <= most * ROW_WARPS and cells.points_y <= 33
    return WIDE if fits else 0


def label_warps(cells: Cells) -> int:
    """Warps of a program that labels the source pixels of a tile.

    As many as give a thread four loads per class, or per block of them; eight spill.
    """
    return 4 if cells.points <= MOST_POINTS // 2 * cells.column_block else 8


def bin_grid(
    op: str, seg: Tensor, height: int, width: int, window: int, stride: int, flush: bool
) -> tuple[Axis, Axis]:
    """The window grid of an image, cut into tiles."""
    require_image(op, height, width)
    require_resized(op, "logits", seg.shape[-2:], (height, width))
    # From strides of 8 on a tile is one row of bins, so columns are summed before they are added.
    y = make_axis(height, window, stride, flush, min(stride, 32) if stride >= 8 else 16)
    # With several rows of bins pixels are added one by one, which takes registers.
    widest = min(tile_width(seg, height, width), MOST_PX if y.tile_bins == 1 else 128)
    by_row = row_width(seg, height, width)
    if y.tile_bins == 1 and 2 * min(stride, width - window + 1) <= by_row:
        widest = by_row
    x = make_axis(width, window, stride, flush, widest)
    bins = y.bins * x.bins  # no fewer than windows
    if bins > MOST_NUMBERED:
        raise lacking(op, f"at most {MOST_NUMBERED} bins (parts of windows) per image", bins)
    return y, x


def quad_bins(x: Axis) -> bool:
    """Whether tiles and bins start at multiples of 4, and the axis ends at one."""
    cuts = [x.size, x.stride, x.rest, x.unit, *([x.flush_px] if x.flush_px != NONE else [])]
    return all(cut % QUAD == 0 for cut in cuts)


def plan_cell_counts(
    seg: Tensor, table: bytes, y: Axis, x: Axis, bins: Tensor, scratch: Any, labels: Tensor | None
) -> Launch:
    """The launch that counts bins.

    Args:
        seg: logits [B, N, h, w] or a label map [B, H, W], not empty, any strides.
        table: 256 bytes, 1 where the class is small.
        y: rows of the grid.
        x: its columns.
        bins: int32, at least B * y.bins * x.bins elements; all of those are written.
        scratch: function (name, dtype, numel) -> Tensor.
        labels: uint8 [B, H, W] contiguous to be written, or None.
    """
    args = {
        **{"seg_ptr": seg, "labels_ptr": labels, "bins_ptr": bins},
        **{"grid_y": y, "grid_x": x},
        **class_words(table),
    }
    constants = {
        "NUM_WORDS": words_in_use(table),
        "WRITE_LABELS": labels is not None,
        "ONE_BIN": y.tile_bins == x.tile_bins == 1,
        "ONE_ROW": y.tile_bins == 1,
        "BINS_X": pow2(x.tile_bins),
        **{"BLOCK_Y": pow2(y.tile_px), "BLOCK_X": pow2(x.tile_px)},
    }
    if seg.is_floating_point() and seg.shape[-2:] != (y.size, x.size):
        return _plan_upsampled(seg, y, x, scratch, labels, args, constants)
    return _plan_direct(seg, y, x, args, constants)


def _plan_direct(
    seg: Tensor, y: Axis, x: Axis, args: dict[str, Any], constants: dict[str, Any]
) -> Launch:
    if seg.is_floating_point():
        strides = strides_of("seg", seg, "bnyx")
        constants |= {"N": seg.shape[1], "CLASS_BLOCK": class_block(seg)}
    else:
        strides = {**strides_of("seg", seg, "byx"), "seg_stride_n": 0}
        constants |= {"N": 0, "CLASS_BLOCK": 0}
    return Launch(
        _direct_counts_kernel,
        seg.shape[0] * y.tiles.number * x.tiles.number,
        {**args, **strides},
        constants,
        num_warps=8 if constants["BLOCK_Y"] * constants["BLOCK_X"] >= 2048 else 4,
        max_registers=128,
    )


def _plan_upsampled(
    seg: Tensor,
    y: Axis,
    x: Axis,
    scratch: Any,
    labels: Tensor | None,
    args: dict[str, Any],
    constants: dict[str, Any],
) -> Launch:
    batch, classes, h, w = seg.shape
    programs = batch * y.tiles.number * x.tiles.number
    by_row = y.tile_bins == 1 < x.tile_bins and x.tile_px >= ROW_PX
    cells = cells_over(h, w, y.size, x.size, y.tile_px, x.tile_px, column_block(seg), by_row)
    warps = ROW_WARPS if by_row else label_warps(cells)
    return Launch(
        _upsampled_counts_kernel,
        programs,
        {
            **args,
            **strides_of("seg", seg, "bnyx"),
            "mixed_ptr": scratch("mixed", torch.int32, programs * cells.scratch),
            "num_classes": classes,
            **{"resize_y": resize(h, y.size), "resize_x": resize(w, x.size)},
        },
        {
            **constants,
            **{"N": classes, "CLASS_BLOCK": class_block(seg)},
            "UNROLL": 16 if cells.points <= 128 * warps else 8,
            "CHUNK_X": min(max(constants["BLOCK_X"], QUAD), 128),
            "QUADS": labels is not None and quad_bins(x) and labels.data_ptr() % QUAD == 0,
            "QUAD_BINS": quad_bins(x),
            "BY_ROW": by_row,
            "TOGETHER": seg.dtype == torch.float16 and cells.column_block == 2,
            "CELLS": cells,
            "LANES": 32 * warps,
        },
        num_warps=warps,
        max_registers=128,
    )
