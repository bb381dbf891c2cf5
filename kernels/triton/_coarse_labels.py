"""Coarse labels that nothing counts: of a tile of `aggregate`, or of a whole large image.

A large image's labels are made by a launch of their own, whose tiles are so wide that cells are
gone over row by row (_cell_rows.py): that takes less than half the instructions per pixel.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._cell_counts import QUAD, ROW_WARPS
from ._cell_rows import agreed_rows
from ._cells import agreed_labels, cells_over, store_agreed, tile_over
from ._divider import divided, divider
from ._launch import Launch, ceil_div, class_block, column_block, pow2, strides_of
from ._mixed import contenders, mixed_cells, mixed_labels
from ._upsample import Logits, first_argmax, resize

TILE_Y = 32  # pixels along y of a tile that is gone over row by row, as `row_width` assumes


@triton.jit
def _store_mixed(
    logits, labels_ptr, mixed_ptr, mixed, num_classes, tile, resize_y, resize_x,
    N: tl.constexpr, CELLS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Evaluates the `mixed` cells that are listed, and stores the labels of their pixels."""
    # They were listed, and their labels 255 stored, by other threads.
    tl.debug_barrier()
    for start in range(0, mixed, LANES // CELLS.group):
        cell = mixed_cells(mixed_ptr, start, mixed, logits, tile, resize_y, resize_x, CELLS, LANES)
        contend, most = contenders(logits, cell, 0, min(N, 32), CELLS, LANES)
        for dy in range(0, tl.where(tile.row0 == 0, CELLS.first_y, CELLS.most_y), CELLS.cell_y):
            for dx in range(
                0, tl.where(tile.column0 == 0, CELLS.first_x, CELLS.most_x), CELLS.cell_x
            ):
                py, px, wanted, found = mixed_labels(
                    logits, cell, contend, most, num_classes, dy, dx, resize_y, resize_x,
                    N, CELLS, LANES,
                )  # fmt: skip
                at = labels_ptr + py.to(tl.int64) * resize_x.full + px
                tl.store(at, found.to(tl.uint8), mask=wanted)


@triton.jit
def store_labels(
    logits, labels_ptr, mixed_ptr, num_classes, resize_y, resize_x, y0, y1, x0, x1,
    RESIZED: tl.constexpr, N: tl.constexpr, CLASS_BLOCK: tl.constexpr, UNROLL: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, CELLS: tl.constexpr, LANES: tl.constexpr,
    CHUNK_X: tl.constexpr, QUADS: tl.constexpr,
):  # fmt: skip
    """Writes the coarse labels of a tile."""
    if not RESIZED:
        pixel = tl.arange(0, BLOCK_Y * BLOCK_X)
        y = y0 + pixel // BLOCK_X
        x = x0 + pixel % BLOCK_X
        inside = (y < y1) & (x < x1)
        at = labels_ptr + y.to(tl.int64) * resize_x.full + x
        offsets = y.to(tl.int64) * logits.stride_y + x.to(tl.int64) * logits.stride_x
        _, label = first_argmax(logits.ptr, offsets, inside, logits.stride_n, N, CLASS_BLOCK)
        tl.store(at, label.to(tl.uint8), mask=inside)
    else:
        tile = tile_over(y0, y1, x0, x1, resize_y, resize_x, CELLS)
        cell_label, mixed = agreed_labels(
            logits, mixed_ptr, tile, resize_y, resize_x, N, CLASS_BLOCK, CELLS, LANES, UNROLL
        )
        store_agreed(
            cell_label, labels_ptr, tile, resize_y, resize_x, CELLS, BLOCK_Y, CHUNK_X, QUADS
        )
        _store_mixed(
            logits, labels_ptr, mixed_ptr, mixed, num_classes, tile, resize_y, resize_x,
            N, CELLS, LANES,
        )  # fmt: skip


@triton.jit
def _coarse_labels_kernel(
    coarse_ptr,  # [B, N, h, w]
    labels_ptr,  # uint8 [B, H, W] contiguous
    mixed_ptr,  # int32 [programs, CELLS.scratch], scratch
    coarse_stride_b, coarse_stride_n, coarse_stride_y, coarse_stride_x,
    num_classes,
    resize_y,  # Resize
    resize_x,
    tiles_y,  # Divider
    tiles_x,  # Divider
    N: tl.constexpr,
    CLASS_BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
    TOGETHER: tl.constexpr,  # see pair_labels
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,  # pixels of a tile
    COLUMNS: tl.constexpr,  # BLOCK_X rounded up to a power of two
    QUADS: tl.constexpr,  # four labels are one store
    CELLS: tl.constexpr,  # Cells
    LANES: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    rest, tile_x = divided(program, tiles_x)
    b, tile_y = divided(rest, tiles_y)
    b = b.to(tl.int64)
    image = b * coarse_stride_b
    if CLASS_BLOCK > 0:
        image = tl.multiple_of(image, CLASS_BLOCK)
    logits = Logits(coarse_ptr + image, coarse_stride_n, coarse_stride_y, coarse_stride_x)
    y0 = tile_y * BLOCK_Y
    x0 = tile_x * BLOCK_X
    y1 = tl.minimum(y0 + BLOCK_Y, resize_y.full)
    x1 = tl.minimum(x0 + BLOCK_X, resize_x.full)
    tile = tile_over(y0, y1, x0, x1, resize_y, resize_x, CELLS)
    labels_ptr += b * resize_y.full * resize_x.full
    mixed_ptr += program.to(tl.int64) * CELLS.scratch
    _, mixed = agreed_rows(
        logits, labels_ptr, mixed_ptr, tile, resize_y, resize_x, (),
        N, CLASS_BLOCK, 0, CELLS, UNROLL, COLUMNS, TOGETHER, True, QUADS,
    )  # fmt: skip
    _store_mixed(
        logits, labels_ptr, mixed_ptr, mixed, num_classes, tile, resize_y, resize_x,
        N, CELLS, LANES,
    )  # fmt: skip


def plan_rows(coarse: Tensor, out: Tensor, tile_x: int, scratch: Any) -> Launch:
    """The launch that labels an image in tiles of `tile_x` pixels, row by row of cells.

    Args:
        coarse: logits [B, N, h, w].
        out: uint8 [B, H, W] contiguous, to be written.
        tile_x: what `row_width` says.
        scratch: function (name, dtype, numel) -> Tensor.
    """
    batch, classes, h, w = coarse.shape
    height, width = out.shape[1:]
    cells = cells_over(h, w, height, width, TILE_Y, tile_x, column_block(coarse), by_row=True)
    tiles_y, tiles_x = ceil_div(height, TILE_Y), ceil_div(width, tile_x)
    programs = batch * tiles_y * tiles_x
    return Launch(
        _coarse_labels_kernel,
        programs,
        {
            **{"coarse_ptr": coarse, "labels_ptr": out},
            "mixed_ptr": scratch("mixed", torch.int32, programs * cells.scratch),
            **strides_of("coarse", coarse, "bnyx"),
            "num_classes": classes,
            **{"resize_y": resize(h, height), "resize_x": resize(w, width)},
            **{"tiles_y": divider(tiles_y), "tiles_x": divider(tiles_x)},
        },
        {
            **{"N": classes, "CLASS_BLOCK": class_block(coarse), "UNROLL": 8},
            "TOGETHER": coarse.dtype == torch.float16 and cells.column_block == 2,
            **{"BLOCK_Y": TILE_Y, "BLOCK_X": tile_x, "COLUMNS": pow2(tile_x)},
            "QUADS": width % QUAD == tile_x % QUAD == out.data_ptr() % QUAD == 0,
            "CELLS": cells,
            "LANES": 32 * ROW_WARPS,
        },
        num_warps=ROW_WARPS,
        # Above 32 classes, contenders are found in several steps: with 128 (sm_90) two would spill.
        max_registers=128 if classes <= 32 else 160,
    )
