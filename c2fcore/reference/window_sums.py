"""Sums over rectangles of a binary map, exact in integers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def prefix(values: Tensor, dim: int) -> Tensor:
    """Int32 running sums along `dim` from a leading zero: p[j] - p[i] sums values[i:j]."""
    sums = values.cumsum(dim, dtype=torch.int32)
    return F.pad(sums, (1, 0) if dim == -1 else (0, 0, 1, 0))


def box_sums(mask: Tensor, starts: list[list[int]], sides: list[list[int]]) -> Tensor:
    """Sums of `mask` [B, H, W] over every box, int32 [B, R, S].

    Args:
        mask: bool or integer [B, H, W].
        starts: first rows of the R box rows, first columns of the S box columns.
        sides: heights of the box rows, widths of the box columns.
    """
    (tops, lefts), (heights, widths) = starts, sides
    across = _differences(prefix(mask, -1), lefts, widths, -1)  # [B, H, S]
    return _differences(prefix(across, -2), tops, heights, -2)  # [B, R, S]


def _differences(sums: Tensor, starts: list[int], sides: list[int], dim: int) -> Tensor:
    first = torch.tensor(starts, device=sums.device)
    last = first + torch.tensor(sides, device=sums.device)
    return sums.index_select(dim, last) - sums.index_select(dim, first)
