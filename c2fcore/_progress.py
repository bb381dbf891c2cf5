"""What is told on stderr: notes, and how far work has come, by a bar on a terminal, or by lines."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any, Final

from tqdm import tqdm

_FIRST_S: Final = 10.0  # shorter work reports only its outcome
_LONGEST_S: Final = 300.0
_SHARE: Final = 0.1  # of the elapsed time: the interval to the next line


def on_terminal() -> bool:
    """Whether a person may be watching stderr, which a process may lack."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # None, replaced by something else, or closed
        return False


def tell(text: str) -> None:
    """Says something on stderr, above the bars, where there is one; print would take stdout.

    That nobody hears it, as where the reader of a pipe has left, is no reason to end the work.
    """
    if _has_stderr():
        with suppress(OSError), tqdm.external_write_mode(file=sys.stderr):
            _print(text)


def _has_stderr() -> bool:
    return sys.stderr is not None and not getattr(sys.stderr, "closed", False)


def _print(text: str) -> None:
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def counted(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


class Bar(tqdm):
    """A bar of tqdm, on stderr.

    Where stderr is no terminal, as in a log, it is a line after 10 seconds, another whenever a
    tenth of the time gone has passed again, but 10 seconds at least and 5 minutes at most, and a
    last one at the end.

    Where there is no stderr, or a closed one, it is hidden; one that breaks ends no work.

    Args:
        arguments: of tqdm: what is counted, and a description.
        shown: False hides it.
        options: of tqdm.
    """

    def __init__(self, *arguments: Any, shown: bool = True, **options: Any) -> None:
        self._lines = not on_terminal()
        self._begun = time.monotonic()
        self._due, self._told = self._begun + _FIRST_S, -1
        hidden = not (shown and _has_stderr())
        super().__init__(*arguments, disable=hidden, dynamic_ncols=True, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Shows the bar, or the line that is due."""
        if not self._lines:
            with suppress(OSError):
                return bool(super().display(msg, pos))
        elif msg is None and time.monotonic() >= self._due:
            self._tell()
        return False

    def clear(self, nolock: bool = False) -> None:
        """Takes the bar away for other output; lines stay."""
        if not self._lines:
            with suppress(OSError):
                super().clear(nolock)

    def close(self) -> None:
        """Takes the bar away, or leaves it as it is in the end."""
        was_shown = not self.disable
        if self._lines:
            self.leave = False
        with suppress(OSError):
            super().close()
        long = time.monotonic() >= self._begun + _FIRST_S
        if self._lines and was_shown and long and self.n != self._told:
            self._tell()

    def _tell(self) -> None:
        _print(self.format_meter(**{**self.format_dict, "ncols": 0}))
        now = time.monotonic()
        self._due = now + min(max(_SHARE * (now - self._begun), _FIRST_S), _LONGEST_S)
        self._told = self.n
