"""Scenes that are refused, stopped, damaged, or find the disk full; and how they go on."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes_on_disk import COMMON, labels_of, noise, write

from c2fcore import C2FNet, scene
from c2fcore.cli import main
from c2fcore.data.tiling import Box
from c2fcore.engine import Engine
from c2fcore.images import write_png
from c2fcore.models import build

rasterio = pytest.importorskip("rasterio", reason="whole scenes: c2fcore[scene]")

from c2fcore import _raster  # noqa: E402
from c2fcore.scene import geotiff, parts  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning"  # of files made and looked at here
)


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
        (
            {"target": "there.tif"},
            FileExistsError,
            "there.tif exists; overwrite replaces it; resume goes on with what is missing",
        ),
        ({"target": "there.tif", "overwrite": True}, ValueError, r"did not write .*there\.tif;"),
        ({"target": "there.tif", "resume": True}, ValueError, r"did not write .*there\.tif;"),
        (
            {"target": "l.tif"},
            ValueError,
            r"must be a file, got .*l\.tif\.aux\.xml, which is a fold",
        ),
        ({"target": "dir.tif"}, ValueError, "target must be a file, got the folder"),
        ({"target": "there.tif/l.tif"}, ValueError, "must be in a folder to write into, got"),
        ({"target": "l\udce9.tif"}, ValueError, r"must have a name in UTF-8, got .*l\\udce9\.tif"),
        ({"source": "s\udce9.tif"}, ValueError, r"rasters must be UTF-8, got .*s\\udce9\.tif"),
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
    (tmp_path / "l.tif.aux.xml").mkdir()
    before = sorted(tmp_path.iterdir())
    how = {**COMMON, **change}
    source, target = how.pop("source", "scene.tif"), how.pop("target", "labels.tif")
    how.setdefault("overwrite", target == "scene.tif")
    with pytest.raises(error, match=message):
        scene.segment_file(engine, tmp_path / source, tmp_path / target, **how)
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
    scene.segment_file(engine, source, target, **{**COMMON, "tile": 50})
    earlier = target.read_bytes()
    with monkeypatch.context() as patch:
        _Stop(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            scene.segment_file(engine, source, target, **COMMON, overwrite=True)
    assert target.read_bytes() == earlier
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
    made = target.read_bytes()
    again = scene.segment_file(engine, source, target, **COMMON, resume=True)
    assert (again.kept, again.empty, again.windows) == (6, 0, whole.windows)
    assert np.array_equal(again.pixels, whole.pixels)
    assert target.read_bytes() == made
    assert len(seen) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "labels.tif",
        "labels.tif.aux.xml",
        "scene.tif",
        "whole.tif",
        "whole.tif.aux.xml",
    ]


def test_a_finished_tile_that_was_damaged_is_named(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "scene.tif", noise(3, 64, 100))
    target = tmp_path / "labels.tif"
    with monkeypatch.context() as patch:
        _Stop(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            scene.segment_file(engine, source, target, **COMMON)
    damaged = min(tmp_path.glob(".*.tiles/*.png"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"must be readable, got .*tile000000_\d+windows\.png: "):
        scene.segment_file(engine, source, target, **COMMON, resume=True)
    damaged.unlink()
    found = scene.segment_file(engine, source, target, **COMMON, resume=True)
    whole = scene.segment_file(engine, source, tmp_path / "whole.tif", **COMMON)
    assert found.kept == 5
    assert np.array_equal(labels_of(target), labels_of(whole.path))


def test_one_run_at_a_time(engine: Engine, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="locks of POSIX")
    source, target = write(tmp_path / "scene.tif", noise(3, 64, 100)), tmp_path / "labels.tif"
    with parts.Parts(target).held({}, resume=False, overwrite=False):
        with pytest.raises(ValueError, match=r"target must be written by one run at a time, got"):
            scene.segment_file(engine, source, target, **COMMON)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            ".labels.tif.tiles",
            "scene.tif",
        ]
    assert scene.segment_file(engine, source, target, **COMMON).tiles == 6


def test_tiles_of_another_run_are_not_ours_to_tell(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """The other run goes on with its tiles while this one is refused."""
    source = write(tmp_path / "scene.tif", noise(3, 64, 100))
    others = parts.Parts(tmp_path / "labels.tif")
    held = parts.Parts.held

    def later(self: parts.Parts, *args: Any, **options: Any) -> Any:
        others.add(0, np.zeros((40, 40), np.uint8), 1)
        return held(self, *args, **options)

    given = ["scene", str(source), "-o", str(tmp_path / "labels.tif"), "--tile", "40"]
    with others.held({}, resume=False, overwrite=False):
        monkeypatch.setattr(parts.Parts, "held", later)
        assert main([*given, "--overlap", "8", "--checkpoint", str(checkpoint)]) == 2
    said = capsys.readouterr().err
    assert "--out must be written by one run at a time, got another in" in said
    assert "stopped" not in said


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
    with pytest.raises(ValueError, match=r"resume must go on .* got scene_(bytes|modified) "):
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
    with pytest.raises(ValueError, match=r'got scene_modified "20\d\d-'):
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
        patch.setattr(geotiff, "count", lambda path, progress: found)
        with pytest.raises(OSError, match=r"labels must be in .* as written, got other pixels for"):
            scene.segment_file(engine, source, target, **COMMON)
    assert not target.exists()
    assert scene.segment_file(engine, source, target, **COMMON, resume=True).kept == 6


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
        assert not list(tmp_path.glob(".*.tiles/loose-*"))
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


def test_without_rasterio(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the package works; scenes say what they need."""
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImportError, match=r"scenes need rasterio: pip install 'c2fcore\[scene\]'"):
        scene.segment_file(engine, tmp_path / "scene.tif", tmp_path / "labels.tif")
    with pytest.raises(ImportError, match=r"scenes need rasterio: pip install 'c2fcore\[scene\]'"):
        scene.write_objects(tmp_path / "labels.tif", tmp_path / "o.geojson", engine.config)
    write_png(tmp_path / "photo.png", np.zeros((40, 50, 3), np.uint8))
    assert scene.segment(engine, tmp_path / "photo.png", **COMMON).labels.shape == (40, 50)
