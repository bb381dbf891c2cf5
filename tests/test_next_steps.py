"""What commands say comes next: it runs as it stands."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from c2fcore.cli import main, next_steps

pytestmark = pytest.mark.usefixtures("one_thread")

Output = pytest.CaptureFixture[str]


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
