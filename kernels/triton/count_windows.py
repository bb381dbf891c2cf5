"""count_windows: small-object pixels of every window, in two launches."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._cell_counts import bin_grid, plan_cell_counts
from ._divider import divided, divider
from ._launch import Launch, ceil_div
from ._window_grid import window_sum


@triton.jit
def _window_sums_kernel(
    bins_ptr,  # int32 [B, bins_y, bins_x]
    counts_ptr,  # int32 [B, rows, columns] contiguous
    grid_y,  # Axis
    grid_x,
    window,
    blocks,  # Divider: programs per image
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    image, block = divided(program, blocks)
    b = image.to(tl.int64)
    index = block * BLOCK + tl.arange(0, BLOCK)
    windows = grid_y.windows * grid_x.windows
    valid = index < windows
    bins_ptr += b * grid_y.bins * grid_x.bins
    _, _, sums = window_sum(bins_ptr, index, valid, window, grid_y, grid_x)
    tl.store(counts_ptr + b * windows + index, sums, mask=valid)


def plan_count_windows(
    seg: Tensor,
    table: bytes,
    height: int,
    width: int,
    window: int,
    stride: int,
    flush: bool,
    counts: Tensor,
    labels: Tensor | None,
    scratch: Any,
) -> list[Launch]:
    """The launches of `count_windows`; `scratch` is a function (name, dtype, numel) -> Tensor."""
    batch = seg.shape[0]
    if batch == 0:
        return []
    y, x = bin_grid("count_windows", seg, height, width, window, stride, flush)
    bins = scratch("bins", torch.int32, batch * y.bins * x.bins)
    block = 128
    blocks = ceil_div(y.windows * x.windows, block)
    sums = Launch(
        _window_sums_kernel,
        batch * blocks,
        {
            "bins_ptr": bins,
            "counts_ptr": counts,
            **{"grid_y": y, "grid_x": x, "window": window},
            "blocks": divider(blocks),
        },
        {"BLOCK": block},
        num_warps=4,
        max_registers=64,
    )
    return [plan_cell_counts(seg, table, y, x, bins, scratch, labels), sums]


def count_windows(
    seg: Tensor,
    table: bytes,
    height: int,
    width: int,
    window: int,
    stride: int,
    flush: bool,
    counts: Tensor,
    labels: Tensor | None,
    scratch: Any,
) -> None:
    """Counts the small-object pixels of every window.

    Args:
        seg: logits [B, N, h, w] or a label map [B, H, W], any strides.
        table: 256 bytes, 1 where the class is small.
        height: H.
        width: W.
        window: side k, pixels.
        stride: distance of neighbouring windows, pixels.
        flush: whether windows that end at the border are added.
        counts: int32 [B, R, S] contiguous, to be written.
        labels: uint8 [B, H, W] contiguous for the labels counted, or None.
        scratch: function (name, dtype, numel) -> Tensor of the current stream's workspace.
    """
    for launch in plan_count_windows(
        seg, table, height, width, window, stride, flush, counts, labels, scratch
    ):
        launch.run()
