"""What `c2f train --resume` goes on from, and what has to be as it was."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
import yaml

from .._progress import tell
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


def partial_of(last: Path) -> Path:
    """Where a state waits until no validation is due any more."""
    return last.with_name(f".{last.name}.partial")


def is_begun(last: Path) -> bool:
    """Whether a run has a state to go on from, maybe only that from before a validation."""
    return last.exists() or zipfile.is_zipfile(partial_of(last))


def way_on(last: Path) -> str:
    """How a run goes on that was stopped at once."""
    if is_begun(last):
        return f"--resume goes on from {last}"
    return "nothing was saved yet: without --resume the same command begins anew"


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
    _recover(last)
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
            tell(f"note: --resume goes on with {text}: {_TOLD[key]}")


def _recover(last: Path) -> None:
    """Takes the state from before a validation in which the run was killed."""
    waiting = partial_of(last)
    with suppress(FileNotFoundError):  # also of another process of the run, which was faster
        newer = not last.exists() or waiting.stat().st_mtime > last.stat().st_mtime
        if newer and zipfile.is_zipfile(waiting):
            os.replace(waiting, last)
            tell("note: --resume goes on behind a validation that was cut off")


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
        state = torch.load(last, map_location="cpu", weights_only=True)
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
    # The run may be of half precision.
    same = (
        name in weights and torch.equal(weights[name], now.to(weights[name].dtype))
        for name, now in frozen.items()
    )
    if not all(same):
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
