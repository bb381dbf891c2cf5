"""Errors as the command line tells them."""

from __future__ import annotations

import argparse
import re
from typing import Final

# What torch's allocator says between remarks on its own source.
_TOO_LARGE: Final = re.compile(r"can't allocate memory: you tried to allocate (\d+) bytes")
# What no memory could hold, or a GPU's could not: torch and NumPy say so in words of their own.
_FAR_TOO_LARGE: Final = (
    (re.compile(r"Storage size calculation overflowed with sizes=(\[[\d, ]+\])"), "values"),
    (re.compile(r"Unable to allocate (\S+ \wiB) for an array"), ""),
    (re.compile(r"(array) is too big; `arr\.size"), "of the size asked for"),
    (re.compile(r"CUDA out of memory\. Tried to allocate (\S+ \wiB)"), "on the GPU"),
)
_DOES_NOT: Final = ", and does not"
# Options that what is computed at once grows with.
_LESS: Final = ("zoom", "window", "tile", "max_batch", "batch", "size", "zooms", "sizes")
# Arguments of functions that options are called otherwise for.
_CALLED: Final = {"target": "out", "value_range": "range", "source": "checkpoint"}


def text_of(error: BaseException, parser: argparse.ArgumentParser | None = None) -> str:
    """What an error says; its kind if that is nothing. Of too little memory, what needs less.

    Errors name arguments as Python does: "tile must be at least 1". With a parser its options stand
    for them, where a name begins a clause of our wording.
    """
    text = _text_of(error)
    if parser is None:
        return text
    options = {
        action.dest: max(action.option_strings, key=len)
        for action in parser._actions
        if action.option_strings
    }
    if text.endswith(_DOES_NOT) and (less := [options[name] for name in _LESS if name in options]):
        return f"{text}; a smaller {', '.join(less)} needs less"
    options |= {name: options[option] for name, option in _CALLED.items() if option in options}
    names = "|".join(map(re.escape, options))
    clause = rf"(^|[:;] |got )({names})(?= (?:must|needs|goes|starts|replaces) | [^;]+, not )"
    return re.sub(clause, lambda found: found[1] + options[found[2]], text)


def _text_of(error: BaseException) -> str:
    if found := _TOO_LARGE.search(str(error)):
        return f"memory must suffice for another {int(found[1]) / 2**30:.1f} GiB{_DOES_NOT}"
    for pattern, what in _FAR_TOO_LARGE:
        if found := pattern.search(str(error)):
            needed = f"{found[1]} {what}".replace(". ", " ").rstrip()  # NumPy's "142. PiB"
            return f"memory must suffice for another {needed}{_DOES_NOT}"
    if isinstance(error, MemoryError) and not str(error):
        return f"memory must suffice{_DOES_NOT}"
    return str(error) or type(error).__name__
