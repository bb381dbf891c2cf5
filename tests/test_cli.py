"""The `c2f` command as its users meet it: files out, messages, exit status."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from c2fcore import C2FConfig, C2FNet, _backend, _self_check
from c2fcore.cli import demo, main
from c2fcore.cli.errors import text_of
from c2fcore.evaluation import report
from c2fcore.models import build


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    for word in ("c2f demo", "c2f predict photo.png -o out", "c2f info", "second look"):
        assert word in said


def test_help_fits_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    commands = ("demo", "predict", "scene", "prepare", "train", "eval", "reproduce", "bench",
                "import-paddle", "info")  # fmt: skip
    for command in commands:
        with pytest.raises(SystemExit, match=r"^0$"):
            main([command, "--help"])
        said = capsys.readouterr().out
        assert [line for line in said.splitlines() if len(line) > 100] == []


def test_info_shows_every_backend_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    for word in ("aggregate", "select_windows", "reference", "cuda: "):
        assert word in said
    assert "No GPU has run cuda and triton yet" in said
    lines = said.splitlines()
    column = next(line for line in lines if line.startswith("op ")).index("cuda")
    assert all(line[column - 2 : column] == "  " for line in lines if line.endswith("yes         "))


def test_info_says_what_auto_has_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_self_check, "_found", {("aggregate", "reference", 0): "sample s: Differs"})
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("aggregate ")]
    assert line.rstrip().endswith("by name")
    assert "\nreference: only by name: sample s: Differs\n" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_info_has_nothing_to_check_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--check"]) == 0
    assert "nothing to compare" in capsys.readouterr().out


def test_info_tells_what_the_process_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backend, "_of_process", "auto")
    assert main(["info"]) == 0
    assert "is set here" not in capsys.readouterr().out
    monkeypatch.setattr(_backend, "_of_process", "reference")
    assert main(["info"]) == 0
    assert '\nC2F_BACKEND=reference is set here: that is what "auto" takes.' in (
        capsys.readouterr().out
    )
    monkeypatch.setattr(_backend, "_of_process", "gpu")
    assert main(["info"]) == 2
    assert "C2F_BACKEND must be one of 'auto', " in capsys.readouterr().err


def test_predict_writes_labels_and_overlay(
    checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photo.parent / "out"
    assert main(["predict", str(photo), "-o", str(out), "--checkpoint", str(checkpoint)]) == 0
    with Image.open(out / "photo_labels.png") as image:
        assert image.mode == "L"
        labels = np.asarray(image)
    with Image.open(out / "photo_overlay.png") as overlay:
        assert overlay.size == (90, 70)
    net = C2FNet.from_pretrained(checkpoint).eval()
    image = torch.from_numpy(np.asarray(Image.open(photo)).copy()).permute(2, 0, 1)[None]
    assert np.array_equal(labels, net(image)[0].numpy())
    said = capsys.readouterr()
    assert "90 x 70 px" in said.out
    assert "photo_labels.png" in said.out
    assert "\nids: 0 " in said.out
    assert "\ncolours: " in said.out
    assert "note" not in said.err


def test_predict_says_what_the_demo_networks_know(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(photo), "-o", str(photo.parent / "out")]) == 0
    assert "synthetic scenes only" in capsys.readouterr().err


def test_predict_overrides_the_configuration(checkpoint: Path, photo: Path) -> None:
    out = photo.parent / "out"
    common = ["predict", str(photo), "-o", str(out), "--checkpoint", str(checkpoint)]
    assert main([*common, "--n", "1", "--zoom", "2", "--rule", "paper"]) == 0
    assert main([*common, "--n", "0", "--overwrite"]) == 2


def test_predict_never_replaces_unasked(
    checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = photo.parent / "out"
    out.mkdir()
    kept = out / "photo_labels.png"
    kept.write_bytes(b"precious")
    common = ["predict", str(photo), "-o", str(out), "--checkpoint", str(checkpoint)]
    assert main(common) == 2
    assert "photo_labels.png exists; give --overwrite" in capsys.readouterr().err
    assert kept.read_bytes() == b"precious"
    assert main([*common, "--overwrite"]) == 2
    assert "did not write is never replaced, got" in capsys.readouterr().err
    assert kept.read_bytes() == b"precious"
    kept.unlink()
    assert main(common) == 0
    first = kept.stat().st_mtime_ns
    assert main([*common, "--overwrite"]) == 0
    assert kept.stat().st_mtime_ns > first


def test_one_bad_image_does_not_stop_the_others(
    checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = photo.parent / "bad.png"
    bad.write_text("no image")
    out = photo.parent / "out"
    files = [str(bad), str(photo)]
    assert main(["predict", *files, "-o", str(out), "--checkpoint", str(checkpoint)]) == 1
    assert (out / "photo_labels.png").exists()
    assert not (out / "bad_labels.png").exists()
    said = capsys.readouterr().err
    assert "bad.png" in said
    assert "1 of 2 images failed" in said


def test_predict_takes_folders_and_patterns(
    checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photo.parent / "photos"
    folder.mkdir()
    for name in ("b.png", "a.jpg", "c.TIF"):
        Image.open(photo).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    common = ["--checkpoint", str(checkpoint), "--batch", "2"]
    for _ in range(2):  # into the folder itself: what is written there is no image
        assert main(["predict", str(folder), "-o", str(folder), "--overwrite", *common]) == 0
        said = capsys.readouterr().out
        places = [said.index(f"{name}: 90 x 70 px") for name in ("a.jpg", "b.png", "c.TIF")]
        assert places == sorted(places)
        assert said.count(" px, ") == 3
    out = photo.parent / "out"
    pattern = str(folder / "[ab].*")
    assert main(["predict", pattern, str(folder / "b.png"), "-o", str(out), *common]) == 0
    assert sorted(file.name for file in out.glob("*_labels.png")) == [
        "a_labels.png",
        "b_labels.png",
    ]
    assert main(["predict", str(folder / "*.gif"), "-o", str(out), *common]) == 2
    assert "IMAGE must name images, got" in capsys.readouterr().err


def test_predict_goes_on_when_a_network_fails(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = C2FConfig(num_classes=4, small_classes=(1, 2), window=32, n=2)
    net = C2FNet(build("tiny_fcn", 4, 1, width=4), build("tiny_fcn", 2, 1, width=4), config)
    net.save_pretrained(tmp_path / "grey")  # networks for one channel
    files = [str(photo), str(tmp_path / "nowhere.png")]
    out = tmp_path / "out"
    assert main(["predict", *files, "-o", str(out), "--checkpoint", str(tmp_path / "grey")]) == 1
    said = capsys.readouterr().err
    assert f"error: {photo}: " in said
    assert "nowhere.png" in said
    assert "2 of 2 images failed" in said


def test_names_that_clash_are_refused(
    checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = photo.with_suffix(".jpg")
    Image.open(photo).save(twin)
    out = photo.parent / "out"
    files = [str(photo), str(twin)]
    assert main(["predict", *files, "-o", str(out), "--checkpoint", str(checkpoint)]) == 2
    said = capsys.readouterr().err
    assert "images must have different names" in said
    assert "each with an OUT of its own" in said
    assert f"(a pattern, such as '{photo.parent}/*.jpg', names a part)" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "PHOTO", "-o", "PHOTO"], "OUT must be a folder"),
        (["predict", "PHOTO", "-o", "new", "--checkpoint", "nowhere"], "nowhere"),
        (["demo", "--scenes", "0"], "--scenes must be at least 1, got 0"),
        (["demo", "--scenes", "1000000"], "--scenes must be at most 100000, got 1000000"),
        (["demo", "--size", "8"], "--size must be at least 64, got 8"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photo.parent)
    assert main([str(photo) if a == "PHOTO" else a for a in arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert said.startswith("c2f ")


def test_images_are_never_replaced(
    checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What one image's answer would be called may be the name of another image."""
    other = photo.with_name("photo_labels.png")
    other.write_bytes(photo.read_bytes())
    command = ["predict", str(photo), str(other), "-o", str(photo.parent), "--overwrite"]
    assert main([*command, "--checkpoint", str(checkpoint)]) == 2
    assert "OUT must not replace an image given" in capsys.readouterr().err
    assert other.read_bytes() == photo.read_bytes()


def test_a_folder_of_folders_says_how_to_name_their_images(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photo.parent.parent
    assert main(["predict", str(root), "-o", str(photo.parent / "out")]) == 2
    said = capsys.readouterr().err
    assert f"got {str(root)!r} without any; '{root}/**/*.png' names those in folders of it" in said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["IMAGE", ""], "IMAGE must name images, got '' without any"),
        (["--checkpoint", ""], "must hold config.json, got none"),
        (["-o", ""], "a path must have a name, got ''"),
    ],
)
def test_unset_variables_mean_nothing_else(
    photo: Path, changed: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image, more = ("", []) if changed[0] == "IMAGE" else (str(photo), changed)
    try:
        status = main(["predict", image, "-o", str(photo.parent / "out"), *more])
    except SystemExit as left:  # argparse's
        status = int(left.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["demo"],
        ["predict", "a.png"],
        ["scene", "a.tif"],
        ["prepare", "isaid", "data"],
        ["eval", "data", "--checkpoint", "net"],
        ["reproduce", "table2", "--data", "data", "--checkpoint", "net"],
        ["bench"],
        ["import-paddle", "a.pdparams"],
    ],
)
def test_results_never_go_into_this_folder_by_an_unset_variable(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command, "-o", ""])
    said = capsys.readouterr().err
    assert "argument -o/--out: a path must have a name, got ''" in said


def test_memory_that_does_not_suffice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--size", "10000000", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("c2f demo: error: memory must suffice for another ")


def test_memory_that_does_not_suffice_for_an_image(
    checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["predict", str(photo), "-o", str(photo.parent / "out"), "--checkpoint"]
    assert main([*common, str(checkpoint), "--window", "1000000", "--zoom", "0.001"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith(f"c2f predict: error: {photo}: memory must suffice for another ")
    said = "a smaller --zoom, --window, --tile, --max-batch, --batch needs less"
    assert line.endswith(f", and does not; {said}")


def test_memory_that_nothing_has() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, 64)
    text = "memory must suffice for another [1152921504606846976, 64] values, and does not"
    assert text_of(error.value) == text
    numpys = MemoryError("Unable to allocate 142. PiB for an array with shape (9, 9)")
    assert text_of(numpys) == "memory must suffice for another 142 PiB, and does not"
    numpys = ValueError("array is too big; `arr.size * arr.dtype.itemsize` is larger than the")
    said = "memory must suffice for another array of the size asked for, and does not"
    assert text_of(numpys) == said
    of_gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has a")
    assert text_of(of_gpu) == "memory must suffice for another 9.00 GiB on the GPU, and does not"
    assert text_of(MemoryError()) == "memory must suffice, and does not"


def test_demo_of_a_scene_without_some_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    arguments = ["demo", "--scenes", "1", "--seed", "1", "--size", "256"]
    assert main([*arguments, "-o", str(tmp_path)]) == 0
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.size[0] == 5 * (480 + 12) + 12
    said = capsys.readouterr().out
    assert "time per scene, 1 thread, median" in said
    rows = said.splitlines()
    (ship,) = [row.split() for row in rows if row.startswith("ship *")]
    assert ship == ["ship", "*", *"-" * 6]
    assert not any("nan" in row for row in rows)


def test_no_gain_is_no_negative_zero(capsys: pytest.CaptureFixture[str]) -> None:
    coarse, refined = {"iou": 0.5004, "f1": 0.07}, {"iou": 0.5, "f1": 0.0725}
    gain = {score: refined[score] - coarse[score] for score in coarse}
    demo._print_row("ship", {"coarse": coarse, "refined": refined, "gain": gain})
    assert capsys.readouterr().out.split() == ["ship", "50.0", "50.0", "+0.0", "7.0", "7.2", "+0.2"]
    assert report.percent(-0.00001, signed=True) == "+0.00"


def test_what_is_lost_is_told_in_a_line(
    checkpoint: Path, photo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An orientation in damaged EXIF, and frames after the first; by Pillow no word."""
    image = Image.open(photo).convert("RGB")
    exif = image.getexif()
    exif[0x010E], exif[0x0112] = "x" * 200, 6
    image.save(photo.with_name("p.jpg"), exif=exif.tobytes()[:60])
    image.save(photo.with_name("a.png"), save_all=True, append_images=[image.rotate(9)])
    image.save(photo.with_name("t.tif"), save_all=True, append_images=[image] * 2)
    names = [str(photo.with_name(name)) for name in ("p.jpg", "a.png", "t.tif", "photo.png")]
    command = ["predict", *names, "-o", str(photo.parent / "out")]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert main([*command, "--checkpoint", str(checkpoint)]) == 0
    assert not [one for one in told if "PIL" in str(one.filename)]
    damage, *frames = caplog.messages
    told_of = f"note: {names[0]}: its EXIF is damaged, and may not tell which way is up: "
    assert damage.startswith(told_of)  # then Pillow's words, which differ between its versions
    assert frames == [
        f"note: {names[1]} has 2 images: the first is read",
        f"note: {names[2]} has 3 images: the first is read",
    ]
