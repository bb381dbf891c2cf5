"""`c2f train`: stage 1 and stage 2."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "train",
        help="train the coarse network, then the fine one",
        usage="c2f train {coarse,fine} [--config FILE] [options]",
        description="Trains a stage with Lightning on tiles of `c2f prepare`.",
        epilog="`c2f train coarse --help` and `c2f train fine --help` tell the options.",
    )
    parser.add_argument("stage", choices=("coarse", "fine"))
    parser.add_argument("options", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Hands the rest of the command line to the stage's own parser.

    Raises:
        ImportError: lightning or jsonargparse is not installed.
        KeyboardInterrupt: it was stopped; the message says how to go on.
    """
    try:
        checkpoint = _training()(args.stage, args.options)
    except KeyboardInterrupt as stopped:
        if stopped.args:
            raise
        raise KeyboardInterrupt("before it began") from None
    print(f"-> {checkpoint}")
    made = shlex.quote(str(checkpoint))
    if args.stage == "coarse":
        print(f"next: c2f train fine --data.root DATA --out runs/fine --coarse {made}")
    else:
        print(f"next: c2f predict IMAGE -o out --checkpoint {made}      scores: c2f eval --help")
    return 0


def _training() -> Callable[[str, Sequence[str]], Path]:
    try:
        from ..train.command import train
    except ImportError as error:
        raise ImportError(
            f"training needs more ({error}); pip install 'c2fcore[models,train]', or "
            "'.[models,train]' in a checkout"
        ) from error
    return train
