"""`c2f predict`: the second look on images of the user's."""

from __future__ import annotations

import argparse
import glob
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from tqdm import tqdm

from .. import pictures
from ..config import C2FConfig
from ..engine import Result
from ..engine.networks import PRECISIONS
from ..images import Pixels, write_png
from ..pipeline import C2FNet
from .demo import DEMO_WEIGHTS
from .errors import text_of
from .options import add_config_options, config_changes

_SUFFIXES: Final = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"))
_LABELS, _OVERLAY = "_labels.png", "_overlay.png"
_DEMO_ONLY: Final = (
    "note: these are the networks of `c2f demo`, which know synthetic scenes only; --checkpoint "
    "takes yours (c2f train --help)"
)


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "predict",
        help="segment images of yours, with the second look",
        description=(
            "Segments PNG, JPEG or TIFF images and writes, per image, NAME_labels.png (8-bit grey, "
            "the value is the class id) and NAME_overlay.png (small objects in colour, the windows "
            "looked at framed in the order chosen). Files are read and written while others are "
            "computed; one that fails is named, and the others go on."
        ),
        epilog=(
            "Without --checkpoint the networks of `c2f demo` are used. They know synthetic scenes "
            "only: good for seeing the tool work, not for results on real images."
        ),
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="file, folder of images, or pattern in quotes"
    )
    parser.add_argument("-o", "--out", required=True, type=Path, help="folder to write into")
    parser.add_argument("--checkpoint", help="folder written by save_pretrained, or a hub id")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="build networks that the checkpoint names as package.module:function",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist in OUT")
    how = parser.add_argument_group("how it is computed")
    how.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ... (the first GPU if there is one)",
    )
    how.add_argument("--batch", type=int, default=1, help="images of one size at once (1)")
    how.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="autocast of both networks; auto: bfloat16 where the device is made for it "
        "(default: the networks' own)",
    )
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segments every image; one that fails is named, and the others go on."""
    images = _images(args.images, args.out)
    targets = _targets(images, args.out, args.overwrite)
    if args.checkpoint is None:
        print(_DEMO_ONLY, file=sys.stderr)
    source = DEMO_WEIGHTS if args.checkpoint is None else args.checkpoint
    net = C2FNet.from_pretrained(source, trust_code=args.trust_code).eval()
    net.config = net.config.replace(**config_changes(args))
    engine = net.to(args.device).compile(batch=args.batch, precision=args.precision)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    bar = tqdm(total=len(images), unit="image", disable=True if len(images) < 2 else None)
    with bar, closing(engine.run(images)) as results:
        for path, result in zip(images, results, strict=True):
            try:
                if result.error is not None:
                    raise result.error
                said = _write(result, *targets[path], net.config)
            except Exception as error:  # of this image only
                failed += 1
                text = text_of(error)
                named = text if str(path) in text else f"{path}: {text}"
                bar.write(f"c2f predict: error: {named}", file=sys.stderr)
            else:
                bar.write(said, file=sys.stdout)
            bar.update()
    if failed < len(images):
        print(_key(net.config))
    if failed:
        print(f"{failed} of {len(images)} images failed, see above", file=sys.stderr)
    return 1 if failed else 0


def _images(given: list[str], out: Path) -> list[Path]:
    """The files that are meant, each once: folders and patterns in alphabetical order.

    Raises:
        ValueError: a folder or a pattern without images.
    """
    found: list[Path] = []
    for text in given:
        path = Path(text)
        if not text:  # an unset variable; a path of no text would be this folder
            files = []
        elif path.is_dir():
            ours = path.resolve() == out.resolve()  # what an earlier run wrote is no image
            files = [
                file
                for file in sorted(path.iterdir())
                if file.suffix.lower() in _SUFFIXES
                and not (ours and file.name.endswith((_LABELS, _OVERLAY)))
            ]
        elif path.exists() or not glob.has_magic(text):
            files = [path]
        else:
            files = sorted(map(Path, glob.glob(text, recursive=True)))
        if not files:
            raise ValueError(f"IMAGE must name images, got {text!r} without any")
        found += files
    return list(dict.fromkeys(found))


def _targets(images: list[Path], out: Path, overwrite: bool) -> dict[Path, tuple[Path, Path]]:
    """Output files of each image; refuses name clashes and files that are there already.

    An image is never replaced, `overwrite` or not.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"OUT must be a folder, got the file {out}")
    targets: dict[Path, tuple[Path, Path]] = {}
    owner: dict[Path, Path] = {}
    given = {image.resolve() for image in images}
    for image in images:
        files = (out / f"{image.stem}{_LABELS}", out / f"{image.stem}{_OVERLAY}")
        if owner.setdefault(files[0], image) != image:
            raise ValueError(
                f"images must have different names, got {owner[files[0]]} and {image} "
                f"for {files[0]}"
            )
        if taken := [f for f in files if f.resolve() in given]:
            raise ValueError(f"OUT must not replace an image given, got {image} for {taken[0]}")
        existing = [f for f in files if f.exists()]
        if existing and not overwrite:
            raise ValueError(f"{existing[0]} exists; give --overwrite to replace it")
        targets[image] = files
    return targets


def _write(result: Result, labels_file: Path, overlay_file: Path, config: C2FConfig) -> str:
    """Writes the two files of an image; returns what to tell the user."""
    assert result.pixels is not None
    assert result.windows is not None
    labels = result.labels
    palette = _palette(config)
    origins = [(y, x) for y, x in result.windows.tolist()]
    shown = pictures.overlay(result.pixels.numpy(), labels, palette, config.small_classes)
    write_png(labels_file, labels)
    write_png(overlay_file, pictures.draw_windows(shown, origins, config.window))
    height, width = labels.shape
    names = _names(config)
    share = np.bincount(labels.ravel(), minlength=config.num_classes) / labels.size
    found = ", ".join(f"{names[c]} {share[c]:.2%}" for c in config.small_classes)
    return (
        f"{result.name}: {width} x {height} px, {len(origins)} windows, {found}\n"
        f"  -> {labels_file}\n  -> {overlay_file}"
    )


def _key(config: C2FConfig) -> str:
    """What ids in the label pictures and colours in the overlays stand for."""
    names, palette = _names(config), _palette(config)
    colours = (f"{names[c]} #{bytes(palette[c].tolist()).hex()}" for c in config.small_classes)
    ids = (f"{c} {name}" for c, name in enumerate(names))
    return f"ids: {', '.join(ids)}\ncolours: {', '.join(colours)}"


def _names(config: C2FConfig) -> Sequence[str]:
    return config.class_names or [str(c) for c in range(config.num_classes)]


def _palette(config: C2FConfig) -> Pixels:
    if config.palette is None:
        return pictures.default_palette(config.num_classes)
    return np.array(config.palette, dtype=np.uint8)
