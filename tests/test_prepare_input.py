"""c2f prepare on folders as they come: splits without masks, lists, damage, other data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plain_folders import command, ids, photo, save, three_images

from c2fcore import _files
from c2fcore.cli import main
from c2fcore.data import prepare as preparing
from c2fcore.data import sources
from c2fcore.data.catalogue import DATASETS
from c2fcore.data.masks import MaskDecoder
from c2fcore.data.prepared import PreparedData

Said = Callable[[], str]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return three_images(tmp_path / "mine")


# Folders as they come


def test_a_split_nobody_labelled_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, info = tmp_path / "mmseg", DATASETS["isaid"]
    save(root / "img_dir/train/P1_0_24_0_30.png", photo())
    save(root / "ann_dir/train/P1_0_24_0_30_instance_color_RGB.png", ids(16))
    save(root / "img_dir/test/P2.png", photo())
    for _ in range(2):
        assert list(sources.find(info, root, "mmseg")) == ["train"]
        assert "test: no masks in" in caplog.text
        caplog.clear()
        (root / "ann_dir/test").mkdir(exist_ok=True)
    with pytest.raises(FileNotFoundError, match=r"P2.png must have a mask of its name"):
        sources.find(info, root, "mmseg", ["test"])
    plain = tmp_path / "plain"
    for split in ("train", "test"):
        save(plain / split / "images/a.png", photo())
    save(plain / "train/masks/a.png", ids(16))
    assert list(sources.find(info, plain, "folders")) == ["train"]
    assert "test: no folder of masks in" in caplog.text


def test_masks_without_an_image_are_told(mine: Path, caplog: pytest.LogCaptureFixture) -> None:
    (mine / "images/b.png").unlink()
    found = sources.find(DATASETS["isaid"], mine, "folders")["all"]
    assert [pair.name for pair in found] == ["a", "c"]
    assert "1 of 3 masks have no image in" in caplog.text
    assert str(mine / "masks/b.png") in caplog.text
    save(mine / "masks/a.tif", ids(2))
    with pytest.raises(ValueError, match=r"a mask must be one file, got .*a\.png and .*a\.tif"):
        sources.find(DATASETS["isaid"], mine, "folders")


@pytest.mark.parametrize("name", sorted(DATASETS))
@pytest.mark.parametrize("folders", [("img_dir", "ann_dir"), ("images", "labels")])
def test_paddle_lists_with_their_names_of_classes(
    name: str, folders: tuple[str, str], tmp_path: Path
) -> None:
    """Found by their lists: the ids are Paddle's even in folders named as mmsegmentation's."""
    classes = DATASETS[name].class_names
    for split in ("train", "val"):
        files = [f"{folder}/{split}/a.png" for folder in folders]
        save(tmp_path / files[0], photo())
        save(tmp_path / files[1], ids(len(classes)))
        (tmp_path / f"{split}.txt").write_text(" ".join(files) + "\n")
    (tmp_path / "label.txt").write_text("\n".join(classes))
    out = tmp_path / "out"
    assert main(["prepare", name, str(tmp_path), "-o", str(out), "--workers", "0"]) == 0
    made = json.loads((out / "dataset.json").read_text())
    assert made["options"]["encoding"] == "paddle"
    assert list(made["splits"]) == ["train", "val"]
    assert made["splits"]["val"]["pixels"] == np.bincount(ids(len(classes)).ravel()).tolist()


def test_lists_of_absolute_paths_write_into_the_folder(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    image, mask = save(root / "a/1.png", photo()), save(root / "m/1.png", ids(16))
    (root / "train.txt").write_text(f"{image} {mask}\n")
    name = sources.find(DATASETS["isaid"], root, "list")["train"][0].name
    assert name == "_".join(image.with_suffix("").parts[1:])
    assert main(["prepare", "isaid", str(root), "-o", str(out), "--workers", "0"]) == 0
    tiles = json.loads((out / "dataset.json").read_text())["splits"]["train"]["tiles"]
    assert all((out / "img_dir/train" / f"{tile['name']}.png").is_file() for tile in tiles)


def test_layouts_are_told_apart(mine: Path, tmp_path: Path) -> None:
    potsdam = DATASETS["potsdam"]
    assert sources.guess_layout(potsdam, mine) == "folders"
    (mine / "readme.txt").write_text("read me")
    assert sources.guess_layout(potsdam, mine) == "folders"
    raw = tmp_path / "raw"
    save(raw / "2_Ortho_RGB/top_potsdam_2_10_RGB.tif", photo())
    (raw / "notes.txt").write_text("two words")
    assert sources.guess_layout(potsdam, raw) == "raw"
    # A list of names alone is mmsegmentation's, beside its folders.
    (raw / "img_dir").mkdir()
    (raw / "train.txt").write_text("a\nb\n")
    assert sources.guess_layout(potsdam, raw) == "mmseg"


@pytest.mark.parametrize("layout", ["folders", "mmseg"])
def test_folders_below_those_of_images_are_read(layout: str, tmp_path: Path, said: Said) -> None:
    images, masks = {
        "folders": ("all/images", "all/masks"),
        "mmseg": ("img_dir/all", "ann_dir/all"),
    }[layout]
    for name in ("a", "north area/a", "n/o/b"):
        save(tmp_path / "mine" / images / f"{name}.tif", photo())
        save(tmp_path / "mine" / masks / f"{name}_mask.png", ids(2))
    save(tmp_path / "mine" / masks / ".thumbnails/a.png", ids(2))
    assert main(command(tmp_path / "mine", tmp_path / "out")) == 0
    made = sorted(path.name for path in (tmp_path / "out/img_dir/all").iterdir())
    assert made == [f"{name}_0_512_0_512.png" for name in ("a", "n_o_b", "north area_a")]
    (tmp_path / "mine" / masks / "n/o/b_mask.png").unlink()
    assert main(command(tmp_path / "mine", tmp_path / "out")) == 2
    assert "n/o/b.tif must have a mask of its name" in said()


# Refused


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tile", "-5"], "--tile must be at least 0, which is for whole images, got -5"),
        (["--tile", "0", "--overlap", "4"], "overlap needs tiles, got 4 for whole images"),
        (["--workers", "-1"], "workers must be in 0.."),
        (["--workers", "1000000"], "16 for each processor, got 1000000"),
        (["--splits", "test"], "split test must be in"),
        (["--small", "cars"], "got cars (did you mean car?)"),
        (["--encoding", "paddle"], "encoding must be one of index, shifted, got paddle"),
        (["--classes", "NUMBERS"], "--classes must hold a list 'names' of texts, got"),
        (["--classes", "PALETTE"], "palette must be a list of [r, g, b], got 7"),
    ],
)
def test_options(more: list[str], message: str, mine: Path, tmp_path: Path, said: Said) -> None:
    files = {
        "PALETTE": '{"names": ["ground", "car"], "palette": 7}',
        "NUMBERS": '{"names": [1, 2]}',
    }
    for name, text in files.items():
        (tmp_path / f"{name}.json").write_text(text)
    given = [str(tmp_path / f"{text}.json") if text in files else text for text in more]
    assert main(command(mine, tmp_path / "out", *given)) == 2
    assert message in said()
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_there(tmp_path: Path, said: Said) -> None:
    out = tmp_path / "out"
    assert main(command(tmp_path / "none", out)) == 2
    assert "custom: the data must be in a folder, got" in said()
    (tmp_path / "empty").mkdir()
    assert main(command(tmp_path / "empty", out)) == 2
    assert "the data must be in a known layout (mmseg: img_dir/SPLIT and ann_dir/SPLIT" in said()


def test_damaged_images_are_named_and_the_others_kept(
    mine: Path, tmp_path: Path, said: Said
) -> None:
    out = tmp_path / "out"
    for kind in ("images", "masks"):
        path = mine / kind / "b.png"
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3])
        assert main(command(mine, out)) == 2
        assert f"must be readable, got {path}: " in said()
        path.write_bytes(whole)
    assert (out / "records/all/a.json").is_file()
    assert not (out / "dataset.json").exists()
    (mine / "masks/b.png").unlink()
    (mine / "masks/b.png").mkdir()
    assert main(command(mine, out)) == 2
    assert f"mask must be a file, got the folder {mine / 'masks/b.png'}" in said()
    (mine / "masks/b.png").rmdir()
    os.mkfifo(mine / "masks/b.png")
    assert main(command(mine, out)) == 2
    assert f"got {mine / 'masks/b.png'}, which is a pipe or a device" in said()
    (mine / "masks/b.png").unlink()
    Image.fromarray(np.ones((24, 30), np.float32)).save(mine / "masks/b.tif")
    assert main(command(mine, out)) == 2
    assert "ids must be integers, got floating-point numbers" in said()


def test_a_tile_that_reads_back_otherwise_is_no_tile(
    mine: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Pillow writes for masks of mode P, for one, are not the ids."""
    write = Image.Image.save

    def other(self: Image.Image, *args: object, **options: object) -> None:
        write(self.point(lambda value: value // 2), *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "save", other)
    out = tmp_path / "out"
    assert main(command(mine, out)) == 2
    assert "must read back as it was written, got other pixels" in said()
    assert not list(out.glob("*/*/*.json"))
    assert not list(out.glob("img_dir/all/[!.]*"))


# Nothing lost, nothing replaced


def test_tiles_of_images_that_are_gone_are_removed(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a removed image, and of one that became smaller; nothing else."""
    out = tmp_path / "out"
    assert main(command(mine, out, "--tile", "16")) == 0
    foreign = out / "img_dir/all/b_mine.png"
    foreign.write_bytes(b"mine")
    (mine / "images/b.png").unlink()
    (mine / "masks/b.png").unlink()
    save(mine / "images/a.png", photo()[:16, :16].copy())
    save(mine / "masks/a.png", ids(2)[:16, :16].copy())
    capsys.readouterr()
    assert main(command(mine, out, "--tile", "16")) == 0
    said = capsys.readouterr().out
    assert f"of 1 images that are no longer in the data, such as {mine}/images/b.png" in said
    wanted = [tile.name for tile in PreparedData.open(out).split("all").tiles]
    for folder in ("img_dir", "ann_dir"):
        found = {path.stem for path in (out / folder / "all").iterdir()} - {"b_mine"}
        assert found == set(wanted)
    assert foreign.read_bytes() == b"mine"
    assert not (out / "records/all/b.json").exists()
    assert main(command(mine, out, "--tile", "16")) == 0
    assert "no longer" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["z", "a"])
def test_data_of_another_folder_do_not_take_the_place(
    name: str, mine: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    assert main(command(mine, out)) == 0
    before = (out / "img_dir/all/a_0_512_0_512.png").read_bytes()
    save(other / f"images/{name}.png", photo()[::-1].copy())
    save(other / f"masks/{name}.png", ids(2))
    assert main(command(other, out)) == 2
    assert f"{out} holds tiles of {mine}/images/a.png, choose another folder" in said()
    assert (out / "img_dir/all/a_0_512_0_512.png").read_bytes() == before
    # The same folder by another name is the same.
    monkeypatch.chdir(tmp_path)
    assert main(command(Path("mine"), out)) == 0
    mine.rename(tmp_path / "unplugged")
    assert main(command(other, out)) == 2
    assert f"{out} holds tiles of {mine}/images/a.png, choose another folder" in said()
    # Those that were only moved keep their tiles, also where a suffix changed.
    assert main(command(tmp_path / "unplugged", out)) == 0
    first = tmp_path / "unplugged/images/a.png"
    first.rename(first.with_suffix(".tif"))
    tile = out / "img_dir/all/b_0_512_0_512.png"
    tile.write_bytes(b"as it was")
    assert main(command(tmp_path / "unplugged", out)) == 0
    assert tile.read_bytes() == b"as it was"
    with _files.held(out, ""):
        assert main(command(other, out)) == 2
    assert f"must be written by one run at a time, got another in {out}" in said()


def test_files_of_an_earlier_run_may_be_damaged(mine: Path, tmp_path: Path, said: Said) -> None:
    out = tmp_path / "out"
    assert main(command(mine, out, "--tile", "16")) == 0
    whole = PreparedData.open(out)
    odd = json.dumps({**json.loads((out / "records/all/b.json").read_text()), "source": [["b"], 3]})
    for name, text in (
        ("records/all/b.json", "{"),
        ("records/all/b.json", "{}"),
        ("records/all/b.json", odd),
        ("dataset.json", "["),
        ("dataset.json", "[]"),
    ):
        (out / name).write_text(text)
        assert main(command(mine, out, "--tile", "16")) == 0
        assert PreparedData.open(out) == whole
    for text in ("{", '{"options": []}'):
        (out / "options.json").write_text(text)
        assert main(command(mine, out, "--tile", "16")) == 2
        assert "options.json must be as `c2f prepare` wrote it, got a damaged file" in said()


def test_a_file_that_changes_while_it_is_read_is_read_again(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = preparing.read_pair

    def changing(image: Path, mask: Path, decode: MaskDecoder) -> object:
        found = read(image, mask, decode)
        if mask.name == "b.png":
            save(mask, np.zeros_like(ids(2)))
        return found

    out = tmp_path / "out"
    with monkeypatch.context() as during:
        during.setattr(preparing, "read_pair", changing)
        assert main(command(mine, out)) == 0
    stale = PreparedData.open(out).split("all").pixels
    assert main(command(mine, out)) == 0
    assert PreparedData.open(out).split("all").pixels[1] < stale[1]
