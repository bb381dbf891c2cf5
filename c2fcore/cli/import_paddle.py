"""`c2f import-paddle`: the authors' weights as a checkpoint of ours."""

from __future__ import annotations

import argparse
from typing import Any

from ..checkpoint import load_coarse, save_coarse
from ..config import C2FConfig
from ..data import catalogue
from ..models import paddle_weights
from ..pipeline import C2FNet
from .paths import path_of

# What their configurations say: Normalize without values has mean = std = 0.5.
_NORMALISE = {"mean": 0.5, "std": 0.5}


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "import-paddle",
        help="turn the authors' .pdparams into a checkpoint",
        description=(
            "Reads a .pdparams file of the authors' code (FCN on HRNet-W18 or W48, or the fine "
            "network of C2FNet) and writes a checkpoint for `c2f train fine`, `c2f eval` and "
            "`c2f predict`. Paddle is not needed, and no code of the file is run."
        ),
        epilog="A fine network needs --coarse. What their options are called here: "
        "c2fcore/train/configs/from-paddle.md.",
    )
    parser.add_argument("weights", type=path_of, metavar="FILE.pdparams")
    parser.add_argument("-o", "--out", type=path_of, required=True, help="folder to write")
    parser.add_argument("--coarse", type=path_of,
                        help="for a fine network: .pdparams or checkpoint")  # fmt: skip
    parser.add_argument("--preset", choices=("official", "paper", "fast"),
                        help="how the two stages work together (official)")  # fmt: skip
    parser.add_argument("--dataset", choices=sorted(catalogue.DATASETS),
                        help="gives names and small classes (isaid)")  # fmt: skip
    parser.add_argument("--small", nargs="+", metavar="CLASS", help="small classes by name or id, "
                        "such as car,ship or car ship")  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint in OUT")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the checkpoint."""
    for path in (args.weights, args.coarse):
        if path is not None and not (path.is_file() or (path == args.coarse and path.is_dir())):
            why = "a folder" if path.is_dir() else "a special file"
            why = why if path.exists() else "no such file"
            raise FileNotFoundError(f"weights must be a .pdparams file, got {path} ({why})")
    found = paddle_weights.load(args.weights)
    if found.stage == "coarse":
        if args.coarse is not None:
            raise ValueError(f"--coarse is for a fine network, got it for {args.weights}")
        config = _config(args, found.num_classes)
        save_coarse(found.network, config, args.out, overwrite=args.overwrite)
    else:
        if args.coarse is None:
            raise ValueError(f"--coarse must be given with a fine network, got {args.weights}")
        if args.coarse.is_dir():
            for name in ("preset", "dataset", "small"):
                if getattr(args, name):
                    raise ValueError(
                        f"--{name} must be left to the checkpoint of --coarse, which has one, got "
                        f"{getattr(args, name)}"
                    )
            coarse, config = load_coarse(args.coarse)
        else:
            first = paddle_weights.load(args.coarse)
            if first.stage != "coarse":
                raise ValueError(f"--coarse must be a coarse network, got {args.coarse}")
            coarse, config = first.network, _config(args, first.num_classes)
        net = C2FNet(coarse, found.network, config)
        net.save_pretrained(args.out, overwrite=args.overwrite)
    print(f"{found.stage} network, {found.num_classes} channels\n-> {args.out}")
    return 0


def _config(args: argparse.Namespace, num_classes: int) -> C2FConfig:
    info = catalogue.DATASETS[args.dataset or "isaid"]
    if len(info.class_names) != num_classes:
        raise ValueError(
            f"--dataset must have the weights' {num_classes} classes, got {info.name} with "
            f"{len(info.class_names)}"
        )
    small = info.small_classes
    if args.small:
        small = catalogue.class_ids(args.small, info.class_names)
    return C2FConfig.preset(
        args.preset or "official",
        num_classes=num_classes,
        small_classes=small,
        class_names=info.class_names,
        palette=info.palette,
        **_NORMALISE,
    )
