"""`c2f predict`: the second look on images of the user's."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from .. import _files, pictures, scene
from .._progress import Bar, counted, tell
from ..config import C2FConfig
from ..engine import Engine, Result
from ..images import size_of, text_of_png, write_png
from ..scene.parts import check_same, file_options, network_options
from .answers import key_of, shares_of
from .errors import text_of
from .images import images_of
from .options import (
    LARGE_PX,
    WITHOUT_CHECKPOINT,
    add_checkpoint_options,
    add_config_options,
    add_engine_options,
    check_tiles,
    engine_of,
)
from .paths import check_folder, path_of

_LABELS, _OVERLAY = "_labels.png", "_overlay.png"
_TILE_PX: Final = 2048
_NO_DATA: Final = 255
_MADE: Final = "c2fcore options"  # in labels: with which they were made, and of which file
_KIND: Final = "image"


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "predict",
        help="segment images of yours, with the second look",
        description=(
            "Segments PNG, JPEG or TIFF images and writes, per image, NAME_labels.png (8-bit grey, "
            "the value is the class id) and NAME_overlay.png (small objects in colour, the windows "
            "looked at framed in the order chosen). Files are read and written while others are "
            "computed; one that fails is named, and the others go on. Of an image with more than "
            "three bands the first three are read; 16 bits and floats are stretched over 8, each "
            "band from its 2nd to its 98th percentile. The label is 255 where an image has no data "
            "(transparent, mask or nodata value of a TIFF, NaN). For scenes of any size, with "
            "labels that lie where the scene does: c2f scene."
        ),
        epilog=WITHOUT_CHECKPOINT,
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="file, folder of images (without folders in it: 'FOLDER/**/*.tif'), or pattern in "
        "quotes; of folders and patterns earlier results and masks of data sets are left out",
    )
    parser.add_argument("-o", "--out", required=True, type=path_of, help="folder to write into")
    add_checkpoint_options(parser)
    there = parser.add_mutually_exclusive_group()
    there.add_argument(
        "--overwrite", action="store_true", help="replace what c2f predict wrote into OUT"
    )
    there.add_argument(
        "--skip-existing",
        action="store_true",
        help="go on after an interruption, with the same options: write what is not in OUT yet, "
        "and again that of images that changed since",
    )
    how = parser.add_argument_group("how it is computed")
    add_engine_options(how, "images, or tiles, of one size")
    how.add_argument(
        "--tile",
        type=int,
        metavar="PX",
        help="cut every image into tiles of this side, each with windows of its own; 0: none "
        f"(default: {_TILE_PX} for images with a side above {LARGE_PX})",
    )
    how.add_argument(
        "--overlap", type=int, default=256, metavar="PX", help="of neighbouring tiles (256)"
    )
    add_config_options(parser)
    parser.set_defaults(run=run)


class _Job(NamedTuple):
    """An image to be segmented.

    Attributes:
        image: its file.
        files: of the results.
        made: how, as they tell it.
        replace: whether to write what is there, too.
    """

    image: Path
    files: tuple[Path, Path]
    made: str
    replace: bool


def run(args: argparse.Namespace) -> int:
    """Segments every image; one that fails is named, and the others go on."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it cannot read GDAL may
    images = images_of(args.images, lambda file: _is_result(file, args.out))
    targets = _targets(images, args.out, args.overwrite, args.skip_existing)
    if (args.tile or 0) < 0:
        raise ValueError(f"--tile must be at least 0, which cuts no image, got {args.tile}")
    check_tiles(args.tile or _TILE_PX, args.overlap)  # now, not at the first large image
    engine = engine_of(args, args.tile or _TILE_PX)
    options = {**network_options(engine), "tile": args.tile, "overlap": args.overlap}
    changed = _changed(images, targets, options) if args.skip_existing else set()
    if args.skip_existing:
        given = len(images)
        images = [i for i in images if i in changed or not all(f.exists() for f in targets[i])]
        again = f"; {len(changed)} changed since, to be done again" if changed else ""
        tell(f"{given - len(images)} of {given} images are done already{again}")
        if not images:
            return 0
    # As the files are now: one that changes while it waits will be told from what was read.
    jobs = [
        _Job(
            image,
            targets[image],
            json.dumps({**options, **file_options(image, _KIND)}),
            replace=args.overwrite or image in changed,
        )
        for image in images
    ]
    check_folder(args.out, "OUT must be")
    failed = _work(engine, jobs, args)
    if failed < len(jobs):
        print(key_of(engine.config, pictures.bright_palette(engine.config)))
    if failed:
        tell(f"{failed} of {len(jobs)} images failed, see above")
    return 1 if failed else 0


def _work(engine: Engine, jobs: list[_Job], args: argparse.Namespace) -> int:
    """Does the jobs, and tells what came of each; returns how many failed."""
    done = failed = 0
    images = [job.image for job in jobs]
    bar = Bar(desc="predict", total=len(jobs), unit="image", shown=len(jobs) > 1)
    try:
        with bar, closing(_results(engine, images, args.tile, args.overlap)) as results:
            for job, result in zip(jobs, results, strict=True):
                failed += not _kept(job, result, engine.config, args.parser)
                done += 1
                bar.update()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"after {done} of {len(jobs)} images; --skip-existing goes on from there"
        ) from None
    return failed


def _kept(job: _Job, result: Result, config: C2FConfig, parser: argparse.ArgumentParser) -> bool:
    """Writes what became of an image, and tells it; False if the image failed."""
    try:
        if result.error is not None:
            raise result.error
        said = _write(result, job, config)
    except Exception as error:  # of this image only
        text = text_of(error, parser)
        named = text if str(job.image) in text else f"{job.image}: {text}"
        tell(f"c2f predict: error: {named}")
        return False
    Bar.write(said, file=sys.stdout)
    return True


def _results(
    engine: Engine, images: list[Path], tile: int | None, overlap: int
) -> Generator[Result, None, None]:
    """What became of each image, in order: large ones by tiles, what lies between them as it is."""

    def side_of_tiles(path: Path) -> int:
        if tile is not None:
            return tile
        size = size_of(path)
        return _TILE_PX if size and max(size) > LARGE_PX else 0

    for side, group in itertools.groupby(images, key=side_of_tiles):
        if side == 0:
            with closing(engine.run(group)) as results:
                yield from results
            continue
        for path in group:
            try:
                found = scene.segment(engine, path, tile=side, overlap=overlap)
            except Exception as error:  # of this image only
                found = Result(0, str(path), error=error)
            yield found


def _is_result(file: Path, out: Path) -> bool:
    """Whether a file is what an earlier run wrote, by its name, and elsewhere by what it says."""
    if not file.name.endswith((_LABELS, _OVERLAY)):
        return False
    beside = os.path.realpath(file.parent) == os.path.realpath(out)
    return beside or _files.is_ours(file, text_of_png)


def _targets(
    images: list[Path], out: Path, overwrite: bool, skip: bool
) -> dict[Path, tuple[Path, Path]]:
    """Output files of each image; refuses name clashes and, if asked to, files that are there.

    An image is never replaced, nor any other file that c2fcore did not write.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"OUT must be a folder, got the file {out}")
    targets: dict[Path, tuple[Path, Path]] = {}
    owner: dict[Path, Path] = {}
    given = set(map(os.path.realpath, images))
    real: dict[str, Path] = {}
    for image in images:
        files = (out / f"{image.stem}{_LABELS}", out / f"{image.stem}{_OVERLAY}")
        if owner.setdefault(files[0], image) != image:
            raise ValueError(
                f"images must have different names, got {owner[files[0]]} and {image} "
                f"for {files[0]}; segment them one after the other, each with an OUT of its own "
                f"(a pattern, such as '{image.parent / f'*{image.suffix}'}', names a part)"
            )
        if taken := [f for f in files if os.path.realpath(f) in given]:
            raise ValueError(f"OUT must not replace an image given, got {image} for {taken[0]}")
        for file in files:
            _files.check_writable(file)
            if (other := real.setdefault(os.path.realpath(file), file)) != file:
                raise ValueError(f"results must be different files, got {other} and {file} as one")
        existing = [f for f in files if f.exists()]
        if existing and not (overwrite or skip):
            raise ValueError(
                f"{existing[0]} exists; give --overwrite to replace it, or --skip-existing to "
                "go on with what is missing"
            )
        if overwrite:
            for file in files:
                _files.check_replaceable(file, text_of_png)
        targets[image] = files
    return targets


def _changed(
    images: list[Path], targets: dict[Path, tuple[Path, Path]], options: dict[str, Any]
) -> set[Path]:
    """Images that are done, but were other files then.

    Raises:
        ValueError: one was done with other options or other networks, or its overlay is no file
            of ours.
    """
    wanted = json.loads(json.dumps(options))
    found = set()
    for image in images:
        labels, overlay = targets[image]
        made = _made(labels) if image.exists() else None
        if made is None:
            continue
        now = file_options(image, _KIND)
        before = {name: made.pop(name, None) for name in now}
        check_same(made, wanted, "skip_existing", str(labels))
        if before != now:
            _files.check_replaceable(overlay, text_of_png)
            found.add(image)
    return found


def _made(labels: Path) -> dict[str, Any] | None:
    """How labels say that they were made; None if they do not, or are not there."""
    try:
        found = json.loads(text_of_png(labels, _MADE) or "null")
    except ValueError:  # of another program
        return None
    return found if isinstance(found, dict) else None


def _write(result: Result, job: _Job, config: C2FConfig) -> str:
    """Writes the two files of an image; returns what to tell the user.

    Without `replace` files that are there, of an earlier run that was stopped, are left alone. The
    labels come last and tell which image both are of: an overlay of ours without them is replaced.
    """
    assert result.pixels is not None
    assert result.windows is not None
    labels, known = result.labels, result.known
    if known is not None:
        if config.num_classes > _NO_DATA:
            raise ValueError(
                "classes must be at most 255 where an image has no data, which is label 255, got "
                f"{config.num_classes}"
            )
        labels = np.where(known, labels, np.uint8(_NO_DATA))
    palette = pictures.bright_palette(config)
    origins = [(y, x) for y, x in result.windows.tolist()]
    labels_file, overlay_file = job.files
    stale = not labels_file.exists() and _files.is_ours(overlay_file, text_of_png)
    replace = job.replace or stale
    if replace or not overlay_file.exists():
        shown = pictures.overlay(result.pixels.numpy(), labels, palette, config.small_classes)
        write_png(overlay_file, pictures.draw_windows(shown, origins, config.window))
    if replace or not labels_file.exists():
        write_png(labels_file, labels, **{_MADE: job.made})
    height, width = labels.shape
    counts = np.bincount(labels.ravel(), minlength=256)
    missing = 0 if known is None else int(counts[_NO_DATA])
    return (
        f"{result.name}: {width} x {height} px, {counted(len(origins), 'window')}, "
        f"{shares_of(config, counts, missing)}\n  -> {labels_file}\n  -> {overlay_file}"
    )
