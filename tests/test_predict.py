"""`c2f predict` on large images, and after an interruption."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photos import draw, pixels_of
from PIL import Image
from scenes_on_disk import noise, write

from c2fcore import C2FConfig, C2FNet, _progress, images, scene
from c2fcore.cli import main, predict
from c2fcore.cli.images import masks_among
from c2fcore.cli.options import check_second_look


def test_large_images_are_cut(
    photos: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(predict, "LARGE_PX", 60)
    monkeypatch.setattr(predict, "_TILE_PX", 40)
    out = tmp_path / "out"
    common = ["predict", str(photos), "-o", str(out), "--checkpoint", str(checkpoint)]
    engine = C2FNet.from_pretrained(checkpoint).eval().compile()

    def check(cut: str, *more: str) -> None:
        """Labels and numbers of windows, of the images named tile by tile."""
        assert main([*common, "--overlap", "8", *more]) == 0
        said = capsys.readouterr().out
        for name, size in {"a": "50 x 40", "b": "100 x 64"}.items():
            file = photos / f"{name}.png"
            (found,) = engine.run([file])
            if name in cut:
                whole = found.labels
                found = scene.segment(engine, file, tile=40, overlap=8, progress=False)
                assert not np.array_equal(found.labels, whole)
            assert found.windows is not None
            assert f"{name}.png: {size} px, {len(found.windows)} window" in said
            assert np.array_equal(pixels_of(out / f"{name}_labels.png"), found.labels)

    check("b")
    check("", "--overwrite", "--tile", "0")
    check("ab", "--overwrite", "--tile", "40")


def test_pixels_without_data_are_255_and_do_not_count(
    photos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `c2f scene` has it, in one piece and tile by tile."""
    with Image.open(photos / "b.png") as image:
        pixels = np.asarray(image)
    alpha = np.full((64, 100, 1), 255, np.uint8)
    alpha[:, :30] = 0
    Image.fromarray(np.concatenate([pixels, alpha], 2)).save(photos / "b.png")
    engine = C2FNet.from_pretrained(checkpoint).eval().compile()
    command = ["predict", str(photos / "b.png"), "-o", str(tmp_path), "--overwrite"]
    for more in ([], ["--tile", "40", "--overlap", "8"]):
        assert main([*command, "--checkpoint", str(checkpoint), *more]) == 0
        said = capsys.readouterr().out
        labels = pixels_of(tmp_path / "b_labels.png")
        if more:
            everywhere = scene.segment(engine, pixels, tile=40, overlap=8, progress=False).labels
        else:
            everywhere = engine(pixels)
        assert np.array_equal(labels[:, 30:], everywhere[:, 30:])
        assert (labels[:, :30] == 255).all()
        assert f"car {(labels[:, 30:] == 1).mean():.2%}, ship " in said
        assert ", 30.00% without data\n" in said
    Image.fromarray(np.zeros((40, 50, 4), np.uint8)).save(photos / "b.png")
    assert main([*command, "--checkpoint", str(checkpoint)]) == 0
    assert "car 0.00%, ship 0.00%, 100.00% without data\n" in capsys.readouterr().out


def test_a_log_is_told_how_far_it_is(
    photos: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(_progress, "_FIRST_S", 0)
    out = str(tmp_path / "out")
    assert main(["predict", str(photos), "-o", out, "--checkpoint", str(checkpoint)]) == 0
    assert "predict: 100% 3/3 [" in capsys.readouterr().err.splitlines()[-1]


def test_a_bad_overlap_is_refused_before_anything_is_read(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["predict", str(tmp_path / "none.png"), "-o", str(tmp_path / "out")]
    assert main([*given, "--tile", "64"]) == 2
    assert "--overlap must be below --tile, got 256 and 64; small tiles" in capsys.readouterr().err
    assert main([*given, "--tile", "280"]) == 2
    rule = (
        "--overlap must leave a pixel in at most 64 tiles, got 256 of --tile 280, which is in 136;"
    )
    assert rule in capsys.readouterr().err
    assert main([*given, "--tile", "-5"]) == 2
    assert "--tile must be at least 0, which cuts no image, got -5" in capsys.readouterr().err
    assert main([*given, "--overlap", "-1"]) == 2
    assert "overlap must be in 0..tile-1, got -1" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--zoom", "--window"])
def test_patches_without_end_are_refused(
    option: str, photos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(photos), "-o", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
    assert main(["predict", *given, option, "5000"]) == 2
    rule = "--window times --zoom must be at most 4096 px, which the fine network sees at once, got"
    assert f"c2f predict: error: {rule} " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zoom": 4}, None),  # as in the paper's tables
        ({"zoom": 20}, "at up to 32 windows of 2560 x 2560 px; a smaller --zoom, "),
        ({"zoom": 0.5, "n": 30_000, "stride": 4}, "at up to 30000 windows of 64 x 64 px; "),
        ({"zoom": 4, "strategy": "all", "n": None}, None),
        ({"zoom": 6, "strategy": "all", "n": None}, "at up to 256 windows of 768 x 768 px; "),
    ],
)
def test_a_second_look_that_takes_long_is_told(
    changes: dict[str, Any], said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = C2FConfig.preset("paper", num_classes=2, small_classes=(1,), **changes)
    check_second_look(config, 2048)
    told = capsys.readouterr().err
    assert told == "" if said is None else said in told


def test_a_large_image_that_fails_does_not_stop_the_others(
    photos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(whole[: len(whole) // 2])
    command = ["predict", str(photos), "-o", str(tmp_path / "out"), "--tile", "48"]
    assert main([*command, "--overlap", "0", "--checkpoint", str(checkpoint)]) == 1
    said = capsys.readouterr()
    assert f"error: image must be readable, got {photos / 'b.png'}" in said.err
    assert "c.png: 50 x 40 px" in said.out


def test_going_on_writes_what_is_missing(
    photos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image with both files is left out; of one with one of them the other is written."""
    out = tmp_path / "out"
    command = ["predict", str(photos), "-o", str(out), "--checkpoint", str(checkpoint)]
    assert main(command) == 0
    first = pixels_of(out / "b_labels.png")
    (out / "a_labels.png").write_bytes(b"kept")
    (out / "b_labels.png").unlink()
    (out / "b_overlay.png").write_bytes(b"kept, too")
    (out / "c_labels.png").unlink()
    (out / "c_overlay.png").unlink()
    capsys.readouterr()
    assert main(command) == 2
    assert "--skip-existing to go on with what is missing" in capsys.readouterr().err
    assert main([*command, "--skip-existing"]) == 0
    said = capsys.readouterr()
    assert "1 of 3 images are done already" in said.err
    assert "a.png" not in said.out
    assert (out / "a_labels.png").read_bytes() == b"kept"
    assert (out / "b_overlay.png").read_bytes() == b"kept, too"
    assert np.array_equal(pixels_of(out / "b_labels.png"), first)
    assert (out / "c_overlay.png").exists()
    assert main([*command, "--skip-existing"]) == 0
    assert "3 of 3 images are done already" in capsys.readouterr().err
    (out / "b_overlay.png").unlink()
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert main([*command, "--skip-existing", "--zoom", "3"]) == 2
    said = capsys.readouterr().err
    assert "--skip-existing must go on with the options it began with, got --zoom 3.0, not" in said
    assert f" in {out / 'b_labels.png'}; --overwrite starts again" in said
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_an_image_that_changed_is_done_again(
    photos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["predict", str(photos), "-o", str(out), "--checkpoint", str(checkpoint)]
    assert main(command) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    Image.fromarray(noise(3, 40, 50).transpose(1, 2, 0)).save(photos / "b.png")
    capsys.readouterr()
    assert main([*command, "--skip-existing"]) == 0
    said = capsys.readouterr()
    assert "2 of 3 images are done already; 1 changed since, to be done again" in said.err
    assert "b.png: 50 x 40 px" in said.out
    changed = {path.name for path in out.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"b_labels.png", "b_overlay.png"}
    assert main([*command, "--skip-existing"]) == 0
    assert "3 of 3 images are done already\n" in capsys.readouterr().err
    os.utime(photos / "a.png", (1, 1))
    (out / "a_overlay.png").write_bytes(b"mine")
    assert main([*command, "--skip-existing"]) == 2
    assert "did not write is never replaced, got" in capsys.readouterr().err


def test_results_are_no_images(
    photos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a folder or a pattern, wherever they lie; what is named by itself is meant."""
    common = ["--checkpoint", str(checkpoint)]
    Image.open(photos / "a.png").save(photos / "mine_overlay.png")
    assert main(["predict", str(photos), "-o", str(photos / "out"), *common]) == 0
    assert len(list((photos / "out").iterdir())) == 8
    for given in (f"{photos}/**/*.png", str(photos / "out" / "*")):
        capsys.readouterr()
        out = tmp_path / str(len(given))
        status = main(["predict", given, "-o", str(out), *common])
        said = capsys.readouterr().err
        assert f"note: 8 files in {given} left out, such as a_labels.png, named as results" in said
        if status:
            assert "IMAGE must name images, got" in said
        else:
            names = {path.name.removesuffix("_labels.png") for path in out.glob("*_labels.png")}
            assert names == {"a", "b", "c", "mine_overlay"}
    result = photos / "out" / "a_overlay.png"
    assert main(["predict", str(result), "-o", str(tmp_path / "out"), *common]) == 0


def test_masks_are_no_images(
    photos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As iSAID comes, images and masks in one folder; what is named by itself is meant."""
    masks = [photos / f"P0003_instance_{kind}_RGB.png" for kind in ("color", "id")]
    for name in ("P0003.png", *(mask.name for mask in masks), "a_mask.png", "._a.png"):
        draw(photos / name, 40, 50)
    common = ["--checkpoint", str(checkpoint)]
    out = tmp_path / "out"
    assert main(["predict", str(photos), "-o", str(out), *common]) == 0
    said = capsys.readouterr().err
    assert f"3 files in {photos} left out, such as P0003_instance_color_RGB.png, named as" in said
    assert {path.name.removesuffix("_labels.png") for path in out.glob("*_labels.png")} == {
        "a", "b", "c", "P0003",
    }  # fmt: skip
    assert main(["predict", str(masks[0]), "-o", str(out), *common]) == 0
    assert (out / "P0003_instance_color_RGB_labels.png").exists()


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("val/P1.png", "Instance_masks/P1_instance_id_RGB.png"),
        ("RGB/top_potsdam_2_10_RGB.tif", "full/top_potsdam_2_10_label.tif"),
        ("top/top_mosaic_09cm_area1.tif", "top/top_mosaic_09cm_area1_noBoundary.tif"),
        ("Urban/images_png/1.png", "Urban/masks_png/1.png"),
        ("img_dir/val/1.png", "ann_dir/val/1.png"),
        ("images/a.jpg", "labels/a_gt.png"),
        ("a.jpg", "a_labels.png"),
        ("a.jpg b_gt.jpg a.png ann_dir/a.png masks/c.png _mask.png a_mask_2.png", ""),
    ],
)
def test_layouts_with_masks(images: str, masks: str) -> None:
    files = [Path("/data", name) for name in (*images.split(), *masks.split())]
    assert masks_among(files) == {Path("/data", name) for name in masks.split()}


def test_a_stopped_run_says_how_to_go_on(
    photos: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    write = predict.write_png

    def stopped(path: Path, pixels: images.Pixels, **texts: str) -> None:
        if path.name == "b_overlay.png":
            raise KeyboardInterrupt
        write(path, pixels, **texts)

    monkeypatch.setattr(predict, "write_png", stopped)
    command = ["predict", str(photos), "-o", str(out), "--checkpoint", str(checkpoint)]
    assert main(command) == 130
    said = capsys.readouterr().err
    assert "stopped after 1 of 3 images; --skip-existing goes on from there" in said
    monkeypatch.undo()
    assert main([*command, "--skip-existing"]) == 0
    assert len(list(out.glob("*.png"))) == 6


def test_sizes_by_the_head_of_a_file(tmp_path: Path) -> None:
    pixels = np.zeros((5, 7), np.uint8)
    images.write_png(tmp_path / "a.png", pixels)
    assert images.size_of(tmp_path / "a.png") == (5, 7)
    (tmp_path / "text.png").write_text("no image")
    assert images.size_of(tmp_path / "text.png") is None
    assert images.size_of(tmp_path / "none.png") is None
    rasterio = pytest.importorskip("rasterio")
    many = {"driver": "GTiff", "count": 5, "dtype": "uint16", "height": 5, "width": 7}
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(tmp_path / "many.tif", "w", **many) as file,
    ):
        file.write(np.zeros((5, 5, 7), np.uint16))
    assert images.size_of(tmp_path / "many.tif") == (5, 7)


def test_no_half_written_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Image.Image, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        images.write_png(tmp_path / "labels.png", np.zeros((4, 4), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_told_by_a_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of a process: POSIX")
    pixels = noise(3, 40, 50).transpose(1, 2, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*overlay\.png'"):
            images.write_png(tmp_path / "overlay.png", pixels)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_out_that_cannot_be_made(
    photos: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photos / "a.png" / "out"
    command = ["predict", str(photos), "-o", str(out), "--checkpoint", str(checkpoint)]
    assert main(command) == 2
    assert f"OUT must be a folder to write into, got {out}: Not a" in capsys.readouterr().err


def test_out_that_cannot_be_written_is_told_before_computing(
    photos: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    command = ["predict", str(photos), "-o", str(tmp_path), "--checkpoint", str(checkpoint)]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"OUT must be a folder to write into, got {tmp_path}: Permission denied" in said


def test_what_pillow_cannot_read_is_no_news(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rasterio", reason="many bands: c2fcore[scene]")
    source = write(tmp_path / "many.tif", noise(13, 40, 50))
    run = [sys.executable, "-m", "c2fcore", "predict", str(source), "-o", str(tmp_path / "out")]
    done = subprocess.run([*run, "--checkpoint", str(checkpoint)], check=True)
    assert done.returncode == 0
    assert capfd.readouterr().err == ""


def test_a_mistyped_option_is_told_beside_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "a.png", "-o", "out", "--zooom", "3"])
    said = capsys.readouterr().err
    assert "usage: c2f predict" in said
    assert "c2f predict: error: unrecognized arguments: --zooom 3" in said
