"""aggregate: coarse and fine answer merged, in one launch; large images' labels in two.

Labels. A program makes the coarse labels of a tile as count_windows does, then looks at the windows
that reach the tile, in slot order. Only pixels whose p_f contradicts their label are interpolated
and merged, in blocks that hold such a pixel; no N x H x W tensor is ever made. With labels given
(those select_windows wrote) there is one program per tile of a window instead, which skips pixels
that lower slots cover; the rest of the image is not touched. Labels of a large image are made first
by a launch of their own (_coarse_labels.py), and then given.

Scores (_merge_probs.py). A program writes the N planes of a tile.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._cell_counts import QUAD, label_warps, row_width, tile_width
from ._cells import cells_over
from ._classes import WORDS, class_words, is_small, words_in_use
from ._coarse_labels import plan_rows, store_labels
from ._divider import divided, divider
from ._foreground import foreground
from ._launch import (
    Launch,
    ceil_div,
    class_block,
    column_block,
    pow2,
    require_image,
    require_resized,
    strides_of,
)
from ._merge import merged_labels, part_of, parts_with
from ._merge_probs import plan_probs
from ._ptx import along_last
from ._upsample import Logits, resize
from ._windows import NO_SLOT, next_window, slot_block, slots_in_use, window_origin


@triton.jit(do_not_specialize=WORDS)
def _merge_labels_kernel(
    coarse_ptr,  # [B, N, h, w]
    labels_ptr,  # uint8 [B, H, W] contiguous; with GIVEN the coarse labels
    mixed_ptr,  # int32 [programs, CELLS.scratch], scratch, or None
    fine_ptr,  # [B*n, 1 or 2, hf, wf]
    origins_ptr,  # int32 [B, n, 2] contiguous
    num_ptr,  # int32 [B]
    coarse_stride_b, coarse_stride_n, coarse_stride_y, coarse_stride_x,
    fine_stride_patch, fine_stride_c, fine_stride_y, fine_stride_x,
    num_classes,
    resize_y,  # Resize
    resize_x,
    n, window,
    fine_y,  # Resize, of a window
    fine_x,
    tiles_y,  # Divider
    tiles_x,  # Divider
    slots,  # Divider: n
    word0, word1, word2, word3, word4, word5, word6, word7,
    GIVEN: tl.constexpr,
    OFFICIAL: tl.constexpr,
    RESIZED: tl.constexpr,
    N: tl.constexpr,
    CLASS_BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
    NUM_WORDS: tl.constexpr,
    TWO_CHANNELS: tl.constexpr,
    FINE_RESIZED: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,  # pixels of a tile
    ROWS: tl.constexpr,  # of a tile, whose p_f are found at once
    MERGED: tl.constexpr,  # of those, merged at once
    CHUNK_X: tl.constexpr,  # columns of coarse labels stored at once
    QUADS: tl.constexpr,  # four of those are one store
    CELLS: tl.constexpr,  # Cells
    LANES: tl.constexpr,
    NONE: tl.constexpr,
):  # fmt: skip
    words = (word0, word1, word2, word3, word4, word5, word6, word7)
    program = tl.program_id(0)
    rest, tile_x = divided(program, tiles_x)
    b, tile_y = divided(rest, tiles_y)
    owner = tl.zeros_like(b)
    if GIVEN:
        b, owner = divided(b, slots)
    b = b.to(tl.int64)
    used = slots_in_use(num_ptr, b, n)
    origins_ptr += b * n * 2
    image = b * coarse_stride_b
    if CLASS_BLOCK > 0:
        image = tl.multiple_of(image, CLASS_BLOCK)
    logits = Logits(coarse_ptr + image, coarse_stride_n, coarse_stride_y, coarse_stride_x)
    H = resize_y.full
    W = resize_x.full
    labels_ptr += b * H * W
    fine_ptr += b * n * fine_stride_patch
    if GIVEN:
        if owner >= used:
            return
        top, left = window_origin(origins_ptr, owner, window, H, W)
        y0 = top + tile_y * BLOCK_Y
        x0 = left + tile_x * BLOCK_X
        y1 = tl.minimum(y0 + BLOCK_Y, top + window)
        x1 = tl.minimum(x0 + BLOCK_X, left + window)
    else:
        y0 = tile_y * BLOCK_Y
        x0 = tile_x * BLOCK_X
        y1 = tl.minimum(y0 + BLOCK_Y, H)
        x1 = tl.minimum(x0 + BLOCK_X, W)
        if RESIZED:
            mixed_ptr += program.to(tl.int64) * CELLS.scratch
        store_labels(
            logits, labels_ptr, mixed_ptr, num_classes, resize_y, resize_x, y0, y1, x0, x1,
            RESIZED, N, CLASS_BLOCK, UNROLL, BLOCK_Y, BLOCK_X, CELLS, LANES, CHUNK_X, QUADS,
        )  # fmt: skip
    if GIVEN:
        other = next_window(origins_ptr, used, -1, window, H, W, y0, y1, x0, x1, SLOTS, owner)
        alone = tl.where(other == NONE, owner, -1)
    else:
        first = next_window(origins_ptr, used, -1, window, H, W, y0, y1, x0, x1, SLOTS)
        if first == NONE:
            return
        second = next_window(origins_ptr, used, first, window, H, W, y0, y1, x0, x1, SLOTS)
        alone = tl.where(second == NONE, first, -1)
        tl.debug_barrier()

    # Rows that no window reaches, and parts without a pixel to merge, cost one check each. Columns
    # are clamped: loads of logits need no mask, and the compiler picks no layout for wider loads.
    PARTS: tl.constexpr = ROWS // MERGED
    lane = x0 + tl.arange(0, BLOCK_X)[None, :]
    x = tl.minimum(lane + 1, x1) - 1  # x1 - 1 would be kept in a register from the tile on
    for row0 in range(y0, y1, ROWS):
        line = row0 + tl.arange(0, ROWS)[:, None]
        y = tl.minimum(line, y1 - 1)
        p_f, wanted = foreground(
            fine_ptr, origins_ptr, used, owner, alone, window, H, W, y, x,
            (line < y1) & (lane < x1), row0, tl.minimum(row0 + ROWS, y1), x0, x1,
            fine_stride_patch, fine_stride_c, fine_stride_y, fine_stride_x,
            fine_y, fine_x, TWO_CHANNELS, FINE_RESIZED, SLOTS,
        )  # fmt: skip
        at = labels_ptr + y.to(tl.int64) * W + along_last(x.to(tl.int64))
        # Only labels that no other program changes are read.
        label = tl.load(at, mask=wanted, other=0).to(tl.int32)
        small = is_small(label, words, NUM_WORDS, N)
        if not OFFICIAL:
            wanted = wanted & (small != (p_f >= 0.5))
        merged = parts_with(wanted, PARTS)
        for k in range(PARTS):
            if ((merged >> k) & 1) != 0:
                part_y = row0 + k * MERGED + tl.arange(0, MERGED)[:, None]
                part_y = tl.minimum(part_y, y1 - 1)
                own = part_of(label, k, PARTS)
                found = merged_labels(
                    logits, resize_y, resize_x, part_y, x, own,
                    is_small(own, words, NUM_WORDS, N), part_of(p_f, k, PARTS), num_classes, words,
                    RESIZED, OFFICIAL, NUM_WORDS, N,
                )  # fmt: skip
                part_at = labels_ptr + part_y.to(tl.int64) * W + along_last(x.to(tl.int64))
                changed = (part_of(wanted.to(tl.int32), k, PARTS) != 0) & (found != own)
                tl.store(part_at, found.to(tl.uint8), mask=changed)


def plan_aggregate(
    coarse: Tensor,
    fine: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    table: bytes,
    height: int,
    width: int,
    rule: str,
    out: Tensor,
    given: bool,
    scratch: Any,
) -> list[Launch]:
    """The launches of `aggregate`."""
    batch, classes, h, w = coarse.shape
    n = origins.shape[1]
    if out.numel() == 0:
        return []
    require_image("aggregate", height, width, n)
    require_resized("aggregate", "coarse logits", (h, w), (height, width))
    require_resized("aggregate", "fine logits", fine.shape[2:], (window, window))
    resized = (h, w) != (height, width)
    args = {
        "coarse_ptr": coarse,
        "fine_ptr": fine,
        "origins_ptr": origins,
        "num_ptr": num,
        **strides_of("coarse", coarse, "bnyx"),
        **strides_of("fine", fine, ("patch", "c", "y", "x")),
        **{"resize_y": resize(h, height), "resize_x": resize(w, width)},
        **{"n": n, "window": window},
        **{"fine_y": resize(fine.shape[2], window), "fine_x": resize(fine.shape[3], window)},
        **class_words(table),
    }
    constants = {
        "OFFICIAL": rule == "official",
        "RESIZED": resized,
        "N": classes,
        "NUM_WORDS": words_in_use(table),
        "TWO_CHANNELS": fine.shape[1] == 2,
        "FINE_RESIZED": tuple(fine.shape[2:]) != (window, window),
        "SLOTS": slot_block(n),
    }
    if out.dtype == torch.float32:
        return [plan_probs(args, constants, rule, out)]
    launches = []
    if not given and resized and (tile_x := row_width(coarse, height, width)):
        launches.append(plan_rows(coarse, out, tile_x, scratch))
        given = True
    block_y, block_x = (8, 32) if given else (32, min(tile_width(coarse, height, width), 128))
    block_y, block_x = min(block_y, pow2(height)), min(block_x, pow2(width))
    side_y, side_x = (window, window) if given else (height, width)
    tiles_y, tiles_x = ceil_div(side_y, block_y), ceil_div(side_x, block_x)
    programs = (batch * n if given else batch) * tiles_y * tiles_x
    if programs == 0:
        return launches
    listed = resized and not given
    cells = cells_over(1, 1, 1, 1, 1, 1)
    # Labels given: one warp per tile of a window, so that none waits for another's merging.
    warps = 1 if given else 8 if block_y * block_x >= 2048 else 4
    if listed:
        cells = cells_over(h, w, height, width, block_y, block_x, column_block(coarse))
        warps = label_warps(cells)
    rows = block_y if given else min(32 * warps // block_x, block_y)
    return [
        *launches,
        Launch(
            _merge_labels_kernel,
            programs,
            {
                **args,
                "labels_ptr": out,
                "num_classes": classes,
                "mixed_ptr": scratch("mixed", torch.int32, programs * cells.scratch)
                if listed
                else None,
                **{"tiles_y": divider(tiles_y), "tiles_x": divider(tiles_x)},
                "slots": divider(n),
            },
            {
                **constants,
                "GIVEN": given,
                "CLASS_BLOCK": 0 if given else class_block(coarse),
                # Loads in flight per source pixel: with eight and above 32 classes, sm_80 spills.
                "UNROLL": 16 if cells.points <= 64 * warps else 8 if classes <= 32 else 4,
                **{"BLOCK_Y": block_y, "BLOCK_X": block_x},
                # One pixel per thread where labelling needs the registers.
                **{"ROWS": rows, "MERGED": min(64 // block_x, block_y) if given else rows},
                "CHUNK_X": max(block_x, QUAD),
                "QUADS": width % QUAD == block_x % QUAD == out.data_ptr() % QUAD == 0,
                "LANES": 32 * warps,
                "CELLS": cells,
                "NONE": NO_SLOT,
            },
            num_warps=warps,
            max_registers=224 if given else 128,  # nine warps of labels that are given
        ),
    ]


def aggregate(
    coarse: Tensor,
    fine: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    table: bytes,
    height: int,
    width: int,
    rule: str,
    out: Tensor,
    given: bool,
    scratch: Any,
) -> None:
    """Merges the coarse and the fine answer.

    Args:
        coarse: logits [B, N, h, w], float16/bfloat16/float32, any strides.
        fine: logits [B*n, 1 or 2, hf, wf], of those types, any strides.
        origins: int32 [B, n, 2] contiguous.
        num: int32 [B] contiguous, slots in use.
        window: side k, pixels.
        table: 256 bytes, 1 where the class is small.
        height: H.
        width: W.
        rule: "paper", "normalized" or "official".
        out: contiguous, to be written: uint8 [B, H, W] or float32 [B, N, H, W].
        given: `out` holds the coarse labels, to be edited.
        scratch: function (name, dtype, numel) -> Tensor of the current stream's workspace.
    """
    for launch in plan_aggregate(
        coarse, fine, origins, num, window, table, height, width, rule, out, given, scratch
    ):
        launch.run()
