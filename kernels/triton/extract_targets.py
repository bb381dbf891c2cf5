"""extract_targets: binary targets of the windows of a label map, in one launch."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._classes import WORDS, class_words, is_small, words_in_use
from ._divider import divided, divider
from ._launch import Launch, ceil_div, lanes_of_row, require_image, strides_of
from ._windows import slots_in_use, window_origin

PIXELS = 1024  # of a program


@triton.jit(do_not_specialize=WORDS)
def _extract_targets_kernel(
    labels_ptr,  # [B, H, W]
    origins_ptr,  # int32 [B, n, 2] contiguous
    num_ptr,  # int32 [B]
    targets_ptr,  # uint8 [B*n, window, window] contiguous
    labels_stride_b, labels_stride_y, labels_stride_x,
    n, H, W, window, ignore_index,
    slots,  # Divider: n
    lane_blocks,  # Divider
    strips,  # Divider
    word0, word1, word2, word3, word4, word5, word6, word7,
    NUM_WORDS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    words = (word0, word1, word2, word3, word4, word5, word6, word7)
    program = tl.program_id(0)
    row_of_blocks, block = divided(program, lane_blocks)
    x = block * LANES + tl.arange(0, LANES)[None, :]
    patch, strip = divided(row_of_blocks, strips)
    y = strip * ROWS + tl.arange(0, ROWS)[:, None]
    b, slot = divided(patch, slots)
    used = slot < slots_in_use(num_ptr, b, n)
    valid = (y < window) & (x < window)
    patch = patch.to(tl.int64)
    top, left = window_origin(origins_ptr, patch, window, H, W)
    labels_ptr += b.to(tl.int64) * labels_stride_b
    row_ptr = labels_ptr + (top + y).to(tl.int64) * labels_stride_y
    at = row_ptr + (left + x).to(tl.int64) * labels_stride_x
    label = tl.load(at, mask=valid & used, other=0)
    small = is_small(label, words, NUM_WORDS)
    ignored = (label.to(tl.int64) == ignore_index) | ~used
    target = tl.where(ignored, ignore_index, small.to(tl.int32))
    out_ptr = targets_ptr + (patch * window + y) * window + x
    tl.store(out_ptr, target.to(tl.uint8), mask=valid)


def plan_extract_targets(
    labels: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    table: bytes,
    ignore_index: int,
    targets: Tensor,
    scratch: Any,
) -> list[Launch]:
    """The launch of `extract_targets`."""
    if targets.numel() == 0:
        return []
    n = origins.shape[1]
    require_image("extract_targets", *labels.shape[1:], n)
    lanes = lanes_of_row(window)
    rows = PIXELS // lanes
    lane_blocks, strips = ceil_div(window, lanes), ceil_div(window, rows)
    return [
        Launch(
            _extract_targets_kernel,
            len(targets) * strips * lane_blocks,
            {
                "labels_ptr": labels,
                "origins_ptr": origins,
                "num_ptr": num,
                "targets_ptr": targets,
                **strides_of("labels", labels, "byx"),
                **{"n": n, "H": labels.shape[1], "W": labels.shape[2]},
                **{"window": window, "ignore_index": ignore_index},
                "slots": divider(n),
                **{"lane_blocks": divider(lane_blocks), "strips": divider(strips)},
                **class_words(table),
            },
            {"NUM_WORDS": words_in_use(table), "ROWS": rows, "LANES": lanes},
            num_warps=4,
            max_registers=128,
        )
    ]


def extract_targets(
    labels: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    table: bytes,
    ignore_index: int,
    targets: Tensor,
    scratch: Any,
) -> None:
    """Writes binary targets.

    Args:
        labels: [B, H, W], uint8/int16/int32/int64, any strides.
        origins: int32 [B, n, 2] contiguous.
        num: int32 [B] contiguous, slots in use.
        window: side k, pixels.
        table: 256 bytes, 1 where the class is small.
        ignore_index: label and target that no loss should count.
        targets: uint8 [B*n, k, k] contiguous, to be written.
        scratch: not used.
    """
    for launch in plan_extract_targets(
        labels, origins, num, window, table, ignore_index, targets, scratch
    ):
        launch.run()
