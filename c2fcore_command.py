"""The start of the `c2f` command: outside the package, as importing that takes seconds (torch)."""

from __future__ import annotations

import os
import signal


def main() -> int:
    """Runs `c2fcore.cli.main`; Ctrl-C before its import is over ends the process without a word."""
    if asked := signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from c2fcore.cli import main as run

    if asked:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()
