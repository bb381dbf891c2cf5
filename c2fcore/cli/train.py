"""`c2f train`: stage 1 and stage 2."""

from __future__ import annotations

import argparse
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
    """
    try:
        from ..train.command import train
    except ImportError as error:
        raise ImportError(
            f"training needs more ({error}); pip install 'c2fcore[models,train]', or "
            "'.[models,train]' in a checkout"
        ) from error
    print(f"-> {train(args.stage, args.options)}")
    return 0
