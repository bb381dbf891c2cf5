"""c2f train in two processes: as one, stopped together, gone on with."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import Ranks
from safetensors.torch import load_file
from squares import square_tiles
from train_runs import SMALL, coarse, fine

from c2fcore import C2FNet
from c2fcore.cli import main

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("torchmetrics")

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

# Linear, without batch norm: the mean of two processes' gradients is the gradient of both.
# STOP=3: Ctrl-C during step 3 for process 1, and those that load for it, alone.
THEIRS = """
import multiprocessing, os, signal
from torch import nn
def build(num_classes, in_channels=3):
    network = nn.Conv2d(in_channels, num_classes, 3, padding=1)
    steps = []
    def stop(*_):
        steps.append(1)
        if os.environ.get("RANK") == "1" and str(len(steps)) == os.environ.get("STOP"):
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    network.register_full_backward_hook(stop)
    return network
"""
LINEAR = ["--coarse=theirs:build", "--recipe.lr=0.05", *SMALL[1:], "--trainer.max_steps=4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs are started, and what they train on."""
    root = tmp_path_factory.mktemp("runs")
    (root / "theirs.py").write_text(THEIRS)
    square_tiles(root)
    return root


@pytest.fixture(scope="module")
def ranks(folder: Path) -> Iterator[Ranks]:
    with Ranks(folder) as started:
        yield started


def linear(folder: Path, name: str, *more: str) -> list[str]:
    return ["coarse", f"--data.root={folder / 'tiles'}", f"--out={folder / name}", *LINEAR, *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint" / "model.safetensors")


def scores(run: Path) -> list[float]:
    with (run / "metrics" / "version_0" / "metrics.csv").open() as file:
        return [float(row["val/small_iou"]) for row in csv.DictReader(file) if row["val/small_iou"]]


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run in two processes, started by torchrun itself."""
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "c2fcore"]
    more = ["--trainer.logger=true", "--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(
        [sys.executable, *starter, "train", *linear(folder, "whole", *more)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder / "whole"


def test_they_train_as_one(folder: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    assert main(["train", *linear(folder, "one", "--trainer.logger=true")]) == 0
    for key, value in weights(folder / "one").items():
        torch.testing.assert_close(weights(whole)[key], value)
    assert len(scores(folder / "one")) == 2
    np.testing.assert_allclose(scores(whole), scores(folder / "one"), atol=1e-4)


def test_they_stop_together(folder: Path, whole: Path, ranks: Ranks) -> None:
    statuses, said = ranks.run(*linear(folder, "cut", "--data.workers=1"), STOP="3")
    assert statuses == [130, 130], said
    assert "c2f train: stopped after step 3; --resume goes on from there" in said
    last = folder / "cut" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    statuses, said = ranks.run(*linear(folder, "cut", "--resume"))
    assert statuses == [0, 0], said
    assert said.count("next: ") == said.count("-> ") == 1
    one, other = weights(whole), weights(folder / "cut")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_they_train_stage_2(folder: Path, ranks: Ranks) -> None:
    data = folder / "tiles"
    assert main(coarse(data, folder / "coarse", "--trainer.max_steps=4")) == 0
    # Windows from the coarse answer: a process may have a batch without any.
    more = ["--trainer.max_steps=4", "--loss.windows_from=coarse"]
    statuses, said = ranks.run(*fine(data, folder / "coarse", folder / "fine", *more)[1:])
    assert statuses == [0, 0], said
    assert C2FNet.from_pretrained(folder / "fine" / "checkpoint").config.n == 2
