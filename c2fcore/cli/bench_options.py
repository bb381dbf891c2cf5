"""Options of `c2f bench`, and which of them go together."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

import torch

from ..bench import network_suite, scale_suite
from ..bench.lists import words
from .paths import path_of

NETWORK: Final = "network"
# What each mode reads besides what all do; the option of its name asks for it.
_ALL_READ: Final = "device threads rounds ways no_charts no_memory out compare repeats"
_READ: Final = {
    "charts": "",
    "scale": f"{_ALL_READ} masks largest",
    "op": f"{_ALL_READ} masks impl sizes zooms dtype channels_last",
    NETWORK: f"{_ALL_READ} masks coarse fine checkpoint sizes zooms n preset image dtype "
    "channels_last compile warmup budget",
}
_APART: Final = {
    "checkpoint": "coarse fine masks",
    "image": "sizes",
    "compare": "charts impl out",
}


def add_what(what: argparse._ArgumentGroup) -> None:
    """Adds options that say what is measured."""
    what.add_argument("--coarse", default="tiny_fcn", help="network by name or module:function "
                      "(tiny_fcn)")  # fmt: skip
    what.add_argument("--fine", help="likewise; the same as --coarse if not given")
    what.add_argument("--checkpoint", help="a trained pair instead: folder or hub id")
    what.add_argument("--sizes", default="512", help="sides, or HEIGHTxWIDTH, by commas (512)")
    what.add_argument("--zooms", default="1,2,3,4", help="of the patches (1,2,3,4)")
    what.add_argument("--n", default="32", help="windows per image (32)")
    what.add_argument("--preset", default="paper", help="paper (default), fast, official, or "
                      "cover: as few of the paper's windows as cover what its 32 do")  # fmt: skip
    what.add_argument("--image", help="segment this file; its size counts")
    what.add_argument("--masks", nargs="+", metavar="FILE", help="class maps to make answers from, "
                      "in iSAID's colours or ids; else those that C2F_BENCH_MASKS lists, else "
                      "iSAID masks in ../shared/data beside a checkout, else synthetic scenes; "
                      "rows say which")  # fmt: skip
    what.add_argument("--op", help="time an op instead: all, glue, or an op's name")
    what.add_argument("--impl", metavar="MODULE:FUNCTION", help="with --op: check a kernel of "
                      "yours against the reference on the shared samples, then time it beside "
                      "ours")  # fmt: skip
    what.add_argument("--scale", nargs="?", const=",".join(scale_suite.AXES), metavar="AXES",
                      help="how cost grows: area, n, classes, batch, threads (all)")  # fmt: skip
    what.add_argument("--largest", type=int, default=12000, help="side of the largest image of "
                      "--scale area (12000)")  # fmt: skip
    what.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two result files or folders, "
                      "or two commits of this checkout, which are then measured in turn with the "
                      "other options given")  # fmt: skip
    what.add_argument("--charts", type=path_of, metavar="FOLDER",
                      help="only draw the charts of the rows in FOLDER")  # fmt: skip


def add_how(how: argparse._ArgumentGroup) -> None:
    """Adds options that say how it is measured."""
    how.add_argument("--ways", default="", help="only these: reference, cpu, compiled, ...")
    how.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    how.add_argument("--dtype", default="float32", choices=list(network_suite.DTYPES),
                     help="of the networks; amp is autocast to bfloat16")  # fmt: skip
    how.add_argument("--channels-last", action="store_true", help="memory format")
    how.add_argument("--compile", action="store_true", help="compile both networks")
    how.add_argument("--threads", type=int, help="of torch; what it takes by itself")
    how.add_argument("--rounds", type=int, default=10, help="samples of each way (10)")
    how.add_argument("--warmup", type=int, default=2, help="calls before them (2)")
    how.add_argument("--budget", type=float, default=20.0, help="seconds for the rounds of one "
                     "configuration; at least 3 are made (20)")  # fmt: skip
    how.add_argument("--repeats", type=int, default=2, help="runs of each commit of --compare (2)")
    how.add_argument("--no-charts", action="store_true", help="leave out the charts")
    how.add_argument("--no-memory", action="store_true", help="leave out the peak memory")


def given(args: argparse.Namespace) -> dict[str, str]:
    """Options that are not as they are by themselves, by name."""
    actions = [a for a in args.parser._actions if a.option_strings and a.dest != "help"]
    return {a.dest: a.option_strings[-1] for a in actions if getattr(args, a.dest) != a.default}


def check(args: argparse.Namespace) -> None:
    """Refuses options that nothing would read.

    Raises:
        ValueError: one does not go with the others.
    """
    asked = given(args)
    mode = next((name for name in _READ if name in asked), NETWORK)
    read = [mode, *_READ[mode].split()]
    for name, option in asked.items():
        if name in read:
            continue
        if mode == NETWORK:
            needed = next(other for other in _READ if name in _READ[other].split())
            raise ValueError(f"{option} must come with --{needed}, got it without")
        others = ", ".join(f"--{name}".replace("_", "-") for name in read[1:]) or "no other option"
        raise ValueError(f"--{mode} must come with {others} only, got {option}")
    for name, apart in _APART.items():
        for other in apart.split():
            if name in asked and other in asked:
                raise ValueError(f"--{name} must come without {asked[other]}, got both")
    if "largest" in asked and "area" not in words(args.scale):
        raise ValueError(f"--largest must come with --scale area, got --scale {args.scale}")
    if "repeats" in asked and "compare" not in asked:
        raise ValueError("--repeats must come with --compare, got it without")


def line_of(args: argparse.Namespace) -> list[str]:
    """The command line that measures the same, for a run of a commit."""
    found = ["--no-charts", "--no-memory"]
    for name, option in given(args).items():
        value = getattr(args, name)
        if name in ("image", "checkpoint") and Path(value).exists():
            value = os.path.abspath(value)  # measured in another folder
        if name == "masks":
            found += [option, *map(os.path.abspath, value)]
        elif name not in ("compare", "repeats", "no_charts", "no_memory"):
            found += [option] if value is True else [option, str(value)]
    return found
