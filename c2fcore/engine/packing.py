"""The windows of a batch, packed: those in use one after the other, without gaps.

The images of a batch lie in one buffer [B, H, W, C], which is also one tall image of B * H rows. A
window at (y, x) of image b is a window at (b * H + y, x) of that, so that one call cuts the patches
of all images, and the fine network sees no empty slots but those that fill up its bucket.

Everything here has static shapes and never waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..windows import Windows


class Packed(NamedTuple):
    """Windows in use of all images, in the order of images and slots.

    Attributes:
        origins: int32 [B * n, 2], (y, x) in the tall image; the first `total` count.
        starts: int64 [B], where the windows of each image begin; None of one image.
        total: int32 [1].
    """

    origins: Tensor
    starts: Tensor | None
    total: Tensor


def tall(images: Tensor) -> Tensor:
    """[B, H, W, C], contiguous, as one image [1, C, B * H, W]; a view."""
    batch, height, width, channels = images.shape
    return images.view(1, batch * height, width, channels).permute(0, 3, 1, 2)


def pack(windows: Windows, rows: int) -> Packed:
    """Packs the windows of images that are `rows` rows apart in the tall image."""
    batch, n = windows.counts.shape
    num = windows.num
    if batch == 1:
        return Packed(windows.origins[0], None, num)
    ends = num.cumsum(0)
    slot = torch.arange(batch * n, device=num.device)
    image = torch.searchsorted(ends, slot, right=True).clamp(max=batch - 1)
    starts = ends - num
    origins = windows.origins[image, (slot - starts[image]).clamp(0, n - 1)]
    down = torch.stack((image * rows, torch.zeros_like(image)), dim=1)
    return Packed(origins + down.int(), starts, ends[-1:].int())


def chunk(packed: Packed, offset: int, size: int, window: int) -> Windows:
    """Packed windows offset..offset+size-1 as those of the one tall image, however many exist."""
    origins = packed.origins[offset : offset + size]
    num = packed.total - offset if offset else packed.total  # each operation is a kernel launch
    if len(origins) < len(packed.origins):
        num = num.clamp(0, len(origins))
    if len(origins) < size:
        origins = F.pad(origins, (0, 0, 0, size - len(origins)))
    return Windows(origins[None], origins[None, :, 0], num, window)


def spread(fine: Tensor, packed: Packed, windows: Windows) -> tuple[Tensor, Windows]:
    """Fine logits [P, c, hf, wf] of packed patches, as `ops.aggregate` wants them.

    Returns:
        [B * m, c, hf, wf] and the windows [B, m] that they belong to; slots that are not in use
        hold any patch.
    """
    batch, n = windows.counts.shape
    if batch == 1:
        m = min(n, len(fine))
        num = windows.num.clamp(max=m) if m < n else windows.num
        return fine[:m], Windows(windows.origins[:, :m], windows.counts[:, :m], num, windows.window)
    assert packed.starts is not None
    slots = packed.starts[:, None] + torch.arange(n, device=fine.device)
    return fine.index_select(0, slots.flatten().clamp(max=len(fine) - 1)), windows
