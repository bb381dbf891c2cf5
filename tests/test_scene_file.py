"""Whole scenes from GeoTIFF to GeoTIFF."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scenes_on_disk import COMMON, NAMES, PALETTE, labels_of, make_net, noise, write

from c2fcore import scene
from c2fcore._progress import Bar
from c2fcore.engine import Engine
from c2fcore.scene import files

rasterio = pytest.importorskip("rasterio", reason="whole scenes: c2fcore[scene]")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.shutil import copy  # noqa: E402

from c2fcore import _raster  # noqa: E402
from c2fcore.scene import geotiff  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning"  # of files made and looked at here
)


@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [((64, 100), 40, 8), ((41, 81), 40, 0), ((30, 100), 40, 8), ((1, 1), 40, 8), ((20, 24), 7, 5)],
)
def test_labels_are_those_of_the_pixels(
    engine: Engine, tmp_path: Path, size: tuple[int, int], tile: int, overlap: int
) -> None:
    """Remainders one pixel wide, and scenes smaller than a tile, among them."""
    image = noise(3, *size)
    source = write(tmp_path / "scene.tif", image)
    how = {"tile": tile, "overlap": overlap, "progress": False}
    expected = scene.segment(engine, image.transpose(1, 2, 0), **how)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **how)
    labels = labels_of(found.path)
    assert np.array_equal(labels, expected.labels)
    assert expected.windows is not None
    assert (found.height, found.width, found.windows) == (*size, len(expected.windows))
    assert found.pixels.tolist() == np.bincount(labels.ravel(), minlength=256).tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "labels.tif",
        "labels.tif.aux.xml",
        "scene.tif",
    ]


def test_one_tile_is_the_image(engine: Engine, tmp_path: Path) -> None:
    image = noise(3, 64, 100)
    source = write(tmp_path / "scene.tif", image)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", tile=100, progress=False,
                               overlap=0)  # fmt: skip
    whole = engine(image.transpose(1, 2, 0))
    assert np.array_equal(labels_of(found.path), whole)
    assert found.tiles == 1
    small = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON, overwrite=True)
    assert not np.array_equal(labels_of(small.path), whole)  # or the test above says little


def test_batches_and_threads_change_nothing(engine: Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "scene.tif", noise(3, 64, 180))
    one = scene.segment_file(engine, source, tmp_path / "one.tif", **COMMON)
    many = scene.segment_file(make_net().compile(batch=3), source, tmp_path / "many.tif", **COMMON)
    assert np.array_equal(labels_of(one.path), labels_of(many.path))
    assert one.windows == many.windows


def test_the_answer_lies_where_the_scene_does(engine: Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "scene.tif", noise(3, 600, 1100), blockxsize=64, blockysize=64,
                   tiled=True)  # fmt: skip
    with rasterio.open(source, "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", tile=512, overlap=64,
                               progress=False)  # fmt: skip
    with rasterio.open(source) as given, rasterio.open(found.path) as file:
        assert (file.crs, file.transform) == (given.crs, given.transform)
        assert not file.transform.is_rectilinear
        assert file.dtypes == ("uint8",)
        assert file.nodata == 255
        assert file.block_shapes == [(512, 512)]
        assert file.overviews(1) == [2, 4]
        assert file.compression.name == "deflate"
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.tags()["AREA_OR_POINT"] == "Point"
        assert file.tags(1) == {f"CLASS_{c}": name for c, name in enumerate(NAMES)}
        assert [file.colormap(1)[c][:3] for c in range(4)] == list(PALETTE)
    with rasterio.open(found.path, overview_level=0) as file:
        reduced = file.read(1)
    small = labels_of(found.path).reshape(300, 2, 550, 2).transpose(0, 2, 1, 3).reshape(300, 550, 4)
    ordered = np.sort(small, axis=2)
    three = (ordered[..., 1] == ordered[..., 2]) & (  # or four of one class
        (ordered[..., 0] == ordered[..., 1]) | (ordered[..., 2] == ordered[..., 3])
    )
    assert len(np.unique(reduced[three])) > 1
    assert np.array_equal(reduced[three], ordered[three, 1])
    copy(found.path, tmp_path / "as.vrt", driver="VRT")  # which shows what GDAL knows of it
    shown = (tmp_path / "as.vrt").read_text()
    assert re.findall("<Category>(.*)</Category>", shown) == [*NAMES[:3], "sea &amp; sand"]
    plain = scene.segment_file(engine, source, tmp_path / "plain.tif", tile=512, overlap=64,
                               progress=False, overviews=False)  # fmt: skip
    assert np.array_equal(labels_of(plain.path), labels_of(found.path))
    with rasterio.open(plain.path) as file:
        assert file.overviews(1) == []


def test_ground_control_points_and_polynomials_are_kept(engine: Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "scene.tif", noise(3, 50, 60), transform=None, crs=None)
    corners = [(0, 0, 15, 50), (0, 60, 16, 50), (50, 0, 15, 49), (50, 60, 16, 49)]
    rpc = rasterio.rpc.RPC(0, 1, 50, 1, [1.0] * 20, [1.0] * 20, 25, 25, 15, 1, [1.0] * 20,
                           [1.0] * 20, 30, 30)  # fmt: skip
    with rasterio.open(source, "r+") as file:
        file.gcps = ([GroundControlPoint(*corner) for corner in corners], "EPSG:4326")
        file.rpcs = rpc
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON)
    with rasterio.open(found.path) as file:
        points, system = file.gcps
        assert [(p.row, p.col, p.x, p.y) for p in points] == corners
        assert system.to_epsg() == 4326
        assert file.rpcs.lat_off == 50


def test_systems_that_no_tiff_holds(engine: Engine, tmp_path: Path) -> None:
    """Longitudes and latitudes of a pole elsewhere, as weather models have them."""
    rotated = "+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +lon_0=18 +to_meter=0.0174532925199433"
    source = write(tmp_path / "scene.tif", noise(3, 50, 60), crs=rotated)
    assert (tmp_path / "scene.tif.aux.xml").exists()
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON)
    with rasterio.open(source) as given, rasterio.open(found.path) as file:
        assert file.crs == given.crs
    copy(found.path, tmp_path / "as.vrt", driver="VRT")
    assert "<Category>sea &amp; sand</Category>" in (tmp_path / "as.vrt").read_text()


def test_ground_control_points_of_no_system(engine: Engine, tmp_path: Path) -> None:
    """They are kept; corners of objects are in their coordinates."""
    source = write(tmp_path / "scene.tif", noise(3, 50, 60), transform=None, crs=None)
    corners = [(0, 0, 100, 200), (0, 60, 160, 200), (50, 0, 100, 150), (50, 60, 160, 150)]
    with rasterio.open(source, "r+") as file:
        file.gcps = ([GroundControlPoint(*corner) for corner in corners], rasterio.crs.CRS())
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON)
    with rasterio.open(found.path) as file:
        points, system = file.gcps
        assert [(p.row, p.col, p.x, p.y) for p in points] == corners
        assert system is None
    assert scene.write_objects(found.path, tmp_path / "o.geojson", engine.config, progress=False)
    for feature in json.loads((tmp_path / "o.geojson").read_text())["features"]:
        x, y = feature["properties"]["centroid"]
        assert 100 < x < 160
        assert 150 < y < 200
        assert "m2" not in feature["properties"]


def test_a_scene_that_lies_nowhere(engine: Engine, tmp_path: Path) -> None:
    Image.fromarray(noise(3, 50, 60).transpose(1, 2, 0)).save(tmp_path / "scene.png")
    found = scene.segment_file(engine, tmp_path / "scene.png", tmp_path / "labels.TIFF", **COMMON)
    with rasterio.open(found.path) as file:
        assert file.crs is None
        assert file.transform.is_identity


def test_virtual_rasters_and_overviews(engine: Engine, tmp_path: Path) -> None:
    source = write(tmp_path / "scene.tif", noise(3, 64, 100))
    copy(source, tmp_path / "scene.vrt", driver="VRT")
    copy(source, tmp_path / "cog.tif", driver="COG", blocksize=32, overviews="AUTO")
    found = {
        name: labels_of(
            scene.segment_file(engine, tmp_path / name, tmp_path / f"of_{name}.tif", **COMMON).path
        )
        for name in ("scene.tif", "scene.vrt", "cog.tif")
    }
    assert np.array_equal(found["scene.tif"], found["scene.vrt"])
    assert np.array_equal(found["scene.tif"], found["cog.tif"])


def test_tiles_without_data_are_counted_when_they_are_read(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the next one that has data, which may be an hour away."""
    image = noise(3, 40, 160).clip(1)
    image[:, :, :120] = 0
    counted: list[float] = []
    bars: list[Bar] = []

    class Kept(Bar):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            bars.append(self)

    class Watched(_raster.Raster):
        def read(self, *arguments: Any) -> Any:
            counted.append(bars[0].n)
            return super().read(*arguments)

    monkeypatch.setattr(files, "Bar", Kept)
    monkeypatch.setattr(_raster, "Raster", Watched)
    source = write(tmp_path / "scene.tif", image, nodata=0)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", tile=40, overlap=0)
    assert (found.tiles, found.empty) == (4, 3)
    assert counted == [0, 1, 2, 3]
    assert bars[0].n == 4


@pytest.mark.parametrize("name", ["l.tif", "labels[1].tif"])
def test_a_copy_shows_how_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By the size of its files: first the overviews of a size unknown, then all there will be."""
    shown: list[tuple[str, float, float | None]] = []

    class Shown(Bar):
        def refresh(self, *_: Any, **__: Any) -> None:
            shown.append((self.desc, self.n, self.total))

    monkeypatch.setattr(geotiff, "Bar", Shown)
    monkeypatch.setattr(geotiff, "_WATCH_S", 0.01)
    source, target = tmp_path / f"loose-{name}", tmp_path / name
    source.write_bytes(b"x" * 1000)
    (tmp_path / f"{name}.gone").symlink_to("nowhere")  # as a file that GDAL has just removed

    def until(wanted: tuple[str, float, float | None]) -> None:
        ends = time.monotonic() + 30
        while shown[-1:] != [wanted] and time.monotonic() < ends:
            time.sleep(0.01)
        assert shown[-1] == wanted

    with geotiff._watched(source, target, True):
        (tmp_path / f"{name}.ovr.tmp").write_bytes(b"x" * 300)
        until(("overviews", 300, None))
        target.write_bytes(b"x" * 500)
        until(("copying", 800, 1600))
    count = len(shown)
    time.sleep(0.05)
    assert len(shown) <= count + 1  # what closing shows


_LARGE = """
import resource, sys
import numpy as np, rasterio
from scenes_on_disk import make_net
from c2fcore import scene
engine = make_net().compile()
peaks = []
for side in (5000, 16000):
    source = f"{sys.argv[1]}/{side}.tif"
    with rasterio.open(source, "w", "GTiff", width=side, height=side, count=1, nodata=0,
                       dtype="uint8", tiled=True, sparse_ok=True, compress="deflate") as file:
        for at in (0, side // 2, side - 300):
            noise = np.random.default_rng(at).integers(1, 256, (1, 300, 300), dtype=np.uint8)
            file.write(noise, window=((at, at + 300), (at, at + 300)))
    found = scene.segment_file(engine, source, f"{sys.argv[1]}/labels_of_{side}.tif", tile=512,
                               overlap=64, progress=False, overviews=False)
    assert found.pixels[:255].sum() == 3 * 300 * 300
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(*peaks)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    """From 25 to 256 Mpx of one band: 231 MB more, of the image as of its labels."""
    environment = {**os.environ, "GDAL_CACHEMAX": "16", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LARGE, str(tmp_path)],
        env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first_mb, second_mb = map(int, done.stdout.split())
    assert second_mb - first_mb < 115
