"""Errors as the command line tells them."""

from __future__ import annotations

import re
from typing import Final

# What torch's allocator says between remarks on its own source.
_TOO_LARGE: Final = re.compile(r"can't allocate memory: you tried to allocate (\d+) bytes")


def text_of(error: BaseException) -> str:
    """What an error says; its kind if that is nothing, as of some memory errors."""
    if found := _TOO_LARGE.search(str(error)):
        return f"memory must suffice for another {int(found[1]) / 2**30:.1f} GiB, and does not"
    return str(error) or type(error).__name__
