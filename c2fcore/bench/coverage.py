"""How much of the small objects windows cover, and how few cover as much as the paper's do."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..windows import Windows


def coverage(windows: Windows, truth: Tensor, small_classes: Iterable[int]) -> list[float]:
    """Share of the small-object pixels under the first 1, 2, ... windows in use.

    Args:
        windows: of one image; they may reach beyond it.
        truth: class map [1, H, W].
        small_classes: ids of the small classes.
    """
    is_small = torch.zeros(256, dtype=torch.bool)
    is_small[list(small_classes)] = True
    left = is_small[truth[0].long()]
    total = max(1, int(left.sum()))
    shares = []
    for y, x in windows.origins[0, : int(windows.num[0])].tolist():
        left[y : y + windows.window, x : x + windows.window] = False
        shares.append(1 - int(left.sum()) / total)
    return shares


def fewest(shares: list[float], wanted: float) -> int:
    """How many of the windows of `coverage` it takes to cover `wanted`; all, if they do not."""
    return next((i for i, share in enumerate(shares, 1) if share >= wanted), max(1, len(shares)))
