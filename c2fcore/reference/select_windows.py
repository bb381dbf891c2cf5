"""select_windows in unfused PyTorch, without host synchronisation."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from .._classes import ClassSet
from ..windows import Windows, grid_origins
from .upsample import label_map, member_mask
from .window_sums import box_sums, prefix


def select_windows(
    seg: Tensor,
    small_classes: Iterable[int] | ClassSet,
    *,
    window: int,
    stride: int,
    n: int,
    strategy: str = "cover",
    min_pixels: int = 1,
    size: tuple[int, int] | None = None,
    edge: str = "flush",
) -> Windows:
    """The windows worth a second look; see `select_with_labels`, whose first result this is."""
    return select_with_labels(
        seg,
        small_classes,
        window=window,
        stride=stride,
        n=n,
        strategy=strategy,
        min_pixels=min_pixels,
        size=size,
        edge=edge,
    )[0]


def select_with_labels(
    seg: Tensor,
    small_classes: Iterable[int] | ClassSet,
    *,
    window: int,
    stride: int,
    n: int,
    strategy: str = "cover",
    min_pixels: int = 1,
    size: tuple[int, int] | None = None,
    edge: str = "flush",
) -> tuple[Windows, Tensor]:
    """Up to n windows per image, and the labels [B, H, W] they were found on.

    No window with fewer than `min_pixels` (new) small-object pixels is taken; slots left over hold
    origin (0, 0) and count 0.

    - "top": the n windows with the highest counts, ties to the lower row-major index. The key
      (count, -index) is unique, so every backend gives the same order; torch.topk of the counts
      alone does not promise one.
    - "cover": greedy maximum coverage: again and again the window that covers most small-object
      pixels not yet covered, ties to the lower index; counts are the new pixels each one added.
    - "all": disjoint windows (stride taken as k) in raster order, the first n that hold enough.
    """
    height, width = size or (seg.shape[-2], seg.shape[-1])
    labels = label_map(seg, (height, width))
    mask = member_mask(labels, small_classes, in_range=seg.is_floating_point())
    step = window if strategy == "all" else stride
    tops = grid_origins(height, window, step, edge)
    lefts = grid_origins(width, window, step, edge)
    if strategy == "cover":
        index, counts = _cover(mask, tops, lefts, window, n, min_pixels)
    else:
        grid = box_sums(mask, [tops, lefts], [[window] * len(tops), [window] * len(lefts)])
        pick = _top if strategy == "top" else _all
        index, counts = pick(grid.flatten(1), n, min_pixels)
    return _pack(index, counts, tops, lefts, window, n), labels


def _top(counts: Tensor, n: int, min_pixels: int) -> tuple[Tensor, Tensor]:
    """Indices and counts of the n largest keys (count, -index); count 0 where there is none."""
    total = counts.shape[1]
    reverse = torch.arange(total - 1, -1, -1, device=counts.device)
    keys = (counts.long() * total + reverse).topk(min(n, total), dim=1).values
    best = keys // total
    return total - 1 - keys % total, torch.where(best >= min_pixels, best, 0)


def _all(counts: Tensor, n: int, min_pixels: int) -> tuple[Tensor, Tensor]:
    """Indices and counts of the first n windows that hold enough, in raster order."""
    total = counts.shape[1]
    order = torch.arange(total, device=counts.device)
    index = torch.where(counts >= min_pixels, order, total).sort(dim=1).values[:, :n]
    found = index < total
    taken = counts.gather(1, index.clamp(max=total - 1))
    return index, torch.where(found, taken, 0)


def _cover(
    mask: Tensor,
    tops: list[int],
    lefts: list[int],
    window: int,
    n: int,
    min_pixels: int,
) -> tuple[Tensor, Tensor]:
    """Greedy coverage over cells: the rectangles between all window borders.

    Every window is a union of whole cells whatever k, s and the edges are, so coverage counted in
    cells is exact to the pixel.
    """
    ys, xs = _borders(tops, window), _borders(lefts, window)
    cells = box_sums(mask, [ys[:-1], xs[:-1]], [_steps(ys), _steps(xs)])  # [B, Y, X]
    spans = [
        torch.tensor(
            [[borders.index(o), borders.index(o + window)] for o in origins],
            device=mask.device,
        )
        for borders, origins in ((ys, tops), (xs, lefts))
    ]
    rows, columns = (s.unbind(1) for s in spans)
    total = len(tops) * len(lefts)
    reverse = torch.arange(total - 1, -1, -1, device=mask.device)
    cell_rows = torch.arange(len(ys) - 1, device=mask.device)
    cell_columns = torch.arange(len(xs) - 1, device=mask.device)
    picked, gained = [], []
    for _ in range(min(n, total)):
        across = prefix(cells, -1)
        across = across.index_select(-1, columns[1]) - across.index_select(-1, columns[0])
        down = prefix(across, -2)
        gains = down.index_select(-2, rows[1]) - down.index_select(-2, rows[0])  # [B, R, S]
        best = (gains.flatten(1).long() * total + reverse).amax(1)
        index, gain = total - 1 - best % total, best // total
        taken = gain >= min_pixels  # once False for an image it stays False: gains only shrink
        i, j = index // len(lefts), index % len(lefts)
        in_rows = (cell_rows >= rows[0][i, None]) & (cell_rows < rows[1][i, None])
        in_columns = (cell_columns >= columns[0][j, None]) & (cell_columns < columns[1][j, None])
        cells = cells.masked_fill(in_rows[:, :, None] & in_columns[:, None, :], 0)
        picked.append(index)
        gained.append(torch.where(taken, gain, 0))
    return torch.stack(picked, 1), torch.stack(gained, 1)


def _borders(origins: list[int], window: int) -> list[int]:
    return sorted({*origins, *(o + window for o in origins)})


def _steps(borders: list[int]) -> list[int]:
    return [b - a for a, b in pairwise(borders)]


def _pack(
    index: Tensor,
    counts: Tensor,
    tops: list[int],
    lefts: list[int],
    window: int,
    n: int,
) -> Windows:
    """Windows from grid indices; a count of 0 marks an unused slot."""
    used = counts > 0
    index = torch.where(used, index, 0)
    y = torch.tensor(tops, device=index.device)[index // len(lefts)]
    x = torch.tensor(lefts, device=index.device)[index % len(lefts)]
    origins = torch.where(used[..., None], torch.stack((y, x), -1), 0)
    missing = n - index.shape[1]
    return Windows(
        torch.nn.functional.pad(origins, (0, 0, 0, missing)).int(),
        torch.nn.functional.pad(counts, (0, missing)).int(),
        used.sum(1).int(),
        window,
    )
