"""Files whose names appear only when they are whole, and files that may be replaced."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ._version import __version__

SOFTWARE: Final = f"c2fcore {__version__}"  # how a file says who wrote it
GEOJSON_HEAD: Final = '{"type": "FeatureCollection", "generator": "'


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A second name to write under; it becomes `path`, at once, if the block ends well.

    Args:
        path: the file's name; what is there until then stays. Of a symbolic link the file that it
            names is written, as whatever writes in place does.
    """
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one move."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def is_ours(path: Path, software_of: Callable[[Path], str | None]) -> bool:
    """Whether a file says that c2fcore wrote it."""
    return str(software_of(path)).startswith("c2fcore ")


def check_replaceable(path: Path, software_of: Callable[[Path], str | None]) -> None:
    """Refuses to replace what c2fcore did not write, as where arguments were swapped.

    Args:
        path: of a file to be written. One that is empty holds nothing to lose.
        software_of: what a file says about who wrote it.

    Raises:
        ValueError: a file is there, and does not say that c2fcore did.
    """
    if path.exists() and path.stat().st_size and not is_ours(path, software_of):
        raise ValueError(
            f"a file that c2fcore did not write is never replaced, got {path}; remove it yourself, "
            "or choose another name"
        )


def software_of_geojson(path: Path) -> str | None:
    """What wrote a file of objects, if it begins as ours do."""
    with path.open("rb") as file:
        head = file.read(len(GEOJSON_HEAD) + len(SOFTWARE)).decode("utf-8", errors="replace")
    return head.removeprefix(GEOJSON_HEAD) if head.startswith(GEOJSON_HEAD) else None
