"""Names that c2f prepare meets, of other data sets and folders; damaged descriptions of tiles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from c2fcore.cli import main
from c2fcore.data.catalogue import DATASETS
from c2fcore.data.prepared import PreparedData

NAMES = ("P0003_0_896_0_896", "2_10_0_0_512_512", "area1_0_0_512_512", "2522", "mine_7")


def save(root: Path, *names: str) -> None:
    """Images in the layout of mmsegmentation, all of class 1 or 0."""
    pixels = np.ones((24, 30), dtype=np.uint8)
    for folder, mode in (("img_dir", "RGB"), ("ann_dir", "L")):
        (root / folder / "train").mkdir(parents=True)
        for name in names:
            Image.fromarray(pixels).convert(mode).save(root / folder / "train" / f"{name}.png")


@pytest.mark.parametrize(("name", "of"), [*zip(NAMES, [*DATASETS, ""], strict=True)])
@pytest.mark.parametrize("meant", DATASETS)
def test_names_of_another_data_set_are_told(
    meant: str, name: str, of: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "my data", tmp_path / "out"
    save(root, name)
    command = ["prepare", meant, str(root), "-o", str(out), "--workers", "0"]
    alike = {meant, of} == {"potsdam", "vaihingen"}
    # Numbers are anybody's names, and of the same classes the tiles are right.
    wrong = of not in {meant, "", "loveda"} and not alike
    status = main(command)
    said = capsys.readouterr().err
    assert status == (2 if wrong else 0)
    note = f"images such as {name} are named as those of {of}, not of {meant}: if they are, their "
    assert (note in said) == (of not in {meant, ""} and not wrong)
    assert ("splits are others" in said) == alike
    if wrong:
        assert f"images must be those of {meant}, got 1 image named as those of {of}, " in said
        assert f"such as {name}, whose classes are others: run c2f prepare {of} '{root}' -o" in said
        assert not out.exists()
        assert main([*command, "--encoding", "mmseg"]) == 0  # they are, and it is said so
        assert note in capsys.readouterr().err


def test_one_name_of_another_data_set_refuses_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ("mine_7", "P0003"):
        save(tmp_path / more, "2_10", more)
        command = ["prepare", "isaid", str(tmp_path / more), "-o", str(tmp_path / f"{more}-out")]
        assert main([*command, "--workers", "0"]) == 0
        said = "images such as 2_10 are named as those of potsdam, not of isaid" in (
            capsys.readouterr().err
        )
        assert said == (more == "mine_7")


def test_a_download_of_another_data_set_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "images" / "P0003.png")
    assert main(["prepare", "potsdam", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    image = Path("train", "images", "P0003.png")
    told = f"images such as {image} are named as those of isaid (c2f prepare isaid)"
    assert told in capsys.readouterr().err


def test_names_lead_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of tiles in records, which are removed by them, and of splits."""
    for folder, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for size in (24, 30):
            image = Image.fromarray(np.ones((size, size), dtype=np.uint8)).convert(mode)
            image.save(tmp_path / "data" / folder / f"a{size}.png")
    out, mine = tmp_path / "out", tmp_path / "mine.png"
    command = ["prepare", "custom", str(tmp_path / "data"), "-o", str(out), "--workers", "0",
               "--classes", "a,b"]  # fmt: skip
    assert main(command) == 0
    mine.write_text("mine")
    for file in (out / "records/all/a30.json", out / "dataset.json"):
        whole = file.read_text()
        name = "a30_0_512_0_512"
        file.write_text(whole.replace(f'"{name}"', '"../../../mine"'))
        assert file.read_text() != whole
    with pytest.raises(ValueError, match=r"damaged file .*tiles must lie in all, got '../../../mi"):
        PreparedData.open(out)
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder / "a30.png").unlink()
    assert main(command) == 0
    assert mine.read_text() == "mine"
    (out / "records/all/a30.json").write_text(json.dumps({}))
    assert main([*command, "--splits", "../data"]) == 2
    assert f"a split must lie in {tmp_path / 'data'}, got '../data'" in capsys.readouterr().err
    for text in ("", "."):  # an unset variable, for one
        assert main([*command, "--splits", text]) == 2
        assert f"a split must lie in {tmp_path / 'data'}, got {text!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON, got"),
        ("[" * 100_000, "must be JSON, got maximum recursion depth"),
        ("[]", "must be c2fcore-data's, got a list"),
        ('{"format": "c2fcore-data", "format_version": 1}', "damaged file (KeyError: 'dataset')"),
        ('{"format": "c2fcore-data", "format_version": 2}', "must be c2fcore-data version 1, got"),
        (
            '{"format": "c2fcore-data", "format_version": 1, "dataset": "x", "class_names": ["a"],'
            '"palette": [[1, 2]], "small_classes": [], "splits": {}, "options": {}}',
            "damaged file (ValueError: not enough values",
        ),
    ],
)
def test_a_damaged_description(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        PreparedData.open(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tiles": []}, "all must have tiles, got none"),
        ({"box": [-5, 0, 24, 24]}, "box must lie in the image, got [-5, 0, 24, 24] for a"),
        ({"box": [24, 0, 48, 24]}, "box must lie in the image, got [24, 0, 48, 24] for a"),
        ({"box": ["a", 0, 24, 24]}, "TypeError"),
        ({"source": "b"}, "KeyError: 'b'"),
        ({"pixels": [576, 0]}, "pixels must be of 1 classes, got 2 in all"),
    ],
)
def test_damaged_descriptions_of_tiles(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    tile = {"name": "a", "source": "a", "box": [0, 0, 24, 24], **change}
    split = {"tiles": change.get("tiles", [tile]), "sources": {"a": [24, 24]}}
    split["pixels"] = change.get("pixels", [576])
    about = {"format": "c2fcore-data", "format_version": 1, "dataset": "custom", "options": {}}
    classes = {"class_names": ["a"], "palette": [], "small_classes": []}
    whole = {**about, **classes, "splits": {"all": split}}
    (tmp_path / "dataset.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="run that again: got a damaged file") as caught:
        PreparedData.open(tmp_path)
    assert message in str(caught.value)
