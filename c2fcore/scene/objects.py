"""Objects of a scene's small classes as GeoJSON."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import rasterio.warp
from rasterio.transform import GCPTransformer

from .. import _files
from .._raster import ERRORS, open_quietly
from ..config import C2FConfig, names_of
from .geotiff import blocks, windows_of

_AT_ONCE: Final = 1000  # features whose corners are transformed together
_DIGITS: Final = 8  # of degrees: a millimetre
_AXIS_M: Final = 6378137.0  # of WGS 84, at the equator
_ECCENTRICITY_2: Final = 0.00669437999014

_Corner = tuple[float, float]
Ring = npt.NDArray[np.float64]  # [points, 2], (x, y), closed


class _Found(NamedTuple):
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


def write(labels: str | Path, target: Path, config: C2FConfig) -> int:
    """`scene.write_objects`, once rasterio is there."""
    try:
        return _write(labels, target, config)
    except ERRORS as error:
        raise ValueError(
            f"objects must be readable, and lie where there are degrees, got {labels}: "
            f"{error.__cause__ or error}"
        ) from error


def _write(labels: str | Path, target: Path, config: C2FConfig) -> int:
    names = names_of(config)
    count = 0
    _files.check_replaceable(target, _files.software_of_geojson)
    with ExitStack() as opened:
        source = opened.enter_context(open_quietly(labels))
        if source.dtypes != ("uint8",):
            raise ValueError(
                f"labels must be one band of uint8, got {labels} with {', '.join(source.dtypes)}"
            )
        place, on_earth = _place_of(source, opened)
        folder = opened.enter_context(
            tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
        )
        path = Path(folder) / "small.tif"
        missing = _write_small(path, source, config)
        small = opened.enter_context(open_quietly(path))
        band = rasterio.band(small, 1)
        shapes = rasterio.features.shapes(band, mask=band, connectivity=8)
        found = (_object(shape["coordinates"], int(value) - 1) for shape, value in shapes)
        partial = opened.enter_context(_files.whole(target))
        file = opened.enter_context(partial.open("w", encoding="utf-8"))
        file.write(f'{_files.GEOJSON_HEAD}{_files.SOFTWARE}", "features": [')
        for many in _groups(found):
            missing -= sum(one.pixels for one in many)
            for feature in _features(many, place, on_earth, names):
                file.write(("\n" if count == 0 else ",\n") + json.dumps(feature))
                count += 1
        file.write("\n]}\n")
        if missing:  # not every error of writing a raster is told when it happens
            raise OSError(
                f"objects must hold all pixels of small classes in {labels}, got {missing} less; "
                "is the disk full?"
            )
    return count


def _write_small(path: Path, source: Any, config: C2FConfig) -> int:
    """Writes a raster in which a small class c is c + 1, and all else 0; returns how many are c."""
    table = np.zeros(256, dtype=np.uint8)
    table[list(config.small_classes)] = np.array(config.small_classes) + 1
    count = 0
    with open_quietly(path, "w", **blocks(source.height, source.width)) as out:
        for window, labels in windows_of(source):
            small = table[labels]
            out.write(small, 1, window=window)
            count += int(np.count_nonzero(small))
    return count


def _place_of(source: Any, opened: ExitStack) -> tuple[Callable[[Ring], Ring], bool]:
    """What takes (column, row) to degrees, and whether there are any: else they stay."""
    points, crs = source.gcps
    if points:
        transformer = opened.enter_context(GCPTransformer(points))

        def on_map(at: Ring) -> tuple[Any, Any]:
            found: tuple[Any, Any] = transformer.xy(at[:, 1], at[:, 0], offset="ul")
            return found

    else:
        crs, to_map = source.crs, source.transform

        def on_map(at: Ring) -> tuple[Any, Any]:
            a, b, c, d, e, f = to_map[:6]
            return a * at[:, 0] + b * at[:, 1] + c, d * at[:, 0] + e * at[:, 1] + f

    def place(at: Ring) -> Ring:
        x, y = on_map(at)
        if crs is not None:
            x, y = rasterio.warp.transform(crs, "EPSG:4326", x, y)
        placed = np.stack([x, y], axis=1)
        if not np.isfinite(placed).all():
            raise ValueError(
                f"objects must lie where there are degrees, got {source.name} in {crs} with others"
            )
        return placed

    return place, crs is not None


def _pixel_m2(left: Ring, right: Ring, top: Ring, bottom: Ring) -> npt.NDArray[np.float64]:
    """Area on the ellipsoid of pixels, of which the middles of the sides are given in degrees.

    Not that of the map: Web Mercator's is four times the ground's at 60 degrees north, and a
    system in degrees has none.
    """
    across, down = right - left, bottom - top
    for side in (across, down):
        side[:, 0] = (side[:, 0] + 180) % 360 - 180  # the shorter way around
    north = np.radians((top[:, 1] + bottom[:, 1]) / 2)
    # Radii of curvature: of the meridian a (1 - e^2) / w^1.5, across it a / w^0.5.
    w = 1 - _ECCENTRICITY_2 * np.sin(north) ** 2
    square_radian = _AXIS_M**2 * (1 - _ECCENTRICITY_2) * np.cos(north) / w**2
    turned = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    area: npt.NDArray[np.float64] = np.abs(turned) * np.radians(1) ** 2 * square_radian
    return area


def _object(corners: Sequence[Sequence[_Corner]], label: int) -> _Found:
    rings = [np.array(ring) for ring in corners]
    areas, moments = zip(*map(_area, rings), strict=True)
    area = sum(areas)
    sign = 1 if area > 0 else -1  # of shells; holes turn the other way
    met = [corner for ring in corners for corner in ring[1:]]
    if len(set(met)) < len(met):
        rings = [simple for ring in _by_pixels(rings, sign) for simple in _simple(ring)]
        areas = tuple(_area(ring)[0] for ring in rings)
    shells = [[ring] for ring, part in zip(rings, areas, strict=True) if part * sign > 0]
    holes = [ring for ring, part in zip(rings, areas, strict=True) if part * sign < 0]
    _put_into(shells, holes)
    return _Found(label, shells, round(abs(area)), sum(moments) / area)


def _by_pixels(rings: list[Ring], sign: int) -> Iterator[Ring]:
    """The same borders, walked anew: where pixels touch at a corner only, each keeps to itself.

    So every ring is around pixels that share sides, and polygons made of them are valid.
    """
    onward: dict[_Corner, list[_Corner]] = {}
    for ring in rings:
        corners = [(x, y) for x, y in ring.tolist()]
        for here, there in itertools.pairwise(corners):
            onward.setdefault(here, []).append(there)
    for first in sorted(onward):  # of those left the first is met once: nothing lies before it
        if first not in onward:
            continue
        here, before = first, None
        walked = [here]
        while before is None or here != first:
            others = onward[here]
            there = others[0]
            if len(others) > 1:
                assert before is not None
                (x0, y0), (x, y), (x1, y1) = before, here, others[0]
                turned = ((x - x0) * (y1 - y) - (y - y0) * (x1 - x)) * sign
                there = others[0 if turned > 0 else 1]
            others.remove(there)
            if not others:
                del onward[here]
            before, here = here, there
            walked.append(here)
        yield np.array(walked)


def _simple(ring: Ring) -> Iterator[Ring]:
    """A closed ring as rings that meet no corner twice."""
    walked: list[_Corner] = []
    places: dict[_Corner, int] = {}
    for x, y in ring.tolist():
        first = places.setdefault((x, y), len(walked))
        if first == len(walked):
            walked.append((x, y))
            continue
        yield np.array([*walked[first:], (x, y)])
        for left in walked[first + 1 :]:
            del places[left]
        del walked[first + 1 :]


def _area(ring: Ring) -> tuple[float, Ring]:
    """Signed area, and that times the centre of mass."""
    origin = ring[0]  # small numbers lose nothing
    (x, y), (x2, y2) = (ring[:-1] - origin).T, (ring[1:] - origin).T
    cross = x * y2 - x2 * y
    area = float(cross.sum() / 2)
    centre = np.array([((x + x2) * cross).sum(), ((y + y2) * cross).sum()]) / 6
    return area, centre + area * origin


def _put_into(shells: list[list[Ring]], holes: list[Ring]) -> None:
    """Gives each hole to the innermost shell around it."""
    if len(shells) == 1:
        shells[0] += holes
        return
    low, high = (np.array([end(part[0], axis=0) for part in shells]) for end in (np.min, np.max))
    for hole in holes:
        # The pixel right below its top left corner lies in the hole.
        middle = hole[np.lexsort((hole[:, 0], hole[:, 1]))[0]] + 0.5
        near = np.flatnonzero((low < middle).all(axis=1) & (middle < high).all(axis=1))
        around = [shells[i] for i in near if _inside(middle, shells[i][0])]
        min(around, key=lambda part: abs(_area(part[0])[0])).append(hole)


def _inside(point: Ring, ring: Ring) -> bool:
    """Whether a middle of a pixel lies in a ring along pixels' borders."""
    (x, y), (x2, y2) = ring[:-1].T, ring[1:].T
    crossed = (x == x2) & (x > point[0]) & (np.minimum(y, y2) < point[1])
    return bool((crossed & (np.maximum(y, y2) > point[1])).sum() % 2)


def _groups(found: Iterator[_Found]) -> Iterator[list[_Found]]:
    while many := list(itertools.islice(found, _AT_ONCE)):
        yield many


def _features(
    many: list[_Found], place: Callable[[Ring], Ring], on_earth: bool, names: Any
) -> Iterator[dict[str, Any]]:
    """The objects as features; all their corners are transformed together, which is faster."""
    rings = [ring for one in many for part in one.parts for ring in part]
    middles = np.stack([one.centre for one in many])
    sides = [middles + side for side in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))]
    ends = np.cumsum([*map(len, rings), *[len(many)] * len(sides)])
    *placed, centres = np.split(place(np.concatenate([*rings, *sides, middles])), ends)
    areas = _pixel_m2(*placed[len(rings) :]) if on_earth else None
    if on_earth:
        placed, centres = [at.round(_DIGITS) for at in placed], centres.round(_DIGITS)
    outlines = iter(placed)
    for i, (one, centre) in enumerate(zip(many, centres.tolist(), strict=True)):
        parts = [
            [_turned(next(outlines), left=j == 0).tolist() for j, _ in enumerate(part)]
            for part in one.parts
        ]
        several = len(parts) > 1
        area = {} if areas is None else {"m2": round(one.pixels * float(areas[i]), 3)}
        yield {
            "type": "Feature",
            "geometry": {
                "type": "MultiPolygon" if several else "Polygon",
                "coordinates": parts if several else parts[0],
            },
            "properties": {
                "class_id": one.label,
                "class": names[one.label],
                "pixels": one.pixels,
                **area,
                "centroid": centre,
            },
        }


def _turned(ring: Ring, *, left: bool) -> Ring:
    """Shells turn left, holes right, as RFC 7946 wants it."""
    return ring if (_area(ring)[0] > 0) == left else ring[::-1]
