"""Running Lightning's fit so that it ends in one line and loses nothing, whatever ends it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from lightning import pytorch as pl
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO

from .. import _files
from .._progress import Bar, tell
from .resuming import partial_of

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
# Beginnings of what it says about itself: products, hardware this project does not know, Ctrl-C.
_ASIDES: Final = ("💡 Tip", "TPU available", "\nDetected KeyboardInterrupt")


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
        """Saves where it was asked to stop, between two steps of the optimiser.

        And before a validation, which may take long and be the last that a run does.
        """
        batches, every = batch_idx + 1, trainer.val_check_batch
        due = trainer.enable_validation and isinstance(every, int) and batches % every == 0
        if batches % trainer.accumulate_grad_batches == 0 and (self._agree(trainer) or due):
            trainer.save_checkpoint(partial_of(self.last), weights_only=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the state to the checkpoint of the validation, which knows the best one now."""
        self._agree(trainer)
        if trainer.is_global_zero:
            partial_of(self.last).unlink(missing_ok=True)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stops where it was asked to: the validation that was due, if one was, is over."""
        if self._agreed:
            if trainer.is_global_zero and partial_of(self.last).exists():
                os.replace(partial_of(self.last), self.last)
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
                tell(f"{said} (a second time: at once)")
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
        if trainer.global_step == self._bar.total:
            self._ask_for_loss(trainer, pl_module)  # before the last line
        if self._bar.update(trainer.global_step - self._bar.n):
            self._ask_for_loss(trainer, pl_module)

    def _ask_for_loss(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._bar is not None
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


class WholeStates(TorchCheckpointIO):
    """States are written beside those that they replace.

    Lightning writes into the folder for temporary files. From another disk it then copies over the
    state before, which is lost if the run is killed in that moment, or the disk is full.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Writes a state."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with _files.whole(Path(path), unnamed=RuntimeError) as partial:
            torch.save(checkpoint, partial)


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


def _of_lost_process(error: Exception) -> bool:
    """Whether a loading process is gone: DataLoader says so, or what it had sent cannot be had."""
    if isinstance(error, (OSError, EOFError)):
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Path(last.filename).parent == Path(multiprocessing.__file__).parent
    return str(error).startswith("DataLoader worker (pid")


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
    except (ValueError, TypeError, OSError, EOFError, RuntimeError) as error:
        lines = str(error).strip().splitlines()
        if len(lines) > 1 and "in DataLoader worker process" in lines[0]:
            # The error itself stands below that process's traceback.
            raise ValueError(lines[-1].partition(": ")[2] or lines[-1]) from error
        if _of_lost_process(error):
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
        KeyboardInterrupt: it was stopped; after a step, if there is a message.
        ValueError: whatever else ended it that has a name.
    """
    try:
        with plain_errors(), _handlers_restored():
            if trainer.is_global_zero:
                for partial in last.parent.glob(_files.PARTIAL):  # of a run that was killed
                    partial.unlink()
            trainer.fit(task, data, ckpt_path=str(last) if resume else None)
            trainer.save_checkpoint(last, weights_only=False)
    except Stopped as stopped:
        raise KeyboardInterrupt(f"{stopped}; --resume goes on from there") from None
    except (SystemExit, Exception) as error:
        # Lightning passes on Ctrl-C as SystemExit; before the first step it fails over its tidying.
        if not isinstance(error, SystemExit) and type(error.__context__) is not KeyboardInterrupt:
            raise
        raise KeyboardInterrupt from None
    finally:
        if trainer.is_global_zero:
            partial_of(last).unlink(missing_ok=True)
