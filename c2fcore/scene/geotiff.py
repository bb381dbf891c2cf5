"""Labels of a scene as a GeoTIFF that lies where the scene does."""

from __future__ import annotations

import itertools
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from .. import _files, pictures
from .._progress import Bar
from .._raster import ERRORS, Raster, open_quietly
from ..config import C2FConfig, names_of
from ..images import Pixels
from .parts import Parts
from .tiled import Tile

NO_DATA: Final = 255
_BLOCK_PX: Final = 512
_READ_PX: Final = 8 * _BLOCK_PX
_WATCH_S: Final = 0.5
_LAYOUT: Final = {"compress": "deflate", "bigtiff": "if_safer"}

Counts = npt.NDArray[np.int64]


def write(
    path: Path,
    raster: Raster,
    tiles: Sequence[Tile],
    parts: Parts,
    config: C2FConfig,
    about: Mapping[str, str],
    *,
    overviews: bool,
    progress: bool,
) -> Counts:
    """Puts finished tiles together; what no tile speaks for is 255.

    The file is a cloud-optimised GeoTIFF: blocks of 512 px, deflate, in each overview the class
    most frequent below a pixel. It has the scene's reference system, transform, ground control
    points and rational polynomials, the classes' colours, and their names as tags CLASS_0, ...

    Args:
        path: to write; needs room for the labels twice, in its folder.
        raster: the scene.
        tiles: of the scene.
        parts: those that are finished.
        config: of the network.
        about: more tags.
        overviews: to write them.
        progress: show a bar.

    Returns:
        Pixels of each label, int64 [256], read back from the file.

    Raises:
        OSError: the file cannot be written, or does not hold what was written.
    """
    loose = path.with_name(f"loose-{path.name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            counted = _put_together(loose, raster, tiles, parts, config, about, progress)
            with _watched(loose, path, progress):
                rasterio.shutil.copy(
                    loose,
                    path,
                    driver="COG",
                    blocksize=_BLOCK_PX,
                    overviews="AUTO" if overviews else "NONE",
                    overview_resampling="MODE",
                    **_LAYOUT,
                )
    except ERRORS as error:
        raise OSError(
            f"labels must be written, got {error.__cause__ or error}; is the disk full?"
        ) from error
    finally:
        loose.unlink(missing_ok=True)
    # Not every error of writing is told when it happens, as on a disk that is full.
    if not np.array_equal(found := count(path, progress), counted):
        raise OSError(
            f"labels must be in {path} as written, got other pixels for "
            f"{np.count_nonzero(found != counted)} classes; is the disk full?"
        )
    return counted


def _put_together(
    path: Path,
    raster: Raster,
    tiles: Sequence[Tile],
    parts: Parts,
    config: C2FConfig,
    about: Mapping[str, str],
    progress: bool,
) -> Counts:
    """Writes the labels tile by tile; returns how many there are of each.

    Blocks that are written part by part leave holes in the file, and those never written are no
    data; a copy has neither.
    """
    layout = {
        "driver": "GTiff",
        "height": raster.height,
        "width": raster.width,
        "count": 1,
        "dtype": "uint8",
        "nodata": NO_DATA,
        "tiled": True,
        "blockxsize": _BLOCK_PX,
        "blockysize": _BLOCK_PX,
        "sparse_ok": True,
        **_LAYOUT,
    }
    counted = np.zeros(256, dtype=np.int64)
    with rasterio.open(path, "w", **layout) as out:
        _describe(out, raster.source, config, about)
        for i in Bar(sorted(parts.done), "writing", unit="tile", leave=False, shown=progress):
            (y0, x0, y1, x1), labels = tiles[i].own, parts.labels(i)
            out.write(labels, 1, window=((y0, y1), (x0, x1)))
            counted += _counts(labels)
    counted[NO_DATA] += raster.height * raster.width - counted.sum()
    return counted


def write_names(path: Path, made: Path, config: C2FConfig) -> None:
    """Writes the classes' names where GDAL and QGIS look for those of a raster's values.

    A TIFF has no place for them but its tags. What lay there of earlier labels, such as their
    statistics, is replaced. They look beside the name that was opened: of a link both have them.

    Args:
        path: of the labels.
        made: where `write` has put them. What a TIFF cannot hold, as some reference systems, GDAL
            has left beside that.
        config: of the network.
    """
    left = Path(f"{made}.aux.xml")
    about = ElementTree.parse(left).getroot() if left.exists() else Element("PAMDataset")
    band = about.find("PAMRasterBand")
    names = SubElement(SubElement(about, "PAMRasterBand", band="1") if band is None else band,
                       "CategoryNames")  # fmt: skip
    for name in names_of(config):
        SubElement(names, "Category").text = name
    for beside in names_files(path):
        _files.write_text(beside, ElementTree.tostring(about, "unicode") + "\n")


def names_files(path: Path) -> set[Path]:
    """Where `write_names` writes."""
    return {Path(f"{name}.aux.xml") for name in (path, os.path.realpath(path))}


def software_of(path: Path) -> str | None:
    """What wrote a raster, if it says so."""
    with suppress(ValueError), open_quietly(path) as source:
        software: str | None = source.tags().get("TIFFTAG_SOFTWARE")
        return software
    return None


@contextmanager
def _watched(source: Path, target: Path, progress: bool) -> Iterator[None]:
    """Shows how a copy grows, of which GDAL tells nothing until it is done.

    First come the overviews, in a file beside it: how large they get nobody knows. Then the copy,
    as large as its source and they.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_WATCH_S):
            done = _bytes_of(target)
            if target.exists():
                bar.desc = "copying"
                bar.total = source.stat().st_size + 2 * (done - target.stat().st_size)
            bar.n = done
            bar.refresh()

    with Bar(desc="overviews", unit="B", unit_scale=True, leave=False, shown=progress) as bar:
        watching = threading.Thread(target=watch, daemon=True)
        if not bar.disable:
            watching.start()
        try:
            yield
        finally:
            over.set()
            if not bar.disable:
                watching.join()


def _bytes_of(target: Path) -> int:
    """Size of a file and of those that GDAL keeps beside it, under longer names, for a while."""
    total = 0
    for path in target.parent.iterdir():
        if path.name.startswith(target.name):
            with suppress(FileNotFoundError):  # it was removed meanwhile
                total += path.stat().st_size
    return total


def count(path: Path, progress: bool = False) -> Counts:
    """Pixels of each label in a file, int64 [256].

    Raises:
        ValueError: the file cannot be read.
    """
    counted = np.zeros(256, dtype=np.int64)
    with open_quietly(path) as source:
        corners = list(itertools.product(*(range(0, side, _READ_PX) for side in source.shape)))
        for y, x in Bar(corners, "checking", unit="part", leave=False, shown=progress):
            rows, columns = (y, y + _READ_PX), (x, x + _READ_PX)
            try:
                counted += _counts(source.read(1, window=(rows, columns)))
            except ERRORS as error:
                raise ValueError(
                    f"labels must be readable, got {path}: {error.__cause__ or error}"
                ) from error
    return counted


def _counts(labels: Pixels) -> Counts:
    """np.bincount, without a copy of eight bytes per pixel."""
    return np.array(Image.fromarray(labels).histogram(), dtype=np.int64)


def _describe(out: Any, source: Any, config: C2FConfig, about: Mapping[str, str]) -> None:
    """What the labels mean, and where they lie."""
    points, system = source.gcps
    if points:
        out.gcps = points, system or CRS()  # None is what it reads, and refuses to write
    else:
        if source.crs is not None:
            out.crs = source.crs
        if not source.transform.is_identity:
            out.transform = source.transform
    if source.rpcs is not None:
        out.rpcs = source.rpcs
    where = {k: v for k, v in source.tags().items() if k == "AREA_OR_POINT"}
    out.update_tags(**where, TIFFTAG_SOFTWARE=_files.SOFTWARE, **about)
    out.update_tags(1, **{f"CLASS_{c}": name for c, name in enumerate(names_of(config))})
    out.set_band_description(1, "class")
    palette = pictures.palette_of(config)
    out.write_colormap(1, {c: (*colour, 255) for c, colour in enumerate(palette.tolist())})
