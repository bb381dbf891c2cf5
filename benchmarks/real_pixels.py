"""Does the second look help on real pixels? Trains on iSAID images, scores on parts left out.

    python benchmarks/real_pixels.py run ISAID WORK --split blocks --seed 0
    python benchmarks/real_pixels.py report WORK

ISAID is a raw iSAID folder with at least two images. They are halved: at full size the cars of the
images that results/real-pixels.md is about measure 40 x 18 pixels, no small objects. Split "blocks"
cuts every image into 4 x 4 blocks; six of 16 are tested on, the others, less a guard band around
the tested ones, trained on. The training images are grey where they are tested on: no pixel of a
tested block is ever seen in training. Split "cross" trains on the first split of the data set and
tests on the last.

Stage 1 is trained, then stage 2 on top of it in several variants, and, as the fair baseline, stage
1 anew for as many steps as both together cost. Images, weights and pictures stay in WORK; none
belong into a repository.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from real_looks import (
    Look,
    calibration,
    coarse_labels,
    examples,
    look,
    merged,
    oracle,
    whole_enlarged,
)
from real_looks import posterior as merged_by_odds
from real_training import GREY, INFO, Pair, Variant, draw_crops, train_coarse, train_fine
from torch import Tensor

from c2fcore import C2FNet, metrics, pictures
from c2fcore.data import sources
from c2fcore.data.catalogue import IGNORED
from c2fcore.data.masks import MaskDecoder, read_mask
from c2fcore.images import read_rgb, write_png

SMALL_VEHICLE, LARGE_VEHICLE = (INFO.class_names.index(n + "_vehicle") for n in ("small", "large"))
BLOCKS, TESTED, GUARD = 4, 6, 8  # blocks a side, of each image tested, width of the band in pixels
COARSE_STEPS, LONGER_STEPS = 600, 1000  # stage 1; with stage 2's budget

RANDOM = {"sampling": "random"}
AGAIN = "coarse network again"
VARIANTS = {
    AGAIN: Variant(start="coarse", steps=0),
    "coarse network again, tuned": Variant(start="coarse", steps=300, lr=0.001, loss=RANDOM),
    "new network": Variant(loss=RANDOM),
    "new network, coarse encoder": Variant(start="warm", loss=RANDOM),
    "again at zoom 1": Variant(start="coarse", steps=0, config={"zoom": 1.0}),
    # At most as many pixels for the fine network; the second is preset "fast".
    "again, 32 of 128 at zoom 1": Variant(
        start="coarse", steps=0, config={"window": 128, "zoom": 1.0, "n": 32}
    ),
    "again, 32 of 64 at zoom 2": Variant(start="coarse", steps=0, config={"n": 32}),
    "again, 32 of 64 at zoom 2, by count": Variant(
        start="coarse", steps=0, config={"n": 32, "strategy": "top"}
    ),
    "again at zoom 3": Variant(start="coarse", steps=0, config={"zoom": 3.0}),
    "again, 32 of 128 at zoom 2": Variant(start="coarse", steps=0, config={"window": 128, "n": 32}),
}
RULES = ("official", "oracle", "shift", "weight", "whole")  # how keys of other ways to merge begin
SHIFTS, WEIGHTS = (-1.0, -0.5, 0.5, 1.0, 1.5), (0.25, 0.5, 1.0, 2.0)


class Scene(NamedTuple):
    """An image to score on: name, uint8 [3, H, W], uint8 [H, W] with 255 where it is not scored."""

    name: str
    image: Tensor
    truth: Tensor


def scenes(root: Path, shrink: int) -> Iterator[tuple[str, Scene]]:
    """Split and scene of every image of the data set, `shrink` times smaller."""
    decode = MaskDecoder(INFO, "rgb")
    found = sources.find(INFO, root, sources.guess_layout(INFO, root), None, "eroded")
    for split, pairs in found.items():
        for pair in pairs:
            image = torch.from_numpy(read_rgb(pair.image).copy()).permute(2, 0, 1)
            image = F.avg_pool2d(image.float(), shrink).round().to(torch.uint8)
            truth = torch.from_numpy(decode(read_mask(pair.mask))[0])
            truth = truth[shrink - 1 :: shrink, shrink - 1 :: shrink]
            yield split, Scene(pair.image.stem, image, truth.contiguous())


def tested_blocks(truth: Tensor, generator: np.random.Generator) -> Tensor:
    """Bool [H, W]: TESTED random blocks, which hold 25 to 55 % of the vehicle pixels."""
    height, width = truth.shape
    ys = np.linspace(0, height, BLOCKS + 1).astype(int)
    xs = np.linspace(0, width, BLOCKS + 1).astype(int)
    vehicles = (truth == SMALL_VEHICLE) | (truth == LARGE_VEHICLE)
    while True:
        mask = torch.zeros((height, width), dtype=torch.bool)
        for block in generator.permutation(BLOCKS**2)[:TESTED]:
            i, j = divmod(int(block), BLOCKS)
            mask[ys[i] : ys[i + 1], xs[j] : xs[j + 1]] = True
        share = float((vehicles & mask).sum()) / max(int(vehicles.sum()), 1)
        if 0.25 <= share <= 0.55 or not vehicles.any():
            return mask


def split_data(root: Path, split: str, seed: int, shrink: int) -> tuple[list[Pair], list[Scene]]:
    """What is trained on and what is scored."""
    generator = np.random.default_rng(seed)
    everything = list(scenes(root, shrink))
    train_split = everything[0][0]
    train: list[Pair] = []
    test: list[Scene] = []
    for name, scene in everything:
        tested = tested_blocks(scene.truth, generator)
        if split == "cross":
            tested = torch.full_like(tested, name != train_split)
        if tested.any():
            test.append(scene._replace(truth=scene.truth.masked_fill(~tested, IGNORED)))
        if tested.all():
            continue
        band = F.max_pool2d(tested.float()[None, None], 2 * GUARD + 1, 1, GUARD)[0, 0] > 0
        image = scene.image.masked_fill(tested, GREY)
        train.append((image, scene.truth.masked_fill(band, IGNORED)))
    return train, test


def ious(answers: list[Tensor], looks: list[Look]) -> dict[str, float]:
    n = len(INFO.class_names)
    matrix = torch.zeros((n, n), dtype=torch.int64)
    for answer, seen in zip(answers, looks, strict=True):
        matrix += metrics.confusion_matrix(answer, seen.truth, n)
    found = 100 * metrics.iou(matrix)
    return {
        "small": float(found[SMALL_VEHICLE]),
        "large": float(found[LARGE_VEHICLE]),
        "background": float(found[0]),
    }


def score(net: C2FNet, train: list[Pair], test: list[Scene]) -> dict[str, Any]:
    """IoU of all answers, coverage, and how sure the fine network is of what."""
    looks = [look(net, scene.image, scene.truth) for scene in test]
    small = torch.tensor(net.config.small_classes)
    plain = net.config
    slope, shift = net.calibrate((image[None], labels[None]) for image, labels in train)
    net.config = plain
    found: dict[str, Any] = {
        "coarse": ious([coarse_labels(seen) for seen in looks], looks),
        "refined": ious([merged(seen) for seen in looks], looks),
        "official": ious([merged(seen, rule="official") for seen in looks], looks),
        "oracle": ious([oracle(seen) for seen in looks], looks),
        "shift and slope": ious([merged(seen, shift, slope) for seen in looks], looks),
        "fitted": (slope, shift),
    }
    enlarged = [
        whole_enlarged(net, scene.image, seen) for scene, seen in zip(test, looks, strict=True)
    ]
    found["whole image enlarged"] = ious([e[0] for e in enlarged], looks)
    found["whole image, both sizes averaged"] = ious([e[1] for e in enlarged], looks)
    for value in SHIFTS:
        found[f"shift {value:g}"] = ious([merged(seen, value) for seen in looks], looks)
    for value in WEIGHTS:
        found[f"weight {value:g}"] = ious([merged_by_odds(seen, value) for seen in looks], looks)
    covered = pixels = 0
    for seen in looks:
        there = torch.isin(seen.truth, small)
        under = metrics.covered_mask(seen.windows, *seen.truth.shape[1:])
        covered, pixels = covered + int((there & under).sum()), pixels + int(there.sum())
    logits, classes = examples(looks)
    target = torch.isin(classes, small).float()
    found |= {
        "coverage": covered / pixels,
        "windows": sum(int(seen.windows.num) for seen in looks) / len(looks),
        "calibration": calibration(logits, target),
        "calibrated": calibration(logits * slope + shift, target),
        # Of the pixels of a class, how many the fine network calls a small object.
        "called small": {
            name: float((logits[classes == c] >= 0).float().mean())
            for name, c in (("background", 0), ("small", SMALL_VEHICLE), ("large", LARGE_VEHICLE))
        },
    }
    return found


def run(args: argparse.Namespace) -> None:
    """One seed of one split: trains, scores, and writes WORK/SPLIT-SEED.json."""
    torch.set_num_threads(args.threads)
    out = args.work / f"{args.split}-{args.seed}"
    out.mkdir(parents=True, exist_ok=True)
    train, test = split_data(args.isaid, args.split, args.seed, args.shrink)
    crops = draw_crops(train, args.seed, out / "crops.pt")
    coarse = train_coarse(crops, args.seed, COARSE_STEPS, out / "coarse.pt")
    file = args.work / f"{args.split}-{args.seed}.json"
    result = json.loads(file.read_text()) if file.is_file() else {}
    for name in args.variants:
        if name in result:  # of an earlier run
            continue
        weights = out / f"{name.replace(' ', '-')}.pt"
        net = train_fine(coarse, crops, args.seed, VARIANTS[name], weights)
        result[name] = score(net, train, test)
        draw(net, test, out, name)
        file.write_text(json.dumps(result, indent=1))
    if args.longer and "longer" not in result:
        more = train_coarse(crops, args.seed, LONGER_STEPS, out / "longer.pt")
        net = train_fine(more, crops, args.seed, VARIANTS[AGAIN], out / "unused.pt")
        result["longer"] = score(net, train, test)
        file.write_text(json.dumps(result, indent=1))


def draw(net: C2FNet, test: list[Scene], out: Path, name: str) -> None:
    """Image, truth, coarse answer and refined answer of every scored image, in WORK."""
    palette = np.array(INFO.palette, np.uint8)
    for scene in test:
        answer = net.detailed(scene.image[None])
        pixels = scene.image.permute(1, 2, 0).numpy()
        row = [pixels]
        row += [
            pictures.overlay(pixels, labels.numpy(), palette, INFO.small_classes)
            for labels in (scene.truth, answer.coarse_labels[0], answer.labels[0])
        ]
        write_png(out / f"{scene.name} {name}.png", np.concatenate(row, axis=1))


def report(args: argparse.Namespace) -> None:
    """Prints Markdown: mean and standard deviation over seeds."""
    for split in ("blocks", "cross"):
        files = sorted(args.work.glob(f"{split}-*.json"))
        if args.seeds is not None:
            files = [f for f in files if int(f.stem.rpartition("-")[2]) in args.seeds]
        if not files:
            continue
        results = [json.loads(f.read_text()) for f in files]
        print(f"\n### {split}, {len(files)} seeds\n")
        print("| | small vehicle | large vehicle | gain, small | gain, large | windows | coverage |"
              " ECE |")  # fmt: skip
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        first = [next(r[name] for name in VARIANTS if name in r) for r in results]
        print(line("coarse alone", first, "coarse"))
        for name in VARIANTS:
            having = [r[name] for r in results if name in r]
            if having:
                rules = [k for k in having[0] if k.startswith(RULES)] if args.rules else []
                for answer in ("refined", *rules):
                    print(line(name if answer == "refined" else f"... {answer}", having, answer))
        longer = [
            (r["longer"], f["coarse"]) for r, f in zip(results, first, strict=True) if "longer" in r
        ]
        if longer:
            text = f"coarse alone, {LONGER_STEPS} steps"
            print(line(text, [r | {"base": base} for r, base in longer], "coarse"))
            print(line("... and itself again", [r for r, _ in longer], "refined"))


def line(name: str, found: list[dict[str, Any]], answer: str) -> str:
    """A row of the table; gains are over the coarse answer of the same seed."""
    cells = [spread([f[answer][kind] for f in found]) for kind in ("small", "large")]
    if answer != "coarse" or "base" in found[0]:
        cells += [
            spread([f[answer][kind] - f.get("base", f["coarse"])[kind] for f in found], "+")
            for kind in ("small", "large")
        ]
    if answer == "refined":
        cells += [f"{statistics.mean(f['windows'] for f in found):.0f}"]
        cells += [f"{statistics.mean(f['coverage'] for f in found):.0%}"]
        cells += [f"{statistics.mean(f['calibration']['ece'] for f in found):.3f}"]
    cells += [""] * (7 - len(cells))
    few = f" ({len(found)} seeds)" if len(found) < 4 else ""
    return f"| {name}{few} | " + " | ".join(cells) + " |"


def spread(values: list[float], sign: str = "") -> str:
    if len(values) == 1:
        return f"{values[0]:{sign}.1f}"
    return f"{statistics.mean(values):{sign}.1f} ± {statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run", help="one seed of one split")
    one.add_argument("isaid", type=Path)
    one.add_argument("work", type=Path)
    one.add_argument("--split", choices=("blocks", "cross"), default="blocks")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--shrink", type=int, default=2, help="how many times smaller (2); 1 is full "
                     "size, and wants a WORK of its own")  # fmt: skip
    one.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    one.add_argument("--longer", action="store_true", help="train the fair baseline, too")
    one.add_argument("--threads", type=int, default=1)
    one.set_defaults(do=run)
    table = commands.add_parser("report", help="mean and spread over the seeds")
    table.add_argument("work", type=Path)
    table.add_argument("--seeds", type=int, nargs="+", help="of these alone")
    table.add_argument("--rules", action="store_true", help="other ways to merge, too")
    table.set_defaults(do=report)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
