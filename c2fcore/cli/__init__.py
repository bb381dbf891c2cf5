"""The `c2f` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from . import (
    bench,
    demo,
    evaluate,
    import_paddle,
    info,
    predict,
    prepare,
    reproduce,
    train,
)

_DESCRIPTION = """\
The second look of coarse-to-fine segmentation: a coarse network segments an aerial or satellite
image, windows rich in small objects (vehicles, ships, planes) are found on its answer, a fine
network looks at those patches again, and both answers are merged where they conflict.
"""
_EPILOG = """\
first steps:
  c2f demo                       what the second look gains and costs, on scenes with exact truth
  c2f predict photo.png -o out   the same on an image of yours, with the demo networks
  c2f info                       which backends can run here, and why not the others

`c2f COMMAND --help` tells the options of a command. From Python: import c2fcore; see the README.
"""

_EXPECTED = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    RuntimeError,
    MemoryError,
    OverflowError,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="c2f",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"c2fcore {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    modules = (
        demo, predict, prepare, train, evaluate, reproduce, bench, import_paddle, info,
    )  # fmt: skip
    for module in modules:
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    Errors of the user's making are one line on stderr and status 2; C2F_DEBUG=1 shows where they
    arose.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    try:
        return int(args.run(args))
    except _EXPECTED as error:
        if os.environ.get("C2F_DEBUG"):
            raise
        # Some memory errors have no text.
        text = str(error) or type(error).__name__
        print(f"c2f {args.command}: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"c2f {args.command}: stopped {stopped}".rstrip(), file=sys.stderr)
        return 130
