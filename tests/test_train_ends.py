"""How c2f train ends: in one line, with what was trained kept, whatever ended it."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from functools import cache, partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from train_runs import COARSE, coarse, fine

from c2fcore import C2FNet, _progress
from c2fcore.cli import main

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("torchmetrics")

from c2fcore.train import command
from c2fcore.train.running import StopAtStep

pytestmark = pytest.mark.usefixtures("one_thread")

Said = Callable[[], str]
ANEW = "nothing was saved yet: without --resume the same command begins anew"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint" / "model.safetensors")


# Stopped


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation after step 4 of 6 finds the best weights, the last one the worst."""

    def log(self: Any, confusion: Any, prefix: str) -> None:
        confusion.reset()
        iou = {4: 0.4, 6: 0.1}.get(self.trainer.global_step, 0.2)
        self.log_dict({"val/small_iou": iou}, rank_zero_only=False)

    monkeypatch.setattr(command.CoarseTask, "log_iou", log)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A run with these options that nothing stopped, made once; for tests with `falling`."""

    @cache
    def made(*more: str) -> Path:
        out = tmp_path_factory.mktemp("whole") / "run"
        assert main(coarse(data, out, *more)) == 0
        return out

    return made


@pytest.mark.parametrize(
    ("hook", "step", "number", "more"),
    [
        ("training", 2, signal.SIGINT, []),
        ("training", 3, signal.SIGINT, []),  # a validation is due after it
        ("training", 3, signal.SIGTERM, []),
        ("training", 3, signal.SIGINT, ["--data.val=null"]),
        ("training", 3, signal.SIGINT, ["--trainer.limit_val_batches=0"]),
        ("training", 3, signal.SIGINT, ["--trainer.accumulate_grad_batches=2"]),
        ("validation", 4, signal.SIGINT, []),
    ],
)
@pytest.mark.usefixtures("falling")
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    hook: str,
    step: int,
    number: int,
    more: list[str],
    data: Path,
    whole: Callable[..., Path],
    tmp_path: Path,
    said: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    plain = getattr(command.CoarseTask, f"{hook}_step")
    waiting = [number]

    def interrupted(self: Any, batch: Any, batch_idx: int) -> Any:
        if waiting and self.trainer.global_step == step:
            os.kill(os.getpid(), waiting.pop())
        return plain(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(command.CoarseTask, f"{hook}_step", interrupted)
        assert main(coarse(data, tmp_path / "cut", *more)) == 130
    done = step + (hook == "training")
    assert f"stopped after step {done}; --resume goes on from there" in said()
    names = {file.name for file in (tmp_path / "cut").iterdir()}
    assert names <= {"train.yaml", "best.ckpt", "last.ckpt"}
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert main(coarse(data, tmp_path / "cut", *more, "--resume")) == 0
    one, other = (
        torch.load(run / "last.ckpt", weights_only=True) for run in (whole(*more), tmp_path / "cut")
    )
    assert one["global_step"] == other["global_step"] == 6
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]), key
    for key, value in weights(whole(*more)).items():
        assert torch.equal(value, weights(tmp_path / "cut")[key]), key


def test_a_second_signal_stops_at_once(
    data: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(self: Any, batch: Any, batch_idx: int) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(command.CoarseTask, "training_step", twice)
    before = signal.getsignal(signal.SIGINT)
    assert main(coarse(data, tmp_path / "run")) == 130
    assert f"stopped at once; {ANEW}" in said()
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_while_loading_starts_stops_at_once(
    data: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(DataLoader, "__iter__", lambda _: os.kill(os.getpid(), signal.SIGINT))
        assert main(coarse(data, tmp_path / "run")) == 130
    assert f"c2f train: stopped at once; {ANEW}" in said()
    assert main(coarse(data, tmp_path / "run", "--trainer.max_steps=1")) == 0


@pytest.mark.parametrize(
    ("what", "way_on"),
    [
        ("build", f"at once; {ANEW}"),
        ("_finish", "at once; --resume goes on from {last}"),
        ("build_parser", "before it began"),
    ],
)
def test_a_signal_beside_training_tells_how_to_go_on(
    what: str, way_on: str, data: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(command, what, lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        assert main(coarse(data, out)) == 130
    assert said().endswith(f"c2f train: stopped {way_on.format(last=out / 'last.ckpt')}")
    resume = ["--resume"] if "--resume goes on" in way_on else []
    assert main(coarse(data, out, *resume)) == 0


def test_several_processes_take_a_signal_passed_on_for_the_same(tmp_path: Path) -> None:
    """torchrun passes on to its processes what the terminal has sent to all of them."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    callback: Any = StopAtStep(tmp_path / "last.ckpt")
    try:
        callback.on_train_start(SimpleNamespace(world_size=2), None)
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        callback._patience = 0.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


# A loss that is no number


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_a_loss_that_is_no_number_ends_training(
    stage: str, data: Path, run: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"coarse": command.CoarseTask, "fine": command.FineTask}[stage]
    step = task.training_step

    def bad(self: Any, batch: Any, batch_idx: int) -> Any:
        # In the last step before a validation, after which the state is saved.
        return step(self, batch, batch_idx) * (float("nan") if batch_idx == 3 else 1.0)

    out = tmp_path / "run"
    arguments = coarse(data, out) if stage == "coarse" else fine(data, run, out)
    with monkeypatch.context() as patch:
        patch.setattr(task, "training_step", bad)
        assert main(arguments) == 2
    assert "the loss must be finite, got nan by step 4" in said()
    kept = torch.load(out / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2
    assert all(value.isfinite().all() for value in kept["state_dict"].values())
    assert not (out / "checkpoint").exists()
    assert main([*arguments, "--resume"]) == 0
    assert all(value.isfinite().all() for value in weights(out).values())


@pytest.mark.parametrize("more", ["--data.val=none", "--trainer.limit_val_batches=0"])
def test_states_are_saved_without_validation(
    more: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = command.CoarseTask.training_step

    def bad(self: Any, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 5:
            raise RuntimeError("power failure")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(command.CoarseTask, "training_step", bad)
    assert main(coarse(data, tmp_path / "run", more)) == 2
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_learning_rate_that_explodes(data: Path, tmp_path: Path, said: Said) -> None:
    assert main(coarse(data, tmp_path / "run", "--recipe.lr=1e30")) == 2
    assert "start again with a lower --recipe.lr" in said()


@pytest.mark.usefixtures("falling")
def test_a_run_that_was_moved_knows_its_best(
    data: Path, whole: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = command.CoarseTask.training_step

    def interrupted(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(command.CoarseTask, "training_step", interrupted)
        assert main(coarse(data, tmp_path / "cut")) == 130
    (tmp_path / "cut").rename(tmp_path / "moved")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert main(coarse(data, tmp_path / "moved", "--resume")) == 0
    for key, value in weights(whole()).items():
        assert torch.equal(value, weights(tmp_path / "moved")[key]), key


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_networks_may_be_of_half_precision(
    stage: str, data: Path, run: Path, tmp_path: Path
) -> None:
    more = ["--trainer.precision=bf16-true", "--balance=inverse"]
    out = tmp_path / "half"
    given = coarse(data, out) if stage == "coarse" else fine(data, run, out)
    assert main([*given, *more]) == 0
    assert main([*given, *more, "--resume", "--trainer.max_steps=7"]) == 0
    trained = [value for key, value in weights(out).items() if key.startswith(stage)]
    assert {value.dtype for value in trained if value.is_floating_point()} == {torch.bfloat16}


# What Lightning says


def test_nothing_is_said_that_a_user_could_do_nothing_about(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(coarse(data, tmp_path / "run", "--trainer.logger=true")) == 0
    text = capsys.readouterr().err + caplog.text
    assert "GPU available" in text  # whether one is used
    for word in ("Tip", "TPU", "weights_only", "Warning", "workers"):
        assert word not in text


def test_a_log_is_told_how_far_it_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "_FIRST_S", 0)
    # As on a fast machine: no line is due before the last step.
    quick = partialmethod(_progress.Bar.__init__, mininterval=3600)
    monkeypatch.setattr(_progress.Bar, "__init__", quick)
    arguments = coarse(data, tmp_path / "run")
    arguments.remove("--trainer.enable_progress_bar=false")
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "\r" not in said.out + said.err
    lines = [line for line in said.err.splitlines() if line.startswith("train: ")]
    assert lines[-1].startswith("train: 100% 6/6 [")
    assert "loss=" in lines[-1]


# Every option of stage 2's loss, from the command line


@pytest.mark.parametrize(
    "more",
    [
        ["--loss.windows_from=labels", "--loss.sampling=random", "--balance=sqrt"],
        ["--loss.windows_from=both", "--loss.negatives=2", "--balance=small"],
        ["--loss.boundary_weight=3", "--loss.resolution=patch", "--c2f.zoom=2"],
        ["--loss.pos_weight=2", "--fine_channels=1", "--train_n=1", "--balance=[1,3]"],
        ["--preset=official", "--c2f.window=32", "--balance=inverse"],
    ],
    ids=lambda more: more[0][2:],
)
def test_options_of_the_loss(more: list[str], data: Path, run: Path, tmp_path: Path) -> None:
    assert main(fine(data, run, tmp_path / "run", *more)) == 0
    net = C2FNet.from_pretrained(tmp_path / "run" / "checkpoint")
    assert all(value.isfinite().all() for value in net.state_dict().values())


def test_a_run_without_validation_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(interval: int, *more: str) -> str:
        places = [f"--data.root={data}", f"--out={tmp_path / f'{interval}{more}'}"]
        every = f"--trainer.val_check_interval={interval}"
        command.train("coarse", [*places, *COARSE, every, *more])
        return capsys.readouterr().err

    assert "note: no validation ran (--data.val names no split)" in said(2, "--data.val=none")
    assert "note: no validation ran (--trainer.val_check_interval says when)" in said(9)
    assert "note:" not in said(2)
