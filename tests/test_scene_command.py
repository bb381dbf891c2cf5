"""`c2f scene` as its users meet it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scenes_on_disk import labels_of, make_net, noise, write

from c2fcore import _progress, scene
from c2fcore.cli import main
from c2fcore.engine import Engine
from c2fcore.scene import parts

rasterio = pytest.importorskip("rasterio", reason="whole scenes: c2fcore[scene]")
pytest.importorskip("rasterio.shutil")

HOW = ["--tile", "40", "--overlap", "8"]


@pytest.fixture
def given(checkpoint: Path, tmp_path: Path) -> list[str]:
    """A command for a scene without data on the left."""
    image = noise(4, 64, 100)
    image[:, :, :60] = 0
    source = write(tmp_path / "scene.tif", image, nodata=0)
    return ["scene", str(source), "-o", str(tmp_path / "labels.tif"), "--checkpoint",
            str(checkpoint), *HOW]  # fmt: skip


def test_what_is_told(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*given, "--bands", "4,3,2", "--objects", str(tmp_path / "o.geojson")]) == 0
    said = capsys.readouterr()
    engine = make_net().compile()
    expected = scene.segment_file(
        engine, tmp_path / "scene.tif", tmp_path / "again.tif", bands=(4, 3, 2), tile=40,
        overlap=8, progress=False,
    )  # fmt: skip
    assert np.array_equal(labels_of(tmp_path / "labels.tif"), labels_of(expected.path))
    first, second, third, fourth, *key = said.out.splitlines()
    assert first.startswith(
        f"{tmp_path / 'scene.tif'}: 100 x 64 px, 6 tiles (2 without data), {expected.windows} "
        f"windows, car {expected.share(1):.2%}, ship {expected.share(2):.2%}, "
        "60.00% without data, in 0:00:"
    )
    assert second == f"  -> {tmp_path / 'labels.tif'}"
    features = json.loads((tmp_path / "o.geojson").read_text())["features"]
    assert third == f"{len(features)} objects"
    assert fourth == f"  -> {tmp_path / 'o.geojson'}"
    assert key[0] == "ids: 0 ground, 1 car, 2 ship, 3 sea & sand"
    assert sum(f["properties"]["pixels"] for f in features) == expected.pixels[1:3].sum()
    assert not list(tmp_path.glob(".*"))


def test_a_log_is_told_how_far_it_is(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """Tiles, the file that they become, and the objects in it."""
    monkeypatch.setattr(_progress, "_FIRST_S", 0)
    assert main([*given, "--objects", str(tmp_path / "o.geojson")]) == 0
    lines = capsys.readouterr().err.splitlines()
    for last in (f"{tmp_path / 'scene.tif'}: 100% 6/6 ", "writing: 100% ", "checking: 100% ",
                 "objects: 100% "):  # fmt: skip
        assert [line for line in lines if line.startswith(last)], last


def test_options_reach_the_scene(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: dict[str, Any] = {}

    def spy(engine: Engine, source: str, target: Path, **options: Any) -> None:
        called.update(options, engine=engine, source=source, target=target)
        raise ValueError("seen enough")

    monkeypatch.setattr(scene, "segment_file", spy)
    unasked = {
        "source": given[1],
        "target": Path(given[3]),
        "tile": 40,
        "overlap": 8,
        "bands": None,
        "value_range": None,
        "nodata": None,
        "overviews": True,
        "overwrite": False,
        "resume": False,
    }
    for more, changed in (
        ([], {}),
        (["--bands", "4,3,2"], {"bands": (4, 3, 2)}),
        (["--range", "20", "90"], {"value_range": (20.0, 90.0)}),
        (["--raw"], {"value_range": "raw"}),
        (["--nodata", "-9999"], {"nodata": -9999.0}),
        (["--no-overviews"], {"overviews": False}),
        (["--overwrite"], {"overwrite": True}),
        (["--resume"], {"resume": True}),
    ):
        assert main([*given, *more, "--n", "2", "--batch", "3", "--precision", "bfloat16"]) == 2
        assert "seen enough" in capsys.readouterr().err
        engine = called.pop("engine")
        assert (engine.config.n, engine.batch) == (2, 3)
        assert engine.networks.precision == torch.bfloat16
        assert called == {**unasked, **changed}


def test_nothing_is_replaced_unasked(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, objects = tmp_path / "labels.tif", tmp_path / "o.geojson"
    kept.touch()  # as mktemp does
    assert main([*given, "--resume"]) == 0
    kept.write_bytes(b"")
    assert main(given) == 2
    assert (
        "labels.tif exists; give --overwrite to replace it, or --resume to go on with what is "
        "missing, under the same options"
    ) in capsys.readouterr().err
    assert main([*given, "--overwrite", "--objects", str(objects)]) == 0
    assert labels_of(kept).shape == (64, 100)
    whole, found = kept.read_bytes(), objects.read_bytes()
    assert main([*given, "--resume", "--objects", str(objects)]) == 0
    assert "labels.tif is done already" in capsys.readouterr().err
    assert (kept.read_bytes(), objects.read_bytes()) == (whole, found)
    objects.write_text('{"type": "FeatureCollection", "generator": "c2fcore 0", "features": []}')
    os.utime(objects, ns=(0, kept.stat().st_mtime_ns - 1))  # of earlier labels
    assert main([*given, "--resume", "--objects", str(objects)]) == 0
    assert objects.read_bytes() == found
    assert main([*given, "--overwrite", "--objects", str(objects)]) == 0
    assert objects.read_bytes() == found


def test_what_others_wrote_is_never_replaced(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Swapped arguments, and the scene by other names."""
    assert main(given) == 0
    image = Path(given[1])
    before = image.read_bytes()
    for more in (["--overwrite"], ["--resume"], []):
        swapped = ["scene", given[3], "-o", given[1], *given[4:], *more]
        assert main(swapped) == 2
        assert "a file that c2fcore did not write is never replaced, got" in capsys.readouterr().err
    (tmp_path / "hard.tif").hardlink_to(image)
    (tmp_path / "soft.tif").symlink_to(image)
    (tmp_path / "precious.json").write_text("{}")
    for name in ("hard.tif", "soft.tif"):
        assert main(["scene", given[1], "-o", str(tmp_path / name), "--overwrite"]) == 2
        assert "must be different files, got" in capsys.readouterr().err
    assert main([*given, "--overwrite", "--objects", str(tmp_path / "precious.json")]) == 2
    assert "did not write is never replaced, got" in capsys.readouterr().err
    assert (tmp_path / "precious.json").read_text() == "{}"
    assert image.read_bytes() == before
    engine = make_net().compile()
    with pytest.raises(ValueError, match=r"did not write is never replaced, got .*scene\.tif"):
        scene.write_objects(given[3], image, engine.config)
    assert image.read_bytes() == before


def test_labels_and_objects_go_through_links(given: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    for name in ("labels.tif", "o.geojson"):
        (tmp_path / name).symlink_to(disk / f"real_{name}")
    for more in ([], ["--overwrite"]):
        assert main([*given, "--objects", str(tmp_path / "o.geojson"), *more]) == 0
        assert {path.name for path in disk.iterdir()} == {
            "real_labels.tif",
            "real_labels.tif.aux.xml",
            "real_o.geojson",
        }
        assert (tmp_path / "labels.tif").is_symlink()
        assert (tmp_path / "o.geojson").is_symlink()
    for name in (tmp_path / "labels.tif", disk / "real_labels.tif"):
        rasterio.shutil.copy(name, tmp_path / "as.vrt", driver="VRT")  # shows what GDAL knows of it
        assert "<Category>sea &amp; sand</Category>" in (tmp_path / "as.vrt").read_text()


def test_names_of_other_things_are_refused_before_computing(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe, lost = tmp_path / "o.geojson", tmp_path / "lost.geojson"
    os.mkfifo(pipe)
    lost.symlink_to(tmp_path / "no" / "o.geojson")
    (tmp_path / "pipe.tif").symlink_to(pipe)
    for more, rule in (
        (["--objects", str(pipe)], f"must be a file, got {pipe}, which is a device"),
        (["--objects", str(lost)], f"into a folder that is there, got {lost} -> "),
        (["-o", str(tmp_path / "pipe.tif")], f"got {tmp_path / 'pipe.tif'}, which is a device"),
    ):
        assert main([*given, *more, "--overwrite"]) == 2
        assert rule in capsys.readouterr().err
        assert not (tmp_path / "labels.tif").exists()
        assert pipe.is_fifo()


def test_which_bands_are_taken_is_told(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "scene.tif", noise(6, 64, 100))
    assert main(given) == 0
    assert "note: the networks see bands 1,2,3 of 6; --bands chooses others" in (
        capsys.readouterr().err
    )
    for count, more in ((6, ["--bands", "4,3,2"]), (3, [])):
        write(tmp_path / "scene.tif", noise(count, 64, 100))
        assert main([*given, "--overwrite", *more]) == 0
        assert "note: the networks see" not in capsys.readouterr().err


def test_networks_of_more_channels_see_more_bands(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_net(channels=4).save_pretrained(tmp_path / "four")
    four = [*given, "--overwrite", "--checkpoint", str(tmp_path / "four")]
    write(tmp_path / "scene.tif", noise(4, 64, 100))
    assert main(four) == 2  # what is red, green, blue and near infrared, GDAL calls alpha
    assert (
        "scene.tif with 3 and alpha; --bands 1,2,3,4 takes that as one" in capsys.readouterr().err
    )
    assert main([*four, "--bands", "1,2,3,4"]) == 0
    for count in (4, 6):
        write(tmp_path / "scene.tif", noise(count, 64, 100), photometric="MINISBLACK")
        assert main(four) == 0
        said = capsys.readouterr().err
        assert ("note: the networks see bands 1,2,3,4 of 6; --bands" in said) == (count == 6)
        assert ("note: the networks see" in said) == (count == 6)


def test_other_labels_are_not_done(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another scene, of another place, of other options, or of nobody knows which."""
    assert main(given) == 0
    whole = (tmp_path / "labels.tif").read_bytes()

    def refused(*more: str) -> str:
        assert main([*given, *more, "--resume"]) == 2
        assert (tmp_path / "labels.tif").read_bytes() == whole
        return capsys.readouterr().err

    assert (
        "--resume must go on with the options it began with, got --tile 50, not 40; --ov"
        in refused("--tile", "50")
    )
    assert "got --n 2, not 3; --zoom 3.0, not 2.0; --overwrite starts again" in refused(
        "--zoom", "3", "--n", "2"
    )
    net = make_net()
    torch.nn.init.zeros_(next(net.fine.parameters()))
    net.save_pretrained(tmp_path / "other")
    said = refused("--checkpoint", str(tmp_path / "other"))
    assert "it began with, got weights " in said
    image = Path(given[1])
    stat = image.stat()
    where = (0.3, 0.05, 500001, 0.04, -0.3, 5400000)
    write(image, noise(4, 64, 90), nodata=0, transform=where)
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    said = refused()
    assert "got scene_bytes " in said
    assert "transform [0.3, 0.05, 500001.0, " in said
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(tmp_path / "labels.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(C2FCORE_MADE="")
    whole = (tmp_path / "labels.tif").read_bytes()
    assert "must find labels that tell their options" in refused()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_objects_without_degrees_are_told(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects = ["--objects", str(tmp_path / "o.geojson")]
    assert main([*given, *objects]) == 0
    assert "note: " not in capsys.readouterr().err
    identity = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    for crs in (None, "EPSG:32633"):
        write(tmp_path / "scene.tif", noise(4, 64, 100), crs=crs, transform=identity)
        assert main([*given, *objects, "--overwrite"]) == 0
        assert "scene.tif has no reference system, or no transform, so the objects' corners" in (
            capsys.readouterr().err
        )
        (first, *_) = json.loads((tmp_path / "o.geojson").read_text())["features"]
        assert "m2" not in first["properties"]
        assert max(first["properties"]["centroid"]) > 10  # columns and rows


def test_small_objects_are_left_out(given: list[str], tmp_path: Path) -> None:
    """Also of labels that are done; what is there already is not written again."""
    target = tmp_path / "o.json"
    for least, left in ((0.0, 1), (173.0, 1), (174.0, 0), (0.0, 1)):
        written = []
        for _ in range(2):
            objects = ["--objects", str(target), "--min-area", str(least)]
            assert main([*given, *objects, "--resume"]) == 0
            written.append(target.stat().st_mtime_ns)
        assert written[0] == written[1]
        assert len(json.loads(target.read_text())["features"]) == left


def test_objects_that_have_no_place_are_refused_before_computing(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = 'LOCAL_CS["here",UNIT["metre",1]]'
    for crs, east in ((local, 0), ("EPSG:32633", 1e12)):
        write(tmp_path / "scene.tif", noise(4, 64, 100), crs=crs, transform=(2, 0, east, 0, -2, 0))
        assert main([*given, "--objects", str(tmp_path / "o.geojson")]) == 2
        said = capsys.readouterr().err
        assert "a scene must lie where there are degrees, got" in said
        assert not (tmp_path / "labels.tif").exists()
    assert main(given) == 0


def test_a_refused_run_makes_no_folder(given: list[str], tmp_path: Path) -> None:
    (tmp_path / "labels.tif").touch()
    assert main([*given, "--objects", str(tmp_path / "new" / "o.geojson")]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("No space left on device")])
def test_a_stopped_run_says_how_to_go_on(
    given: list[str],
    tmp_path: Path,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add = parts.Parts.add

    def stopping(self: parts.Parts, *args: Any) -> None:
        if len(self.done) == 2:
            raise error
        add(self, *args)

    target = tmp_path / "labels.tif"
    assert main([*given, "--n", "2"]) == 0
    earlier = target.read_bytes()
    objects = ["--objects", str(tmp_path / "o.geojson")]
    with monkeypatch.context() as patch:
        patch.setattr(parts.Parts, "add", stopping)
        interrupted = isinstance(error, KeyboardInterrupt)
        assert main([*given, *objects, "--overwrite"]) == (130 if interrupted else 2)
    said = capsys.readouterr().err
    assert "c2f scene: stopped after 2 tiles; --resume goes on from there" in said
    assert ("c2f scene: error: No space left on device" in said) != interrupted
    assert target.read_bytes() == earlier
    assert main([*given, *objects, "--resume"]) == 0
    said_now = capsys.readouterr()
    assert "6 tiles (2 without data, 2 done before)" in said_now.out
    assert labels_of(target).shape == (64, 100)
    (tmp_path / "o.geojson").unlink()
    assert main([*given, *objects, "--resume"]) == 0
    assert "labels.tif is done already" in capsys.readouterr().err
    assert (tmp_path / "o.geojson").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tile", "0"], "--tile must be at least 1, got 0"),
        (["--overlap", "40"], "--overlap must be below --tile, got 40 and 40"),
        (["--bands", "4,3"], "--bands must be 3, one per channel of the networks, got 2"),
        (["--bands", "4,3,9"], "--bands must be in 1..4, of which"),
        (["--checkpoint", "nowhere"], "--checkpoint must be a folder or a hub id"),
        (["--window", "0"], "--window must be at least 1, got 0"),
        (["--max-batch", "0"], "--max-batch must be at least 1, got 0"),
        (["--backend", "fast"], "--backend must be one of"),
        (["--bands", "red"], "numbers with commas between, as in 4,3,2, got 'red'"),
        (["--range", "1", "0"], "error: --range must be two numbers, low < high, got 1 and 0"),
        (["-o", "labels.png"], "--out must end in .tif or .tiff, got labels.png"),
        (["-o", "SCENE"], "SCENE, LABELS and GEOJSON must be different files, got"),
        (["--objects", "SCENE"], "SCENE, LABELS and GEOJSON must be different files, got"),
        (["--objects", "o.shp"], "GEOJSON must end in .geojson or .json, got o.shp"),
        (["--objects", "SCENE/o.json"], "GEOJSON must be in a folder to write into, got"),
        (["--min-area", "3"], "--min-area must come with --objects, got 3.0 without"),
        (["--objects", "o.json", "--min-area", "-3"], "--min-area must be at least 0, and finite"),
        (["--device", "meta"], "GPUs found (cuda, cuda:1, ...), got 'meta'"),
        (["--device", "cuda:99"], "--device must be one that is here, cpu or one of the "),
        (["--device", "hpu"], "--device must be one that is here, cpu or one of the "),
    ],
)
def test_errors_are_told_in_a_line(
    given: list[str], more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [word.replace("SCENE", given[1]) for word in more]
    try:
        status = main([*given, *more])
    except SystemExit as left:  # argparse's
        status = int(left.code or 0)
    assert status == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (Path(given[3])).exists()
    assert not list(Path(given[3]).parent.glob(".*"))
