"""Objects across the antimeridian, against pixels one by one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scenes_on_disk import NAMES, write

from c2fcore import C2FConfig, scene

rasterio = pytest.importorskip("rasterio", reason="whole scenes: c2fcore[scene]")

CONFIG = C2FConfig(num_classes=4, small_classes=(2,), class_names=NAMES)
SIZE = (21, 26)


def _found(folder: Path, labels: npt.NDArray[np.uint8], **where: Any) -> list[list[Any]]:
    """Of each object its polygons."""
    source = write(folder / "labels.tif", labels[None], nodata=255, **where)
    scene.write_objects(source, folder / "o.json", CONFIG)
    geometries = [f["geometry"] for f in json.loads((folder / "o.json").read_text())["features"]]
    return [
        g["coordinates"] if g["type"] == "MultiPolygon" else [g["coordinates"]] for g in geometries
    ]


def _inside(x: float, y: float, polygons: list[Any]) -> bool:
    """By the borders that a line to the west crosses."""
    crossed = 0
    for ring in itertools.chain(*polygons):
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            crossed += (y0 > y) != (y1 > y) and x0 + (x1 - x0) * (y - y0) / (y1 - y0) < x
    return crossed % 2 == 1


def _area(ring: list[list[float]]) -> float:
    (x, y), (x1, y1) = ((np.array(ring) - ring[0])[part].T for part in (slice(-1), slice(1, None)))
    return float((x * y1 - x1 * y).sum() / 2)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("crs", "where"),
    [
        ("EPSG:4326", (0.01, 0, 179.87, 0, -0.01, -16)),  # along a border of pixels
        ("EPSG:4326", (0.01, 0, 179.8677, 0, -0.01, -16)),
        ("EPSG:4326", (0.01, 0, -180.1331, 0, -0.01, -16)),
        ("EPSG:4326", (0.01, 0.004, 179.81, 0.003, -0.01, 70)),  # turned
        ("EPSG:4326", (0.01, 0, 190, 0, -0.01, 5)),  # beyond
        ("EPSG:32660", (100, 0, 827600, 0, -100, 1101000)),
        ("EPSG:3413", (100, 0, -1000000, 0, -100, 1001000)),
    ],
)
def test_objects_are_cut(tmp_path: Path, crs: str, where: tuple[float, ...], seed: int) -> None:
    labels = np.random.default_rng(seed).choice(np.array([1, 2], np.uint8), SIZE, p=[0.45, 0.55])
    objects = _found(tmp_path, labels, crs=crs, transform=rasterio.Affine(*where))
    rings = [ring for polygons in objects for ring in itertools.chain(*polygons)]
    assert all(ring[0] == ring[-1] and len({*map(tuple, ring)}) == len(ring) - 1 for ring in rings)
    corners = np.concatenate([np.array(ring) for ring in rings])
    assert np.abs(corners[:, 0]).max() <= 180
    assert np.array_equal(corners, corners.round(8))
    crosses = np.ptp(corners[:, 0]) > 180
    assert crosses == (where[2] != 190)
    assert not crosses or any(len(polygons) > 1 for polygons in objects)
    for polygon in itertools.chain(*objects):
        assert [_area(ring) > 0 for ring in polygon] == [True, *[False] * (len(polygon) - 1)]
        assert np.ptp(np.array(polygon[0])[:, 0]) < 180
        for hole in polygon[1:]:
            (x0, y0), (x1, y1) = hole[:2]
            assert _inside((x0 + x1) / 2, (y0 + y1) / 2, [polygon[:1]])
    rows, columns = np.indices(SIZE).reshape(2, -1)
    x, y = rasterio.Affine(*where) @ (columns + 0.47, rows + 0.48)
    x, y = map(np.array, rasterio.warp.transform(crs, "EPSG:4326", x, y))
    around = [
        sum(_inside(*at, polygons) for polygons in objects) for at in zip((x + 180) % 360 - 180, y)
    ]
    assert np.array_equal(np.reshape(around, SIZE), labels == 2)


def test_long_sides_that_do_not_cross(tmp_path: Path) -> None:
    """An object around most of the earth, with a hole in the east, is one polygon."""
    labels = np.ones((18, 36), np.uint8)
    labels[4:9, 1:35] = 2
    labels[6, 30] = 1
    where = rasterio.Affine(10, 0, -180, 0, -10, 90)
    (polygons,) = _found(tmp_path, labels, crs="EPSG:4326", transform=where)
    ((shell, hole),) = polygons
    assert (min(shell), max(shell)) == ([-170, 0], [170, 50])
    assert (min(hole), max(hole)) == ([120, 20], [130, 30])
    labels[4:9] = 2
    (polygons,) = _found(tmp_path, labels, crs="EPSG:4326", transform=where)
    assert sorted(polygons[0][0][:-1]) == [[-180, 0], [-180, 50], [180, 0], [180, 50]]


def test_around_a_pole(tmp_path: Path) -> None:
    """What no polygon in degrees can say is left as it is, and stops nothing."""
    labels = np.ones((20, 20), np.uint8)
    labels[8:12, 8:12] = 2
    labels[0, 10] = 2
    where = rasterio.Affine(100, 0, -1000, 0, -100, 1000)
    corner, pole = _found(tmp_path, labels, crs="EPSG:3413", transform=where)
    assert (len(corner), len(pole)) == (1, 1)
    assert len(pole[0][0]) == 5
