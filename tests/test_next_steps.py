"""What commands say comes next: it runs as it stands."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from squares import square_tiles
from train_runs import coarse, fine

from c2fcore.cli import main, next_steps

pytestmark = pytest.mark.usefixtures("one_thread")

Output = pytest.CaptureFixture[str]
# That of nn.Conv2d: quick, and named by its place.
THEIRS = """
from torch import nn
def build(num_classes, in_channels=3):
    return nn.Conv2d(in_channels, num_classes, 3, padding=1)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own, without a GPU, where `c2f` is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "c2f").touch(mode=0o755)


def told(capsys: Output) -> list[str]:
    """The commands that were told last."""
    _, _, said = capsys.readouterr().out.rpartition("next: ")
    return [line.strip() for line in said.splitlines()]


def paste(command: str, *more: str) -> int:
    program, *arguments = shlex.split(command)
    assert program == "c2f"
    return main([*arguments, *more])


def tiles_of(root: Path, *splits: str) -> None:
    """Images of which each has a pixel of class 1, but not those of a split called bare."""
    for split in splits:
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / split / "images" / "a.png")
        mask = np.zeros((8, 8), np.uint8)
        mask[0, 0] = not split.startswith("bare")
        Image.fromarray(mask).save(root / split / "masks" / "a.png")


@pytest.mark.parametrize(
    ("splits", "small", "expected"),
    [
        (["train", "val"], ["car"], "train coarse --config small --data.root 'my out' --out {run}"),
        (["train"], ["car"],
         "train coarse --config small --data.root 'my out' --data.val none --out {run}"),
        (["train", "val"], [],
         "train coarse --config small --data.root 'my out' --data.small CLASS,CLASS --out {run}"),
        ([""], ["car"], "train coarse --config small --data.root 'my out' --data.train all "
         "--data.val none --out {run}"),
        (["val"], ["car"], "eval 'my out' --checkpoint CHECKPOINT"),
        (["test", "val"], ["car"], "eval 'my out' --checkpoint CHECKPOINT"),
        (["north", "south"], ["car"], "eval 'my out' --split north --checkpoint CHECKPOINT"),
    ],
)  # fmt: skip
def test_after_prepare(
    splits: list[str], small: list[str], expected: str, tmp_path: Path, capsys: Output
) -> None:
    tiles_of(tmp_path / "data", *splits)
    given = ["--classes", "ground,car", *(["--small", *small] if small else [])]
    command = ["prepare", "custom", "data", *given, "--tile", "0", "--workers", "0", "-o", "my out"]
    assert main(command) == 0
    assert told(capsys) == ["c2f " + expected.format(run=Path("runs", "coarse"))]


def test_after_prepare_with_a_gpu_and_a_run_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    (tmp_path / "runs" / "coarse").mkdir(parents=True)
    made: Any = {"splits": {"train": {}, "val": {"pixels": [9, 0]}}, "small_classes": [1]}
    # What no validation could score is left out of it.
    assert next_steps.after_prepare(Path("data"), made) == [
        "train", "coarse", "--data.root", "data", "--data.val", "none",
        "--out", str(Path("runs", "coarse2")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "called", "program"),
    [
        (True, "/env/bin/c2f", ["c2f"]),
        (False, "/env/bin/c2f", ["/env/bin/c2f"]),
        (False, "/env/c2fcore/__main__.py", [sys.executable, "-m", "c2fcore"]),
    ],
)
def test_it_is_called_as_it_was(
    found: bool, called: str, program: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    if not found:
        monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", [called])
    next_steps.tell_next(["demo"], ["predict", "a b"])
    first = shlex.join(program)
    assert capsys.readouterr().out == f"next: {first} demo\n      {first} predict 'a b'\n"


# Of training


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    pytest.importorskip("lightning")
    pytest.importorskip("jsonargparse")
    pytest.importorskip("torchmetrics")
    return square_tiles(tmp_path)


def test_all_of_it_runs(tiles: Path, tmp_path: Path, capsys: Output) -> None:
    square_tiles(tmp_path)  # told again
    (command,) = told(capsys)
    quick = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--augment.crop=32"]
    assert paste(command, *quick, "--data.batch_size=2", "--data.workers=0") == 0
    (command,) = told(capsys)
    assert command.startswith(f"c2f train fine --config small --data.root {tiles} --out ")
    assert "--augment.crop=32 --trainer.max_steps=2 --trainer.val_check_interval=1" in command
    assert "recipe" not in command
    assert paste(command) == 0
    score, predict = told(capsys)
    assert score.startswith(f"c2f eval {tiles} --checkpoint ")
    assert paste(score) == 0
    image = str(next((tiles / "img_dir" / "val").iterdir()))
    assert paste(predict.replace("IMAGE", image)) == 0


def test_options_and_code_are_handed_on(
    tiles: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    more = ["--coarse=theirs:build", "--options={}", "--data.val=none", "--data.small=square"]
    assert main(coarse(tiles, tmp_path / "run 1", *more)) == 0
    (command,) = told(capsys)
    for option in ("--trust_code true", "--data.val=none", "--data.small=square",
                   "--trainer.accelerator=cpu", "--data.workers=0"):  # fmt: skip
        assert option in command
    assert paste(command, "--fine=tiny_fcn", "--options.width=4", "--trainer.max_steps=1") == 0
    (predict,) = told(capsys)  # there is no split to score
    image = str(next((tiles / "img_dir" / "val").iterdir()))
    assert predict.endswith(" --trust-code")
    assert paste(predict.replace("IMAGE", image)) == 0


@pytest.mark.parametrize("shared", [True, False])
def test_a_configuration_of_both_stages_is_handed_on(
    shared: bool, tiles: Path, tmp_path: Path, capsys: Output
) -> None:
    """Another one would change, or be refused by, stage 2: what both have is told by itself."""
    own = "" if shared else "mean: [0.4, 0.4, 0.4]\n"
    text = f"data: {{root: {tiles}, batch_size: 2, workers: 0}}\ntrainer: {{max_steps: 2}}\n{own}"
    (tmp_path / "mine.yaml").write_text(text)
    given = ["--coarse=tiny_fcn", "--options.width=4", "--augment.crop=32", "--out=run"]
    assert main(["train", "coarse", "--config=mine.yaml", *given]) == 0
    (command,) = told(capsys)
    assert ("--config mine.yaml" in command) == shared
    assert (
        ("--data.batch_size=2" in command) == ("--trainer.max_steps=2" in command) == (not shared)
    )
    assert "--augment.crop=32" in command
    assert paste(command, "--fine=coarse") == 0


@pytest.mark.parametrize("later", ["data: {roots: x}", None, "["])
def test_a_configuration_that_has_changed_meanwhile(
    later: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """The checkpoint is told all the same."""
    command = pytest.importorskip("c2fcore.train.command")
    mine = tmp_path / "mine.yaml"

    def train(*_: Any) -> Path:
        if later:
            mine.write_text(later)
        return Path("run", "checkpoint")

    monkeypatch.setattr(command, "train", train)
    assert main(["train", "coarse", f"--config={mine}", "--data.root=d", "--out=run"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"-> {Path('run', 'checkpoint')}\n"
    assert not shown.err


def test_a_split_of_another_name_is_scored(tiles: Path, tmp_path: Path, capsys: Output) -> None:
    assert main(coarse(tiles, tmp_path / "run", "--data.train=val", "--data.val=train")) == 0
    more = ["--data.val=train", "--fine=coarse", "--options={}", "--trainer.max_steps=1"]
    assert main(fine(tiles, tmp_path / "run", tmp_path / "fine", *more)) == 0
    assert told(capsys)[0].startswith(f"c2f eval {tiles} --split train --checkpoint ")
