"""Score a checkpoint on synthetic scenes: `python -m c2fcore.train.demo_report DIR --split test`.

Prints Markdown: IoU per class of the coarse answer and after the second look, for the checkpoint's
own settings and for variants of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from c2fcore import metrics
from c2fcore._progress import Bar
from c2fcore.config import names_of
from c2fcore.data.scenes import make_scene
from c2fcore.pipeline import C2FNet

VAL_SEEDS = range(10_000, 20_000)  # every choice was made on these
TEST_SEEDS = range(20_000, 30_000)  # and scored on these, once it was made
_SPLITS = {"val": VAL_SEEDS, "test": TEST_SEEDS}
# Changes of the configuration that are scored next to the checkpoint's own.
VARIANTS: dict[str, dict[str, Any]] = {
    'as shipped (rule "normalized")': {},
    'rule "paper"': {"rule": "paper"},
    'rule "official"': {"rule": "official"},
    "zoom 1": {"zoom": 1.0},
    'strategy "top"': {"strategy": "top"},
    "half as many windows": {"n": 0.5},
    "twice as many windows": {"n": 2.0},
}


class Score(NamedTuple):
    """What a network does on a set of scenes.

    Attributes:
        coarse: confusion matrix of the coarse answer, int64 [N, N].
        refined: the same after the second look.
        windows: windows looked at per scene.
        coverage: share of the small-object pixels inside them.
        seconds: network and glue, per scene.
    """

    coarse: Tensor
    refined: Tensor
    windows: float
    coverage: float
    seconds: float


def score(net: C2FNet, seeds: Iterable[int], size: int) -> Score:
    """Scores `net` on the scenes of `seeds`."""
    return score_variants(net, seeds, size, {"": {}})[""]


def score_variants(
    net: C2FNet, seeds: Iterable[int], size: int, variants: dict[str, dict[str, Any]]
) -> dict[str, Score]:
    """Scores `net` with each of `variants` of its configuration; n is a factor on its own n."""
    own = net.config
    ids = torch.tensor(own.small_classes)
    empty = torch.zeros((own.num_classes, own.num_classes), dtype=torch.int64)
    found = {name: Score(empty, empty, 0.0, 0.0, 0.0) for name in variants}
    configs = {}
    for name, changes in variants.items():
        factor = {"n": round(own.n * changes["n"])} if "n" in changes and own.n else {}
        configs[name] = own.replace(**{**changes, **factor})
    small_px, count = 0, 0
    for seed in Bar(list(seeds), "scenes"):
        scene = make_scene(seed, size)
        image = torch.from_numpy(scene.image).permute(2, 0, 1)[None]
        truth = torch.from_numpy(scene.labels)[None]
        small = torch.isin(truth, ids)
        small_px, count = small_px + int(small.sum()), count + 1
        for name, net.config in configs.items():
            start = time.perf_counter()
            answer = net.detailed(image)
            seconds = time.perf_counter() - start
            covered = metrics.covered_mask(answer.windows, *truth.shape[1:])
            was = found[name]
            found[name] = Score(
                was.coarse + metrics.confusion_matrix(answer.coarse_labels, truth, len(empty)),
                was.refined + metrics.confusion_matrix(answer.labels, truth, len(empty)),
                was.windows + int(answer.windows.num.sum()),
                was.coverage + int((small & covered).sum()),
                was.seconds + seconds,
            )
    net.config = own
    return {
        name: s._replace(
            windows=s.windows / max(count, 1),
            coverage=s.coverage / max(small_px, 1),
            seconds=s.seconds / max(count, 1),
        )
        for name, s in found.items()
    }


def table(net: C2FNet, result: Score) -> str:
    """Markdown table of IoU per class in percent, and a line on the windows."""
    names = names_of(net.config)
    small = sorted(net.config.small_classes)
    columns = [100 * metrics.iou(m) for m in (result.coarse, result.refined)]
    rows = [
        (names[c] + (" *" if c in small else ""), columns[0][c], columns[1][c])
        for c in range(len(names))
    ]
    before, after = (c[small].nanmean() for c in columns)
    rows.append(("mean of small *", before, after))
    lines = ["| class | coarse IoU | refined IoU | gain |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {a:.1f} | {b:.1f} | {b - a:+.2f} |" for name, a, b in rows]
    lines.append(
        f"\n{result.windows:.1f} windows per scene cover {result.coverage:.1%} of the small-object "
        f"pixels; {result.seconds:.2f} s per scene."
    )
    return "\n".join(lines)


def variants_table(net: C2FNet, results: dict[str, Score]) -> str:
    """Markdown table with one row per variant: refined IoU of the small classes."""
    names = names_of(net.config)
    small = sorted(net.config.small_classes)
    large = [c for c in range(len(names)) if c not in small]
    lines = [
        "| setting | "
        + " | ".join(names[c] for c in small)
        + " | mean | worst large class | windows | coverage |",
        "|---|" + "---:|" * (len(small) + 4),
    ]
    first = next(iter(results.values()))
    for name, result in {"coarse alone": None, **results}.items():
        before = 100 * metrics.iou(first.coarse)
        after = before if result is None else 100 * metrics.iou(result.refined)
        cells = [f"{after[c]:.1f}" for c in small] + [f"{after[small].nanmean():.1f}"]
        if result is None:
            cells += ["", "", ""]
        else:
            worst = min(large, key=lambda c: float(after[c] - before[c]))
            cells.append(f"{names[worst]} {after[worst] - before[worst]:+.2f}")
            cells += [f"{result.windows:.1f}", f"{result.coverage:.1%}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
    variants = dict(list(VARIANTS.items())[: 1 if args.plain else None])
    results = score_variants(net, _SPLITS[args.split][: args.scenes], args.size, variants)
    print(f"{args.scenes} {args.split} scenes of {args.size} x {args.size}\n")
    print(table(net, next(iter(results.values()))))
    if len(results) > 1:
        print("\n" + variants_table(net, results))


if __name__ == "__main__":
    main()
