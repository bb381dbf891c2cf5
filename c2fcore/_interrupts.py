"""Ctrl-C while libraries are imported, which takes seconds, by the `c2f` command."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

INTERRUPTED: Final = 130  # as a shell reports a command that SIGINT ended


def leave(*_: Any) -> None:
    """Ends the process at once, with nothing said; a handler of signals."""
    os._exit(INTERRUPTED)


@contextmanager
def quiet() -> Iterator[None]:
    """Lets Ctrl-C end the process at once, with nothing said: there is nothing to tidy up yet.

    While libraries are being imported a KeyboardInterrupt would be a traceback out of one of them.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # who called us sees to it, or it is ignored, as by a job in the background
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def quiet_in_command() -> Iterator[None]:
    """`quiet` in a process started as `c2f` or `python -m c2fcore`; others see to it themselves.

    Before a line of the command is run Python imports the package, and torch with it.
    """
    program = (getattr(sys, "argv", None) or [""])[0]
    as_module = program == "-m" and __package__ in sys.orig_argv
    if as_module or os.path.splitext(os.path.basename(program))[0] == "c2f":
        with quiet():
            yield
    else:
        yield
