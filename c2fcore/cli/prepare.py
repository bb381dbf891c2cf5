"""`c2f prepare`: a data set as it is on disk, made into tiles to train and evaluate on."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._progress import counted, tell
from ..data import catalogue, loading, sources
from ..data.catalogue import DatasetInfo
from ..data.masks import RGB, read_mask, shown
from ..data.prepare import DATASET_FILE, Options, prepare
from .next_steps import after_prepare, tell_next
from .paths import path_of


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "prepare",
        help="make a data set into tiles to train and evaluate on",
        description=(
            "Reads iSAID, Potsdam, Vaihingen, LoveDA or a data set of yours (custom) and writes "
            "tiles with masks of ids 0..N-1 and 255 (ignored), and a dataset.json. Run it again to "
            "go on after an interruption."
        ),
        epilog=(
            "Unknown colours and ids become 255 and are counted in the report and in dataset.json. "
            "Of more than three bands the first three are read; 16 bits and floats are stretched "
            "as by c2f predict. "
            "Layouts: raw (as distributed, unpacked), mmseg (img_dir, ann_dir), list (train.txt "
            "with 'image mask' lines), folders (images, masks; folders in them alike)."
        ),
    )
    parser.add_argument("dataset", choices=[*catalogue.DATASETS, "custom"])
    parser.add_argument("root", type=path_of, help="folder of the data set")
    parser.add_argument("-o", "--out", type=path_of, required=True, help="folder to write")
    parser.add_argument("--layout", choices=sources.LAYOUTS, help="of ROOT; guessed if not given")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="which; all there are")
    parser.add_argument("--tile", type=int, help="side in pixels, 0 for whole images; the data "
                        "set's usual (isaid 896, loveda 1024, others 512)")  # fmt: skip
    parser.add_argument("--overlap", type=int, help="of neighbouring tiles in pixels; the data "
                        "set's usual (isaid 384, others 0), and 0 with --tile")  # fmt: skip
    parser.add_argument("--labels", choices=sources.LABELS, default="eroded",
                        help="raw potsdam, vaihingen: without or with object borders")  # fmt: skip
    parser.add_argument("--encoding", help="of the masks: rgb, mmseg, paddle, torchgeo; custom: "
                        "index (0..N-1, 255), shifted (1..N, 0 ignored)")  # fmt: skip
    parser.add_argument("--classes", help="custom: names by commas, or a JSON file with names and "
                        "palette")  # fmt: skip
    parser.add_argument("--small", nargs="+", metavar="CLASS", help="small classes by name or id, "
                        "such as car,ship or car ship")  # fmt: skip
    parser.add_argument("--unknown", choices=("ignore", "error"), default="ignore",
                        help="pixels of unknown colour or id")  # fmt: skip
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1),
                        help="processes; 0 works in this one")  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prepares the data set and prints what it holds."""
    loading.check(args.workers)
    if args.tile is not None and args.tile < 0:
        raise ValueError(f"--tile must be at least 0, which is for whole images, got {args.tile}")
    info = _info(args)
    layout = args.layout or sources.guess_layout(info, args.root)
    found = sources.find(info, args.root, layout, args.splits, args.labels)
    _check_names(args, info, found)
    encoding = args.encoding or _encoding(info, layout, found)
    tile = info.tile if args.tile is None else args.tile or None
    overlap = args.overlap
    if overlap is None:
        overlap = info.overlap if args.tile is None else 0
        if tile and overlap < info.overlap:
            tell(
                f"note: --tile {tile} comes without overlap; {info.name} usually has tiles of "
                f"{info.tile} that overlap by {info.overlap} (--overlap)"
            )
    raw_isprs = info.name in ("potsdam", "vaihingen") and layout == "raw"
    options = Options(encoding, tile, overlap, args.labels if raw_isprs else "", args.unknown)
    made = prepare(info, found, args.out, options, args.workers)
    _report(made)
    print(f"-> {args.out / DATASET_FILE}")
    tell_next(after_prepare(args.out, made))
    return 0


def _info(args: argparse.Namespace) -> DatasetInfo:
    if args.dataset == "custom":
        if not args.classes:
            raise ValueError("custom: --classes must be given, got none")
        return catalogue.custom(args.classes, args.small or ())
    if args.classes:
        raise ValueError(f"--classes is for custom only, got it for {args.dataset}")
    info = catalogue.DATASETS[args.dataset]
    if args.small:
        info = replace(info, small_classes=catalogue.class_ids(args.small, info.class_names))
    return info


def _check_names(
    args: argparse.Namespace, info: DatasetInfo, found: dict[str, list[sources.Pair]]
) -> None:
    """Ids of one data set are ids of another, too: only its images' names tell them apart.

    Raises:
        ValueError: all are named as those of another data set, and nobody said what the ids mean.
    """
    stems = [pair.image.stem for pairs in found.values() for pair in pairs]
    named = [catalogue.named_as(stem) for stem in stems]
    others = {name: stem for name, stem in zip(named, stems) if name}
    if not others or info.name in {*others, "custom"}:
        return
    other, stem = others.popitem()
    alike = info.class_names == catalogue.DATASETS[other].class_names
    sure = len({*named}) == 1 and other != catalogue.ANYBODYS_NAMES
    if sure and not alike and not args.encoding:
        command = shlex.join(["c2f", "prepare", other, str(args.root), "-o", str(args.out)])
        raise ValueError(
            f"images must be those of {info.name}, got {counted(len(stems), 'image')} named as "
            f"those of {other}, such as {stem}, whose classes are others: run {command} (or, if "
            f"they are of {info.name}, say by --encoding what their masks hold: "
            f"{', '.join((RGB, *info.encodings))})"
        )
    tell(
        f"note: images such as {stem} are named as those of {other}, not of {info.name}: if they "
        f"are, their {'splits' if alike else 'classes'} are others (c2f prepare {other})"
    )


def _encoding(info: DatasetInfo, layout: str, found: dict[str, list[sources.Pair]]) -> str:
    """Colours show by themselves; what ids mean follows from the layout, or must be said."""
    first = next(pair for pairs in found.values() for pair in pairs)
    if read_mask(first.mask).ndim == 3 and info.palette:
        return RGB
    by_layout = {"mmseg": "mmseg", "list": "paddle", "raw": "raw"}
    guess = "index" if info.name == "custom" else by_layout.get(layout, "")
    if guess in info.encodings:
        return guess
    raise ValueError(f"--encoding must say what the ids mean ({', '.join(info.encodings)}), got "
                     f"masks of ids in layout {layout}")  # fmt: skip


def _report(made: Mapping[str, Any]) -> None:
    for name, split in made["splits"].items():
        total = sum(split["pixels"]) + split["ignored"]
        images, tiles = len(split["sources"]), len(split["tiles"])
        print(f"\n{name}: {counted(images, 'image')}, {counted(tiles, 'tile')}")
        for c, (label, count) in enumerate(zip(made["class_names"], split["pixels"])):
            mark = " *" if c in made["small_classes"] else ""
            print(f"  {c:3d} {label + mark:<24}{count:>14} px {count / total:8.3%}")
        print(f"  255 {'ignored':<24}{split['ignored']:>14} px {split['ignored'] / total:8.3%}")
        if split["unknown"]:
            count = sum(split["unknown"].values())
            print(f"  of these of unknown colour or id: {count} px, {shown(split['unknown'])}")
    print(
        "\n* small classes"
        if made["small_classes"]
        else "\nno small classes: c2f train needs some (--data.small)"
    )
