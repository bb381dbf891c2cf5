"""c2f train --resume: what it goes on with, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from squares import square_tiles
from train_runs import coarse

from c2fcore.cli import main

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("torchmetrics")

pytestmark = pytest.mark.usefixtures("one_thread")

Said = Callable[[], str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return square_tiles(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished stage 1."""
    out = tmp_path_factory.mktemp("coarse") / "run"
    assert main(coarse(data, out)) == 0
    return out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--options.width=8"], "got options.width 4 -> 8"),
        (["--recipe.lr=0.5", "--seed=3"], "got seed 0 -> 3, recipe.lr 0.05 -> 0.5"),
        (["--coarse=pp_liteseg"], "got coarse 'tiny_fcn' -> 'pp_liteseg'"),
        (["--trainer.gradient_clip_val=1.0"], "got trainer.gradient_clip_val None -> 1.0"),
        (["--trainer.accumulate_grad_batches=2"], "got trainer.accumulate_grad_batches 1 -> 2"),
        (["--trainer.limit_val_batches=1"], "got trainer.limit_val_batches None -> 1"),
    ],
)
def test_a_run_goes_on_with_its_own_options(
    more: list[str], message: str, data: Path, run: Path, said: Said
) -> None:
    saved = (run / "train.yaml").read_text()
    assert main(coarse(data, run, "--resume", *more)) == 2
    line = said()
    assert "goes on with the options of" in line
    assert message in line
    assert (run / "train.yaml").read_text() == saved


def test_what_a_resumed_run_may_change(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(run, out)
    shutil.copytree(data, elsewhere)
    more = ["--trainer.log_every_n_steps=2", "--trainer.max_steps=8", "--trainer.devices=1"]
    assert main(coarse(elsewhere, out, "--resume", *more)) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert notes == ["note: --resume goes on with trainer.max_steps 6 -> 8: the learning rate now "
                     "falls until then"]  # fmt: skip
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 8


def test_a_run_goes_on_with_its_own_data(data: Path, run: Path, tmp_path: Path, said: Said) -> None:
    saved = (run / "train.yaml").read_text()
    other = tmp_path / "other"
    shutil.copytree(data, other)
    facts = json.loads((other / "dataset.json").read_text())
    facts["splits"]["train"]["tiles"].pop()
    (other / "dataset.json").write_text(json.dumps(facts))
    assert main(coarse(other, run, "--resume")) == 2
    assert "goes on with the tiles and classes it began with" in said()
    assert (run / "train.yaml").read_text() == saved
