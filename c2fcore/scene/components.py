"""Objects of a label raster, found strip by strip: while GDAL makes polygons it tells nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features

from .._progress import Bar
from ..images import Pixels
from .rings import Ring, area_of, around_pixels, moments_of, put_into, simple_rings

_STRIP_PX: Final = 1 << 22
_BLOCK_ROWS: Final = 512  # of the labels that c2f scene writes: each block is read once

Run = tuple[float, float]  # columns from .. to, along a line


class Found(NamedTuple):
    """An object; corners are (column, row) of the raster.

    Attributes:
        label: its class.
        parts: polygons, each a shell and its holes.
        pixels: its area.
        centre: of its pixels.
    """

    label: int
    parts: list[list[Ring]]
    pixels: int
    centre: Ring


class _Piece(NamedTuple):
    """What is known of an object so far.

    Attributes:
        label: its class.
        polygons: around what of it lies in each strip; shells have a positive area, holes a
            negative one.
        moments: as of a ring.
        above: where it reaches the upper end of the strip read last.
        below: where it reaches the lower end.
    """

    label: int
    polygons: list[list[Ring]]
    moments: Ring
    above: list[Run]
    below: list[Run]


def components(source: Any, classes: Sequence[int], progress: bool) -> Iterator[Found]:
    """The 8-connected components of some classes, in the order in which their last strips end.

    Args:
        source: the open dataset of rasterio.
        classes: whose.
        progress: show a bar.
    """
    wanted = np.zeros(256, dtype=np.bool_)
    wanted[list(classes)] = True
    rows = max(1, _STRIP_PX // source.width // _BLOCK_ROWS) * _BLOCK_ROWS
    unfinished: list[_Piece] = []
    with Bar(total=source.height, desc="objects", unit="row", leave=False, shown=progress) as bar:
        for top in range(0, source.height, rows):
            bottom = min(top + rows, source.height)
            labels = source.read(1, window=((top, bottom), (0, source.width)))
            joined = _joined(unfinished, list(_pieces(labels, wanted[labels], top)))
            unfinished = [p for p in joined if p.below and bottom < source.height]
            yield from (_object(p, rows) for p in joined if not p.below or bottom == source.height)
            bar.update(bottom - top)


def _pieces(labels: Pixels, mask: npt.NDArray[np.bool_], top: int) -> Iterator[_Piece]:
    """The components of a strip."""
    bottom = top + len(labels)
    shapes = rasterio.features.shapes(
        labels, mask, connectivity=8, transform=rasterio.Affine.translation(0, top)
    )
    for shape, label in shapes:
        rings = [np.array(ring) for ring in shape["coordinates"]]
        moments: Ring = np.sum([moments_of(ring) for ring in rings], axis=0)
        if moments[0] < 0:
            rings, moments = [ring[::-1] for ring in rings], -moments
        rows = [y for _, y in shape["coordinates"][0]]
        above = list(_runs(rings, top)) if min(rows) == top else []
        below = list(_runs(rings, bottom)) if max(rows) == bottom else []
        yield _Piece(int(label), [rings], moments, above, below)


def _runs(rings: Iterable[Ring], line: float) -> Iterator[Run]:
    """Where rings run along a line."""
    for ring in rings:
        on_line = (ring[:-1, 1] == line) & (ring[1:, 1] == line)
        for x, x2 in np.stack([ring[:-1, 0], ring[1:, 0]], axis=1)[on_line].tolist():
            yield min(x, x2), max(x, x2)


def _joined(unfinished: list[_Piece], pieces: list[_Piece]) -> list[_Piece]:
    """Of each object all that is known, with what the next strip has of it."""
    every = [*unfinished, *pieces]
    upper = sorted((p.label, *run, i) for i, p in enumerate(unfinished) for run in p.below)
    lower = sorted(
        (p.label, *run, i) for i, p in enumerate(pieces, len(unfinished)) for run in p.above
    )
    root = list(range(len(every)))

    def root_of(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    i = j = 0
    while i < len(upper) and j < len(lower):  # runs of one class do not touch each other
        (label, x, x2, one), (label2, x3, x4, other) = upper[i], lower[j]
        if label == label2 and x <= x4 and x3 <= x2:  # at a corner, too
            root[root_of(one)] = root_of(other)
        if (label, x2) < (label2, x4):
            i += 1
        else:
            j += 1
    groups: dict[int, list[_Piece]] = {}
    for i in range(len(every)):
        piece = every[i] if i >= len(unfinished) else every[i]._replace(below=[])
        groups.setdefault(root_of(i), []).append(piece)
    return [group[0] if len(group) == 1 else _whole(group) for group in groups.values()]


def _whole(group: list[_Piece]) -> _Piece:
    """Pieces of one object as one."""
    polygons = list(chain.from_iterable(piece.polygons for piece in group))
    below = list(chain.from_iterable(piece.below for piece in group))
    moments: Ring = np.sum([piece.moments for piece in group], axis=0)
    return _Piece(group[0].label, polygons, moments, [], below)


def _object(piece: _Piece, rows: int) -> Found:
    """A whole object; strips have so many rows."""
    rings = list(chain.from_iterable(piece.polygons))
    shells, holes = [rings[:1]], rings[1:]
    met = [corner for ring in rings for corner in map(tuple, ring[1:].tolist())]
    if len(piece.polygons) > 1 or len(set(met)) < len(met):
        walked = around_pixels(rings, rows)
        signed = [(r, area_of(r)) for ring in walked for r in simple_rings(ring)]
        shells = [[ring] for ring, area in signed if area > 0]
        holes = [ring for ring, area in signed if area < 0]
    put_into(shells, holes)
    area, *middle = piece.moments.tolist()
    return Found(piece.label, shells, round(area), np.array(middle) / area)
