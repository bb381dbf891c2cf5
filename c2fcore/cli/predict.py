"""`c2f predict`: the second look on images of the user's."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .. import pictures
from ..images import read_rgb, write_png
from ..pipeline import C2FNet
from .demo import DEMO_WEIGHTS, origins_of
from .options import add_config_options, config_changes


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "predict",
        help="segment images of yours, with the second look",
        description=(
            "Segments PNG, JPEG or TIFF images and writes, per image, NAME_labels.png (8-bit grey, "
            "the value is the class id) and NAME_overlay.png (small objects in colour, the windows "
            "looked at framed in the order chosen)."
        ),
        epilog=(
            "Without --checkpoint the networks of `c2f demo` are used. They know synthetic scenes "
            "only: good for seeing the tool work, not for results on real images."
        ),
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path)
    parser.add_argument("-o", "--out", required=True, type=Path, help="folder to write into")
    parser.add_argument("--checkpoint", help="folder written by save_pretrained, or a hub id")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist in OUT")
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Segments every image; one that fails is named, and the others go on."""
    targets = _targets(args.images, args.out, args.overwrite)
    net = C2FNet.from_pretrained(args.checkpoint or DEMO_WEIGHTS).eval()
    net.config = net.config.replace(**config_changes(args))
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path in (bar := tqdm(args.images, unit="image", disable=len(args.images) < 2)):
        try:
            line = _predict(net, path, *targets[path])
        except (ValueError, TypeError, OSError) as error:
            failed += 1
            line = f"c2f predict: error: {error}"
        bar.write(line, file=sys.stderr if line.startswith("c2f") else sys.stdout)
    if failed:
        print(f"{failed} of {len(args.images)} images failed, see above", file=sys.stderr)
    return 1 if failed else 0


def _targets(images: list[Path], out: Path, overwrite: bool) -> dict[Path, tuple[Path, Path]]:
    """Output files of each image; refuses name clashes and files that are there already."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"OUT must be a folder, got the file {out}")
    targets: dict[Path, tuple[Path, Path]] = {}
    owner: dict[Path, Path] = {}
    for image in images:
        files = (out / f"{image.stem}_labels.png", out / f"{image.stem}_overlay.png")
        if owner.setdefault(files[0], image) != image:
            raise ValueError(
                f"images must have different names, got {owner[files[0]]} and {image} "
                f"for {files[0]}"
            )
        existing = [f for f in files if f.exists()]
        if existing and not overwrite:
            raise ValueError(f"{existing[0]} exists; give --overwrite to replace it")
        targets[image] = files
    return targets


def _predict(net: C2FNet, path: Path, labels_file: Path, overlay_file: Path) -> str:
    """Segments one image and writes its two files; returns what to tell the user."""
    pixels = read_rgb(path)
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    with torch.inference_mode():
        answer = net.detailed(image)
    labels = answer.labels[0].numpy()
    config = net.config
    palette = pictures.default_palette(config.num_classes)
    if config.palette is not None:
        palette = np.array(config.palette, dtype=np.uint8)
    origins = origins_of(answer.windows)
    shown = pictures.overlay(pixels, labels, palette, config.small_classes)
    write_png(labels_file, labels)
    write_png(overlay_file, pictures.draw_windows(shown, origins, config.window))
    height, width = labels.shape
    names = config.class_names or [str(c) for c in range(config.num_classes)]
    share = np.bincount(labels.ravel(), minlength=config.num_classes) / labels.size
    found = ", ".join(f"{names[c]} {share[c]:.2%}" for c in config.small_classes)
    seconds = answer.seconds
    return (
        f"{path}: {width} x {height} px, {len(origins)} windows, {found}; "
        f"{sum(seconds.values()):.2f} s "
        f"(coarse {seconds['coarse']:.2f}, fine {seconds['fine']:.2f})\n"
        f"  -> {labels_file}\n  -> {overlay_file}"
    )
