"""Data sets on disk, in every layout, and the tiles made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from c2fcore import _files
from c2fcore.cli import main
from c2fcore.data import prepare as preparing
from c2fcore.data import sources, tiling
from c2fcore.data.catalogue import DATASETS, custom
from c2fcore.data.masks import MaskDecoder
from c2fcore.data.prepared import PreparedData, TileDataset
from c2fcore.data.sources import Pair

ISAID = DATASETS["isaid"]
POTSDAM = DATASETS["potsdam"]


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def photo(height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def coloured(ids: np.ndarray) -> np.ndarray:
    return np.array(ISAID.palette, np.uint8)[ids]


@pytest.fixture
def isaid(tmp_path: Path) -> Path:
    """Two images of a raw iSAID: all 16 classes in one, an RGBA mask in a folder of its own."""
    root = tmp_path / "isaid"
    ids = np.arange(30 * 40).reshape(30, 40) % 16
    save(root / "train/images/P0001.png", photo())
    save(root / "train/images/P0001_instance_color_RGB.png", coloured(ids))
    save(root / "train/images/P0001_instance_id_RGB.png", photo(seed=5))
    save(root / "train/images/P0002.png", photo(seed=1))
    rgba = np.dstack([coloured(ids.T.reshape(30, 40)), np.full((30, 40), 7, np.uint8)])
    save(root / "train/Semantic_masks/images/P0002_instance_color_RGB.png", rgba)
    return root


# Tiles


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "want"),
    [
        (6000, 512, 0, [*range(0, 5489, 512), 5488]),  # Potsdam: 12 a side, 144 a tile
        (6000, 512, 256, [*range(0, 5489, 256), 5488]),
        (1408, 896, 384, [0, 512]),  # fits exactly: no duplicate
        (1409, 896, 384, [0, 512, 513]),
        (896, 896, 384, [0]),
        (100, 896, 384, [0]),
        (13, 5, 2, [0, 3, 6, 8]),
    ],
)
def test_where_tiles_start(size: int, tile: int, overlap: int, want: list[int]) -> None:
    assert tiling.starts(size, tile, overlap) == sorted(set(want))


def test_potsdam_has_its_published_number_of_tiles() -> None:
    per_image = len(tiling.boxes(6000, 6000, 512, 0))
    assert len(POTSDAM.splits["train"]) * per_image == 3456
    assert len(POTSDAM.splits["val"]) * per_image == 2016
    vaihingen = DATASETS["vaihingen"].splits
    assert (len(vaihingen["train"]), len(vaihingen["val"])) == (16, 17)


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), [(20, 31, 8, 3), (5, 9, 8, 2)])
def test_every_pixel_is_in_a_tile_and_owned_once(
    height: int, width: int, tile: int, overlap: int
) -> None:
    boxes = tiling.boxes(height, width, tile, overlap)
    rows = tiling.owned(height, [(b.y0, b.y1) for b in boxes])
    columns = tiling.owned(width, [(b.x0, b.x1) for b in boxes])
    owners = np.zeros((height, width), int)
    for box in boxes:
        (y0, y1), (x0, x1) = rows[box.y0, box.y1], columns[box.x0, box.x1]
        assert box.y0 <= y0 < y1 <= box.y1
        assert box.x0 <= x0 < x1 <= box.x1
        owners[y0:y1, x0:x1] += 1
    assert (owners == 1).all()


def test_tiles_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"overlap must be in 0..tile-1, got 8 for tiles of 8"):
        tiling.boxes(20, 20, 8, 8)


# Preparing


def test_isaid_raw(isaid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["prepare", "isaid", str(isaid), "--workers", "0", "--tile", "16"]
    assert main([*command, "-o", str(tmp_path / "apart")]) == 0
    assert "note: --tile 16 comes without overlap; isaid usually" in capsys.readouterr().err
    assert main([*command, "-o", str(out), "--overlap", "4"]) == 0
    data = PreparedData.open(out)
    assert data.small_classes == (1, 8, 9, 10, 11, 14, 15)
    split = data.split("train")
    assert split.sizes == {"P0001": (30, 40), "P0002": (30, 40)}
    assert len(split.tiles) == 2 * 3 * 3
    assert sum(split.pixels) == 2 * 30 * 40
    ids = np.arange(30 * 40).reshape(30, 40) % 16
    tiles = TileDataset(data, "train")
    for i, (name, source, box) in enumerate(split.tiles):
        item = tiles[i]
        assert item["image"].shape == (3, 16, 16)
        assert name == f"{source}_{box.y0}_{box.y1}_{box.x0}_{box.x1}"
        if source == "P0001":
            inside = (slice(box.y0, box.y1), slice(box.x0, box.x1))
            assert np.array_equal(item["labels"].numpy(), ids[inside])
            assert np.array_equal(item["image"].permute(1, 2, 0).numpy(), photo()[inside])


def test_a_run_goes_on_where_it_stopped(
    isaid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    options = preparing.Options("rgb", 16, 4)
    found = sources.find(ISAID, isaid, "raw")
    make = preparing._make

    def stop_at_second(job: preparing._Job) -> dict[str, object]:
        if job.pair.name == "P0002":
            raise KeyboardInterrupt
        return make(job)

    monkeypatch.setattr(preparing, "_make", stop_at_second)
    told = "after 1 of 2 images; the same command goes on from there"
    with pytest.raises(KeyboardInterrupt, match=told):
        preparing.prepare(ISAID, found, out, options)
    assert not (out / "dataset.json").exists()
    done: list[str] = []

    def remember(job: preparing._Job) -> dict[str, object]:
        done.append(job.pair.name)
        return make(job)

    monkeypatch.setattr(preparing, "_make", remember)
    first = preparing.prepare(ISAID, found, out, options)
    assert done == ["P0002"]
    assert first == preparing.prepare(ISAID, found, out, options)
    assert done == ["P0002"]  # nothing left to do
    next((out / "img_dir/train").glob("P0001_*")).unlink()
    save(isaid / "train/images/P0002.png", photo(seed=3))
    preparing.prepare(ISAID, found, out, options)
    assert done == ["P0002", "P0001", "P0002"]  # a lost tile, a changed source
    with pytest.raises(FileExistsError, match=r"other options.*got tile 16 -> 32"):
        preparing.prepare(ISAID, found, out, replace(options, tile=32))


def test_other_processes_make_the_same_files(isaid: Path, tmp_path: Path) -> None:
    options = preparing.Options("rgb", 16, 0)
    found = sources.find(ISAID, isaid, "raw")
    one = preparing.prepare(ISAID, found, tmp_path / "a", options)
    two = preparing.prepare(ISAID, found, tmp_path / "b", options, workers=1)
    assert one == two
    for path in sorted((tmp_path / "a").rglob("*.png")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_a_folder_is_claimed_by_one_run(isaid: Path, tmp_path: Path) -> None:
    """By one that has just begun, too, and written nothing yet."""
    found, out = sources.find(ISAID, isaid, "raw"), tmp_path / "out"
    out.mkdir()
    with _files.held(out, ""), pytest.raises(ValueError, match="one run at a time, got"):
        preparing.prepare(ISAID, found, out, preparing.Options("rgb", 16, 0))
    assert not any(out.iterdir())


def test_images_smaller_than_a_tile_are_padded_and_ignored_there(tmp_path: Path) -> None:
    pair = Pair("a", save(tmp_path / "a.png", photo(5, 7)),
                save(tmp_path / "m.png", np.ones((5, 7), np.uint8)))  # fmt: skip
    out = tmp_path / "out"
    made = preparing.prepare(POTSDAM, {"train": [pair]}, out, preparing.Options("paddle", 8, 0))
    item = TileDataset(PreparedData.open(out), "train")[0]
    assert item["labels"].shape == (8, 8)
    assert (item["labels"][:5, :7] == 1).all()
    assert int((item["labels"] == 255).sum()) == 64 - 35
    assert int(item["image"][:, 5:].sum()) == 0
    assert made["splits"]["train"]["pixels"][1] == 35


def test_unknown_values_are_reported_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    mask = np.zeros((8, 8), np.uint8)
    mask[0, :3] = 77
    save(root / "images/a.png", photo(8, 8))
    save(root / "masks/a_mask.png", mask)
    command = ["prepare", "custom", str(root), "--classes", "ground,car", "--small", "car",
               "--tile", "0", "--workers", "0"]  # fmt: skip
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "unknown colour or id: 3 px, 77 (3 px)" in said
    assert "all: 1 image, 1 tile\n" in said
    described = json.loads((tmp_path / "out/dataset.json").read_text())
    assert described["splits"]["all"]["unknown"] == {"77": 3}
    assert described["splits"]["all"]["tiles"][0]["name"] == "a"
    assert main([*command, "-o", str(tmp_path / "no"), "--unknown", "error"]) == 2
    assert "known values only, got 77 (3 px)" in capsys.readouterr().err
    mask[1:] = 99
    save(root / "masks/a_mask.png", mask)
    assert main([*command, "-o", str(tmp_path / "no")]) == 2  # nothing was made there yet
    assert "92% of the pixels are unknown" in capsys.readouterr().err


@pytest.mark.parametrize("labels", ["eroded", "full"])
def test_potsdam_and_vaihingen_raw(tmp_path: Path, labels: str) -> None:
    for name in ("2_10", "2_13"):
        for ending in ("RGB", "label", "label_noBoundary"):
            save(tmp_path / f"p/{ending}/top_potsdam_{name}_{ending}.tif", photo(4, 4))
    found = sources.find(POTSDAM, tmp_path / "p", "raw", labels=labels)
    assert {s: [p.name for p in pairs] for s, pairs in found.items()} == {
        "train": ["2_10"],
        "val": ["2_13"],
    }
    assert ("noBoundary" in found["val"][0].mask.name) == (labels == "eroded")
    for folder, ending in (("top", ""), ("gts", ""), ("eroded", "_noBoundary")):
        save(tmp_path / f"v/{folder}/top_mosaic_09cm_area2{ending}.tif", photo(4, 4))
    found = sources.find(DATASETS["vaihingen"], tmp_path / "v", "raw", labels=labels)
    assert list(found) == ["val"]
    assert found["val"][0].name == "area2"
    assert found["val"][0].image.parent.name == "top"
    assert found["val"][0].mask.parent.name == {"eroded": "eroded", "full": "gts"}[labels]


def test_loveda_raw_and_lists(tmp_path: Path) -> None:
    for kind in ("images_png", "masks_png"):
        save(tmp_path / f"Train/Rural/{kind}/7.png", photo(4, 4))
        save(tmp_path / f"Train/Urban/{kind}/8.png", photo(4, 4))
    found = sources.find(DATASETS["loveda"], tmp_path, "raw")
    assert [p.name for p in found["train"]] == ["7", "8"]
    (tmp_path / "train.txt").write_text(
        "Train/Rural/images_png/7.png Train/Rural/masks_png/7.png\n\n"
        "Train/Urban/images_png/8.png\tTrain/Urban/masks_png/8.png\n"
    )
    listed = sources.find(DATASETS["loveda"], tmp_path, "list")
    assert [p.image for p in listed["train"]] == [p.image for p in found["train"]]
    (tmp_path / "val.txt").write_text("only_one.png\n")
    with pytest.raises(ValueError, match=r"val.txt:1: a line must be 'image mask'"):
        sources.find(DATASETS["loveda"], tmp_path, "list")


def test_missing_things_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "img_dir/train/a.png", photo(4, 4))
    (tmp_path / "ann_dir/train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"a.png must have a mask of its name"):
        sources.find(POTSDAM, tmp_path, "mmseg")
    (tmp_path / "val").mkdir()
    with pytest.raises(
        ValueError,
        match=r"split val must have images in layout raw \(as distributed, unpacked\), got none",
    ):
        sources.find(ISAID, tmp_path, "raw", ["val"])
    save(tmp_path / "ann_dir/train/a.png", np.zeros((5, 4), np.uint8))
    common = ["prepare", "potsdam", str(tmp_path), "--workers", "0", "-o"]
    assert main([*common, str(tmp_path / "out")]) == 2
    assert "one size, got 4 x 4 and 4 x 5" in capsys.readouterr().err
    assert main([*common, str(tmp_path / "img_dir")]) == 2
    assert "must be new or empty" in capsys.readouterr().err
    assert main(["prepare", "custom", str(tmp_path), "-o", str(tmp_path / "x")]) == 2
    assert "--classes must be given, got none" in capsys.readouterr().err


def test_custom_classes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text('{"names": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]]}')
    info = custom(str(path), ["b"])
    assert info.small_classes == (1,)
    got, unknown = MaskDecoder(info, "rgb")(np.array([[[4, 5, 6], [0, 0, 0]]], np.uint8))
    assert got.tolist() == [[1, 255]]
    assert unknown == {"#000000": 1}
    path.write_text('{"names": ["a", "b"], "palette": [[1, 2, 3], [1, 2, 3]]}')
    with pytest.raises(ValueError, match="one colour of its own per class"):
        custom(str(path))
    # Pixels of the first class would be left out.
    path.write_text(
        '{"names": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]], "ignored_colours": [[1, 2, 3]]}'
    )
    with pytest.raises(ValueError, match="which is not ignored, got 1 different in 2"):
        custom(str(path))


# Real files


def test_real_files(shared: Path, tmp_path: Path) -> None:
    """Pixels of every class, as the data sets' own ids give them; no colour is unknown."""
    want = {
        "isaid": {"train": {8: 135058, 9: 20325}, "val": {2: 403, 8: 62704, 9: 11720}},
        "potsdam": {"train": {4: 7841}},
        "vaihingen": {"train": {4: 4212}},
        "loveda": {"val": {6: 528446}},
    }
    for name, splits in want.items():
        root = shared / "data" / name
        if not root.is_dir():
            pytest.skip(f"no {root}; set C2F_SHARED")
        out = tmp_path / name
        assert main(["prepare", name, str(root), "-o", str(out), "--workers", "0"]) == 0
        made = json.loads((out / "dataset.json").read_text())
        for split, classes in splits.items():
            found = made["splits"][split]
            assert found["unknown"] == {}
            for class_id, pixels in classes.items():
                assert found["pixels"][class_id] == pixels
        tile = TileDataset(PreparedData.open(out), next(iter(splits)))[0]
        side = {"isaid": 896, "loveda": 1024}.get(name, 512)
        assert tile["image"].shape == (3, side, side)
        assert tile["image"].dtype == tile["labels"].dtype == torch.uint8
