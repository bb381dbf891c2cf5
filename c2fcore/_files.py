"""Files whose names appear only when they are whole, and files that may be replaced."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ._errors import first_line
from ._version import __version__

SOFTWARE: Final = f"c2fcore {__version__}"  # how a file says who wrote it
NAME_BYTES: Final = 255  # of a file, on every file system in use
PARTIAL: Final = ".*.partial"  # pattern of second names
GEOJSON_HEAD: Final = '{"type": "FeatureCollection", "generator": "'


@contextmanager
def whole(path: Path, unnamed: type[Exception] | tuple[()] = ()) -> Iterator[Path]:
    """A second name to write under; it becomes `path`, at once, if the block ends well.

    Args:
        path: the file's name; what is there until then stays. Of a symbolic link the file that it
            names is written, as whatever writes in place does.
        unnamed: what a library raises where it cannot write, without the name of a file.

    Raises:
        OSError: in place of `unnamed`.
    """
    path = Path(os.path.realpath(path))
    partial = _partial_of(path)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # of a full disk: which one
        if isinstance(error, unnamed):
            raise OSError(
                f"{path} must be written whole, got {first_line(error)}: is the disk full?"
            ) from error
        raise


def _partial_of(path: Path) -> Path:
    """The second name, of this process alone: another one may be writing the same file."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def make_folder(name: str, folder: Path) -> None:
    """Makes a folder, and those above it, where they are missing.

    Raises:
        FileExistsError: a file has its name, or that of one above it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        raise FileExistsError(f"{name} must be a folder, got {folder}: {file} is a file") from None


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes a text file in one move; "surrogateescape" keeps names of files that are no UTF-8."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors=errors)


class Held(ValueError):
    """Another run is at work in a folder."""


@contextmanager
def held(folder: Path, rule: str) -> Iterator[None]:
    """Keeps other runs out of a folder, where the file system can.

    Args:
        folder: that is there.
        rule: what an error begins with.

    Raises:
        Held: another run is at work in it.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise Held(f"{rule} one run at a time, got another in {folder}") from None
    except OSError:  # as of some network file systems
        pass
    try:
        yield
    finally:
        os.close(handle)


def check_writable(path: Path) -> None:
    """Refuses a name under which no file can be, or appear: of a folder, a pipe, a lost link.

    Raises:
        ValueError: something else has it, it is a link into a folder that is not there, or it is
            too long for the file's second name while it is written.
    """
    real = Path(os.path.realpath(path))
    size = len(os.fsencode(real.name))
    most = NAME_BYTES - (len(os.fsencode(_partial_of(real).name)) - size)
    if size > most:
        raise ValueError(
            f"the name of what is written must have at most {most} bytes, got {size} in {path}"
        )
    if os.path.lexists(real) and not real.is_file():
        kind = "folder" if real.is_dir() else "link to itself" if real.is_symlink() else "device"
        raise ValueError(f"what is written must be a file, got {path}, which is a {kind}")
    if path.is_symlink() and not real.parent.is_dir():
        raise ValueError(f"a link must lead into a folder that is there, got {path} -> {real}")


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


def head_of_geojson(min_area: float) -> str:
    """How a file of objects begins, of those that are at least so large."""
    return f'{GEOJSON_HEAD}{SOFTWARE}", "min_area": {float(min_area)!r}, "features": ['


def software_of_geojson(path: Path) -> str | None:
    """What wrote a file of objects, if it begins as ours do."""
    with path.open("rb") as file:
        head = file.read(len(GEOJSON_HEAD) + len(SOFTWARE)).decode("utf-8", errors="replace")
    return head.removeprefix(GEOJSON_HEAD) if head.startswith(GEOJSON_HEAD) else None


def why_no_hub_id(source: str | Path, pinned: bool) -> str:
    """Why what is no folder is none of the hub's models either; "" if it may be one.

    Args:
        source: as the user gave it.
        pinned: the hub is meant for certain, or not asked.
    """
    path, text = Path(source), str(source)
    if path.is_file():
        return "that is a file"
    if text.count("/") != 1 or isinstance(source, Path) or text[0] in "./~":
        return "there is no such folder"
    if path.parent.is_dir() and not pinned:  # a mistyped name more likely than an owner's
        return (
            f"the folder {path.parent} is here without it; a model of that name on the hub is "
            f"asked for from another folder, or as '{text}@main'"
        )
    return ""
