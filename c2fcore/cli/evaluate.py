"""`c2f eval`: scores of a checkpoint on a data set, before and after the second look."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..evaluation import distributed, gallery, predictor, report
from ..evaluation.objects import EDGES
from ..evaluation.predictor import AMP, Predictor
from ..evaluation.report import ABSENT
from ..evaluation.runner import Result, evaluate
from ..evaluation.samples import PROTOCOLS, Samples, open_samples
from ..evaluation.tally import Measures
from .options import (
    LARGE_PX,
    add_config_options,
    check_second_look,
    config_changes,
    device_named,
)
from .paths import check_folder, path_of

_PICTURES = "pictures"


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "eval",
        help="score a checkpoint on a data set, coarse and refined side by side",
        description=(
            "Scores a checkpoint on tiles that `c2f prepare` wrote, or on a folder with images/ "
            "and masks/: IoU, F1 and boundary IoU per class, IoU by size of object, speed; coarse "
            "and refined answer side by side. With -o it writes scores.json, scores.csv, "
            "sizes.csv, images.csv and scores.md. In several processes: torchrun "
            "--nproc-per-node N -m c2fcore eval ..."
        ),
    )
    parser.add_argument("data", type=path_of,
                        help="folder of `c2f prepare`, or with images/, masks/")  # fmt: skip
    parser.add_argument("--checkpoint", required=True, help="folder of save_pretrained or of "
                        "`c2f train`, or a hub id (owner/name, owner/name@revision); stage 1 alone "
                        "is scored, too")  # fmt: skip
    parser.add_argument("--coarse", help="checkpoint of the coarse network, if CHECKPOINT holds "
                        "the fine one alone")  # fmt: skip
    parser.add_argument("--trust-code", action="store_true", help="build networks that the "
                        "checkpoint names as package.module:function")  # fmt: skip
    parser.add_argument("-o", "--out", type=path_of, help="folder to write into")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist in OUT")
    parser.add_argument("--pictures", type=int, default=0, metavar="K", help="also draw the K best "
                        "and K worst tiles (image, coarse, refined, truth) into OUT")  # fmt: skip
    add_scoring_options(parser)
    add_config_options(parser)
    parser.set_defaults(run=run)


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Adds options that say how data is read, what is counted, and where it is computed."""
    data = parser.add_argument_group("data")
    data.add_argument("--split", help="which; the only one, or val, if not given")
    data.add_argument("--encoding", default="", help="plain folders, masks: index (0..N-1, 255 "
                      "ignored; default), shifted (1..N, 0 ignored) or rgb (the network's "
                      "palette)")  # fmt: skip
    data.add_argument("--tile", type=int, help="plain folders: cut into tiles of TILE pixels; else "
                      "images as they are")  # fmt: skip
    data.add_argument("--overlap", type=int, default=0, help="plain folders: of such tiles, pixels")
    data.add_argument("--unknown", choices=("error", "ignore"), default="error",
                      help="plain folders: ids or colours that are no class")  # fmt: skip
    score = parser.add_argument_group("what is scored")
    score.add_argument("--protocol", choices=PROTOCOLS, default="tiles", help="tiles: each by "
                       "itself, as in the paper; whole: joined, every pixel once")  # fmt: skip
    score.add_argument("--limit", type=int, help="the first LIMIT tiles or scenes only")
    score.add_argument("--absent", choices=list(ABSENT), default="nan", help="IoU of a class that "
                       "is in neither map; nan: means are over the truth's")  # fmt: skip
    score.add_argument("--boundary", type=float, default=2.0, metavar="D", help="width of boundary "
                       "IoU: pixels, or a share of the diagonal below 1 (Cheng et al.: 0.02); 0 "
                       "for none; default 2")  # fmt: skip
    score.add_argument("--sizes", type=float, nargs="+", default=list(EDGES), metavar="PX",
                       help="edges of the size bins (square root of an object's area)")  # fmt: skip
    score.add_argument("--no-sizes", action="store_true", help="leave out IoU by size of object")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", help="cpu, cuda, cuda:1; a GPU if there is one")
    machine.add_argument("--amp", choices=list(AMP), default="no", help="precision of the networks")
    machine.add_argument("--batch", type=int, default=1, help="tiles at once; FPS is taken at 1 in "
                         "the field")  # fmt: skip
    machine.add_argument("--workers", type=int, default=0, help="processes that read ahead")


def measures_of(args: argparse.Namespace) -> Measures:
    """What the score options ask for."""
    return Measures(args.boundary, None if args.no_sizes else tuple(args.sizes))


def device_of(args: argparse.Namespace) -> torch.device:
    """The device to compute on.

    Raises:
        ValueError: none of that name, or not here.
    """
    if not args.device or args.device == "cuda":
        found = distributed.default_device()  # of several GPUs this process's own
        if found.type == (args.device or found.type):
            return found
    return device_named(args.device)


def predictor_of(
    args: argparse.Namespace,
    checkpoint: str,
    device: torch.device,
    changes: dict[str, Any],
    coarse: str | None = None,
) -> Predictor:
    """The checkpoint as something to score."""
    found = predictor.load(
        checkpoint,
        coarse=coarse,
        device=device,
        amp=args.amp,
        trust_code=args.trust_code,
        changes=changes,
    )
    if found.refines:
        check_second_look(found.config, args.tile or LARGE_PX)
    return found


def score(
    args: argparse.Namespace, predict: Predictor, samples: Samples, measures: Measures
) -> Result:
    """What the answers of a predictor count up to."""
    return evaluate(
        predict,
        samples,
        args.protocol,
        measures,
        batch=args.batch,
        workers=args.workers,
        limit=args.limit,
    )


def samples_of(args: argparse.Namespace, root: Path, predict: Predictor) -> Samples:
    """The samples that the data options describe."""
    return open_samples(
        root,
        args.split,
        predict.config,
        encoding=args.encoding,
        tile=args.tile,
        overlap=args.overlap,
        unknown=args.unknown,
    )


def about(
    predict: Predictor, checkpoint: str, samples: Samples, protocol: str, measures: Measures
) -> dict[str, Any]:
    """Where a result comes from, for its file."""
    device = predict.device
    name = platform.processor() or platform.machine()
    return {
        "checkpoint": checkpoint,
        "data": samples.name,
        "protocol": protocol,
        "boundary": measures.boundary,
        "config": predict.config.to_dict(),
        "c2fcore": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else name,
        "threads": torch.get_num_threads(),
    }


def run(args: argparse.Namespace) -> int:
    """Scores the checkpoint and tells the result."""
    if args.pictures < 0 or (args.pictures and args.out is None):
        raise ValueError(f"--pictures needs -o and at least 0, got {args.pictures}")
    measures = measures_of(args)
    if args.out is not None:
        _check_out(args.out, (*report.FILES, *[_PICTURES][: args.pictures]), args.overwrite)
    predict = predictor_of(
        args, args.checkpoint, device_of(args), config_changes(args), coarse=args.coarse
    )
    samples = samples_of(args, args.data, predict)
    if args.out is not None:
        check_folder(args.out, "OUT must be")
    with distributed.process_group(predict.device):
        result = score(args, predict, samples, measures)
        if distributed.rank() == 0:
            _tell(args, predict, samples, measures, result)
    return 0


def _tell(
    args: argparse.Namespace,
    predict: Predictor,
    samples: Samples,
    measures: Measures,
    result: Result,
) -> None:
    facts = about(predict, args.checkpoint, samples, args.protocol, measures)
    summary = report.summarise(result, samples.class_names, args.absent, facts)
    print(report.markdown(summary))
    if args.out is None:
        print("-o FOLDER writes these as JSON, CSV and Markdown")
        return
    there = {name for name in report.FILES if (args.out / name).exists()}
    files = report.write(args.out, result, summary)
    if args.pictures:
        chosen = gallery.choose(result, args.pictures)
        earlier = gallery.clear(args.out / _PICTURES)
        if earlier:
            print(f"{earlier} earlier pictures in {args.out / _PICTURES} are replaced")
        files += gallery.draw(predict, samples, args.protocol, chosen, args.out / _PICTURES)
    for path in files:
        print(f"-> {path}{' (replaced)' if path.name in there else ''}")


def _check_out(out: Path, names: Iterable[str], overwrite: bool) -> None:
    existing = [out / name for name in names if (out / name).exists()]
    if existing and not overwrite:
        raise ValueError(f"{existing[0]} exists; give --overwrite to replace it")
