"""`c2f eval`: scores of known networks on generated data, files, refusals, several processes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
import torch
from availability import NEEDS_SCIPY
from PIL import Image

from c2fcore import C2FConfig, C2FNet, _progress, checkpoint, metrics
from c2fcore.cli import main
from c2fcore.data import catalogue, sources
from c2fcore.evaluation import predictor, report
from c2fcore.evaluation.predictor import CoarseOnly, TwoStages
from c2fcore.evaluation.runner import evaluate
from c2fcore.evaluation.samples import (
    FolderSamples,
    Samples,
    open_samples,
    units_of,
)
from c2fcore.models import build
from c2fcore.pictures import default_palette

NAMES = ("ground", "red", "green", "blue")


def write_scenes(root: Path, sizes: list[tuple[int, int]]) -> Path:
    """root/images and root/masks, the second mask partly ignored."""
    for i, (height, width) in enumerate(sizes):
        image, labels = networks.scene(height, width, objects=14, seed=i)
        if i == 1:
            labels[0, :7] = 255
        for kind, pixels in (("images", image[0].permute(1, 2, 0)), ("masks", labels[0])):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.contiguous().numpy()).save(root / kind / f"s{i}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data"), [(96, 128), (96, 128), (70, 90)])


@pytest.fixture(scope="module")
def net_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = C2FConfig(4, (1, 3), window=32, stride=16, n=4, class_names=NAMES)
    net = C2FNet(build("tiny_fcn", 4, width=4), build("tiny_fcn", 2, width=4), config)
    folder = tmp_path_factory.mktemp("nets")
    net.save_pretrained(folder / "net")
    net.save_pretrained(folder / "fine", include_coarse=False)
    checkpoint.save_coarse(net.coarse, config, folder / "coarse")
    return folder


def samples(root: Path, **options: Any) -> Samples:
    info = catalogue.custom(",".join(NAMES))
    pairs = sources.find(info, root, "folders")["all"]
    return FolderSamples(pairs, info, "index", **options)


# Scores


@NEEDS_SCIPY
def test_both_answers_are_scored_side_by_side(data: Path) -> None:
    net = networks.network(n=6)
    found = samples(data)
    result = evaluate(TwoStages(net), found, progress=False)
    coarse, refined = (torch.zeros((4, 4), dtype=torch.int64) for _ in range(2))
    for scene in found.scenes:
        image, truth = found.read(scene, scene.tiles[0])
        answer = net.detailed(image[None])
        coarse += metrics.confusion_matrix(answer.coarse_labels[0], truth, 4)
        refined += metrics.confusion_matrix(answer.labels[0], truth, 4)
    assert result.refined is not None
    assert torch.equal(result.coarse.confusion, coarse)
    assert torch.equal(result.refined.confusion, refined)
    assert not torch.equal(coarse, refined)
    assert result.tiles == 3
    assert [unit.name for unit in result.units] == ["s0", "s1", "s2"]
    assert len(result.timings) == 2  # the first warms up
    summary = report.summarise(result, NAMES)
    for c in range(4):
        row = summary["classes"][c]
        for stage, matrix in (("coarse", coarse), ("refined", refined)):
            assert row[stage]["iou"] == pytest.approx(float(metrics.iou(matrix)[c]))
            assert row[stage]["f1"] == pytest.approx(float(metrics.f1(matrix)[c]))
        assert row["gain"]["iou"] == pytest.approx(row["refined"]["iou"] - row["coarse"]["iou"])
    small = metrics.iou(refined)[[1, 3]].mean()
    assert summary["means"]["small"]["refined"]["iou"] == pytest.approx(float(small))
    assert 0 < summary["windows"]["covered"] <= 1
    assert 0 < summary["speed"]["ratio"] < 1


@NEEDS_SCIPY
def test_options_of_speed_change_no_score(data: Path) -> None:
    net = networks.network(n=6)
    first = evaluate(TwoStages(net), samples(data, tile=48), progress=False)
    assert first.tiles == 2 * 6 + 4
    again = evaluate(TwoStages(net), samples(data, tile=48), batch=3, workers=1, progress=False)
    for a, b in ((first.coarse, again.coarse), (first.refined, again.refined)):
        assert a is not None
        assert b is not None
        assert all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors()))
    assert repr(first.units) == repr(again.units)  # NaN is not itself
    some = evaluate(TwoStages(net), samples(data, tile=48), limit=3, progress=False)
    assert repr(some.units) == repr(first.units[:3])


@NEEDS_SCIPY
def test_every_pixel_counts_once_in_whole_scenes(data: Path) -> None:
    found = samples(data, tile=48, overlap=20)
    predict = TwoStages(networks.network(n=2))
    tiles = evaluate(predict, found, "tiles", progress=False)
    whole = evaluate(predict, found, "whole", progress=False)
    true_px = 2 * 96 * 128 + 70 * 90 - 7 * 128
    assert int(whole.coarse.confusion.sum()) == true_px
    assert int(tiles.coarse.confusion.sum()) > true_px
    assert [unit.name for unit in whole.units] == ["s0", "s1", "s2"]
    assert tiles.tiles == whole.tiles
    objects_whole = whole.coarse.sizes[..., 0].sum()
    assert int(objects_whole) == int(
        evaluate(predict, samples(data), progress=False).coarse.sizes[..., 0].sum()
    )


@NEEDS_SCIPY
def test_stage_1_alone_is_scored(data: Path) -> None:
    net = networks.network(n=6)
    both = evaluate(TwoStages(net), samples(data), progress=False)
    alone = evaluate(CoarseOnly(net.coarse, net.config), samples(data), progress=False)
    assert alone.refined is None
    assert torch.equal(alone.coarse.confusion, both.coarse.confusion)
    assert alone.windows == both.windows
    summary = report.summarise(alone, NAMES)
    assert "refined" not in summary["classes"][0]
    assert "| IoU coarse | F1 coarse |" in report.markdown(summary)


def test_absent_0_is_the_policy_of_torchmetrics(data: Path) -> None:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    net = networks.network()
    found = samples(data)
    summary = report.summarise(evaluate(TwoStages(net), found, progress=False), NAMES, "0")
    pairs = [found.read(scene, scene.tiles[0]) for scene in found.scenes]
    answers = torch.cat([net(image[None])[0].flatten() for image, _ in pairs])
    truth = torch.cat([labels.flatten() for _, labels in pairs])
    for name, score in (("iou", "jaccard_index"), ("f1", "f1_score")):
        want = getattr(classification, f"multiclass_{score}")(
            answers.int(), truth.int(), num_classes=4, ignore_index=255, average="none"
        )
        got = [row["refined"][name] for row in summary["classes"]]
        torch.testing.assert_close(torch.tensor(got), want)


# Loading


def test_checkpoints_of_one_stage_or_both(net_folder: Path) -> None:
    assert checkpoint.stages(net_folder / "net") == ("coarse", "fine")
    assert isinstance(predictor.load(net_folder / "coarse"), CoarseOnly)
    both = predictor.load(net_folder / "net", changes={"n": 2})
    assert both.config.n == 2
    joined = predictor.load(net_folder / "fine", coarse=net_folder / "coarse")
    image = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(both(image).coarse, joined(image).coarse)
    assert joined.refines
    low = predictor.load(net_folder / "net", amp="bf16")(image)
    assert low.refined is not None
    assert low.refined.dtype == torch.uint8
    with pytest.raises(ValueError, match="holds the fine network alone: give --coarse, got none"):
        predictor.load(net_folder / "fine")
    with pytest.raises(ValueError, match="checkpoints without coarse weights, got it for"):
        predictor.load(net_folder / "net", coarse=net_folder / "coarse")


# The command


@NEEDS_SCIPY
def test_the_command_writes_tables_and_pictures(
    data: Path,
    net_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    arguments = ["eval", str(data), "--checkpoint", str(net_folder / "net"), "-o", str(out)]
    monkeypatch.setattr(_progress, "_FIRST_S", 0.0)
    assert main([*arguments, "--pictures", "1", "--tile", "64", "--n", "3"]) == 0
    said, told = capsys.readouterr()
    assert "| mean of small * |" in said
    assert "IoU by size of object" in said
    summary = json.loads((out / "scores.json").read_text())
    small = summary["means"]["small"]
    before, after = (100 * small[stage]["iou"] for stage in ("coarse", "refined"))
    assert f"mean IoU of small {before:.2f} -> {after:.2f}" in told.splitlines()[-1]
    assert summary["config"]["n"] == 3
    assert summary["data"] == data.name
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [*NAMES, "mean of small", "mean"]
    assert float(rows[0]["coarse_iou"]) == summary["classes"][0]["coarse"]["iou"]
    with (out / "sizes.csv").open() as file:
        sizes = list(csv.DictReader(file))
    assert {row["class"] for row in sizes} == {"red", "blue", "all small"}
    assert (out / "scores.md").read_text().startswith(f"{net_folder / 'net'} on {data.name}")
    assert len((out / "images.csv").read_text().splitlines()) == 1 + 12
    drawn = sorted(path.name for path in (out / "pictures").iterdir())
    assert [name[:7] for name in drawn] == ["best_1_", "worst_1"]
    with Image.open(out / "pictures" / drawn[0]) as sheet:
        assert sheet.width > 5 * 448
        legend = np.asarray(sheet)[-26:, :400]
    palette = default_palette(len(NAMES))
    assert all((legend == colour).all(axis=-1).any() for colour in palette)  # of every class
    # Nothing is replaced without a word.
    before = (out / "scores.json").read_bytes()
    assert main(arguments) == 2
    assert "scores.json exists; give --overwrite" in capsys.readouterr().err
    assert (out / "scores.json").read_bytes() == before
    assert main([*arguments, "--overwrite", "--pictures", "1", "--limit", "1"]) == 0
    said = capsys.readouterr().out
    assert "scores.json (replaced)" in said
    assert "2 earlier pictures" in said


@NEEDS_SCIPY
def test_prepared_folders_are_scored(
    data: Path, net_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = tmp_path / "prepared"
    make = ["prepare", "custom", str(data), "-o", str(prepared), "--classes", ",".join(NAMES)]
    assert main([*make, "--tile", "64", "--overlap", "16", "--workers", "0"]) == 0
    common = ["eval", str(prepared), "--checkpoint", str(net_folder / "coarse")]
    assert main([*common, "-o", str(tmp_path / "tiles")]) == 0
    assert main([*common, "-o", str(tmp_path / "whole"), "--protocol", "whole"]) == 0
    plain = ["--protocol", "whole", "--tile", "64", "--overlap", "16"]
    assert main(["eval", str(data), *common[2:], "-o", str(tmp_path / "plain"), *plain]) == 0
    matrices = {}
    for kind in ("tiles", "whole", "plain"):
        summary = json.loads((tmp_path / kind / "scores.json").read_text())
        matrices[kind] = summary["confusion"]["coarse"]
    assert matrices["whole"] == matrices["plain"] != matrices["tiles"]
    capsys.readouterr()
    assert main([*common, "--tile", "64"]) == 2
    assert "--tile and --overlap are for plain folders" in capsys.readouterr().err
    assert main([*common, "--split", "test"]) == 2
    assert "split must be one of all, got test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere/at/all"], "--checkpoint must be a folder or a hub id"),
        (["--checkpoint", "NET", "--coarse", "NET"], "for checkpoints without coarse weights"),
        (["--checkpoint", "NET", "--limit", "0"], "limit must be at least 1"),
        (["--checkpoint", "NET", "--batch", "0"], "batch and limit must be at least 1"),
        (["--checkpoint", "NET", "--workers", "1000000"], "16 for each processor, got 1000000"),
        (["--checkpoint", "NET", "--sizes", "8", "4"], "ascending and above 0 px, got (8.0, 4.0)"),
        (["--checkpoint", "NET", "--boundary", "1.5"], "boundary must be whole pixels, a share"),
        (["--checkpoint", "NET", "--device", "abacus"], "--device must be one that is here"),
        (["--checkpoint", "NET", "--encoding", "bgr"], "encoding must be one of index, shifted"),
        (["--checkpoint", "NET", "--encoding", "rgb"], "encoding must be one of index, shifted"),
        (["--checkpoint", "NET", "--overlap", "8"], "--overlap needs --tile, got 8 without it"),
        (["--checkpoint", "NET", "--tile", "8", "--overlap", "8"], "overlap must be in 0..tile-1"),
        (["--checkpoint", "NET", "--pictures", "2"], "--pictures needs -o"),
        (["--checkpoint", "NET", "--split", "val"], "split val must be in"),
        (["--checkpoint", "NET", "--split", ""], "a split must lie in"),
        (["--checkpoint", "NET", "--sizes", "nan"], "ascending and above 0 px, got (nan,)"),
        (
            ["--checkpoint", "NET", "--sizes", "8", "inf"],
            "ascending and above 0 px, got (8.0, inf)",
        ),
        (["--checkpoint", "NET", "--window", "0"], "window must be at least 1, got 0"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str],
    message: str,
    data: Path,
    net_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(net_folder / "net") if a == "NET" else a for a in arguments]
    assert main(["eval", str(data), *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("c2f eval: error: ")
    assert "Traceback" not in said


def test_folders_that_hold_something_else_are_told(
    data: Path, net_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoint").symlink_to(net_folder / "net")
    for folder, given, message in (
        (data, run, f"run must hold config.json, got none; {run / 'checkpoint'} does"),
        (tmp_path / "none", net_folder / "net", "data must be in a folder, got"),
        (data / "images", net_folder / "net", "or hold images/ and masks/ (or SPLIT/images/"),
    ):
        assert main(["eval", str(folder), "--checkpoint", str(given)]) == 2
        assert message in capsys.readouterr().err


@NEEDS_SCIPY
def test_bad_files_are_named(
    net_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_scenes(tmp_path / "bad", [(40, 40)])
    command = ["eval", str(root), "--checkpoint", str(net_folder / "net")]

    def said() -> str:
        assert main(command) == 2
        return capsys.readouterr().err.splitlines()[-1]

    mask = root / "masks" / "s0.png"
    strange = np.full((40, 40), 9, np.uint8)
    Image.fromarray(strange).save(mask)
    assert "got 9 (1600 px) in" in (line := said())
    assert "s0.png; --unknown ignore" in line
    assert main([*command, "--unknown", "ignore"]) == 0
    Image.fromarray(strange[:30] * 0).save(mask)
    assert "one size, got 40 x 40 and 40 x 30 for" in said()
    mask.write_text("no image")
    assert f"mask must be an image, got {mask}" in said()
    mask.unlink()
    assert "s0.png must have a mask of its name" in said()
    (root / "images" / "s0.png").unlink()
    assert "images in layout folders (SPLIT/images and SPLIT/masks, or images and masks" in said()


def test_other_classes_are_refused(data: Path, net_folder: Path, tmp_path: Path) -> None:
    for names, message in (
        ("a,b,c,d", "got class 0 'ground' of the network and 'a' in"),
        ("ground,red,green,blue,e", "4 classes must be the data set's, got 5 in"),
    ):
        out = tmp_path / names
        make = ["prepare", "custom", str(data), "-o", str(out), "--classes", names]
        assert main([*make, "--workers", "0"]) == 0
        config = predictor.load(net_folder / "net").config
        with pytest.raises(ValueError, match=message):
            open_samples(out, None, config)


def test_units_and_their_refusals(data: Path) -> None:
    found = samples(data, tile=48)
    assert len(units_of(found, "tiles")) == 16
    assert len(units_of(found, "whole")) == 3
    with pytest.raises(ValueError, match="protocol must be one of tiles, whole, got patches"):
        units_of(found, "patches")


# Several processes

_PROGRAM = """
import faulthandler, os, sys, torch
faulthandler.dump_traceback_later(120, exit=True)
torch.set_num_threads(1)
from c2fcore.cli import main
good, bad, table = (text.split(";") for text in sys.argv[1:])
from c2fcore.evaluation.distributed import process_group
with process_group(torch.device("cpu")):  # joined once: a process cannot leave and join again
    assert main(good) == 0
    assert main(bad) == 2
    assert main(table) == 0
print("rank", os.environ["RANK"], "knows of all")
"""


@NEEDS_SCIPY
def test_processes_share_the_work(data: Path, net_folder: Path, tmp_path: Path) -> None:
    """Two gloo processes give the counts of one; a file only one of them reads stops both."""
    common = ["--checkpoint", str(net_folder / "net"), "--tile", "48", "--device", "cpu"]
    one, two, bad = (tmp_path / name for name in ("one", "two", "bad"))
    assert main(["eval", str(data), *common, "-o", str(one)]) == 0
    write_scenes(bad, [(40, 40), (40, 40)])
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(bad / "masks" / "s1.png")
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    good = ["eval", str(data), *common, "-o", str(two)]
    swept = ["reproduce", "fig2", "--data", str(data), *common, "--sweep", "n=1,4", "-o", str(two)]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*run, str(program), *map(";".join, (good, ["eval", str(bad), *common], swept))],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("knows of all") == 2
    assert "got 7 (1600 px) in" in done.stderr
    ours, theirs = (json.loads((folder / "scores.json").read_text()) for folder in (one, two))
    assert theirs["speed"]["processes"] == 2
    for key in ("confusion", "classes", "sizes", "means", "windows", "images"):
        assert ours[key] == theirs[key], key
    stored = json.loads((two / "fig2" / "rows" / "n-4.json").read_text())
    assert stored["summary"]["confusion"] == ours["confusion"]
    assert (one / "images.csv").read_text() == (two / "images.csv").read_text()
