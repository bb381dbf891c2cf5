"""Running Lightning's fit so that it ends in one line and loses nothing, whatever ends it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
import yaml
from lightning import pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar

from .._progress import Bar
from .tasks import NORMALISED

# What a resumed run may change: where things are, and how fast they go. Anything else would be
# ignored in part (the optimiser's state holds the learning rate) and make another run of it. What
# lies in data.root, and the network that stage 2 begins with, have to be the same: `check_state`.
_FREE: Final = (
    "out",
    "resume",
    "config",
    "data.root",
    "data.workers",
    *(
        f"trainer.{name}"
        for name in (
            "accelerator",
            "strategy",
            "devices",
            "num_nodes",
            "plugins",
            "max_time",
            "logger",
            "log_every_n_steps",
            "enable_",
            "num_sanity_val_steps",
            "profiler",
            "detect_anomaly",
            "deterministic",
            "benchmark",
        )
    ),
)
# What people change for a reason, and have to know the effect of: it is told.
_TOLD: Final = {
    "trainer.max_steps": "the learning rate now falls until then",
    "trainer.precision": "the steps from here on are rounded otherwise",
    # What the error of a loss that is no number advises.
    "trainer.gradient_clip_val": "gradients are clipped so from here on",
    "trainer.gradient_clip_algorithm": "gradients are clipped so from here on",
}

_COARSE: Final = "net.coarse."  # in the state of stage 2, which leaves it as it is

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

# Lightning's remarks on what is meant to be so.
_REMARKS: Final = (
    ".*exists and is not empty.*",  # the folder of the run holds its configuration
    ".*module.s. in eval mode at the start of training.*",  # the frozen coarse network
    ".*your dataloader is not resumable.*",  # batches depend on the step alone
    ".*treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
)
# Beginnings of what it says about itself: products, and hardware this project does not know.
_ASIDES: Final = ("💡 Tip", "TPU available")


class Stopped(Exception):
    """Training was asked to stop, and has saved its state."""


class StopAtStep(pl.Callback):
    """Ctrl-C and SIGTERM end training after the step at hand, saved; a second one ends it at once.

    If a validation is due after that step it comes first: Lightning leaves it out of a resumed run,
    which could then miss the best weights. Several processes stop together if one is asked to.

    Args:
        last: file to save to.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self._asked: float | None = None  # when, in seconds
        self._agreed = False  # by all processes
        self._patience = 0.0  # seconds in which a second signal is the same request

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listens."""
        if trainer.world_size > 1:
            # The terminal signals every process, and torchrun passes on what it gets itself.
            self._patience = 5.0
        if _in_main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._ask)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Saves where it was asked to stop, between two steps of the optimiser."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and self._agree(trainer):
            trainer.save_checkpoint(_partial(self.last), weights_only=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the state to the checkpoint of the validation, which knows the best one now."""
        if self._agree(trainer) and trainer.is_global_zero:
            _partial(self.last).unlink(missing_ok=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stops where it was asked to: the validation that was due, if one was, is over."""
        if self._agreed:
            if trainer.is_global_zero and _partial(self.last).exists():
                os.replace(_partial(self.last), self.last)
            trainer.strategy.barrier()
            raise Stopped(f"after step {trainer.global_step}")

    def _agree(self, trainer: pl.Trainer) -> bool:
        """Whether any process is asked to stop."""
        asked = self._asked is not None
        self._agreed = bool(trainer.strategy.reduce_boolean_decision(asked, all=False))
        return self._agreed

    def _ask(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
            if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started
                said = "stopping after this step, and its validation if one is due"
                print(f"{said} (a second time: at once)", file=sys.stderr, flush=True)
        elif now - self._asked >= self._patience:
            raise KeyboardInterrupt


class Lines(ProgressBar):
    """Steps as other commands tell theirs where stderr is no terminal, which Lightning's bar fills.

    Validations are steps of no bar of their own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown = True
        self._bar: Bar | None = None

    def enable(self) -> None:
        """Lightning asks for it."""
        self._shown = True

    def disable(self) -> None:
        """Lightning asks for it, in all processes but one."""
        self._shown = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins, at the first step or where a run was stopped."""
        done, total = trainer.global_step, trainer.max_steps
        self._bar = Bar(desc="train", total=total, initial=done, unit="step", shown=self._shown)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any,
        batch_idx: int,
    ) -> None:  # fmt: skip
        """Counts steps of the optimiser; now and then asks for the loss, which a GPU waits for."""
        assert self._bar is not None
        if self._bar.update(trainer.global_step - self._bar.n):
            metrics = self.get_metrics(trainer, pl_module)
            metrics.pop("v_num", None)
            self._bar.set_postfix(metrics, refresh=False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Ends."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Ends, too."""
        self.teardown(trainer, pl_module, "fit")


class RunCheckpoint(ModelCheckpoint):
    """States of a run, whose folder may have been moved before it was resumed.

    Lightning would forget the scores of files under another path, and take the first validation
    from then on for the best.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Finds the files where the folder is now."""

        def here(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved: dict[str, Any] = {name: here(state_dict[name]) for name in paths}
        scores = state_dict["best_k_models"].items()
        moved["best_k_models"] = {here(path): score for path, score in scores}
        super().load_state_dict({**state_dict, **moved, "dirpath": self.dirpath})


def _partial(last: Path) -> Path:
    """Where a state waits until no validation is due any more."""
    return last.with_name(f".{last.name}.partial")


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Lightning leaves SIGINT ignored after an interruption."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        if _in_main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _worth_telling(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_ASIDES)


@contextmanager
def _without_asides() -> Iterator[None]:
    said = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    said.addFilter(_worth_telling)
    try:
        yield
    finally:
        said.removeFilter(_worth_telling)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Errors of Lightning and of loading processes as those of this project are; no remarks."""
    try:
        with warnings.catch_warnings(), _without_asides():
            for remark in _REMARKS:
                warnings.filterwarnings("ignore", remark)
            yield
    except MisconfigurationException as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from error
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        if len(lines) > 1 and "in DataLoader worker process" in lines[0]:
            # The error itself stands below that process's traceback.
            raise ValueError(lines[-1].partition(": ")[2] or lines[-1]) from error
        if lines and lines[0].startswith("DataLoader worker (pid"):
            raise RuntimeError(
                "every loading process must live, got one ended from outside (out of memory, or of "
                "a container's shared memory?): go on with --resume and fewer --data.workers"
            ) from error
        if lines and lines[0].startswith("Expected more than 1 value per channel"):
            raise ValueError(
                "batch norm after a global pooling needs two crops or more in each process, got "
                "one: give a larger --data.batch_size, or --trainer.sync_batchnorm true on GPUs"
            ) from error
        raise


def fit(trainer: Any, task: Any, data: Any, last: Path, resume: bool) -> None:
    """Trains to the end and saves the last state.

    Raises:
        KeyboardInterrupt: it was stopped; the message says what is kept.
        ValueError: whatever else ended it that has a name.
    """
    try:
        with plain_errors(), _handlers_restored():
            trainer.fit(task, data, ckpt_path=str(last) if resume else None)
            trainer.save_checkpoint(last, weights_only=False)
    except Stopped as stopped:
        raise KeyboardInterrupt(f"{stopped}; --resume goes on from there") from None
    except SystemExit:  # how Lightning passes on Ctrl-C
        kept = f"--resume goes on from {last}" if last.is_file() else "nothing was saved yet"
        raise KeyboardInterrupt(f"at once; {kept}") from None
    finally:
        if trainer.is_global_zero:
            _partial(last).unlink(missing_ok=True)


def check_resumed(last: Path, before: Path, now: str) -> None:
    """A run goes on with the options it began with.

    Args:
        last: its saved state.
        before: file with the options it began with.
        now: options of today, as YAML.

    Raises:
        FileNotFoundError: there is no saved state, or nothing that tells its options.
        ValueError: it is damaged, or options differ.
    """
    for file in (last, before):
        if not file.is_file():
            raise FileNotFoundError(f"--resume needs {file}, got none")
    if not zipfile.is_zipfile(last):
        raise ValueError(f"--resume needs a whole {last}, got a damaged file")
    try:
        begun = yaml.safe_load(before.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        begun = None
    if not isinstance(begun, Mapping):
        raise ValueError(f"--resume needs a whole {before}, got a damaged file")
    old, new = _flat(begun), _flat(yaml.safe_load(now))
    free = (*_FREE, "coarse") if "fine" in new else _FREE  # of stage 2 a place
    changed = {
        key: f"{key} {old.get(key)!r} -> {new.get(key)!r}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and not key.startswith(free)
    }
    if refused := [text for key, text in changed.items() if key not in _TOLD]:
        raise ValueError(
            f"--resume goes on with the options of {before}, start in another --out: got "
            f"{', '.join(refused)}"
        )
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started
        for key, text in changed.items():
            print(f"note: --resume goes on with {text}: {_TOLD[key]}", file=sys.stderr)


def check_state(last: Path, data: Any, task: Any, steps: int) -> None:
    """A run goes on with the data and the coarse network it began with, wherever they lie now.

    Args:
        last: its saved state.
        data: of today, a `Tiles`.
        task: of today, a `CoarseTask` or a `FineTask`.
        steps: of today, in all.

    Raises:
        ValueError: they are others, more steps are done, or the state is damaged.
    """
    try:
        state = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
        weights, done = state["state_dict"], state["global_step"]
    except (RuntimeError, UnpicklingError, TypeError, KeyError):
        raise ValueError(f"--resume needs a whole {last}, got a damaged file") from None
    before = state.get(type(data).__qualname__)  # where Lightning keeps what `state_dict` says
    if before is not None and before != data.state_dict():
        raise ValueError(
            "--resume goes on with the tiles and classes it began with, start in another --out: "
            f"got others in {data.prepared.root}"
        )
    if steps < done:
        raise ValueError(
            f"trainer.max_steps must be at least the {done} that are done, got {steps}"
        )
    begun, normalised = state.get(NORMALISED), task.normalised()
    if begun is not None and begun != normalised:
        changed = [f"{name} {begun[name]} -> {now}" for name, now in normalised.items()
                   if begun[name] != now]  # fmt: skip
        raise ValueError(
            "--resume goes on with pixels normalised as they were, start in another --out: got "
            f"{', '.join(changed)} in --coarse"
        )
    frozen = {name: now for name, now in task.state_dict().items() if name.startswith(_COARSE)}
    if any(name not in weights or not torch.equal(weights[name], frozen[name]) for name in frozen):
        raise ValueError(
            "--resume goes on with the coarse network it began with, start in another --out: got "
            "another in --coarse"
        )


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found.update(_flat(value, f"{before}{key}."))
        else:
            found[before + key] = value
    return found
