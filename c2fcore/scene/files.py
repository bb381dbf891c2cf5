"""Scenes of any size, from file to file."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import _files
from .._progress import Bar
from ..config import C2FConfig
from ..engine import Engine
from .parts import Parts, check_same, file_options, network_options
from .tiled import Tile, check_engine, tiles_of

if TYPE_CHECKING:
    from .._raster import Raster

_SUFFIXES: Final = (".tif", ".tiff")
_MADE: Final = "C2FCORE_MADE"  # tag of finished labels: the options, and what became of the tiles


@dataclass(frozen=True)
class SceneFile:
    """What became of a scene.

    Attributes:
        path: of the labels.
        height: in pixels.
        width: in pixels.
        tiles: of the scene.
        empty: tiles without data, which no network saw.
        kept: tiles that an earlier run had finished.
        windows: looked at, in all tiles.
        pixels: of each label, int64 [256]; 255 is no data.
        seconds: of this run.
    """

    path: Path
    height: int
    width: int
    tiles: int
    empty: int
    kept: int
    windows: int
    pixels: npt.NDArray[np.int64] = field(repr=False)
    seconds: float

    def share(self, label: int) -> float:
        """Of a class among the pixels with data; 0 if there are none."""
        known = int(self.pixels.sum() - self.pixels[255])
        return int(self.pixels[label]) / known if known else 0.0


def segment_file(
    engine: Engine,
    source: str | Path,
    target: str | Path,
    *,
    tile: int = 2048,
    overlap: int = 256,
    bands: Sequence[int] | None = None,
    value_range: tuple[float, float] | str | None = None,
    nodata: float | None = None,
    overviews: bool = True,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> SceneFile:
    """Segments a georeferenced scene of any size tile by tile, from file to file.

    The labels are those of `segment` on the same pixels, and lie where the scene does: a
    cloud-optimised GeoTIFF, uint8, with the scene's reference system and transform (or ground
    control points, rational polynomials), the classes' colours and names, and 255 where the scene
    has no data: by its mask, alpha band or nodata value, or NaN. Tiles are read ahead while others
    are computed, and those without data are left out. Whatever the scene's size a few tiles are in
    memory, besides the cache of GDAL, whose own settings hold (GDAL_CACHEMAX: by default 5 % of the
    machine's memory; GDAL_NUM_THREADS).

    The names of the classes are tags of the file, and in NAME.aux.xml, where GDAL and QGIS look for
    them. Finished tiles wait beside the target, in `.NAME.tiles`. The target is there only when it
    is whole; after an interruption `resume` goes on from the tiles that are finished.

    Args:
        engine: from `C2FNet.compile`; with `batch`, that many tiles pass the networks together.
        source: a GeoTIFF, or anything else that rasterio opens.
        target: the GeoTIFF to write, .tif or .tiff.
        tile: side of a tile in pixels; a shorter side of the scene is the tile's.
        overlap: of neighbours, in pixels; at least the width that the networks see around a pixel
            leaves no seams.
        bands: which, numbered from 1, one per channel of the networks. None: the first ones; for
            networks of three channels a grey band or a palette will do.
        value_range: (low, high), the values that become 0 and 255. None: 8 bits as they are; others
            from the 2nd to the 98th percentile of each band, one stretch for the whole scene.
            "raw": the networks get the values themselves.
        nodata: value of pixels without data, if the file does not say.
        overviews: add reduced images, for fast display.
        overwrite: replace the target, if c2fcore wrote it, and what a run that was stopped left.
        resume: go on from what a run that was stopped left; a target that is finished is kept. The
            options, the scene and the networks must be the same.
        progress: show a bar.

    Raises:
        ImportError: rasterio is not installed.
        TypeError: `engine` is none.
        FileExistsError: the target exists, and neither `overwrite` nor `resume` was said.
        ValueError: an option breaks its rule, the scene cannot be read (the message says where), an
            earlier run had other options, another run is at work on the target, or the target is a
            file that c2fcore did not write.
        OSError: the target cannot be written.
        Exception: what happened in a tile.
    """
    check_engine(engine)
    _check_rasterio()
    from .._raster import Raster
    from . import geotiff

    started = time.perf_counter()
    target = Path(target)
    parts = Parts(target)
    _check(engine, source, target, overwrite or resume)
    tiles_of(1, 1, tile, overlap)  # refuses bad ones before the scene is looked at
    channels = _channels_of(engine, bands)
    with Raster(
        source, bands=bands, channels=channels, value_range=value_range, nodata=nodata
    ) as raster:
        tiles = tiles_of(raster.height, raster.width, tile, overlap)
        options = {
            **file_options(source),
            **_raster_options(raster),
            "value_range": value_range,
            "nodata": nodata,
            "tile": tile,
            "overlap": overlap,
            **network_options(engine),
        }
        if resume and is_finished(target):
            return _finished(target, options, len(tiles), started)
        with parts.held(options, resume=resume, overwrite=overwrite):
            kept = len(parts.done)
            empty = _run(engine, raster, tiles, parts, progress)
            whole = parts.folder / target.name
            windows = sum(part.windows for part in parts.done.values())
            made = json.dumps({"options": options, "windows": windows, "empty": empty})
            pixels = geotiff.write(
                whole, raster, tiles, parts, engine.config, {_MADE: made},
                overviews=overviews, progress=progress,
            )  # fmt: skip
            geotiff.write_names(target, whole, engine.config)
            os.replace(whole, os.path.realpath(target))
            parts.remove()
        size = raster.height, raster.width
    seconds = time.perf_counter() - started
    return SceneFile(target, *size, len(tiles), empty, kept, windows, pixels, seconds)


def _channels_of(engine: Engine, bands: Sequence[int] | None) -> int:
    channels = engine.networks.channels
    if bands is not None and channels is not None and len(bands) != channels:
        raise ValueError(
            f"bands must be {channels}, one per channel of the networks, got {len(bands)}"
        )
    return channels or 3


def _raster_options(raster: Raster) -> dict[str, Any]:
    """What tells where a scene lies, and what is read of it."""
    crs = raster.source.crs
    return {
        "crs": crs and crs.to_string(),
        "transform": list(raster.source.transform)[:6],
        "bands": raster.bands,
    }


def _finished(target: Path, options: dict[str, Any], tiles: int, started: float) -> SceneFile:
    """What an earlier run made, if it is what this one would make."""
    from .._raster import open_quietly
    from . import geotiff

    with open_quietly(target) as file:
        height, width, tag = file.height, file.width, file.tags().get(_MADE)
    if tag is None:
        raise ValueError(
            f"resume must find labels that tell their options, got {target} without; overwrite "
            "starts again"
        )
    made = json.loads(tag)
    check_same(made["options"], json.loads(json.dumps(options)))
    empty, windows, pixels = made["empty"], made["windows"], geotiff.count(target)
    kept, seconds = tiles - empty, time.perf_counter() - started
    return SceneFile(target, height, width, tiles, empty, kept, windows, pixels, seconds)


def write_objects(
    labels: str | Path,
    target: str | Path,
    config: C2FConfig,
    *,
    min_area: float = 0.0,
    progress: bool = True,
) -> int:
    """Writes every object of a small class in a label raster as a feature of GeoJSON (RFC 7946).

    An object is an 8-connected component of a class. It is a polygon along the pixels' borders, or
    a multi-polygon if pixels of it touch at corners only or it crosses the antimeridian, in degrees
    of WGS 84, longitude first. One around a pole is no polygon in degrees: its border is written as
    it is. Of a raster without a reference system, or without a transform, corners are in its own
    coordinates: (column, row) without a transform. Properties: class_id, class, pixels, centroid,
    and unless there are no degrees m2: on the ground, not on the map, and as if all its pixels were
    as large as one at its centre. An object that reaches beyond the Earth, as at the edge of a disk
    seen from space, has no geometry (null), no m2, and its centroid as (column, row); a warning
    tells how many there are.

    The raster is read in strips; memory grows with the corners of the objects in a few of them.

    Args:
        labels: as `segment_file` writes.
        target: the file to write; there when it is whole. What is there is replaced, if c2fcore
            wrote it.
        config: of the network, for its classes.
        min_area: leave out objects that are smaller: in m2 on the ground, of a raster without
            degrees in pixels. Those without geometry stay.
        progress: show a bar.

    Returns:
        How many objects were written.

    Raises:
        ImportError: rasterio is not installed.
        ValueError: `min_area` is below 0; the labels cannot be read, or no part of them has
            degrees; or the target is a file that c2fcore did not write.
        OSError: the target cannot be written.
    """
    _check_rasterio()
    from . import objects

    _check_classes(config)
    if not 0 <= min_area < math.inf:
        raise ValueError(f"min_area must be at least 0, and finite, got {min_area}")
    return objects.write(labels, Path(target), config, min_area, progress)


def check_place(scene: str | Path) -> bool:
    """Refuses a scene whose objects could not be written, as it lies where there are no degrees.

    Returns:
        Whether their corners will be in degrees.

    Raises:
        ImportError: rasterio is not installed.
        ValueError: no part of it has degrees, or it cannot be read.
    """
    _check_rasterio()
    from . import objects

    return objects.check_place(scene)


def unfinished(target: str | Path) -> int:
    """How many finished tiles a run that was stopped left for this target."""
    return len(Parts(Path(target)).done)


def is_finished(target: str | Path) -> bool:
    """Whether labels are there, and no later run was stopped; an empty file, of mktemp, is none."""
    target = Path(target)
    return target.exists() and target.stat().st_size > 0 and not unfinished(target)


def _check_rasterio() -> None:
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise ImportError(f"scenes need rasterio: pip install 'c2fcore[scene]' ({error})") from None


def _check_classes(config: C2FConfig) -> None:
    if config.num_classes > 255:
        raise ValueError(
            f"classes must be at most 255, as label 255 is no data, got {config.num_classes}"
        )


def _check(engine: Engine, source: str | Path, target: Path, may_exist: bool) -> None:
    from .geotiff import names_files, software_of

    _check_classes(engine.config)
    if target.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"target must end in {' or '.join(_SUFFIXES)}, got {target}")
    try:
        str(target).encode()
    except UnicodeEncodeError:
        raise ValueError(f"target must have a name in UTF-8, got {str(target)!a}") from None
    if target.is_dir():
        raise ValueError(f"target must be a file, got the folder {target}")
    for path in names_files(target):
        _files.check_writable(path)
    if target.exists():
        if os.path.exists(source) and os.path.samefile(source, target):
            raise ValueError(f"target must not be the scene itself, got {target}")
        if not may_exist:
            raise FileExistsError(
                f"{target} exists; overwrite replaces it; resume goes on with what is missing, "
                "under the same options"
            )
        _files.check_replaceable(target, software_of)


def _run(
    engine: Engine, raster: Raster, tiles: Sequence[Tile], parts: Parts, progress: bool
) -> int:
    """Computes and keeps what is not finished yet; returns how many tiles have no data."""
    begun: deque[tuple[int, Any]] = deque()  # of tiles read: their number, and where data is
    empty = 0

    def images() -> Iterator[tuple[str, Tensor]]:  # in a thread of the engine's
        nonlocal empty
        for index, t in enumerate(tiles):
            if index in parts.done:
                continue
            pixels, known = raster.read(t.seen)
            own = t.own_part(known)
            if own.any():
                begun.append((index, own))
                yield t.name(raster.name), torch.from_numpy(pixels).permute(2, 0, 1)
            else:  # an hour of such tiles must not look like one that stands still
                empty += 1
                bar.update()

    bar = Bar(
        total=len(tiles),
        initial=len(parts.done),
        unit="tile",
        desc=raster.name,
        leave=False,
        shown=progress,
    )
    with bar, closing(engine.run(images())) as results:
        for result in results:
            if result.error is not None:
                raise result.error
            assert result.windows is not None
            index, known = begun.popleft()
            labels = tiles[index].own_part(result.labels.numpy())
            parts.add(index, np.where(known, labels, np.uint8(255)), len(result.windows))
            bar.update()
    return empty
