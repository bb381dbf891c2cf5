"""`c2f predict` on large images, and after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from c2fcore import C2FConfig, C2FNet, images, scene
from c2fcore.cli import main, predict
from c2fcore.models import build


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("net") / "net"
    torch.manual_seed(3)
    config = C2FConfig(num_classes=4, small_classes=(1, 2), window=16, n=3)
    net = C2FNet(build("tiny_fcn", 4, width=4), build("tiny_fcn", 2, width=4), config)
    net.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, the second one larger."""
    made = tmp_path / "images"
    made.mkdir()
    for name, (height, width) in {"a": (40, 50), "b": (64, 100), "c": (40, 50)}.items():
        noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(made / f"{name}.png")
    return made


def _labels(file: Path) -> Any:
    with Image.open(file) as image:
        return np.asarray(image)


def test_large_images_are_cut(
    folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(predict, "_LARGE_PX", 60)
    monkeypatch.setattr(predict, "_TILE_PX", 40)
    out = tmp_path / "out"
    common = ["predict", str(folder), "-o", str(out), "--checkpoint", str(checkpoint)]
    engine = C2FNet.from_pretrained(checkpoint).eval().compile()
    tiled = scene.segment(engine, folder / "b.png", tile=40, overlap=8, progress=False)
    assert tiled.windows is not None
    assert len(tiled.windows) > 3  # as many as an image has
    more: list[str] = []
    for cut in (True, False, True):
        assert main([*common, "--overlap", "8", *more]) == 0
        said = capsys.readouterr().out
        assert f"b.png: 100 x 64 px, {len(tiled.windows) if cut else 3} windows" in said
        assert np.array_equal(_labels(out / "a_labels.png"), engine(folder / "a.png"))
        expected = tiled.labels if cut else engine(folder / "b.png")
        assert np.array_equal(_labels(out / "b_labels.png"), expected)
        more = ["--overwrite", "--tile", "0" if cut else "40"]


def test_a_bad_overlap_is_refused_before_anything_is_read(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["predict", str(tmp_path / "none.png"), "-o", str(tmp_path / "out")]
    assert main([*given, "--tile", "64", "--overlap", "64"]) == 2
    assert "overlap must be in 0..tile-1, got 64 for tiles of 64" in capsys.readouterr().err


def test_a_large_image_that_fails_does_not_stop_the_others(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(whole[: len(whole) // 2])
    command = [
        "predict",
        str(folder),
        "-o",
        str(tmp_path / "out"),
        "--tile",
        "48",
        "--overlap",
        "0",
    ]
    assert main([*command, "--checkpoint", str(checkpoint)]) == 1
    said = capsys.readouterr()
    assert f"error: image must be readable, got {folder / 'b.png'}" in said.err
    assert "c.png: 50 x 40 px" in said.out


def test_going_on_writes_what_is_missing(
    folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image with both files is left out; of one with one of them the other is written."""
    out = tmp_path / "out"
    command = ["predict", str(folder), "-o", str(out), "--checkpoint", str(checkpoint)]
    assert main(command) == 0
    first = _labels(out / "b_labels.png")
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
    assert np.array_equal(_labels(out / "b_labels.png"), first)
    assert (out / "c_overlay.png").exists()
    assert main([*command, "--skip-existing"]) == 0
    assert "3 of 3 images are done already" in capsys.readouterr().err


def test_a_stopped_run_says_how_to_go_on(
    folder: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    write = predict.write_png

    def stopped(path: Path, pixels: images.Pixels) -> None:
        if path.name == "b_overlay.png":
            raise KeyboardInterrupt
        write(path, pixels)

    monkeypatch.setattr(predict, "write_png", stopped)
    command = ["predict", str(folder), "-o", str(out), "--checkpoint", str(checkpoint)]
    assert main(command) == 130
    said = capsys.readouterr().err
    assert "stopped after 1 of 3 images; --skip-existing goes on from there" in said
    monkeypatch.undo()
    assert main([*command, "--skip-existing"]) == 0
    assert len(list(out.glob("*.png"))) == 6


def test_no_half_written_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Image.Image, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        images.write_png(tmp_path / "labels.png", np.zeros((4, 4), np.uint8))
    assert not list(tmp_path.iterdir())


def test_out_that_cannot_be_made(
    folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "a.png" / "out"
    command = ["predict", str(folder), "-o", str(out), "--checkpoint", str(checkpoint)]
    assert main(command) == 2
    assert f"OUT must be a folder that can be made, got {out}" in capsys.readouterr().err


def test_a_mistyped_option_is_told_beside_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "a.png", "-o", "out", "--zooom", "3"])
    said = capsys.readouterr().err
    assert "usage: c2f predict" in said
    assert "c2f predict: error: unrecognized arguments: --zooom 3" in said
