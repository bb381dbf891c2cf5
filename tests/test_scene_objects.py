"""Objects of label rasters as GeoJSON, against components found pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scenes_on_disk import NAMES, write

from c2fcore import C2FConfig, scene
from c2fcore._progress import Bar

rasterio = pytest.importorskip("rasterio", reason="whole scenes: c2fcore[scene]")
ndimage = pytest.importorskip("scipy.ndimage", reason="components: c2fcore[train]")

from c2fcore.scene import components, objects  # noqa: E402

CONFIG = C2FConfig(num_classes=4, small_classes=(0, 2), class_names=NAMES)
NOWHERE = {"crs": None, "transform": rasterio.Affine.identity(), "nodata": 255}
EIGHT = np.ones((3, 3))

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def _objects(folder: Path, labels: npt.NDArray[np.uint8], **profile: Any) -> list[dict[str, Any]]:
    source = write(folder / "labels.tif", labels[None], **{**NOWHERE, **profile})
    count = scene.write_objects(source, folder / "objects.geojson", CONFIG)
    found = json.loads((folder / "objects.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    assert len(found["features"]) == count
    features: list[dict[str, Any]] = found["features"]
    return features


def _parts(feature: dict[str, Any]) -> list[Any]:
    geometry = feature["geometry"]
    several = geometry["type"] == "MultiPolygon"
    return list(geometry["coordinates"]) if several else [geometry["coordinates"]]


def _filled(ring: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels inside a ring along pixels' borders: those with an odd number of borders at left."""
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=int)
    for (x, y), (x2, y2) in zip(ring.astype(int).tolist(), ring[1:].astype(int).tolist()):
        if x == x2:
            crossings[min(y, y2) : max(y, y2), x] += 1
    filled: npt.NDArray[np.bool_] = crossings.cumsum(1)[:, :-1] % 2 == 1
    return filled


def _check(features: list[dict[str, Any]], labels: npt.NDArray[np.uint8]) -> None:
    """Every component is one feature, of valid polygons that hold its pixels and no others."""
    wanted = sum(ndimage.label(labels == c, EIGHT)[1] for c in CONFIG.small_classes)
    assert len(features) == wanted
    all_pixels = np.zeros(labels.shape, dtype=int)
    for feature in features:
        whole = np.zeros(labels.shape, dtype=np.bool_)
        for part in _parts(feature):
            shell, *holes = (np.array(ring, dtype=float) for ring in part)
            pixels = _filled(shell, labels.shape)
            for hole in holes:
                inside = _filled(hole, labels.shape)
                assert (pixels | ~inside).all()
                pixels &= ~inside
            for ring in (shell, *holes):
                assert (ring[0] == ring[-1]).all()
                assert len(np.unique(ring[:-1], axis=0)) == len(ring) - 1
                onward = np.diff(ring, axis=0) != 0  # down and across take turns
                assert (onward.sum(axis=1) == 1).all()
                assert (onward != np.roll(onward, 1, axis=0)).all()
            # By shared sides: else it would hang together in points, which no valid polygon does.
            assert ndimage.label(pixels)[1] == 1
            whole |= pixels
        about = feature["properties"]
        assert whole.sum() == about["pixels"]
        assert (labels[whole] == about["class_id"]).all()
        assert about["class"] == NAMES[about["class_id"]]
        assert ndimage.label(whole, EIGHT)[1] == 1
        middle = np.array(ndimage.center_of_mass(whole))[::-1] + 0.5
        assert np.allclose(about["centroid"], middle)
        all_pixels += whole
    assert np.array_equal(all_pixels, np.isin(labels, CONFIG.small_classes))


def test_pixels_that_touch_at_corners(tmp_path: Path) -> None:
    """A ring of four closed by corners; a hole that touches its shell; an island in a hole."""
    drawn = [
        ".#......####.",
        "#.#....#....#",
        ".#.....#.##.#",
        "......#..##.#",
        "####...#....#",
        "#..#....####.",
        "#.##..###....",
        "####..#.#....",
        "......##.##.#",
    ]
    labels = np.array([[2 if mark == "#" else 1 for mark in row] for row in drawn], dtype=np.uint8)
    features = _objects(tmp_path, labels)
    _check(features, labels)
    assert {len(_parts(f)) for f in features} > {1}


def _cut_into_strips(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "_STRIP_PX", 1)
    monkeypatch.setattr(components, "_BLOCK_ROWS", rows)


@pytest.mark.parametrize("rows", [1, 2, 5, 11, 23])
@pytest.mark.parametrize("seed", range(6))
def test_any_labels(tmp_path: Path, seed: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Components that cross the strips in which the raster is read are whole."""
    _cut_into_strips(rows, monkeypatch)
    rng = np.random.default_rng(seed)
    ids = np.array([0, 1, 2, 255], dtype=np.uint8)
    for share in (0.5, 0.75):  # of one class: many objects, or few with many holes
        labels = rng.choice(
            ids, size=(23, 31), p=[0.7 - 0.8 * share, 0.25 - 0.2 * share, share, 0.05]
        )
        _check(_objects(tmp_path, labels), labels)


def test_objects_across_many_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spiral, a comb that hangs together in the last strip only, stairs of corners."""
    _cut_into_strips(3, monkeypatch)
    labels = np.ones((31, 40), dtype=np.uint8)
    for turn in range(0, 14, 4):
        labels[turn : 31 - turn, 17 - turn : 18 + turn] = 2
        labels[turn + 1 : 30 - turn, 18 - turn : 17 + turn] = 1
    labels[1:4, 17] = 2
    labels[:, 36:39:2] = 0
    labels[30, 36:39] = 0
    for i in range(31):
        labels[i, i % 2 + 34] = 2
    _check(_objects(tmp_path, labels), labels)
    _check(_objects(tmp_path, np.full((31, 40), 2, np.uint8)), np.full((31, 40), 2, np.uint8))


def test_progress_goes_on_while_polygons_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _cut_into_strips(10, monkeypatch)
    seen: list[float] = []

    class Seen(Bar):
        def update(self, n: float | None = 1) -> bool | None:
            seen.append(n or 0)
            return super().update(n)

    monkeypatch.setattr(components, "Bar", Seen)
    assert len(_objects(tmp_path, np.full((45, 20), 2, np.uint8))) == 1
    assert seen == [10, 10, 10, 10, 5]


def test_degrees_and_square_metres(tmp_path: Path) -> None:
    """Longitude first, shells to the left; metres by the reference system's unit."""
    labels = np.ones((40, 50), dtype=np.uint8)
    labels[10:20, 5:25] = 2
    labels[12:14, 8:10] = 1
    turned = rasterio.Affine(0.3, 0.05, 500000, 0.04, -0.3, 5400000)
    (found,) = _objects(tmp_path, labels, crs="EPSG:32633", transform=turned)
    shell, hole = (np.array(ring) for ring in found["geometry"]["coordinates"])
    for ring, sign in ((shell, 1), (hole, -1)):
        (x, y), (x2, y2) = (ring[:-1] - ring[0]).T, (ring[1:] - ring[0]).T
        assert np.sign((x * y2 - x2 * y).sum()) == sign
    corners = [turned @ at for at in ((5, 10), (5, 20), (25, 20), (25, 10))]
    degrees = np.stack(rasterio.warp.transform("EPSG:32633", "EPSG:4326", *zip(*corners)), axis=1)
    assert sorted(map(tuple, shell[:-1].round(7))) == sorted(map(tuple, degrees.round(7)))
    assert 14.9 < shell[0][0] < 15.1
    assert 48 < shell[0][1] < 49
    about = found["properties"]
    assert about["pixels"] == 196
    # On UTM's central meridian maps are 0.9996 of the ground.
    planar = 196 * (0.3 * 0.3 + 0.05 * 0.04)
    assert about["m2"] == pytest.approx(planar / 0.9996**2, abs=1e-3)
    in_feet = rasterio.Affine(0.3, 0.05, 980000, 0.04, -0.3, 200000)
    (feet,) = _objects(tmp_path, labels, crs="EPSG:2263", transform=in_feet)
    assert feet["properties"]["m2"] == pytest.approx(planar * 0.3048006096**2, rel=1e-3)


def _square_degree_m2(north: float) -> float:
    """From the usual series for the length of a degree on WGS 84."""
    phi = np.radians(north)
    along = 111132.92 - 559.82 * np.cos(2 * phi) + 1.175 * np.cos(4 * phi)
    across = 111412.84 * np.cos(phi) - 93.5 * np.cos(3 * phi) + 0.118 * np.cos(5 * phi)
    return float(along * across)


@pytest.mark.parametrize(
    ("crs", "at"),
    [
        ("EPSG:4326", (15, 0)),
        ("EPSG:4326", (15, 60)),
        ("EPSG:4326", (180, -60)),
        ("EPSG:3857", (15, 0)),
        ("EPSG:3857", (15, 60)),
        ("EPSG:32633", (15, 60)),
    ],
)
def test_square_metres_are_of_the_ground(tmp_path: Path, crs: str, at: tuple[int, int]) -> None:
    """Whatever the map does to areas; and across the line where longitudes jump."""
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", crs, [at[0]], [at[1]])
    side = 1e-5 if crs == "EPSG:4326" else 1.0
    labels = np.ones((30, 30), dtype=np.uint8)
    labels[10:20, 10:20] = 2
    where = rasterio.Affine(side, 0, x - 15 * side, 0, -side, y + 15 * side)
    (found,) = _objects(tmp_path, labels, crs=crs, transform=where)
    (west, south), (east, north) = (
        rasterio.warp.transform(crs, "EPSG:4326", [x + by], [y + by]) for by in (-side, side)
    )
    width = (east[0] - west[0]) % 360
    pixel_m2 = width * (north[0] - south[0]) / 4 * _square_degree_m2(at[1])
    assert found["properties"]["m2"] == pytest.approx(100 * pixel_m2, rel=1e-3)


def test_no_square_metres_nowhere(tmp_path: Path) -> None:
    labels = np.ones((20, 20), dtype=np.uint8)
    labels[5:9, 5:9] = 2
    (found,) = _objects(tmp_path, labels)
    assert "m2" not in found["properties"]
    assert found["properties"]["centroid"] == [7, 7]


@pytest.mark.parametrize(("crs", "per_pixel"), [("EPSG:32633", 4 / 0.9996**2), (None, 1)])
def test_objects_below_an_area_are_left_out(
    tmp_path: Path, crs: str | None, per_pixel: float
) -> None:
    """In m2 on the ground; where there are no degrees, in pixels."""
    labels = np.ones((20, 60), dtype=np.uint8)
    for i in range(1, 9):
        labels[:i, 6 * i] = 2
    where = rasterio.Affine(2, 0, 500000, 0, -2, 5400000)
    source = write(tmp_path / "labels.tif", labels[None], crs=crs, transform=where)
    for pixels, left in ((0, 8), (0.1, 8), (5.0, 4), (5.1, 3), (9, 0)):
        target = tmp_path / "objects.geojson"
        area = pixels * per_pixel * (1 - 1e-6)
        assert scene.write_objects(source, target, CONFIG, min_area=area) == left
        found = json.loads(target.read_text())
        assert found["min_area"] == area
        assert [f["properties"]["pixels"] for f in found["features"]] == [*range(9 - left, 9)]
    for bad in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="min_area must be at least 0, and finite, got "):
            scene.write_objects(source, target, CONFIG, min_area=bad)


def test_ground_control_points(tmp_path: Path) -> None:
    labels = np.ones((40, 50), dtype=np.uint8)
    labels[10:20, 10:30] = 2
    source = write(tmp_path / "labels.tif", labels[None], **NOWHERE)
    corners = [(0, 0, 15, 50), (0, 50, 16, 50), (40, 0, 15, 49), (40, 50, 16, 49)]
    with rasterio.open(source, "r+") as file:
        file.gcps = ([rasterio.control.GroundControlPoint(*c) for c in corners], "EPSG:4326")
    assert scene.write_objects(source, tmp_path / "o.geojson", CONFIG) == 1
    (found,) = json.loads((tmp_path / "o.geojson").read_text())["features"]
    shell = np.array(found["geometry"]["coordinates"][0])
    assert np.allclose(shell.min(0), (15.2, 49.5))
    assert np.allclose(shell.max(0), (15.6, 49.75))
    expected = 0.4 * 0.25 * _square_degree_m2(49.625)
    assert found["properties"]["m2"] == pytest.approx(expected, rel=1e-4)


def test_points_that_do_not_tell_where_it_lies(tmp_path: Path) -> None:
    source = write(tmp_path / "labels.tif", np.full((1, 40, 50), 2, np.uint8), **NOWHERE)
    with rasterio.open(source, "r+") as file:
        points = [
            rasterio.control.GroundControlPoint(*c) for c in ((0, 0, 15, 50), (0, 50, 16, 50))
        ]
        file.gcps = (points, "EPSG:4326")
    rule = r"must have ground control points that tell where it lies, got 2 in .*labels\.tif: "
    with pytest.raises(ValueError, match=rule):
        scene.check_place(source)
    with pytest.raises(ValueError, match=rule):
        scene.write_objects(source, tmp_path / "o.geojson", CONFIG)


def test_objects_beyond_the_edge_of_the_earth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a disk seen from space: what reaches beyond has no geometry, all else is as ever."""
    labels = np.full((40, 40), 1, dtype=np.uint8)
    labels[::3, ::3] = 2
    where = rasterio.Affine(3e5, 0, -6e6, 0, -3e5, 6e6)
    disk = {"crs": "+proj=geos +h=35785831 +lon_0=10 +sweep=x", "transform": where}
    features = _objects(tmp_path, labels, **disk)
    assert len(features) == 14**2
    off = [feature for feature in features if feature["geometry"] is None]
    columns_and_rows = {(x + 0.5, y + 0.5) for x in range(0, 40, 3) for y in range(0, 40, 3)}
    # By the sphere's edge at 5.43 million metres: 18.1 pixels of the middle; corners are nearest.
    beyond = {at for at in columns_and_rows if np.hypot(at[0] - 20, at[1] - 20) > 18.1}
    found = {tuple(feature["properties"]["centroid"]) for feature in off}
    assert beyond <= found
    assert all(np.hypot(x - 20, y - 20) > 18.1 - 2**0.5 for x, y in found)
    assert all(feature["properties"].keys() == {"class_id", "class", "pixels", "centroid"}
               for feature in off)  # fmt: skip
    assert f"of 196 objects {len(off)} lie where there are no degrees" in caplog.text
    monkeypatch.setattr(objects, "_AT_ONCE", 1)
    assert _objects(tmp_path, labels, **disk) == features
    caplog.clear()
    middle = {**disk, "transform": where @ rasterio.Affine.translation(10, 10)}
    assert all(f["geometry"] for f in _objects(tmp_path, labels[10:30, 10:30], **middle))
    assert not caplog.text
    nowhere = {**disk, "transform": rasterio.Affine(3e5, 0, 6e6, 0, -3e5, 6e6)}
    with pytest.raises(ValueError, match=r"must lie where there are degrees, got .*labels.tif in "):
        _objects(tmp_path, labels, **nowhere)


def test_corners_of_no_system_are_on_the_map(tmp_path: Path) -> None:
    labels = np.ones((20, 20), dtype=np.uint8)
    labels[5:9, 5:9] = 2
    where = rasterio.Affine(2, 0, 1000, 0, -2, 500)
    (found,) = _objects(tmp_path, labels, transform=where)
    assert found["properties"]["centroid"] == [1014, 486]


def test_no_objects_and_no_labels(tmp_path: Path) -> None:
    assert _objects(tmp_path, np.full((20, 30), 255, dtype=np.uint8)) == []
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(ValueError, match=r"must be readable, got .*text\.tif"):
        scene.write_objects(tmp_path / "text.tif", tmp_path / "none.geojson", CONFIG)
    assert not list(tmp_path.glob("*none*"))


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of a process: POSIX")
    labels = np.random.default_rng(0).integers(0, 2, (150, 150), dtype=np.uint8) * 2
    source = write(tmp_path / "labels.tif", labels[None], **NOWHERE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (20000, 1000):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            with pytest.raises(OSError, match=r"too large: .*objects\.geojson"):
                scene.write_objects(source, tmp_path / "objects.geojson", CONFIG)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in tmp_path.iterdir()] == ["labels.tif"]
