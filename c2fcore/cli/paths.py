"""Paths that a command line names."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


def path_of(text: str) -> Path:
    """A path, for argparse; of no text, as of an unset variable, it would be this folder.

    Raises:
        ArgumentTypeError: there is no text.
    """
    if not text:
        raise argparse.ArgumentTypeError("a path must have a name, got ''")
    return Path(text)


def check_folder(path: Path, rule: str) -> None:
    """Makes a folder, and refuses one to write into where that cannot be done, before computing.

    Raises:
        ValueError: which begins with `rule`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ValueError(f"{rule} a folder to write into, got {path}: {error.strerror}") from None
