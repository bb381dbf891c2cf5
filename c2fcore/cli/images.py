"""Images that a command line names: files, folders, patterns."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from .._progress import counted, tell
from ..data.sources import MASK_SUFFIXES

_SUFFIXES: Final = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"))
# Of iSAID, Potsdam and Vaihingen as distributed: nothing else has such names.
_MASK_NAME: Final = re.compile(
    r"P\d+_instance_(color|id)_RGB|top_potsdam_\d+_\d+_label(_noBoundary)?"
    r"|top_mosaic_09cm_area\d+_noBoundary"
)
_IMAGES_OF: Final = {
    "masks": "images",
    "labels": "images",
    "annotations": "images",
    "masks_png": "images_png",
}


def images_of(given: Iterable[str], is_result: Callable[[Path], bool]) -> list[Path]:
    """The files that are meant, each once: folders and patterns in alphabetical order.

    Of folders and patterns results and masks are left out, and that is told.

    Args:
        given: names of files and folders, and patterns.
        is_result: whether a file is what the command made.

    Raises:
        ValueError: a folder or a pattern without images.
    """
    found: list[Path] = []
    for text in given:
        path = Path(text)
        if not text:  # an unset variable; a path of no text would be this folder
            files = []
        elif path.is_dir():
            files = sorted(f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES)
            files = [f for f in files if not f.name.startswith(".")]
        elif path.exists() or not glob.has_magic(text):
            files = [path]
        else:
            files = sorted(map(Path, glob.glob(text, recursive=True)))
        if files != [path]:
            results = {file for file in files if is_result(file)}
            files = [file for file in files if file not in results]
            masks = masks_among(files)
            files = [file for file in files if file not in masks]
            _tell_left_out(text, results, "named as results of c2f predict are")
            _tell_left_out(text, masks, "named as masks of data sets are; by its own name it is in")
        if not files:
            deeper = bool(text) and path.is_dir() and any(f.is_dir() for f in path.iterdir())
            pattern = str(path / "**" / "*.png")
            hint = f"; {pattern!r} names those in folders of it" if deeper else ""
            raise ValueError(f"IMAGE must name images, got {text!r} without any{hint}")
        found += files
    return list(dict.fromkeys(found))


def _tell_left_out(text: str, files: set[Path], why: str) -> None:
    if files:
        first = min(files).name
        tell(f"note: {counted(len(files), 'file')} in {text} left out, such as {first}, {why}")


def masks_among(files: Iterable[Path]) -> set[Path]:
    """Files that are masks by their names, in the layouts that `c2f prepare` reads.

    Names that nothing else has, and those of an image that is there, too: with an ending of masks,
    or in a folder of masks beside the image's.
    """
    names = {file: file.with_suffix("") for file in files}
    there = set(names.values())

    def is_mask(file: Path) -> bool:
        folders = [file.parent]
        if file.parent.name in _IMAGES_OF:
            folders.append(file.parent.parent / _IMAGES_OF[file.parent.name])
        if file.parent.parent.name == "ann_dir":
            folders.append(file.parent.parent.parent / "img_dir" / file.parent.name)
        stems = [file.stem.removesuffix(end) for end in MASK_SUFFIXES if file.stem.endswith(end)]
        images = {folder / stem for folder in folders for stem in stems if stem}
        return not there.isdisjoint(images - {names[file]})

    return {file for file in names if _MASK_NAME.fullmatch(file.stem) or is_mask(file)}
