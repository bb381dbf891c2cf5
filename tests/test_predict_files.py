"""Files that `c2f predict` writes, where links and other things have their names, or runs stop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from photos import draw, pixels_of

from c2fcore import _backend, _files, images
from c2fcore.cli import main, predict


def test_results_go_through_links(photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "disk"
    out.mkdir()
    elsewhere.mkdir()
    (out / "a_labels.png").symlink_to(elsewhere / "labels.png")
    image = str(photos / "a.png")
    for more in ([], ["--overwrite"]):
        assert main(["predict", image, "-o", str(out), "--checkpoint", str(checkpoint), *more]) == 0
        assert (out / "a_labels.png").is_symlink()
        assert [path.name for path in elsewhere.iterdir()] == ["labels.png"]
        assert images.text_of_png(elsewhere / "labels.png") is not None


def _relinked(out: Path, links: dict[str, str]) -> None:
    """Makes the folder anew, with these links."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for name, target in links.items():
        (out / name).symlink_to(target)


def test_results_under_names_of_other_things_are_refused_before_computing(
    photos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a link to itself among the images is one that fails; the others go on."""
    out = tmp_path / "out"
    command = ["predict", str(photos), "-o", str(out), "--checkpoint", str(checkpoint)]
    file = out / "a_labels.png"
    for links, rule in (
        (
            {"a_labels.png": "a_labels.png"},
            f"must be a file, got {file}, which is a link to itself",
        ),
        ({"a_labels.png": str(tmp_path)}, f"must be a file, got {file}, which is a folder"),
        (
            {"a_labels.png": "no/x.png"},
            f"into a folder that is there, got {file} -> {out}/no/x.png",
        ),
        ({"a_labels.png": "x", "b_overlay.png": "x"}, f"got {file} and {out}/b_overlay.png as one"),
    ):
        _relinked(out, links)
        for more in ([], ["--overwrite"], ["--skip-existing"]):
            assert main([*command, *more]) == 2
            assert rule in capsys.readouterr().err
    _relinked(out, {})
    os.mkfifo(file)
    assert main([*command, "--overwrite"]) == 2
    assert f"must be a file, got {file}, which is a device" in capsys.readouterr().err
    _relinked(out, {})
    (photos / "b.png").unlink()
    (photos / "b.png").symlink_to("b.png")
    assert main(command) == 1
    assert f"error: image must exist, got {photos / 'b.png'}" in capsys.readouterr().err
    assert len(list(out.iterdir())) == 4


@pytest.mark.parametrize("told", ["{", "[1]", "null", "3"])
def test_labels_that_tell_other_things_are_as_those_that_tell_nothing(
    photos: Path, checkpoint: Path, tmp_path: Path, told: str
) -> None:
    common = ["-o", str(tmp_path), "--checkpoint", str(checkpoint), "--skip-existing"]
    for name in ("labels", "overlay"):
        pixels = np.zeros((1, 1), np.uint8)
        images.write_png(tmp_path / f"a_{name}.png", pixels, **{predict._MADE: told})
    assert main(["predict", str(photos / "a.png"), *common]) == 0
    assert pixels_of(tmp_path / "a_labels.png").shape == (1, 1)


def test_no_overlay_stays_of_an_image_that_changed(
    photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two files a run was stopped at."""
    image, out = photos / "a.png", tmp_path / "out"
    command = ["predict", str(image), "-o", str(out), "--checkpoint", str(checkpoint)]
    write = predict.write_png
    for name in ("a_labels.png", "a_overlay.png"):

        def stopped(path: Path, pixels: images.Pixels, name: str = name, **texts: str) -> None:
            if path.name == name:
                raise KeyboardInterrupt
            write(path, pixels, **texts)

        shutil.rmtree(out, ignore_errors=True)
        for before in (False, True):  # whether there are results of it as it was
            draw(image, 36, 50)
            if before:
                assert main([*command, "--skip-existing"]) == 0
            draw(image, 40, 50)
            monkeypatch.setattr(predict, "write_png", stopped)
            assert main([*command, "--skip-existing"]) == 130
            monkeypatch.undo()
            for height in (40, 44) if before else (44,):  # as it was when stopped, and later
                if height == 44:
                    draw(image, height, 50)
                assert main([*command, "--skip-existing"]) == 0
                assert pixels_of(out / "a_labels.png").shape == (height, 50)
                assert pixels_of(out / "a_overlay.png").shape[:2] == (height, 50)


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_a_backend_that_cannot_run_here_is_told_once(
    name: str, photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """And not of each image, also where the variable asks for it."""
    monkeypatch.setitem(_backend._missing, ("select_windows", name), "no GPU")
    command = ["predict", str(photos), "-o", str(tmp_path / "out"), "--checkpoint", str(checkpoint)]
    rule = f"c2f predict: error: select_windows: backend '{name}' cannot run here: no GPU\n"
    assert main([*command, "--backend", name]) == 2
    assert capsys.readouterr().err == rule
    monkeypatch.setattr(_backend, "_of_process", name)
    assert main(command) == 2
    assert capsys.readouterr().err == rule
    assert not (tmp_path / "out").exists()


def test_names_that_no_file_can_have_are_told_before_computing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image's own name may be as long as any; what is written beside it has a longer one."""
    image, out = draw(tmp_path / f"{'x' * 251}.png", 64, 64), tmp_path / "out"
    assert main(["predict", str(image), "-o", str(out), "--checkpoint", str(checkpoint)]) == 2
    said = capsys.readouterr().err
    assert "the name of what is written must have at most 2" in said
    assert "got 262 in" in said
    assert not out.exists()


def test_two_that_write_one_file_write_it_whole(tmp_path: Path) -> None:
    """Another process at the same file has a second name of its own for it."""
    file = tmp_path / "a.txt"
    with _files.whole(file) as ours:
        ours.write_text("ours")
        subprocess.run([sys.executable, "-c", _THEIRS, str(file)], check=True, timeout=300)
        assert file.read_text() == "theirs"
    assert file.read_text() == "ours"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


_THEIRS = """
import sys
from pathlib import Path
from c2fcore import _files
_files.write_text(Path(sys.argv[1]), "theirs")
"""
