"""extract_patches and extract_targets in unfused PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._classes import ClassSet
from ..windows import Windows
from .uncompiled import uncompiled
from .upsample import member_mask, resampled_backward


def extract_patches(
    image: Tensor,
    windows: Windows,
    *,
    zoom: float = 1.0,
    mode: str = "bilinear",
    scale: float | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
) -> Tensor:
    """Patches [B*n, C, p, p] of an image [B, C, H, W], p = round(k * zoom).

    Each patch is its window cropped, then resampled as F.interpolate(crop, size=p, mode=mode,
    align_corners=False) does (taps clamp at the patch border), then (v * scale - mean) / std in
    float32, cast to `dtype`. Unused slots are zeros.
    """
    side = round(windows.window * zoom)
    if dtype is None:
        dtype = image.dtype if image.is_floating_point() else torch.float32
    check_inside("extract_patches", windows, image.shape[-2], image.shape[-1])
    exact = image.dtype if image.dtype == torch.float64 else torch.float32
    crops = crops_of(image, windows).to(exact)
    if side != windows.window:
        corners = None if mode == "nearest" else False
        crops = F.interpolate(crops, size=(side, side), mode=mode, align_corners=corners)
    factor = (1 / 255 if image.dtype == torch.uint8 else 1.0) if scale is None else scale
    if factor != 1.0:
        crops = crops * factor
    if mean is not None:
        crops = crops - _channels(mean, crops)
    if std is not None:
        crops = crops / _channels(std, crops)
    used = used_slots(windows).flatten()[:, None, None, None]
    crops = torch.where(used, crops, 0).to(dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return crops.contiguous(memory_format=layout)


def extract_patches_backward(
    grad: Tensor,
    image: Tensor,
    windows: Windows,
    *,
    mode: str,
    scale: float,
    std: Sequence[float] | None,
) -> Tensor:
    """Gradient of extract_patches in `image`, whose values do not matter: the op is linear.

    Slots are added in order, so that the sum is the same every time.
    """
    k, side = windows.window, grad.shape[-1]
    exact = grad.to(torch.float64 if image.dtype == torch.float64 else torch.float32) * scale
    if std is not None:
        exact = exact / _channels(std, exact)
    if side != k and len(exact):
        exact = resampled_backward(exact, (k, k), mode)
    found = torch.zeros(image.shape, dtype=exact.dtype, device=image.device)
    crops = exact.reshape(*windows.origins.shape[:2], *exact.shape[1:])
    for b, row in enumerate(used_origins(windows)):
        for j, (y, x) in enumerate(row):
            found[b, :, y : y + k, x : x + k] += crops[b, j]
    return found.to(image.dtype)


def extract_targets(
    labels: Tensor,
    windows: Windows,
    small_classes: Iterable[int] | ClassSet,
    *,
    ignore_index: int = 255,
) -> Tensor:
    """Binary targets uint8 [B*n, k, k] of a label map [B, H, W] at its native resolution.

    1 where the label is in C, 0 where not, `ignore_index` where it was; unused slots are
    `ignore_index`.
    """
    check_inside("extract_targets", windows, labels.shape[-2], labels.shape[-1])
    crops = crops_of(labels[:, None], windows)[:, 0]
    targets = member_mask(crops, small_classes).to(torch.uint8)
    ignored = (crops == ignore_index) | ~used_slots(windows).flatten()[:, None, None]
    return targets.masked_fill(ignored, ignore_index)


# Windows are cut at positions that the host reads; a compiler would unroll them one by one.
@uncompiled
def crops_of(image: Tensor, windows: Windows) -> Tensor:
    """Crops [B*n, C, k, k]; unused slots repeat the window at (0, 0)."""
    k, n = windows.window, windows.origins.shape[1]
    crops = [
        image[b, :, y : y + k, x : x + k]
        for b, row in enumerate(used_origins(windows))
        for y, x in row + [[0, 0]] * (n - len(row))
    ]
    if not crops:
        return image.new_empty((0, image.shape[1], k, k))
    return torch.stack(crops)


@uncompiled
def check_inside(op: str, windows: Windows, height: int, width: int) -> None:
    """Raises ValueError if a window in use leaves the image."""
    k, n = windows.window, windows.origins.shape[1]
    for used in _numbers(windows.num):
        if not 0 <= used <= n:
            raise ValueError(f"{op}: windows.num must be in 0..{n}, got {used}")
    for row in used_origins(windows):
        for y, x in row:
            if y < 0 or x < 0 or y + k > height or x + k > width:
                raise ValueError(
                    f"{op}: windows must lie inside the image, got origin ({y}, {x}) "
                    f"with window {k} for {height} x {width}"
                )


def used_origins(windows: Windows) -> list[list[list[int]]]:
    """Origins [y, x] of the windows in use, image by image, read by the host."""
    return [
        row[:used]
        for row, used in zip(_numbers(windows.origins), _numbers(windows.num), strict=True)
    ]


def _numbers(tensor: Tensor) -> list[Any]:
    try:
        return tensor.tolist()
    except RuntimeError:  # torch < 2.11 inside of torch.func, where it reads single numbers only
        return [_numbers(row) if row.ndim else int(row) for row in tensor]


def used_slots(windows: Windows) -> Tensor:
    """Bool [B, n], True for slots in use."""
    slots = torch.arange(windows.origins.shape[1], device=windows.num.device)
    return slots < windows.num[:, None]


def _channels(value: Sequence[float] | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)
