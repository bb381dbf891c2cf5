"""Cutting an image into overlapping tiles, and which tile speaks for which pixel."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

MOST: Final = 1 << 22  # tiles of an image


class Box(NamedTuple):
    """Rows y0..y1-1 and columns x0..x1-1 of an image; may reach past its lower and right border."""

    y0: int
    x0: int
    y1: int
    x1: int


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles start along an axis: every tile - overlap pixels, a last one at the border."""
    if size <= tile:
        return [0]
    step = tile - overlap
    found = list(range(0, size - tile + 1, step))
    if found[-1] != size - tile:
        found.append(size - tile)
    return found


def boxes(height: int, width: int, tile: int | None, overlap: int = 0) -> list[Box]:
    """Tiles of an image in raster order; the whole image if `tile` is None.

    An image smaller than a tile gives one tile that reaches past it.

    Raises:
        ValueError: the tile or the overlap is out of range.
    """
    if tile is None:
        if overlap:
            raise ValueError(f"overlap needs tiles, got {overlap} for whole images")
        return [Box(0, 0, height, width)]
    if tile < 1:
        raise ValueError(f"tile must be at least 1, got {tile}")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must be in 0..tile-1, got {overlap} for tiles of {tile}")
    rows, columns = (-(-max(0, size - tile) // (tile - overlap)) + 1 for size in (height, width))
    if rows * columns > MOST:  # as by a damaged head: a list of them would take all memory
        raise ValueError(
            f"tiles must be at most {MOST}, got {rows * columns} of {tile} px that overlap by "
            f"{overlap} in {height} x {width} px"
        )
    return [
        Box(y, x, y + tile, x + tile)
        for y in starts(height, tile, overlap)
        for x in starts(width, tile, overlap)
    ]


def cut(pixels: npt.NDArray[np.uint8], box: Box, fill: int) -> npt.NDArray[np.uint8]:
    """The part of [H, W] or [H, W, C] in a box, `fill` where the box leaves the image."""
    inside = pixels[box.y0 : box.y1, box.x0 : box.x1]
    below = box.y1 - box.y0 - inside.shape[0]
    right = box.x1 - box.x0 - inside.shape[1]
    if below == 0 and right == 0:
        return inside
    rest = ((0, below), (0, right), *[(0, 0)] * (pixels.ndim - 2))
    return np.pad(inside, rest, constant_values=fill)


def owned(size: int, spans: list[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
    """Which part of an axis each tile speaks for, so that every pixel has one.

    Where neighbours overlap they meet in the middle of the overlap, where both are equally far
    from what they did not see.

    Args:
        size: of the image along the axis.
        spans: (start, end) of the tiles along the axis.

    Returns:
        For each span the (start, end) it owns.
    """
    ordered = sorted(set(spans))
    borders = [0]
    for (_, end), (start, _) in zip(ordered, ordered[1:]):
        borders.append((min(end, size) + start) // 2)
    borders.append(size)
    return {span: (borders[i], borders[i + 1]) for i, span in enumerate(ordered)}
