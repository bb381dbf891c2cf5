"""Does the second look help on real pixels? Trains on iSAID images, scores on parts left out.

    python benchmarks/real_pixels.py run ISAID WORK --split blocks --seed 0
    python benchmarks/real_pixels.py report WORK

ISAID is a raw iSAID folder with at least two images. Split "blocks" cuts every image into 4 x 4
blocks; six of 16 are tested on, the others, less a guard band around the tested ones, trained on.
The training images are grey where they are tested on: no pixel of a tested block is ever seen in
training. Split "cross" trains on the first split of the data set and tests on the last.

Stage 1 is trained, then stage 2 on top of it in several variants, and, as the fair baseline, stage
1 anew for as many steps as both together cost in CPU time. Everything goes through `c2f train`,
from scratch, with the strong augmentation of the configuration "small". Images, weights and
pictures stay in WORK; none belong into a repository.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from c2fcore import C2FNet, metrics, ops, pictures
from c2fcore.checkpoint import load_coarse
from c2fcore.cli import main as c2f
from c2fcore.data import sources
from c2fcore.data.catalogue import DATASETS, IGNORED
from c2fcore.data.masks import MaskDecoder, read_mask
from c2fcore.images import read_rgb, write_png
from c2fcore.train.command import train

INFO = DATASETS["isaid"]
SMALL_VEHICLE, LARGE_VEHICLE = (INFO.class_names.index(n + "_vehicle") for n in ("small", "large"))
BLOCKS, TESTED, GUARD = 4, 6, 16  # blocks a side, of each image tested, width of the band in pixels
GREY = 128

COMMON = ["--config", "small", "--data.val=null", "--data.batch_size=6", "--data.workers=0",
          "--augment.crop=160", "--augment.hue=0.1", "--trainer.enable_progress_bar=false",
          "--trainer.enable_model_summary=false", "--recipe.warmup=50"]  # fmt: skip
# Four times as many windows as "small" has, of half the side, as preset "fast": the same area.
FINE = ["--c2f.n=128", "--train_n=3", "--balance=none"]
VARIANTS = {
    "fast": [],
    "windows of the coarse answer": ["--loss.windows_from=coarse"],
    "false alarms added": ["--loss.negatives=1"],
    "classes balanced": ["--balance=sqrt"],
    "small classes balanced": ["--balance=small"],
    "same, zoom 1 and windows of 128": [
        "--balance=small",
        "--c2f.zoom=1",
        "--c2f.window=128",
        "--c2f.n=32",
        "--train_n=2",
    ],
    "borders x 4": ["--loss.boundary_weight=4"],
    "random windows": ["--loss.sampling=random"],
}
# Changes of the configuration that need no training, scored on variant "fast".
SCORED: dict[str, dict[str, Any]] = {
    'rule "official"': {"rule": "official"},
    'strategy "top"': {"strategy": "top"},
    "32 windows": {"n": 32},
}


class Scene(NamedTuple):
    """An image to score on: name, uint8 [3, H, W], uint8 [H, W] with 255 where it is not scored."""

    name: str
    image: Tensor
    truth: Tensor


def scenes(root: Path) -> Iterator[tuple[str, Scene]]:
    """Split and scene of every image of the data set."""
    decode = MaskDecoder(INFO, "rgb")
    found = sources.find(INFO, root, sources.guess_layout(INFO, root), None, "eroded")
    for split, pairs in found.items():
        for pair in pairs:
            truth = torch.from_numpy(decode(read_mask(pair.mask))[0])
            image = torch.from_numpy(read_rgb(pair.image).copy()).permute(2, 0, 1)
            yield split, Scene(pair.image.stem, image, truth)


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


def split_data(root: Path, split: str, seed: int, out: Path) -> list[Scene]:
    """Writes the training images as tiles below `out`; returns what is scored."""
    generator = np.random.default_rng(seed)
    everything = list(scenes(root))
    train_split = everything[0][0]
    test: list[Scene] = []
    trained = 0.0
    for name, scene in everything:
        tested = tested_blocks(scene.truth, generator)
        if split == "cross":
            tested = torch.full_like(tested, name != train_split)
        if tested.any():
            test.append(scene._replace(truth=scene.truth.masked_fill(~tested, IGNORED)))
        if tested.all():
            continue
        band = F.max_pool2d(tested.float()[None, None], 2 * GUARD + 1, 1, GUARD)[0, 0] > 0
        trained += float((~band).float().mean())
        image = scene.image.masked_fill(tested, GREY).permute(1, 2, 0).numpy()
        truth = scene.truth.masked_fill(band, IGNORED).numpy()
        for kind, pixels in (("images", image), ("masks", truth)):
            folder = out / "raw" / "train" / kind
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{scene.name}.png")
    print(f"{split} {seed}: trained on {trained / len(everything):.0%} of the area")
    small = [INFO.class_names[c] for c in INFO.small_classes]
    c2f(["prepare", "custom", str(out / "raw"), "-o", str(out / "tiles"), "--tile", "256",
         "--overlap", "128", "--workers", "0", "--classes", ",".join(INFO.class_names),
         "--small", *small])  # fmt: skip
    return test


def trained(stage: str, arguments: list[str], out: Path) -> tuple[Path, float]:
    """Checkpoint and CPU seconds of a training; one that is there is taken."""
    timing = out / "seconds.json"
    if not timing.is_file():
        start = time.process_time()
        train(stage, [*COMMON, *arguments, f"--out={out}"])
        timing.write_text(json.dumps(time.process_time() - start))
    return out / "checkpoint", float(json.loads(timing.read_text()))


def score(net: C2FNet, test: list[Scene], calibrated: bool = False) -> dict[str, Any]:
    """IoU of both answers, coverage, and how sure the fine network is of what."""
    n = net.config.num_classes
    before, after = (torch.zeros((n, n), dtype=torch.int64) for _ in range(2))
    covered, small_px, windows = 0, 0, 0
    sure: list[tuple[Tensor, Tensor]] = []
    for scene in test:
        image, truth = scene.image[None], scene.truth[None]
        answer = net.detailed(image)
        before += metrics.confusion_matrix(answer.coarse_labels, truth, n)
        after += metrics.confusion_matrix(answer.labels, truth, n)
        small = torch.isin(truth, torch.tensor(net.config.small_classes))
        seen = metrics.covered_mask(answer.windows, *truth.shape[1:])
        covered, small_px = covered + int((small & seen).sum()), small_px + int(small.sum())
        windows += int(answer.windows.num.sum())
        if calibrated:
            sure.append(confidence(net, image, truth, answer.windows))
    found = {
        "coarse": ious(before),
        "refined": ious(after),
        "coverage": covered / small_px,
        "windows": windows / len(test),
    }
    if calibrated:
        found["calibration"] = calibration(*(torch.cat(t) for t in zip(*sure)))
    return found


@torch.no_grad()
def confidence(net: C2FNet, image: Tensor, truth: Tensor, windows: Any) -> tuple[Tensor, Tensor]:
    """p_f and truth of every scored pixel of the windows."""
    c = net.config
    look = {"zoom": c.zoom, "mean": c.mean, "std": c.std}
    patches = ops.extract_patches(image, windows, **look)[: int(windows.num)]
    targets = ops.extract_targets(truth, windows, c.small_classes)[: int(windows.num)]
    if not len(patches):
        return torch.zeros(0), torch.zeros(0)
    logits = torch.cat([net.fine(some) for some in patches.split(c.max_batch)])
    p = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear")[:, 0].sigmoid()
    return p[targets != IGNORED], targets[targets != IGNORED].float()


def calibration(p: Tensor, target: Tensor, bins: int = 10) -> dict[str, Any]:
    """Mean p_f and share of small-object pixels per bin of p_f, and their mean distance (ECE)."""
    bin_ = (p * bins).long().clamp(max=bins - 1)
    count = torch.bincount(bin_, minlength=bins).clamp(min=1)
    mean, share = (torch.bincount(bin_, v, bins) / count for v in (p, target))
    filled = torch.bincount(bin_, minlength=bins)
    ece = float(((mean - share).abs() * filled).sum() / filled.sum().clamp(min=1))
    return {"ece": ece, "p": mean.tolist(), "share": share.tolist(), "pixels": filled.tolist()}


def ious(matrix: Tensor) -> dict[str, float]:
    found = 100 * metrics.iou(matrix)
    return {
        "small": float(found[SMALL_VEHICLE]),
        "large": float(found[LARGE_VEHICLE]),
        "background": float(found[0]),
    }


def run(args: argparse.Namespace) -> None:
    """One seed of one split: trains, scores, and writes WORK/SPLIT-SEED.json."""
    torch.set_num_threads(args.threads)
    out = args.work / f"{args.split}-{args.seed}"
    test = split_data(args.isaid, args.split, args.seed, out)
    base = [f"--data.root={out / 'tiles'}", f"--seed={args.seed}"]
    steps, fine_steps = args.coarse_steps, args.fine_steps
    coarse, coarse_s = trained("coarse", [*base, f"--trainer.max_steps={steps}"], out / "coarse")
    result_file = args.work / f"{args.split}-{args.seed}.json"
    result = json.loads(result_file.read_text()) if result_file.is_file() else {}
    result.setdefault("seconds", {})["coarse"] = coarse_s
    for name in args.variants:
        if name in result:  # of an earlier run
            continue
        own = [*base, *FINE, f"--coarse={coarse}", f"--trainer.max_steps={fine_steps}"]
        folder = out / name.replace(" ", "-")
        path, result["seconds"][name] = trained("fine", [*own, *VARIANTS[name]], folder)
        net = C2FNet.from_pretrained(path)
        result[name] = score(net, test, calibrated=True)
        if name == "fast":
            draw(net, test, out)
            own_config = net.config
            for change, changes in SCORED.items():
                net.config = own_config.replace(**changes)
                result[change] = score(net, test)
            more = round(steps * (1 + result["seconds"]["fast"] / coarse_s))
            longer = [*base, f"--trainer.max_steps={more}"]
            path, result["seconds"]["longer"] = trained("coarse", longer, out / "longer")
            own_coarse, _ = load_coarse(path)
            net = C2FNet(own_coarse, net.fine, own_config).eval()
            result["coarse, longer"] = score(net, test)
        result_file.write_text(json.dumps(result, indent=1))
        print(name, result[name])


def draw(net: C2FNet, test: list[Scene], out: Path) -> None:
    """Truth, coarse answer and refined answer of every scored image, in WORK."""
    palette = np.array(INFO.palette, np.uint8)
    for scene in test:
        answer = net.detailed(scene.image[None])
        pixels = scene.image.permute(1, 2, 0).numpy()
        row = [
            pictures.overlay(pixels, labels, palette, INFO.small_classes)
            for labels in (scene.truth.numpy(), answer.coarse_labels[0].numpy(),
                           answer.labels[0].numpy())
        ]  # fmt: skip
        write_png(out / f"{scene.name}.png", np.concatenate(row, axis=1))


def report(args: argparse.Namespace) -> None:
    """Prints Markdown: mean and standard deviation over seeds."""
    for split in ("blocks", "cross"):
        files = sorted(args.work.glob(f"{split}-*.json"))
        if not files:
            continue
        results = [json.loads(f.read_text()) for f in files]
        print(f"\n### {split}, {len(files)} seeds\n")
        print("| | small vehicle | large vehicle | mean | gain | windows | coverage | ECE |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        print(line("coarse alone", [r["fast"] for r in results], "coarse"))
        print(line("coarse alone, stage 2's budget added", [r["coarse, longer"] for r in results],
                   "coarse"))  # fmt: skip
        for name in [*VARIANTS, *SCORED, "coarse, longer"]:
            having = [r[name] for r in results if name in r]
            if having:
                text = "fine on the longer coarse" if name == "coarse, longer" else name
                print(line(text, having, "refined"))


def line(name: str, found: list[dict[str, Any]], answer: str) -> str:
    small, large = ([f[answer][k] for f in found] for k in ("small", "large"))
    mean = [(a + b) / 2 for a, b in zip(small, large)]
    cells = [spread(small), spread(large), spread(mean)]
    if answer == "refined":
        gain = [m - (f["coarse"]["small"] + f["coarse"]["large"]) / 2 for m, f in zip(mean, found)]
        cells += [spread(gain), f"{statistics.mean(f['windows'] for f in found):.0f}"]
        cells += [f"{statistics.mean(f['coverage'] for f in found):.0%}"]
        known = [f["calibration"]["ece"] for f in found if "calibration" in f]
        cells += [f"{statistics.mean(known):.3f}" if known else ""]
    else:
        cells += ["", "", "", ""]
    few = "" if len(found) > 1 else " (one seed)"
    return f"| {name}{few} | " + " | ".join(cells) + " |"


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run", help="one seed of one split")
    one.add_argument("isaid", type=Path)
    one.add_argument("work", type=Path)
    one.add_argument("--split", choices=("blocks", "cross"), default="blocks")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--variants", nargs="+", choices=VARIANTS, default=["fast"])
    one.add_argument("--coarse-steps", type=int, default=600)
    one.add_argument("--fine-steps", type=int, default=300)
    one.add_argument("--threads", type=int, default=1)
    one.set_defaults(do=run)
    table = commands.add_parser("report", help="mean and spread over the seeds")
    table.add_argument("work", type=Path)
    table.set_defaults(do=report)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
