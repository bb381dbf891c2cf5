"""c2f train --resume: what it goes on with, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from train_runs import coarse, fine

from c2fcore import _files
from c2fcore.cli import main

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("torchmetrics")

from lightning.pytorch.callbacks import Timer

from c2fcore.train import command, resuming

pytestmark = pytest.mark.usefixtures("one_thread")

Said = Callable[[], str]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--options.width=8"], "got options.width 4 -> 8"),
        (["--recipe.lr=0.5", "--seed=3"], "got seed 0 -> 3, recipe.lr 0.05 -> 0.5"),
        (["--coarse=pp_liteseg"], "got coarse 'tiny_fcn' -> 'pp_liteseg'"),
        (["--trainer.sync_batchnorm=true"], "got trainer.sync_batchnorm False -> True"),
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
    more = ["--trainer.log_every_n_steps=2", "--trainer.max_steps=8", "--trainer.devices=1",
            "--trainer.gradient_clip_val=1"]  # fmt: skip
    assert main(coarse(elsewhere, out, "--resume", *more)) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert notes == ["note: --resume goes on with trainer.max_steps 6 -> 8: the learning rate now "
                     "falls until then",
                     "note: --resume goes on with trainer.gradient_clip_val None -> 1.0: "
                     "gradients are clipped so from here on"]  # fmt: skip
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 8


def test_a_state_is_read_where_a_folder_has_no_name_in_utf8(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "r\udce9n"  # Linux takes any bytes
    out.mkdir()
    shutil.copy(run / "last.ckpt", out)
    with pytest.raises(ValueError, match="must be at least the 6 that are done, got 0"):
        resuming.check_state(out / "last.ckpt", object(), object(), 0)


def test_a_run_made_longer_goes_on_as_one_of_that_length(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its learning rate, from the first step on, and with its crops and random numbers."""
    step = command.CoarseTask.training_step
    seen: list[tuple[float, int, float]] = []

    def logged(self: Any, batch: Any, batch_idx: int) -> Any:
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        seen.append((rate, torch.initial_seed(), float(batch["image"].float().mean())))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(command.CoarseTask, "training_step", logged)
    longer = "--trainer.max_steps=7"
    assert main(coarse(data, tmp_path / "whole", longer)) == 0
    whole, out = seen[:], tmp_path / "out"
    seen.clear()
    assert main(coarse(data, out, "--trainer.max_steps=4")) == 0
    assert main(coarse(data, out, longer, "--resume")) == 0
    assert seen[4:] == whole[4:]


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


def test_stage_2_goes_on_with_its_own_coarse_network(
    data: Path, run: Path, tmp_path: Path, said: Said
) -> None:
    """Which may lie elsewhere; not with what lies there now, or by another name."""
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "fine"
    more = ["--trainer.max_steps=2"]
    shutil.copytree(run, elsewhere)
    assert main(fine(data, run, out, *more)) == 0
    assert main(fine(data, elsewhere, out, "--resume", *more)) == 0
    saved = (out / "train.yaml").read_text()
    assert str(elsewhere) in saved
    assert main(coarse(data, tmp_path / "other", "--trainer.max_steps=1", "--seed=5")) == 0
    config = elsewhere / "checkpoint" / "config.json"
    held = json.loads(config.read_text())
    held["config"]["std"] = [0.25, 0.25, 0.25]
    config.write_text(json.dumps(held))
    assert main(fine(data, elsewhere, out, "--resume", *more)) == 2
    assert "got std (0.5, 0.5, 0.5) -> (0.25, 0.25, 0.25) in --coarse" in said()
    shutil.rmtree(elsewhere)
    (tmp_path / "other").rename(elsewhere)
    for place in (elsewhere, elsewhere / "." / ".." / "elsewhere"):
        assert main(fine(data, place, out, "--resume", *more)) == 2
        assert "goes on with the coarse network it began with, start in another" in said()
    assert (out / "train.yaml").read_text() == saved


def test_a_state_that_is_an_archive_of_other_things(data: Path, run: Path, said: Said) -> None:
    last = run / "last.ckpt"
    saved = last.read_bytes()
    try:
        for damage in ("other.txt", "archive/data.pkl"):
            with zipfile.ZipFile(last, "w") as file:
                file.writestr(damage, "no state")
            assert main(coarse(data, run, "--resume")) == 2
            assert f"--resume needs a whole {last}, got a damaged file" in said()
    finally:
        last.write_bytes(saved)


@pytest.mark.parametrize("number", [0, signal.SIGTERM])
def test_a_run_that_was_killed_in_a_validation(
    number: int, data: Path, run: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also soon after it was asked to stop, as schedulers do: the step before it is not lost."""
    out, kept = tmp_path / "run", tmp_path / "kept"
    waiting = out / ".last.ckpt.partial"
    step = command.CoarseTask.training_step

    def asked(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 3:
            os.kill(os.getpid(), number)
        return step(self, batch, batch_idx)

    def killed(self: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == 4:
            shutil.copy(waiting, kept)
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(command.CoarseTask, "training_step", asked)
        patch.setattr(command.CoarseTask, "validation_step", killed)
        assert main(coarse(data, out)) == 2
    assert "killed" in said()
    shutil.copy(kept, waiting)
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 2
    done: list[int] = []
    monkeypatch.setattr(command.CoarseTask, "training_step",
                        lambda self, batch, i: done.append(i) or step(self, batch, i))  # fmt: skip
    assert main(coarse(data, out, "--resume")) == 0
    assert done == [4, 5]
    assert not waiting.exists()
    one, other = (torch.load(o / "last.ckpt", weights_only=True)["state_dict"] for o in (run, out))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    # One older than the last state is of no use.
    shutil.copy(kept, waiting)
    os.utime(waiting, (0, 0))
    assert main(coarse(data, out, "--resume")) == 0
    assert done == [4, 5]
    assert not waiting.exists()
    # In the first validation there is no other.
    (out / "last.ckpt").unlink()
    shutil.rmtree(out / "checkpoint")
    shutil.copy(kept, waiting)
    assert main(coarse(data, out)) == 2
    assert "holds a run already; give --resume" in said()
    assert main(coarse(data, out, "--resume")) == 0
    assert done == [4, 5] * 2


def test_a_limit_of_time_ends_a_run_behind_a_whole_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have passed between two batches of a step, whose gradients no state holds."""
    step = command.CoarseTask.training_step
    done: list[int] = []

    def timed(self: Any, batch: Any, batch_idx: int) -> Any:
        done.append(batch_idx)
        for timer in self.trainer.callbacks:
            if isinstance(timer, Timer) and batch_idx == 4:  # the first of two
                timer.load_state_dict({"time_elapsed": {"train": 1e6}})
        return step(self, batch, batch_idx)

    monkeypatch.setattr(command.CoarseTask, "training_step", timed)
    both = "--trainer.accumulate_grad_batches=2"
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert main(coarse(data, whole, both)) == 0
    done.clear()
    assert main(coarse(data, out, both, "--trainer.max_time=01:00:00:00")) == 0
    assert done == [0, 1, 2, 3, 4, 5]
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 3
    assert main(coarse(data, out, both, "--resume")) == 0
    assert done == list(range(12))
    one, other = (torch.load(o / "last.ckpt", weights_only=True) for o in (whole, out))
    assert all(torch.equal(v, other["state_dict"][key]) for key, v in one["state_dict"].items())


def test_a_state_is_never_written_over(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor copied over, as Lightning does from a folder for temporary files on another disk."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    monkeypatch.setattr(tempfile, "tempdir", str(other))
    out, before = tmp_path / "run", tmp_path / "before"
    step = command.CoarseTask.training_step

    def linked(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 3:
            os.link(out / "last.ckpt", before)
            (out / ".last.ckpt.1.partial").touch()  # as of a run that was killed
        return step(self, batch, batch_idx)

    monkeypatch.setattr(command.CoarseTask, "training_step", linked)
    assert main(coarse(data, out)) == 0
    steps = [
        torch.load(file, weights_only=True)["global_step"] for file in (before, out / "last.ckpt")
    ]
    assert steps == [2, 6]
    assert main(coarse(data, out, "--resume")) == 0
    assert not list(out.glob(".*"))


def test_two_runs_do_not_share_a_folder(data: Path, run: Path, said: Said) -> None:
    """As where a scheduler starts one again that is still at work."""
    before = {file: file.stat().st_mtime_ns for file in run.iterdir()}
    with _files.held(run, "this test must hold it"):
        assert main(coarse(data, run, "--resume", "--trainer.max_steps=7")) == 2
    assert f"must be written by one run at a time, got another in {run}" in said()
    assert before == {file: file.stat().st_mtime_ns for file in run.iterdir()}


def test_no_fewer_steps_than_are_done(data: Path, run: Path, said: Said) -> None:
    saved = (run / "train.yaml").read_text()
    assert main(coarse(data, run, "--resume", "--trainer.max_steps=5")) == 2
    assert "trainer.max_steps must be at least the 6 that are done, got 5" in said()
    assert (run / "train.yaml").read_text() == saved


def test_the_options_that_are_kept_are_whole(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As --config they make the same run, with what is none where the default is not."""
    out = tmp_path / "run"
    assert main(coarse(data, out, "--data.val=null", "--trainer.max_steps=1")) == 0
    saved = yaml.safe_load((out / "train.yaml").read_text())
    assert saved["data"]["val"] is None
    config = str(tmp_path / "run.yaml")
    shutil.copy(out / "train.yaml", config)
    assert main(["train", "coarse", f"--config={config}", "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == f"-> {out / 'checkpoint'}"
    assert yaml.safe_load((out / "train.yaml").read_text()) == {**saved, "resume": True}
