"""The `c2f` command."""

from __future__ import annotations

import argparse
import io
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Sequence

from .. import __version__
from .._interrupts import INTERRUPTED, leave, quiet
from .._progress import tell
from .errors import text_of

_DESCRIPTION = """\
The second look of coarse-to-fine segmentation: a coarse network segments an aerial or satellite
image, windows rich in small objects (vehicles, ships, planes) are found on its answer, a fine
network looks at those patches again, and both answers are merged where they conflict.
"""
_EPILOG = """\
first steps:
  c2f demo                       what the second look gains and costs, on scenes with exact truth
  c2f predict photo.png -o out   the same on an image of yours, with the demo networks
  c2f scene scene.tif -o l.tif   on a GeoTIFF of any size; labels that lie where the scene does
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

# As a shell reports a command that SIGPIPE ended.
_BROKEN_PIPE = 141


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    with quiet():
        from . import (
            bench,
            demo,
            evaluate,
            import_paddle,
            info,
            predict,
            prepare,
            reproduce,
            scene,
            train,
        )
    parser = argparse.ArgumentParser(
        prog="c2f",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"c2fcore {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    modules = (
        demo, predict, scene, prepare, train, evaluate, reproduce, bench, import_paddle, info,
    )  # fmt: skip
    for module in modules:
        module.add_parser(commands)
    for command in commands.choices.values():
        command.set_defaults(parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    Errors of the user's making are one line on stderr and status 2; C2F_DEBUG=1 shows where they
    arose. Where nobody reads stdout any more (`c2f info | head -1`), it ends without a word.
    """
    if argv is None and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: names may be of any bytes
    try:
        try:
            return _run(argv)
        finally:
            print(end="", flush=True)
    except OSError as error:  # of stdout: what a command meets is told where it runs
        if os.environ.get("C2F_DEBUG"):
            raise
        left = isinstance(error, BrokenPipeError)
        if not left:
            tell(f"c2f: error: stdout: {error}")
        # What is still buffered goes nowhere, instead of failing again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE if left else 2
    except KeyboardInterrupt:  # before the command has begun, or after it
        return INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # told beside the command's usage
        getattr(args, "parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.command is None:
        parser.print_help()
        return 0
    # Of damaged EXIF, with lines of Pillow's source: the pixels are whole.
    warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")
    try:
        return int(args.run(args))
    except _EXPECTED as error:
        if isinstance(error, BrokenPipeError) and _reader_left():
            raise
        if os.environ.get("C2F_DEBUG"):
            raise
        tell(f"c2f {args.command}: error: {text_of(error, args.parser)}")
        return 2
    except KeyboardInterrupt as stopped:
        if argv is None:  # a second one must not end in a traceback of the interpreter's end
            signal.signal(signal.SIGINT, leave)
        tell(f"c2f {args.command}: stopped {stopped}".rstrip())
        if argv is None and any(t.name.startswith("c2f-") for t in threading.enumerate()):
            leave()  # a second one came while an engine was stopping: its end would be an abort
        return INTERRUPTED


def _reader_left() -> bool:
    """Whether stdout is a pipe whose reader has left; another pipe may have broken instead."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (AttributeError, OSError, ValueError):  # Windows has no poll, a test no file
        return False
