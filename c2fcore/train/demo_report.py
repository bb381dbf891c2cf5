"""Score a checkpoint on synthetic scenes: `python -m c2fcore.train.demo_report DIR --split test`.

Prints Markdown: scores per class of the coarse answer and after the second look, for the
checkpoint's own settings and for variants of them.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from c2fcore import metrics
from c2fcore.config import names_of
from c2fcore.data.scenes import CLASSES, PALETTE, make_scene
from c2fcore.data.tiling import Box
from c2fcore.evaluation import report
from c2fcore.evaluation.predictor import TwoStages
from c2fcore.evaluation.runner import Result, evaluate
from c2fcore.evaluation.samples import Scene, Tile
from c2fcore.evaluation.tally import Measures
from c2fcore.pipeline import C2FNet

VAL_SEEDS = range(10_000, 20_000)  # every choice was made on these
TEST_SEEDS = range(20_000, 30_000)  # and scored on these, once it was made
_SPLITS = {"val": VAL_SEEDS, "test": TEST_SEEDS}
# Changes of the configuration that are scored next to the checkpoint's own; n is a factor.
VARIANTS: dict[str, dict[str, Any]] = {
    'as shipped (rule "normalized")': {},
    'rule "paper"': {"rule": "paper"},
    'rule "official"': {"rule": "official"},
    "zoom 1": {"zoom": 1.0},
    'strategy "top"': {"strategy": "top"},
    "half as many windows": {"n": 0.5},
    "twice as many windows": {"n": 2.0},
}


class SceneSamples:
    """Synthetic scenes, each shown whole: `evaluation.samples.Samples` of seeds.

    Args:
        seeds: one per scene.
        size: side of the scenes, pixels.
    """

    name = "synthetic scenes"
    class_names = CLASSES
    palette = tuple((int(r), int(g), int(b)) for r, g, b in PALETTE)

    def __init__(self, seeds: Iterable[int], size: int) -> None:
        whole = Box(0, 0, size, size)
        self.scenes = tuple(
            Scene(str(seed), size, size, (Tile(str(seed), whole),)) for seed in seeds
        )
        self._made = functools.cache(make_scene)  # every variant looks at them again

    def read(self, scene: Scene, tile: Tile) -> tuple[Tensor, Tensor]:
        """Pixels uint8 [3, size, size] and ids uint8 [size, size]."""
        made = self._made(int(scene.name), scene.height)
        pixels = torch.from_numpy(made.image).permute(2, 0, 1).contiguous()
        return pixels, torch.from_numpy(made.labels)


def score(net: C2FNet, samples: SceneSamples, **changes: Any) -> Result:
    """Counts of `net` on scenes, with changes of its configuration; n is a factor on its own."""
    own = net.config
    if own.n and "n" in changes:
        changes["n"] = round(own.n * changes["n"])
    net.config = own.replace(**changes)
    try:
        return evaluate(TwoStages(net), samples, measures=Measures(boundary=0, sizes=None))
    finally:
        net.config = own


def table(net: C2FNet, result: Result) -> str:
    """Markdown table of IoU and F1 per class in percent, and lines on windows and speed."""
    return report.markdown(report.summarise(result, names_of(net.config)))


def variants_table(net: C2FNet, results: dict[str, Result]) -> str:
    """Markdown table with one row per variant: refined IoU of the small classes."""
    names = names_of(net.config)
    small = sorted(net.config.small_classes)
    large = [c for c in range(len(names)) if c not in small]
    head = ["setting", *(names[c] for c in small), "mean", "worst large class", "windows",
            "coverage"]  # fmt: skip
    before = 100 * metrics.iou(next(iter(results.values())).coarse.confusion)

    def of_small(iou: Tensor) -> list[str]:
        return [f"{value:.1f}" for value in (*iou[small].tolist(), float(iou[small].nanmean()))]

    rows = [["coarse alone", *of_small(before), "", "", ""]]
    for name, result in results.items():
        assert result.refined is not None
        after = 100 * metrics.iou(result.refined.confusion)
        worst = min(large, key=lambda c: float(after[c] - before[c]))
        loss = f"{names[worst]} {after[worst] - before[worst]:+.2f}"
        covered = result.covered_px / max(1, result.small_px)
        windows = f"{result.windows / result.tiles:.1f}"
        rows.append([name, *of_small(after), loss, windows, f"{covered:.1%}"])
    return report.table(head, rows)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("checkpoint", help="folder written by save_pretrained")
    parser.add_argument("--split", choices=sorted(_SPLITS), default="val")
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="without the variants")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net = C2FNet.from_pretrained(args.checkpoint)
    samples = SceneSamples(_SPLITS[args.split][: args.scenes], args.size)
    variants = list(VARIANTS.items())[: 1 if args.plain else None]
    results = {name: score(net, samples, **changes) for name, changes in variants}
    print(f"{args.scenes} {args.split} scenes of {args.size} x {args.size}\n")
    print(table(net, next(iter(results.values()))))
    if len(results) > 1:
        print(variants_table(net, results))


if __name__ == "__main__":
    main()
