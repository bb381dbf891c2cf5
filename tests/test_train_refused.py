"""What c2f train refuses, and how it says so: in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from squares import square_tiles
from train_runs import coarse, fine

from c2fcore.cli import main

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("torchmetrics")

pytestmark = pytest.mark.usefixtures("one_thread")

Said = Callable[[], str]


def test_folders_of_other_runs(data: Path, run: Path, tmp_path: Path, said: Said) -> None:
    out = tmp_path / "run"
    out.write_text("mine")
    assert main(coarse(data, out)) == 2
    assert f"--out must be a folder, got the file {out}" in said()
    out.unlink()
    (out / "checkpoint").mkdir(parents=True)
    assert main(coarse(data, out)) == 2
    assert "holds a run already" in said()
    (out / "last.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:-100])
    assert main(coarse(data, out, "--resume")) == 2
    assert f"--resume needs {out / 'train.yaml'}, got none" in said()
    short = (out / "last.ckpt").read_bytes()
    (out / "last.ckpt").write_bytes((run / "last.ckpt").read_bytes())
    for damaged in ("", "a: [", "- 1"):
        (out / "train.yaml").write_text(damaged)
        assert main(coarse(data, out, "--resume")) == 2
        assert f"--resume needs a whole {out / 'train.yaml'}, got a damaged file" in said()
    (out / "last.ckpt").write_bytes(short)
    (out / "train.yaml").write_text((run / "train.yaml").read_text())
    assert main(coarse(data, out, "--resume")) == 2
    assert f"--resume needs a whole {out / 'last.ckpt'}, got a damaged file" in said()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--trainer.val_check_interval=0"], "val_check_interval must be above 0, got 0"),
        (["--trainer.accumulate_grad_batches=4"], "must be a multiple of the 4 batches of a step"),
        (["--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=00:00:00:01"],
         "must be a multiple of the 2 batches of a step"),
        (["--trainer.limit_train_batches=2"], "must be left out: the whole run is one epoch"),
        (["--trainer.accelerator=mps"], "error: trainer: "),
        (["--trainer.devices=3"], "batch_size must be a multiple of the 3 processes, got 2"),
        (["--data.batch_size=1"], "needs two crops or more in each process, got one: give a"),
        (["--data.workers=1", "--data.train=bad"], "image file is truncated"),
        (["--data.train=bad"], "bad/0_0_64_0_64.png must be as `c2f prepare` wrote it"),
    ],
)  # fmt: skip
def test_one_line(more: list[str], message: str, data: Path, tmp_path: Path, said: Said) -> None:
    bad = tmp_path / "data"
    bad.mkdir()
    text = (data / "dataset.json").read_text().replace('"val": {', '"bad": {')
    (bad / "dataset.json").write_text(text)
    for kind in ("img_dir", "ann_dir"):
        (bad / kind).mkdir()
        (bad / kind / "train").symlink_to(data / kind / "train")
        (bad / kind / "bad").mkdir()
        for file in (data / kind / "val").iterdir():
            (bad / kind / "bad" / file.name).write_bytes(file.read_bytes()[:150])
    root = bad if "--data.train=bad" in more else data
    val = ["--data.val=null"] if root == bad else []
    assert main(coarse(root, tmp_path / "run", *val, *more)) == 2
    line = said()
    assert message in line
    assert line.startswith("c2f train: error: ")


def test_stage_2_is_of_the_same_classes(run: Path, tmp_path: Path, said: Said) -> None:
    other = square_tiles(tmp_path, "ground,roof", "roof")
    assert main(fine(other, run, tmp_path / "run")) == 2
    assert "got class 1 'square' of the network and 'roof' in" in said()


def test_small_classes_must_be_named(tmp_path: Path, said: Said) -> None:
    tiles = square_tiles(tmp_path)
    text = (tiles / "dataset.json").read_text()
    (tiles / "dataset.json").write_text(
        re.sub(r'"small_classes": \[[^]]*\]', '"small_classes": []', text)
    )
    assert main(coarse(tiles, tmp_path / "run")) == 2
    assert "must have small classes, got none: name some (c2f prepare --small, c2f" in said()
    for number, given in enumerate(("[square]", '["square"]', "square", "1", "[1]")):
        out = tmp_path / f"run{number}"
        assert main(coarse(tiles, out, f"--data.small={given}", "--trainer.max_steps=1")) == 0


def test_what_is_missing_is_told_in_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "fine"])
    text = capsys.readouterr().err
    assert text.startswith("usage: c2f train fine [--config FILE] --data.root FOLDER --out FOLDER")
    assert len(text.splitlines()) < 6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--data.workers=x", "--data.workers must be of type int, got x"),
        ("--trainer.logger={a}", "--trainer.logger must be of type Logger, Iterable[Logger], bool, "
         "null, got {a}"),
        ("--augment.scales=[1,b]", "--augment.scales must be of type float, got b"),
        ("--config=workers.yaml", "--data.workers must be of type int, got many"),
        ("--seed", "argument --seed: expected one argument"),
        ("--bogus", "unrecognized arguments: --bogus"),
    ],
)  # fmt: skip
def test_an_option_of_no_type_it_may_have_is_told_in_a_line(
    given: str, expected: str, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workers.yaml").write_text("data: {workers: many}\n")
    with pytest.raises(SystemExit) as ended:
        main(coarse(tmp_path, tmp_path / "run", given))
    assert ended.value.code == 2
    assert said() == f"error: {expected}"
