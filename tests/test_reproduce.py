"""`c2f reproduce`: every table runs to its end, resumes, and never invents a figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import networks
import pytest
import torch
from availability import NEEDS_SCIPY
from PIL import Image

from c2fcore import C2FConfig, C2FNet, checkpoint
from c2fcore.cli import main
from c2fcore.data.catalogue import DATASETS
from c2fcore.models import build

NAMES = ("ground", "ship", "green", "car")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for i in range(2):
        image, labels = networks.scene(64, 64, 8, seed=i)
        for kind, pixels in (("images", image[0].permute(1, 2, 0)), ("masks", labels[0])):
            (root / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels.contiguous().numpy()).save(root / kind / f"s{i}.png")
    return root


def save_net(folder: Path, names: tuple[str, ...], small: tuple[int, ...], seed: int = 0) -> Path:
    torch.manual_seed(seed)
    n = len(names)
    config = C2FConfig(n, small, window=32, stride=16, n=4, class_names=names)
    C2FNet(build("tiny_fcn", n, width=4), build("tiny_fcn", 2, width=4), config).save_pretrained(
        folder, overwrite=True
    )
    return folder


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_net(tmp_path / "net", NAMES, (1, 3))


def table_rows(out: Path, table: str) -> dict[tuple[str, str], dict[str, float]]:
    rows = json.loads((out / table / "table.json").read_text())
    return {(row["line"], row["figures of"]): row for row in rows}


@NEEDS_SCIPY
def test_a_sweep_runs_resumes_and_notices_changes(
    data: Path, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["reproduce", "table2", "--data", str(data), "--checkpoint", str(net), "-o", str(out),
               "--sweep", "zoom=1,2"]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "| coarse alone | ours" in said
    assert "23.42" in said
    assert "compare the ratio" in said.replace("\n", " ")
    rows = table_rows(out, "table2")
    columns = {"SH", "car", "mean", "mIoU", "covered", "FPS", "ratio", "F1 SH", "F1 mean"}
    assert set(rows["zoom 2", "ours"]) >= columns
    iou = rows["zoom 2", "ours"]["car"] / 100
    assert rows["zoom 2", "ours"]["F1 car"] == pytest.approx(100 * 2 * iou / (1 + iou))
    assert rows["zoom 2", "paper"]["FPS"] == 12.23
    assert rows["coarse alone", "ours"]["ratio"] == 1
    stored = json.loads((out / "table2" / "rows" / "zoom-2.json").read_text())
    assert stored["summary"]["config"]["zoom"] == 2
    # Again: nothing is evaluated.
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.count("kept from") == 2
    assert "table.md (brought up to date)" in said
    assert table_rows(out, "table2") == rows
    # A lost or damaged row, and other inputs, are evaluated anew.
    (out / "table2" / "rows" / "zoom-1.json").write_text("{")
    assert main(command) == 0
    assert capsys.readouterr().out.count("kept from") == 1
    save_net(net, NAMES, (1, 3), seed=1)
    assert main(command) == 0
    assert capsys.readouterr().out.count("inputs have changed") == 2


@pytest.mark.parametrize(
    ("table", "sweep", "lines"),
    [
        ("table1", ["window=16,32", "stride=8"], ["window 16, stride 8", "window 32, stride 8"]),
        ("fig2", ["n=1,2"], ["n 1", "n 2"]),
    ],
)
def test_other_sweeps(
    table: str, sweep: list[str], lines: list[str], data: Path, net: Path, tmp_path: Path
) -> None:
    command = ["reproduce", table, "--data", str(data), "--checkpoint", str(net)]
    assert main([*command, "-o", str(tmp_path), "--no-sizes", "--sweep", *sweep]) == 0
    rows = table_rows(tmp_path, table)
    assert [line for line, source in rows if source == "ours"] == ["coarse alone", *lines]
    assert all("mean" in rows[line, "ours"] for line in lines)
    assert "no figure of the paper's" in (tmp_path / table / "table.md").read_text()
    if table == "fig2":
        pytest.importorskip("matplotlib")
        drawn = ElementTree.parse(tmp_path / table / "fig2.svg").getroot()
        assert {"second look", "coarse alone"} <= {
            text.text for text in drawn.findall(".//{*}text")
        }


def test_a_figure_without_matplotlib_is_left_out(
    data: Path,
    net: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = ["reproduce", "fig2", "--data", str(data), "--checkpoint", str(net)]
    assert main([*command, "-o", str(tmp_path), "--no-sizes", "--sweep", "n=1"]) == 0
    said = capsys.readouterr()
    assert "note: no fig2.svg: charts need matplotlib (" in said.err
    assert "pip install 'c2fcore[plot]'" in said.err
    assert "table.md" in said.out
    assert "mean" in table_rows(tmp_path, "fig2")["n 1", "ours"]
    assert not (tmp_path / "fig2" / "fig2.svg").exists()


def test_a_figure_without_small_objects_is_left_out(net: Path, tmp_path: Path) -> None:
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / "data" / kind).mkdir(parents=True)
        Image.new(mode, (64, 64)).save(tmp_path / "data" / kind / "a.png")
    command = ["reproduce", "fig2", "--data", str(tmp_path / "data"), "--checkpoint", str(net)]
    assert main([*command, "-o", str(tmp_path), "--no-sizes", "--sweep", "n=1"]) == 0
    assert "mean" not in table_rows(tmp_path, "fig2")["n 1", "ours"]
    assert not (tmp_path / "fig2" / "fig2.svg").exists()


def test_checkpoints_compared(
    data: Path, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Methods (last answer of each), baselines (both answers), ISPRS (data by row)."""
    config = C2FNet.from_pretrained(net).config
    alone = tmp_path / "alone"
    checkpoint.save_coarse(C2FNet.from_pretrained(net).coarse, config, alone)
    common = ["-o", str(tmp_path / "out"), "--no-sizes"]
    rows_given = ["--row", f"UNet={alone}", f"C2FNet={net}", f"Mine={net}"]
    assert main(["reproduce", "table3", "--data", str(data), *rows_given, *common]) == 0
    rows = table_rows(tmp_path / "out", "table3")
    assert rows["UNet", "ours"]["ratio"] == 1
    assert rows["C2FNet", "ours"]["ratio"] < 1
    assert rows["Mine", "ours"]["mean"] == rows["C2FNet", "ours"]["mean"]
    assert set(rows["PSPNet", "ours"]) == {"line", "figures of"}
    assert "No figures of ours for PSPNet: no checkpoint given." in capsys.readouterr().out
    baselines = ["--row", f"HRNetW48={net}", f"FCN-HRNetW18={alone}"]
    assert main(["reproduce", "table4", "--data", str(data), *baselines, *common]) == 0
    rows = table_rows(tmp_path / "out", "table4")
    assert "mean" in rows["HRNetW48 + second look", "ours"]
    assert "mean" not in rows["FCN-HRNetW18 + second look", "ours"]
    said = capsys.readouterr().out
    assert "printed as 86.75" not in said  # the data have no planes
    isprs = ["--data", f"Potsdam={data}", "--row", f"Potsdam={net}", f"Vaihingen={net}"]
    assert main(["reproduce", "table5", *isprs, *common]) == 0
    rows = table_rows(tmp_path / "out", "table5")
    assert "mean" in rows["Potsdam + second look", "ours"]
    assert "No figures of ours for Vaihingen: no data given." in capsys.readouterr().out


@NEEDS_SCIPY
def test_a_row_that_fails_does_not_stop_the_others(
    data: Path, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "table2", "--data", str(data), "-o", str(tmp_path / "out"),
               "--sweep", "zoom=1,2", "--row", f"zoom 1={tmp_path / 'none'}"]  # fmt: skip
    assert main([*command, "--checkpoint", str(net)]) == 1
    said = capsys.readouterr().out
    assert "zoom 1: failed: from_pretrained: source must be a folder or a hub id" in said
    rows = table_rows(tmp_path / "out", "table2")
    assert "mean" in rows["zoom 2", "ours"]
    assert "mean" not in rows["zoom 1", "ours"]


def test_stage_2_is_trained_for_every_row(
    data: Path, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("jsonargparse")
    tiles = tmp_path / "tiles"
    make = ["prepare", "custom", str(data), "-o", str(tiles), "--classes", ",".join(NAMES),
            "--small", "ship", "car", "--tile", "64", "--workers", "0"]  # fmt: skip
    assert main(make) == 0
    out = tmp_path / "out"
    command = ["reproduce", "table2", "--data", str(tiles), "--checkpoint", str(net), "--sweep",
               "zoom=1,1.5", "-o", str(out), "--train", "small", "--set", "data.batch_size=1",
               "data.workers=0", "augment.crop=32", "trainer.max_steps=1", "fine=tiny_fcn",
               "options.width=4", "trainer.enable_progress_bar=false", "data.val=null",
               "data.train=all", "c2f.window=32", "c2f.n=2"]  # fmt: skip
    assert main(command) == 0, capsys.readouterr()
    made = out / "table2" / "runs" / "zoom-1.5" / "checkpoint"
    assert C2FNet.from_pretrained(made).config.zoom == 1.5
    assert C2FNet.from_pretrained(made).config.window == 32
    capsys.readouterr()
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert capsys.readouterr().out.count("kept from") == 2
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    assert main([*command, "recipe.lr=0.5"]) == 1
    assert "was trained with other options: give another -o" in capsys.readouterr().out
    # The same tiles made again are the same; others are not.
    assert main(make) == 0
    assert main(command) == 0
    assert capsys.readouterr().out.count("kept from") == 2
    mask = next((tiles / "ann_dir" / "all").iterdir())
    mask.write_bytes(mask.read_bytes())
    assert main(command) == 1
    assert "was trained with other data: give another -o" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table2"], "--checkpoint or --row must say what to evaluate, got neither"),
        (["table2", "--row", "zoom 9=NET"], "table2 has the rows zoom 1; zoom 2; zoom 3; zoom 4"),
        (["table2", "--row", "zoom 1"], "--row must be NAME=VALUE, got 'zoom 1'"),
        (["table2", "--row", "a=b", "a=c"], "--row must name each once, got a twice"),
        (["table2", "--checkpoint", "NET", "--sweep", "n=1"], "table2 varies zoom, got n"),
        (["table2", "--checkpoint", "NET", "--sweep", "zoom=x"], "must be numbers with commas"),
        (["table3", "--row", "A=NET", "--sweep", "n=1"], "sweeps nothing, got"),
        (["table2", "--checkpoint", "NET", "--zoom", "2"], "give --sweep zoom=..., got --zoom 2"),
        (["table2", "--checkpoint", "NET", "--set", "a=1"], "--set is for --train, got a=1"),
        (["table2", "--checkpoint", "NET", "-o", "FILE"], "table2 must be new or of `c2f"),
        (["table2", "--checkpoint", "NET", "--data", "none"], "--data must be a folder"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str],
    message: str,
    data: Path,
    net: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other" / "table2"
    other.mkdir(parents=True)
    (other / "precious.txt").write_text("mine")
    given = [{"NET": str(net), "FILE": str(other.parent)}.get(a, a) for a in arguments]
    given = given if "--data" in given else [*given, "--data", str(data)]
    given = given if "-o" in given else [*given, "-o", str(tmp_path / "out")]
    assert main(["reproduce", *given]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("c2f reproduce: error: ")


def test_stage_1_alone_cannot_be_swept(
    data: Path, net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = C2FNet.from_pretrained(net)
    checkpoint.save_coarse(found.coarse, found.config, tmp_path / "alone")
    command = ["reproduce", "fig2", "--data", str(data), "--checkpoint", str(tmp_path / "alone")]
    assert main([*command, "-o", str(tmp_path / "out"), "--sweep", "n=1"]) == 1
    assert "needs checkpoints of both stages, got stage 1 alone" in capsys.readouterr().out


# On real images, at toy size


def test_every_table_on_real_images(shared: Path, tmp_path: Path) -> None:
    """Untrained networks on a few tiles: figures mean nothing, but every table is made."""
    folders = {}
    for name, raw in (("isaid", "isaid"), ("potsdam", "potsdam"), ("vaihingen", "vaihingen")):
        source = shared / "data" / raw
        if not source.is_dir():
            pytest.skip(f"no {source}")
        folders[name] = tmp_path / name
        options = ["--tile", "256", "--workers", "0"]
        assert main(["prepare", name, str(source), "-o", str(folders[name]), *options]) == 0
    isaid, isprs = (DATASETS[name] for name in ("isaid", "potsdam"))
    wide = str(save_net(tmp_path / "n16", isaid.class_names, isaid.small_classes))
    narrow = str(save_net(tmp_path / "n6", isprs.class_names, isprs.small_classes))
    common = ["-o", str(tmp_path / "out"), "--limit", "2"]
    on_isaid = ["--data", str(folders["isaid"]), "--split", "val", *common]
    for table, given in (
        ("table1", ["--checkpoint", wide, "--sweep", "window=64,128", "stride=32"]),
        ("table2", ["--checkpoint", wide]),
        ("table3", ["--row", f"C2FNet={wide}"]),
        ("table4", ["--row", f"FCN-HRNetW18={wide}"]),
        ("fig2", ["--checkpoint", wide, "--sweep", "n=4,8"]),
    ):
        assert main(["reproduce", table, *on_isaid, *given]) == 0, table
        assert "ours" in (tmp_path / "out" / table / "table.md").read_text()
    rows = table_rows(tmp_path / "out", "table2")
    assert {"LV", "mean"} <= set(rows["zoom 4", "ours"])
    data_of = [f"{name.capitalize()}={folders[name]}" for name in ("potsdam", "vaihingen")]
    given = ["--data", *data_of, "--row", f"Potsdam={narrow}", f"Vaihingen={narrow}"]
    assert main(["reproduce", "table5", *given, "--split", "train", *common]) == 0
    rows = table_rows(tmp_path / "out", "table5")
    assert "car" in rows["Vaihingen + second look", "ours"]


def test_data_of_other_classes(data: Path, tmp_path: Path) -> None:
    """Nothing is put beside scores of classes that are none of ours."""
    net = save_net(tmp_path / "net", ("ground", "boat", "green", "car"), (1, 3))
    rows = ["--row", f"HRNetW48={net}"]
    out = ["-o", str(tmp_path / "out"), "--no-sizes"]
    assert main(["reproduce", "table4", "--data", str(data), *rows, *out]) == 0
    text = (tmp_path / "out" / "table4" / "table.md").read_text()
    first, second = text.split("F1 in percent")
    assert [cell.strip() for cell in first.splitlines()[2].split("|")[3:-1]] == [
        "boat", "car", "mean", "mIoU", "covered", "FPS", "ratio",
    ]  # fmt: skip
    assert first.count("| paper |") == 2  # speeds, of the lines that were evaluated
    assert " 29.80 |" in first
    assert "paper |" not in second
    assert second.count("No class of the data is one that published figures are of (ship, ") == 1


@pytest.mark.parametrize("alike", [True, False])
def test_published_miou_stands_beside_that_of_the_same_classes(
    alike: bool, data: Path, tmp_path: Path
) -> None:
    isprs = DATASETS["potsdam"].class_names
    net = save_net(tmp_path / "net", isprs if alike else NAMES, (4,) if alike else (3,))
    command = ["reproduce", "table5", "--data", str(data), "--row", f"Potsdam, HRNetW48={net}"]
    # With an IoU for classes that the data lack, means are over the network's.
    assert main([*command, "-o", str(tmp_path), "--no-sizes", "--absent", "0"]) == 0
    theirs = table_rows(tmp_path, "table5")["Potsdam, HRNetW48", "paper"]
    text = (tmp_path / "table5" / "table.md").read_text()
    note = (
        "Published mIoU is over the 6 classes of potsdam, and left out: ours is without "
        "impervious, building, low_vegetation, tree, clutter; with ground, ship, green."
    )
    assert ("mIoU" in theirs) == alike
    assert ("Also published: Potsdam, DeepLabV3+: mIoU 77.93" in text) == alike
    assert (note in text) != alike


@NEEDS_SCIPY
@pytest.mark.parametrize("third", ["plane", "car"])
def test_means_are_compared_over_the_same_classes(
    third: str, data: Path, net: Path, tmp_path: Path
) -> None:
    save_net(net, ("ground", "ship", "green", third), (1, 3))
    common = ["--data", str(data), "-o", str(tmp_path / "out"), "--no-sizes"]
    assert main(["reproduce", "table4", *common, "--row", f"HRNetW48={net}"]) == 0
    theirs = table_rows(tmp_path / "out", "table4")["HRNetW48 + second look", "paper"]
    text = (tmp_path / "out" / "table4" / "table.md").read_text()
    first, second = text.split("F1 in percent")
    columns = [cell.strip() for cell in first.splitlines()[2].split("|")[3:-1]]
    assert "mIoU" not in theirs  # of other classes than iSAID's
    assert "small_vehicle, helicopter" in text.split("The data lack")[1]
    assert columns[0] == "SH"
    assert "LV" not in columns
    assert "| 74.32¹ |" in first
    if third == "plane":
        assert theirs["mean"] == pytest.approx((74.32 + 85.75) / 2)
        assert theirs["F1 mean"] == pytest.approx(
            100 * (2 * 0.7432 / 1.7432 + 2 * 0.8575 / 1.8575) / 2
        )
        assert "PL: printed as 86.75, which should read 85.75" in text
        assert "are not of" not in text
    else:
        assert not {"mean", "F1 mean"} & set(theirs)
        assert "small classes that they are not of: car." in text
    assert (
        main(["reproduce", "table2", *common, "--checkpoint", str(net), "--sweep", "zoom=1"]) == 0
    )
    second = (tmp_path / "out" / "table2" / "table.md").read_text().split("F1 in percent")[1]
    assert "| paper |" not in second  # it has none of these, and no row of nothing but "-"
