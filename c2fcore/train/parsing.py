"""Options of `c2f train` that are of no type they may have, told in a line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, Final

# As jsonargparse tells them: over several lines, with types as Python writes them.
_KEY: Final = re.compile(r'Parser key "([^"]+)":')
_TYPES: Final = re.compile(r"Subtypes: \[(.*)\]\n|Expected a (.*)\. Got value: ")
_VALUE: Final = re.compile(r"(?:Given|Got) value: (.*)", re.DOTALL)
_CLASS: Final = re.compile(r"<class '([\w.]+)'>")
_MODULES: Final = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])")


def parsed(parser: Any, arguments: Sequence[str]) -> Any:
    """What a parser of jsonargparse makes of arguments.

    Raises:
        SystemExit: they are refused, which is told; or `--help` and the like, which is done.
    """
    parser.exit_on_error = False
    try:
        return parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        parser.exit_on_error = True
        parser.error(in_a_line(str(error)))


def in_a_line(message: str) -> str:
    """An error of jsonargparse; others than those of types are left as they are."""
    key, types, value = (part.search(message) for part in (_KEY, _TYPES, _VALUE))
    if not (key and types and value):
        return message
    names = _MODULES.sub("", _CLASS.sub(r"\1", types[1] or types[2])).replace("NoneType", "null")
    return f"--{key[1]} must be of type {names}, got {value[1].strip()}"
