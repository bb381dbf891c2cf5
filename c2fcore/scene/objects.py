"""Objects of a scene's small classes as GeoJSON."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import rasterio.warp
from rasterio.transform import GCPTransformer

from .. import _files
from .._raster import ERRORS, open_quietly
from ..config import C2FConfig, names_of
from .components import Found, components
from .rings import DIGITS, Ring, cut_at_antimeridian, turned

_AT_ONCE: Final = 1000  # features whose corners are transformed together
_AXIS_M: Final = 6378137.0  # of WGS 84, at the equator
_ECCENTRICITY_2: Final = 0.00669437999014
_LOOKED_AT: Final = 9  # columns, and rows, of points that tell whether a scene is on the Earth

_LOG = logging.getLogger(__name__)


class _OffEarth(ValueError):
    """A point has no degrees."""


def write(
    labels: str | Path, target: Path, config: C2FConfig, min_area: float, progress: bool
) -> int:
    """`scene.write_objects`, once rasterio is there."""
    try:
        return _write(labels, target, config, min_area, progress)
    except ERRORS as error:
        raise ValueError(
            f"labels must be readable, got {labels}: {error.__cause__ or error}"
        ) from error


def check_place(scene: str | Path) -> bool:
    """Refuses a scene whose objects would have no place: one that lies where no degrees are.

    Returns:
        Whether there are degrees: not of a scene that lies nowhere.

    Raises:
        ValueError: no part of the scene has degrees, or the scene cannot be read.
    """
    with ExitStack() as opened:
        return _place_of(opened.enter_context(open_quietly(scene)), opened)[1]


def _write(
    labels: str | Path, target: Path, config: C2FConfig, min_area: float, progress: bool
) -> int:
    _files.check_replaceable(target, _files.software_of_geojson)
    with ExitStack() as opened:
        source = opened.enter_context(open_quietly(labels))
        if source.dtypes != ("uint8",):
            raise ValueError(
                f"labels must be one band of uint8, got {labels} with {', '.join(source.dtypes)}"
            )
        place, on_earth = _place_of(source, opened)
        count = unlocated = 0
        file = opened.enter_context(_files.whole(target)).open("w", encoding="utf-8")
        opened.enter_context(file)
        file.write(_files.head_of_geojson(min_area))
        for many in _groups(components(source, config.small_classes, progress)):
            for feature in _features_or_less(many, place, on_earth, names_of(config)):
                about = feature["properties"]
                if about.get("m2", np.inf if on_earth else about["pixels"]) < min_area:
                    continue
                file.write(("\n" if count == 0 else ",\n") + json.dumps(feature))
                count += 1
                unlocated += feature["geometry"] is None
        file.write("\n]}\n")
    if unlocated:
        _LOG.warning(
            "note: of %d objects %d lie where there are no degrees: they have no geometry in %s, "
            "and their centroid as (column, row)", count, unlocated, target,
        )  # fmt: skip
    return count


def _place_of(source: Any, opened: ExitStack) -> tuple[Callable[[Ring], Ring], bool]:
    """What takes (column, row) to degrees, and whether there are any: else they stay.

    Raises:
        ValueError: no part of the scene has degrees.
    """
    points, crs = source.gcps
    if points:
        try:
            transformer = opened.enter_context(GCPTransformer(points))
        except ERRORS as error:
            raise ValueError(
                "to have objects a scene must have ground control points that tell where it lies, "
                f"got {len(points)} in {source.name}: {error}"
            ) from error

        def on_map(at: Ring) -> tuple[Any, Any]:
            found: tuple[Any, Any] = transformer.xy(at[:, 1], at[:, 0], offset="ul")
            return found

    else:
        to_map = source.transform
        crs = None if to_map.is_identity else source.crs  # an identity is GDAL's word for none

        def on_map(at: Ring) -> tuple[Any, Any]:
            a, b, c, d, e, f = to_map[:6]
            return a * at[:, 0] + b * at[:, 1] + c, d * at[:, 0] + e * at[:, 1] + f

    def place(at: Ring) -> Ring:
        x, y = on_map(at)
        try:
            if crs is not None:
                x, y = rasterio.warp.transform(crs, "EPSG:4326", x, y)
        except ERRORS as error:
            raise _OffEarth from error
        placed = np.stack([x, y], axis=1)
        if not np.isfinite(placed).all():
            raise _OffEarth
        return placed

    if not any(_is_placed(at, place) for at in _spread(source.width, source.height)):
        raise ValueError(
            f"to have objects a scene must lie where there are degrees, got {source.name} in "
            f"{' '.join(str(crs).split())[:60]}"
        )
    return place, crs is not None


def _is_placed(at: Ring, place: Callable[[Ring], Ring]) -> bool:
    with suppress(_OffEarth):
        return bool(len(place(at)))
    return False


def _spread(width: int, height: int) -> Iterator[Ring]:
    """Points all over a raster, the middle first."""
    yield np.array([[width / 2, height / 2]])
    for y, x in itertools.product(np.linspace(0, 1, _LOOKED_AT), repeat=2):
        yield np.array([[x * width, y * height]])


def _pixel_m2(left: Ring, right: Ring, top: Ring, bottom: Ring) -> npt.NDArray[np.float64]:
    """Area on the ellipsoid of pixels, of which the middles of the sides are given in degrees.

    Not that of the map: Web Mercator's is four times the ground's at 60 degrees north, and a
    system in degrees has none.
    """
    across, down = right - left, bottom - top
    for side in (across, down):
        side[:, 0] = _near(side[:, 0])  # the shorter way around
    north = np.radians((top[:, 1] + bottom[:, 1]) / 2)
    # Radii of curvature: of the meridian a (1 - e^2) / w^1.5, across it a / w^0.5.
    w = 1 - _ECCENTRICITY_2 * np.sin(north) ** 2
    square_radian = _AXIS_M**2 * (1 - _ECCENTRICITY_2) * np.cos(north) / w**2
    turned = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    area: npt.NDArray[np.float64] = np.abs(turned) * np.radians(1) ** 2 * square_radian
    return area


def _near(longitude: Ring) -> Ring:
    """The same longitude or difference of two between -180 and 180."""
    return (longitude + 180) % 360 - 180


def _cut(
    corners: list[Ring], placed: list[Ring], place: Callable[[Ring], Ring]
) -> list[list[Ring]]:
    """A polygon in degrees, in two where it crosses the antimeridian.

    Long sides that do not cross it look like short ones that do: points on them tell which.
    """
    if np.ptp(placed[0][:, 0]) <= 180:  # no jump: what goes beyond 180 does so evenly
        return cut_at_antimeridian(placed)
    found: list[Ring] = []
    for at, ring in zip(corners, placed, strict=True):
        on_sides = at[:-1, None] + np.diff(at, axis=0)[:, None] * np.array([[0.25], [0.5], [0.75]])
        between = place(on_sides.reshape(-1, 2))[:, 0].reshape(-1, 3)
        along = np.concatenate([ring[:-1, :1], between, ring[1:, :1]], axis=1)
        steps = _near(np.diff(along, axis=1)).sum(axis=1)
        east = ring[0, 0] + np.append(0, np.cumsum(steps))
        if abs(east[-1] - east[0]) > 180:  # around a pole: what is inside has no borders in degrees
            return [placed]
        if found:  # a hole lies where its shell does
            east += 360 * np.ceil((found[0][:, 0].min() - east.min()) / 360 - 1e-9)
        found.append(np.stack([east.round(DIGITS), ring[:, 1]], axis=1))
    return cut_at_antimeridian(found)


def _groups(found: Iterator[Found]) -> Iterator[list[Found]]:
    while many := list(itertools.islice(found, _AT_ONCE)):
        yield many


def _features_or_less(
    many: list[Found], place: Callable[[Ring], Ring], on_earth: bool, names: Any
) -> list[dict[str, Any]]:
    """As `_features`; one that reaches beyond the Earth, as at the edge of a disk, has no geometry.

    That is RFC 7946's word for a feature that lies nowhere (section 3.2).
    """
    try:
        return list(_features(many, place, on_earth, names))
    except _OffEarth:
        if (half := len(many) // 2) > 0:
            halves = (many[:half], many[half:])
            return [f for part in halves for f in _features_or_less(part, place, on_earth, names)]
    properties = _properties(many[0], many[0].centre.tolist(), {}, names)
    return [{"type": "Feature", "geometry": None, "properties": properties}]


def _properties(one: Found, centroid: Any, area: dict[str, float], names: Any) -> dict[str, Any]:
    return {
        "class_id": one.label,
        "class": names[one.label],
        "pixels": one.pixels,
        **area,
        "centroid": centroid,
    }


def _features(
    many: list[Found], place: Callable[[Ring], Ring], on_earth: bool, names: Any
) -> Iterator[dict[str, Any]]:
    """The objects as features; all their corners are transformed together, which is faster."""
    rings = [ring for one in many for part in one.parts for ring in part]
    middles = np.stack([one.centre for one in many])
    sides = [middles + side for side in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))]
    ends = np.cumsum([*map(len, rings), *[len(many)] * len(sides)])
    *placed, centres = np.split(place(np.concatenate([*rings, *sides, middles])), ends)
    areas = _pixel_m2(*placed[len(rings) :]) if on_earth else None
    may_cross = False
    if on_earth:
        placed, centres = [at.round(DIGITS) for at in placed], centres.round(DIGITS)
        east = np.concatenate(placed[: len(rings)])[:, 0]
        may_cross = bool(np.abs(east).max() > 180 or np.ptp(east) > 180)
        centres[:, 0] = np.where(np.abs(centres[:, 0]) > 180, _near(centres[:, 0]), centres[:, 0])
    outlines = iter(placed)
    for i, (one, centre) in enumerate(zip(many, centres.tolist(), strict=True)):
        shapes = [[next(outlines) for _ in part] for part in one.parts]
        if may_cross:
            cut = (_cut(*part, place) for part in zip(one.parts, shapes, strict=True))
            shapes = list(itertools.chain(*cut))
        parts = [
            [turned(ring, left=j == 0).tolist() for j, ring in enumerate(shape)] for shape in shapes
        ]
        several = len(parts) > 1
        area = {} if areas is None else {"m2": round(one.pixels * float(areas[i]), 3)}
        yield {
            "type": "Feature",
            "geometry": {
                "type": "MultiPolygon" if several else "Polygon",
                "coordinates": parts if several else parts[0],
            },
            "properties": _properties(one, centre, area, names),
        }
