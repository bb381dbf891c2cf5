"""`c2f train`: stage 1 and stage 2."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from . import next_steps


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
        command, following = _training()
        checkpoint = command.train(args.stage, args.options)
    except KeyboardInterrupt as stopped:
        if stopped.args:
            raise
        raise KeyboardInterrupt("before it began") from None
    if command.speaks():
        print(f"-> {checkpoint}")
        out = next_steps.new(checkpoint.parent.parent / "fine")
        # Training is done: that its configuration is gone or another by now is no failure of it.
        with contextlib.suppress(OSError, ValueError, argparse.ArgumentError):
            next_steps.tell_next(*following.after(args.stage, args.options, checkpoint, out))
    return 0


def _training() -> tuple[Any, Any]:
    try:
        from ..train import command, following
    except ImportError as error:
        raise ImportError(
            f"training needs more ({error}); pip install 'c2fcore[models,train]', or "
            "'.[models,train]' in a checkout"
        ) from error
    return command, following
