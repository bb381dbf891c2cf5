"""Whole scenes from GeoTIFF to GeoTIFF."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scenes_on_disk import NAMES, PALETTE, labels_of, make_net, noise, write

from c2fcore import C2FNet, images, scene
from c2fcore.data.tiling import Box
from c2fcore.engine import Engine
from c2fcore.models import build

rasterio = pytest.importorskip("rasterio", reason="whole scenes: c2fcore[scene]")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.shutil import copy  # noqa: E402

from c2fcore import _raster  # noqa: E402
from c2fcore.scene import geotiff, parts  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning"  # of files made and looked at here
)

COMMON = {"tile": 40, "overlap": 8, "progress": False}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_net().compile()


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


def test_a_scene_that_lies_nowhere(engine: Engine, tmp_path: Path) -> None:
    Image.fromarray(noise(3, 50, 60).transpose(1, 2, 0)).save(tmp_path / "scene.png")
    found = scene.segment_file(engine, tmp_path / "scene.png", tmp_path / "labels.TIFF", **COMMON)
    with rasterio.open(found.path) as file:
        assert file.crs is None
        assert file.transform.is_identity


def _holes(height: int, width: int) -> npt.NDArray[np.bool_]:
    """Where there is data: not in the first tiles, nor in a hole of the last."""
    known = np.ones((height, width), dtype=np.bool_)
    known[:, :60] = False
    known[45:50, 80:90] = False
    return known


@pytest.mark.parametrize("way", ["mask", "alpha", "both", "nodata", "asked", "nan"])
def test_no_data_is_255(engine: Engine, tmp_path: Path, way: str) -> None:
    image, known = noise(3, 64, 100), _holes(64, 100)
    image[:, 20, 95] = (0, 0, 7)  # one band is no data, the pixel is
    image[2][image[2] == 0] = 1
    if way in ("nodata", "asked"):
        image[:, ~known] = 0
    how: dict[str, Any] = {}
    if way == "mask":
        source = write(tmp_path / "scene.tif", image, known)
    elif way in ("alpha", "both"):
        alpha = known[None].astype(np.uint8) * 128
        if way == "both":  # of each a part
            alpha[:, :, :30] = 128
            image[:, :, :30] = 0
        source = write(tmp_path / "scene.tif", np.concatenate([image, alpha]), photometric="RGB",
                       nodata=0 if way == "both" else None)  # fmt: skip
        with rasterio.open(source, "r+") as file:
            file.colorinterp = [*file.colorinterp[:3], ColorInterp.alpha]
    elif way == "nan":
        floats = image.astype(np.float32)
        floats[:, ~known] = np.nan
        source = write(tmp_path / "scene.tif", floats)
        image[:, ~known] = 0
        how["value_range"] = (0, 255)
    else:
        source = write(tmp_path / "scene.tif", image, nodata=0 if way == "nodata" else None)
        how["nodata"] = 0 if way == "asked" else None
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON, **how)
    everywhere = scene.segment(engine, image.transpose(1, 2, 0), **COMMON).labels
    assert np.array_equal(labels_of(found.path), np.where(known, everywhere, 255))
    assert found.pixels[255] == np.count_nonzero(~known)
    # Tiles begin at 0, 32, 60 and speak for 0..36, 36..66, 66..100: two do without networks.
    assert (found.tiles, found.empty) == (6, 2)
    assert found.share(1) == (everywhere[known] == 1).mean()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_scene_without_data(engine: Engine, tmp_path: Path, dtype: type) -> None:
    source = write(tmp_path / "scene.tif", np.zeros((3, 50, 90), dtype), nodata=0)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON)
    assert (labels_of(found.path) == 255).all()
    assert (found.windows, found.empty, found.share(0)) == (0, found.tiles, 0.0)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_one_stretch_for_the_whole_scene(
    engine: Engine, tmp_path: Path, dtype: type, count: int
) -> None:
    """Tiles of their own percentiles would differ: the scene is darker on the left."""
    bands = noise(count, 64, 100, dtype)
    bands[:, :, :50] //= 4
    bands[:, 3:9] = 77
    source = write(tmp_path / "scene.tif", bands, nodata=77)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON)
    expected = scene.segment(engine, source, **COMMON).labels
    known = (bands[:3] != 77).any(0)
    assert np.array_equal(labels_of(found.path), np.where(known, expected, 255))
    assert len(np.unique(expected)) > 1


def test_a_grey_scene_and_a_palette(engine: Engine, tmp_path: Path) -> None:
    grey = noise(1, 64, 100)
    source = write(tmp_path / "grey.tif", grey)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON)
    expected = scene.segment(engine, grey.repeat(3, 0).transpose(1, 2, 0), **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)
    with rasterio.open(write(tmp_path / "palette.tif", grey % 4), "r+") as file:
        file.write_colormap(1, {c: (*colour, 255) for c, colour in enumerate(PALETTE)})
    found = scene.segment_file(engine, tmp_path / "palette.tif", tmp_path / "p.tif", **COMMON)
    expected = scene.segment(engine, tmp_path / "palette.tif", **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_and_range(engine: Engine, tmp_path: Path, dtype: type) -> None:
    bands = noise(4, 64, 100, dtype)
    source = write(tmp_path / "scene.tif", bands)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON, bands=(4, 3, 2),
                               value_range=(1000, 6000))  # fmt: skip
    unit = ((bands[[3, 2, 1]].astype(np.float32) - 1000) / 5000).clip(0, 1)
    seen = (unit * 255).round().astype(np.uint8).transpose(1, 2, 0)
    assert np.array_equal(labels_of(found.path), scene.segment(engine, seen, **COMMON).labels)


def test_an_alpha_band_that_is_asked_for_is_none(engine: Engine, tmp_path: Path) -> None:
    """GDAL takes the fourth of four bytes for alpha; near infrared is dark on water."""
    bands = noise(4, 64, 100)
    bands[3, 30:] = 0
    source = write(tmp_path / "scene.tif", bands)
    with rasterio.open(source) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    masked = scene.segment_file(engine, source, tmp_path / "masked.tif", **COMMON)
    assert masked.pixels[255] >= 34 * 100
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON, bands=(4, 3, 2))
    expected = scene.segment(engine, bands[[3, 2, 1]].transpose(1, 2, 0), **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_networks_of_other_channels(tmp_path: Path, channels: int) -> None:
    """The first bands unless others are named; values as they are if asked for."""
    engine = make_net(channels).compile()
    bands = noise(7, 50, 60, np.uint16)
    source = write(tmp_path / "scene.tif", bands)
    how: dict[str, Any] = {**COMMON, "value_range": "raw"}
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **how)
    expected = scene.segment(engine, bands[:channels].transpose(1, 2, 0), **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)
    chosen = tuple(range(7, 7 - channels, -1))
    found = scene.segment_file(engine, source, tmp_path / "chosen.tif", **how, bands=chosen)
    expected = scene.segment(engine, bands[[b - 1 for b in chosen]].transpose(1, 2, 0), **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)
    with pytest.raises(ValueError, match=rf"bands must be {channels}, one per channel .* got 2"):
        scene.segment_file(engine, source, tmp_path / "no.tif", **how, bands=(1, 2))
    if channels > 3:
        few = write(tmp_path / "few.tif", bands[:3])
        with pytest.raises(ValueError, match=rf"the {channels} bands that the networks need, got"):
            scene.segment_file(engine, few, tmp_path / "no.tif", **how)


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


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"tile": 0}, ValueError, "tile must be at least 1, got 0"),
        ({"overlap": 40}, ValueError, "overlap must be in 0..tile-1, got 40 for tiles of 40"),
        ({"bands": (1, 2, 5)}, ValueError, r"bands must be in 1\.\.3, of which .* got 1, 2, 5"),
        ({"bands": (0, 1, 2)}, ValueError, r"bands must be in 1\.\.3, of which .* got 0, 1, 2"),
        ({"value_range": (5, 5)}, ValueError, "two numbers, low < high, got 5 and 5"),
        ({"value_range": "8bit"}, ValueError, r"must be \(low, high\), 'raw' or None, got '8bit'"),
        ({"target": "labels.png"}, ValueError, "target must end in .tif or .tiff, got"),
        ({"target": "scene.tif"}, ValueError, "target must not be the scene itself, got"),
        ({"target": "there.tif"}, FileExistsError, "there.tif exists; overwrite replaces it"),
        ({"target": "dir.tif"}, ValueError, "target must be a file, got the folder"),
        ({"target": "there.tif/l.tif"}, ValueError, "must be in a folder to write into, got"),
        ({"source": "text.tif"}, ValueError, r"image must be readable, got .*text\.tif"),
        ({"source": "none.tif"}, ValueError, r"image must be readable, got .*none\.tif"),
        (
            {"value_range": "raw", "source": "wide.tif"},
            TypeError,
            r"must be uint8/uint16/.*\.int32",
        ),
        ({"source": "complex.tif"}, ValueError, "must hold real numbers, got .* of complex64"),
    ],
)
def test_what_is_refused_leaves_nothing(
    engine: Engine, tmp_path: Path, change: dict[str, Any], error: type, message: str
) -> None:
    write(tmp_path / "scene.tif", noise(3, 50, 60))
    write(tmp_path / "wide.tif", noise(3, 50, 60, np.int32))
    write(tmp_path / "complex.tif", noise(3, 50, 60).astype(np.complex64))
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "there.tif").write_bytes(b"precious")
    (tmp_path / "dir.tif").mkdir()
    before = sorted(tmp_path.iterdir())
    how = {**COMMON, **change}
    source, target = how.pop("source", "scene.tif"), how.pop("target", "labels.tif")
    overwrite = target == "scene.tif"
    with pytest.raises(error, match=message):
        scene.segment_file(engine, tmp_path / source, tmp_path / target, **how, overwrite=overwrite)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.tif").read_bytes() == b"precious"


class _Stop:
    """Stops a run when so many tiles are finished."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> None:
        add = parts.Parts.add

        def stopping(self: parts.Parts, *args: Any) -> None:
            if len(self.done) == after:
                raise error
            add(self, *args)

        monkeypatch.setattr(parts.Parts, "add", stopping)


def test_going_on_from_where_it_stopped(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "scene.tif", noise(3, 64, 100))
    target = tmp_path / "labels.tif"
    whole = scene.segment_file(engine, source, tmp_path / "whole.tif", **COMMON)
    target.write_bytes(b"of an earlier run")
    with monkeypatch.context() as patch:
        _Stop(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            scene.segment_file(engine, source, target, **COMMON, overwrite=True)
    assert target.read_bytes() == b"of an earlier run"
    target.unlink()
    with pytest.raises(ValueError, match=r"stopped left 4 tiles in .*; resume goes on from there"):
        scene.segment_file(engine, source, target, **COMMON)
    seen: list[Box] = []
    read = _raster.Raster.read

    def reading(self: _raster.Raster, box: Box) -> Any:
        seen.append(box)
        return read(self, box)

    monkeypatch.setattr(_raster.Raster, "read", reading)
    found = scene.segment_file(engine, source, target, **COMMON, resume=True)
    assert seen == [Box(24, 32, 64, 72), Box(24, 60, 64, 100)]
    assert (found.kept, found.tiles, found.windows) == (4, 6, whole.windows)
    assert np.array_equal(labels_of(target), labels_of(whole.path))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "labels.tif",
        "labels.tif.aux.xml",
        "scene.tif",
        "whole.tif",
        "whole.tif.aux.xml",
    ]


def test_other_options_are_not_gone_on_with(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write(tmp_path / "scene.tif", noise(3, 64, 100)), tmp_path / "labels.tif"
    with monkeypatch.context() as patch:
        _Stop(patch, 2, OSError("full"))
        with pytest.raises(OSError, match="full"):
            scene.segment_file(engine, source, target, **COMMON)
    how = {**COMMON, "resume": True}
    with pytest.raises(ValueError, match=r"resume must go on .* got tile 50, not 40; overwrite"):
        scene.segment_file(engine, source, target, **{**how, "tile": 50})
    with pytest.raises(ValueError, match=r"got bands \[3, 2, 1\], not \[1, 2, 3\]"):
        scene.segment_file(engine, source, target, **how, bands=(3, 2, 1))
    net = C2FNet(build("tiny_fcn", 4, width=4), build("tiny_fcn", 2, width=4), engine.config)
    other = net.eval().compile()
    with pytest.raises(ValueError, match=r"resume must go on .* got weights"):
        scene.segment_file(other, source, target, **how)
    changed = write(tmp_path / "scene.tif", noise(3, 64, 101))
    with pytest.raises(ValueError, match=r"resume must go on .* got (bytes|changed) "):
        scene.segment_file(engine, changed, target, **how)
    (options,) = tmp_path.glob(".*/options.json")
    assert json.loads(options.read_text())["tile"] == 40
    options.write_text("{")
    with pytest.raises(ValueError, match="resume needs the options of the run to go on from"):
        scene.segment_file(engine, source, target, **how)
    found = scene.segment_file(engine, changed, target, **COMMON, overwrite=True)
    assert (found.kept, found.width) == (0, 101)


def test_a_scene_damaged_in_the_middle(engine: Engine, tmp_path: Path) -> None:
    """Tiles above the damage are kept, the place is named, and a whole copy can be gone on with."""
    image = noise(3, 160, 100)
    source, target = tmp_path / "scene.tif", tmp_path / "labels.tif"
    whole = write(source, image, compress="deflate", blockysize=8, interleave="pixel").read_bytes()
    with source.open("r+b") as file:  # strips of the lower half
        file.seek(len(whole) * 6 // 10)
        file.write(b"\xff" * (len(whole) * 3 // 10))
    with pytest.raises(ValueError, match=r"must be readable, got .*scene\.tif at rows \d+ to \d+"):
        scene.segment_file(engine, source, target, **COMMON)
    (folder,) = tmp_path.glob(".*.tiles")
    kept = len(list(folder.glob("*.png")))
    assert kept >= 3
    assert not target.exists()
    source.write_bytes(whole)
    with pytest.raises(ValueError, match="got changed "):
        scene.segment_file(engine, source, target, **COMMON, resume=True)
    options = json.loads((folder / "options.json").read_text())
    options.update(parts.file_options(source))
    (folder / "options.json").write_text(json.dumps(options))
    found = scene.segment_file(engine, source, target, **COMMON, resume=True)
    assert found.kept == kept
    expected = scene.segment(engine, image.transpose(1, 2, 0), **COMMON)
    assert np.array_equal(labels_of(target), expected.labels)


def test_what_cannot_be_written_is_told(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full need not say so: the file is read again."""
    source, target = write(tmp_path / "scene.tif", noise(3, 64, 100)), tmp_path / "labels.tif"
    found = np.zeros(256, np.int64)
    with monkeypatch.context() as patch:
        patch.setattr(geotiff, "count", lambda path: found)
        with pytest.raises(OSError, match=r"labels must be in .* as written, got other pixels for"):
            scene.segment_file(engine, source, target, **COMMON)
    assert not target.exists()
    assert scene.segment_file(engine, source, target, **COMMON, resume=True).kept == 6


_LARGE = """
import resource, sys
import numpy as np, rasterio, torch
from scenes_on_disk import make_net
from c2fcore import scene
folder, side = sys.argv[1], int(sys.argv[2])
with rasterio.open(folder + "/scene.tif", "w", "GTiff", width=side, height=side, count=1, nodata=0,
                   dtype="uint8", tiled=True, sparse_ok=True, compress="deflate") as file:
    for at in (0, side // 2, side - 300):
        noise = np.random.default_rng(at).integers(1, 256, (1, 300, 300), dtype=np.uint8)
        file.write(noise, window=((at, at + 300), (at, at + 300)))
engine = make_net().compile()
engine(np.zeros((512, 512, 3), np.uint8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = scene.segment_file(engine, folder + "/scene.tif", folder + "/labels.tif", tile=512,
                           overlap=64, progress=False, overviews=False)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(found.tiles - found.empty, int(found.pixels[:255].sum()), grown // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    """256 Mpx of one band: the image has 256 MB, and so have its labels."""
    environment = {**os.environ, "GDAL_CACHEMAX": "64", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _LARGE, str(tmp_path), "16000"],
        env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    computed, known, grown_mb = map(int, done.stdout.split())
    assert (computed, known) == (6, 3 * 300 * 300)
    assert grown_mb < 230


def test_percentiles_of_a_large_image_are_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_ALL_PX", 1000)
    monkeypatch.setattr(images, "_SAMPLE_PX", 4)
    monkeypatch.setattr(images, "_SAMPLE_COUNT", 8)
    band = np.random.default_rng(3).normal(500, 100, (1, 300, 400)).astype(np.float32)
    seen: list[Box] = []

    def read(box: Box) -> npt.NDArray[np.float32]:
        seen.append(box)
        return band[:, box.y0 : box.y1, box.x0 : box.x1]

    found = images.Stretch.of(read, 300, 400)
    assert len(seen) == 64
    assert {(b.y1 - b.y0, b.x1 - b.x0) for b in seen} == {(4, 4)}
    assert (seen[0][:2], seen[-1][2:]) == ((0, 0), (300, 400))
    assert np.allclose((found.low, found.high), np.percentile(band, (2, 98))[:, None], atol=30)
    # An island between the windows is found, too; nothing at all gives 0.
    empty = np.full_like(band, np.nan)
    band[:] = empty
    band[:, 100:102, 100:102] = 5, 6
    assert images.Stretch.of(read, 300, 400).low[0] == pytest.approx(5, abs=0.1)
    band[:] = empty
    assert not images.Stretch.of(read, 300, 400)(band).any()


def test_a_disk_that_is_full(engine: Engine, tmp_path: Path) -> None:
    """Whatever GDAL says then, and when: no target, and all tiles to go on with."""
    resource = pytest.importorskip("resource", reason="limits of a process: POSIX")
    source, target = write(tmp_path / "scene.tif", noise(3, 700, 1100)), tmp_path / "labels.tif"
    how = {"tile": 256, "overlap": 32, "progress": False}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (60000, 9000):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            with pytest.raises(OSError, match=r"labels must be .* is the disk full\?"):
                scene.segment_file(engine, source, target, **how, resume=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not target.exists()
        assert scene.unfinished(target) == 15
    found = scene.segment_file(engine, source, target, **how, resume=True)
    assert found.kept == 15
    expected = scene.segment(engine, noise(3, 700, 1100).transpose(1, 2, 0), **how)
    assert np.array_equal(labels_of(target), expected.labels)


def test_a_file_is_not_closed_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stopped leaves a slow reader behind; GDAL would crash."""
    raster = _raster.Raster(write(tmp_path / "scene.tif", noise(3, 50, 60)))
    reading, go_on = threading.Event(), threading.Event()
    mask = _raster.Raster._mask

    def slow(self: _raster.Raster, *args: Any) -> Any:
        reading.set()
        assert go_on.wait(30)
        return mask(self, *args)

    monkeypatch.setattr(_raster.Raster, "_mask", slow)
    reader = threading.Thread(target=raster.read, args=(Box(0, 0, 50, 60),))
    closer = threading.Thread(target=raster.close)
    reader.start()
    assert reading.wait(30)
    closer.start()
    closer.join(0.05)
    assert not raster.source.closed
    go_on.set()
    closer.join(30)
    reader.join(30)
    assert raster.source.closed
