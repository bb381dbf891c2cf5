"""What comes next, told as commands to be pasted."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

RUNS = Path("runs")


def tell_next(*commands: Sequence[str]) -> None:
    """Prints commands of `c2f`, given as their arguments, the likeliest first.

    Words in capitals stand for what only the user knows.
    """
    lines = (shlex.join([*_program(), *command]) for command in commands)
    print("next:", "\n      ".join(lines))


def _program() -> list[str]:
    if shutil.which("c2f"):
        return ["c2f"]
    name = sys.argv[0]  # of an environment that is not activated
    as_module = Path(name).name == "__main__.py"
    return [sys.executable, "-m", "c2fcore"] if as_module else [name]


def new(path: Path) -> str:
    """A folder of that name, with a number where there is one already."""
    number, found = 2, path
    while found.exists():
        found = path.with_name(f"{path.name}{number}")
        number += 1
    return str(found)


def after_prepare(root: Path, made: Mapping[str, Any]) -> list[str]:
    """Training on a data set, or scoring a network where there is nothing to train on.

    Args:
        root: its folder.
        made: what dataset.json holds.
    """
    splits, small = made["splits"], made["small_classes"]
    train = next((split for split in ("train", "all") if split in splits), None)
    if train is None:
        split = [] if "val" in splits or len(splits) == 1 else ["--split", next(iter(splits))]
        return ["eval", str(root), *split, "--checkpoint", "CHECKPOINT"]
    options = ["--data.root", str(root)]
    if train != "train":
        options += ["--data.train", train]
    if not small:
        options += ["--data.small", "CLASS,CLASS"]
    # Those chosen later may be there, or not: training tells.
    scored = "val" in splits and (not small or any(splits["val"]["pixels"][c] for c in small))
    if not scored:
        options += ["--data.val", "none"]
    # The default is the paper's recipe, of days.
    config = [] if torch.cuda.is_available() else ["--config", "small"]
    return ["train", "coarse", *config, *options, "--out", new(RUNS / "coarse")]
