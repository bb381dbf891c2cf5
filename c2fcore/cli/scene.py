"""`c2f scene`: the second look on a georeferenced scene of any size."""

from __future__ import annotations

import argparse
import itertools
import math
import textwrap
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from .. import _files, pictures, scene
from .._progress import counted, tell
from ..config import C2FConfig
from ..engine import Engine
from .answers import key_of, shares_of
from .options import (
    WITHOUT_CHECKPOINT,
    add_checkpoint_options,
    add_config_options,
    add_engine_options,
    check_tiles,
    engine_of,
)
from .paths import check_folder, path_of

_OBJECTS_SUFFIXES: Final = (".geojson", ".json")

_DESCRIPTION: Final = """\
Segments a scene (GeoTIFF, COG, VRT, anything that rasterio opens) tile by tile, and writes its
labels as a cloud-optimised GeoTIFF in the scene's reference system: the value is the class id, 255
is no data (by the scene's mask, alpha band, nodata value or NaN), colours and names of the classes
are in the file. A few tiles are in memory at a time, whatever the scene's size; those without data
are left out. LABELS is there only when it is whole: until then finished tiles wait beside it, and
--resume goes on from them.
"""
_EXAMPLES: Final = """\
examples:
  c2f scene ortho.tif -o labels.tif --checkpoint my_net
  c2f scene ortho.tif -o labels.tif --checkpoint my_net --resume      after an interruption
  c2f scene s2.tif -o labels.tif --bands 4,3,2 --range 0 3000         16 bits, other bands
  c2f scene ortho.tif -o labels.tif --nodata 0 --objects ships.geojson
"""


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "scene",
        help="segment a GeoTIFF of any size, with labels that lie where it does",
        description=_DESCRIPTION,
        epilog=f"{_EXAMPLES}\n{textwrap.fill(WITHOUT_CHECKPOINT, 100)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scene", metavar="SCENE", help="file, or an address that rasterio knows")
    parser.add_argument(
        "-o", "--out", required=True, type=path_of, metavar="LABELS", help="GeoTIFF to write (.tif)"
    )
    parser.add_argument(
        "--objects",
        type=path_of,
        metavar="GEOJSON",
        help="also write every object of the small classes, as polygons in degrees (WGS 84; of a "
        "scene without a reference system in its own coordinates) with class, pixels, m2 on the "
        "ground and centroid",
    )
    parser.add_argument(
        "--min-area",
        type=float,
        default=0.0,
        metavar="M2",
        help="leave out objects below this area on the ground, m2 (of a scene without a reference "
        "system: pixels)",
    )
    add_checkpoint_options(parser)
    there = parser.add_mutually_exclusive_group()
    there.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what c2fcore wrote earlier, and begin with the first tile; no other file is "
        "ever replaced",
    )
    there.add_argument(
        "--resume",
        action="store_true",
        help="go on after an interruption, with the same options; what is finished is kept",
    )
    _add_what_is_seen(parser.add_argument_group("what the networks see"))
    _add_how(parser.add_argument_group("how it is computed"))
    add_config_options(parser)
    parser.set_defaults(run=run)


def _add_what_is_seen(what: argparse._ArgumentGroup) -> None:
    what.add_argument(
        "--bands",
        type=_bands,
        metavar="B,B,B",
        help="bands by number, from 1 as in GDAL, one per channel of the networks (default: the "
        "first ones that are no alpha; a grey band or a palette will do for three)",
    )
    values = what.add_mutually_exclusive_group()
    values.add_argument(
        "--range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="values that become 0 and 255 (default: 8 bits as they are; others from the 2nd to "
        "the 98th percentile of each band, one stretch for the whole scene)",
    )
    values.add_argument(
        "--raw",
        action="store_true",
        help="show the networks the values themselves, if they were trained so",
    )
    what.add_argument(
        "--nodata",
        type=number,
        metavar="VALUE",
        help="pixels with this value in all bands have no data, besides what the file declares "
        "(with an exponent: --nodata=-3.4e38)",
    )


def number(text: str) -> float:
    """A number, whole ones exactly: beyond 2^53 a float is equal to several."""
    value = float(text)
    return int(text) if abs(value) >= 2**53 and text.strip("+-").isdecimal() else value


def _add_how(how: argparse._ArgumentGroup) -> None:
    add_engine_options(how, "tiles")
    how.add_argument(
        "--tile", type=int, default=2048, metavar="PX", help="side of a tile; each has windows of "
        "its own (2048)"
    )  # fmt: skip
    how.add_argument(
        "--overlap",
        type=int,
        default=256,
        metavar="PX",
        help="of neighbouring tiles, each of which speaks for its half; as much as the networks "
        "see around a pixel leaves no seams (256)",
    )
    how.add_argument(
        "--no-overviews", action="store_true", help="leave out the reduced images for fast display"
    )


def run(args: argparse.Namespace) -> int:
    """Segments the scene, and tells what was found."""
    check_tiles(args.tile, args.overlap)
    _check_targets(args)
    # Before hours of computing and not after.
    if args.objects is not None and not scene.check_place(args.scene):
        tell(
            f"note: {args.scene} has no reference system, or no transform, so the objects' corners "
            "will be in its own coordinates, not degrees"
            f"{', and --min-area counts pixels' if args.min_area else ''}"
        )
    engine = engine_of(args, args.tile)
    if args.bands is None:
        _tell_bands(args.scene, engine.networks.channels or 3)
    done = args.resume and scene.is_finished(args.out)
    found = _segment(engine, args)
    if done:
        tell(f"{args.out} is done already")
    else:
        print(_told(found, args.scene, engine.config))
    objects = args.objects is not None and not (
        done and _are_of(args.objects, args.out, args.min_area)
    )
    if objects:
        try:
            count = scene.write_objects(
                args.out, args.objects, engine.config, min_area=args.min_area
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("when the labels were done; --resume goes on") from None
        print(f"{counted(count, 'object')}\n  -> {args.objects}")
    print(key_of(engine.config, pictures.palette_of(engine.config)))
    return 0


def _segment(engine: Engine, args: argparse.Namespace) -> scene.SceneFile:
    before = 0 if args.overwrite else scene.unfinished(args.out)
    try:
        return scene.segment_file(
            engine,
            args.scene,
            args.out,
            tile=args.tile,
            overlap=args.overlap,
            bands=args.bands,
            value_range="raw" if args.raw else args.range and tuple(args.range),
            nodata=args.nodata,
            overviews=not args.no_overviews,
            overwrite=args.overwrite,
            resume=args.resume,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_way_on(args.out)) from None
    except _files.Held:  # the tiles are another run's
        raise
    except Exception:
        if scene.unfinished(args.out) > before:
            tell(f"c2f scene: stopped {_way_on(args.out)}")
        raise


def _way_on(out: Path) -> str:
    """How to go on, if tiles are finished."""
    tiles = scene.unfinished(out)
    return f"after {counted(tiles, 'tile')}; --resume goes on from there" if tiles else ""


def _told(found: scene.SceneFile, name: str, config: C2FConfig) -> str:
    counts = ((found.empty, "without data"), (found.kept, "done before"))
    aside = ", ".join(f"{number} {what}" for number, what in counts if number)
    shares = shares_of(config, found.pixels, int(found.pixels[255]))
    return (
        f"{name}: {found.width} x {found.height} px, {counted(found.tiles, 'tile')}"
        f"{f' ({aside})' if aside else ''}, {counted(found.windows, 'window')}, "
        f"{shares}, in {timedelta(seconds=round(found.seconds))}\n"
        f"  -> {found.path}"
    )


def _are_of(objects: Path, labels: Path, min_area: float) -> bool:
    """Whether they are of these labels: a run that was stopped may have left earlier ones."""
    if not objects.exists() or objects.stat().st_mtime_ns < labels.stat().st_mtime_ns:
        return False
    head = _files.head_of_geojson(min_area).encode()
    with objects.open("rb") as file:
        return file.read(len(head)) == head


def _tell_bands(path: str, channels: int) -> None:
    """Says which bands are taken where there are more; whoever reads the scene tells errors."""
    bands: list[int] = []
    with suppress(ImportError, OSError, ValueError):
        from .._raster import open_quietly

        with open_quietly(path) as source:
            kinds = enumerate(source.colorinterp, start=1)
            bands = [band for band, kind in kinds if kind.name != "alpha"]
    if len(bands) > channels > 1:
        seen = ",".join(map(str, bands[:channels]))
        tell(f"note: the networks see bands {seen} of {len(bands)}; --bands chooses others")


def _check_targets(args: argparse.Namespace) -> None:
    """Refuses to replace what nobody asked to replace, before anything is computed."""
    if not 0 <= args.min_area < math.inf:
        raise ValueError(f"--min-area must be at least 0, and finite, got {args.min_area}")
    if args.min_area and args.objects is None:
        raise ValueError(f"--min-area must come with --objects, got {args.min_area} without")
    wanted = [path for path in (args.out, args.objects) if path is not None]
    files = [Path(args.scene), *wanted]
    if any(_is_same(one, other) for one, other in itertools.combinations(files, 2)):
        raise ValueError(
            "SCENE, LABELS and GEOJSON must be different files, got "
            f"{', '.join(map(str, (args.scene, *wanted)))}"
        )
    if folders := [path for path in wanted if path.is_dir()]:
        raise ValueError(f"LABELS and GEOJSON must be files, got the folder {folders[0]}")
    for path in wanted:
        _files.check_writable(path)
    if args.out.exists():
        from ..scene.geotiff import software_of

        _files.check_replaceable(args.out, software_of)
    existing = [path for path in wanted if path.exists()]
    if existing and not (args.overwrite or args.resume):
        raise ValueError(
            f"{existing[0]} exists; give --overwrite to replace it, or --resume to go on with what "
            "is missing, under the same options"
        )
    if args.objects is not None:
        if args.objects.suffix.lower() not in _OBJECTS_SUFFIXES:
            raise ValueError(
                f"GEOJSON must end in {' or '.join(_OBJECTS_SUFFIXES)}, got {args.objects}"
            )
        check_folder(args.objects.parent, "GEOJSON must be in")
        _files.check_replaceable(args.objects, _files.software_of_geojson)


def _is_same(one: Path, other: Path) -> bool:
    """Whether both name one file, through links, too."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def _bands(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(band) for band in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"bands must be numbers with commas between, as in 4,3,2, got {text!r}"
        ) from None
