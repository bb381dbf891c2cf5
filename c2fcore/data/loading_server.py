"""What the server of loading processes imports, for all of them; for no other process."""

from __future__ import annotations

import contextlib
import os
import signal

from . import draws as draws  # and torch with it

with contextlib.suppress(Exception):  # who needs it says why it cannot be imported
    import torchvision.transforms.v2  # noqa: F401

# It lives on, as Python has it outlive Ctrl-C: loading processes end with it, and the step at hand
# and its validation need them.
signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _mask(how: int) -> None:
    signal.pthread_sigmask(how, {signal.SIGTERM})


def _as_others() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _mask(signal.SIG_UNBLOCK)


# What it forks ends by SIGTERM, also by one that comes at once.
os.register_at_fork(
    before=lambda: _mask(signal.SIG_BLOCK),
    after_in_parent=lambda: _mask(signal.SIG_UNBLOCK),
    after_in_child=_as_others,
)
