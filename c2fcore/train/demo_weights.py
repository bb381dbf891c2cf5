"""Train the demo weights on synthetic scenes: `python -m c2fcore.train.demo_weights --out DIR`.

Stage 1 trains a coarse `TinyFCN` on all classes. Stage 2 freezes it and trains a fine `TinyFCN`
through `C2FNet.fine_loss`, on windows of small objects that the coarse answer or the truth holds.
Both networks see crops of the same scenes. The pair is scored on validation scenes and saved with
`save_pretrained`; `c2fcore.train.demo_report` scores any checkpoint in more detail. Scenes come
from disjoint ranges of seeds, so that no test scene was ever trained on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from c2fcore._progress import Bar
from c2fcore.config import C2FConfig
from c2fcore.data.scenes import CLASSES, PALETTE, SMALL_CLASSES, make_scene
from c2fcore.models import build
from c2fcore.pipeline import C2FNet
from c2fcore.train.demo_report import TEST_SEEDS, VAL_SEEDS, SceneSamples, score, table

TRAIN_SEEDS = range(10_000)
# Of images in 0..1; the scenes' own statistics to one digit, the same for both networks.
MEAN: tuple[float, float, float] = (0.4, 0.4, 0.4)
STD: tuple[float, float, float] = (0.2, 0.2, 0.2)
# Of the small classes in the coarse network's loss. IoU is best with a decision threshold near half
# the F1 score, well below 1/2 for objects this small: unweighted, 85 % of the vehicle pixels
# went to the road around them.
SMALL_WEIGHT = 3.0

Scenes = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # [S, H, W, 3], [S, H, W]

assert TRAIN_SEEDS.stop <= VAL_SEEDS.start < VAL_SEEDS.stop <= TEST_SEEDS.start


def demo_config() -> C2FConfig:
    """How the demo networks look at an image.

    48 windows of 64 px hold 98 % of the small-object pixels of a scene of 768 x 768 (measured on
    the truth of the validation scenes), on less than a third of its area; at zoom 2 the fine
    network sees a car of 9 x 4 px at 18 x 8.
    """
    return C2FConfig.preset(
        "fast",
        num_classes=len(CLASSES),
        small_classes=SMALL_CLASSES,
        window=64,
        stride=32,
        n=48,
        zoom=2.0,
        max_batch=16,
        mean=MEAN,
        std=STD,
        channels_last=True,  # convolutions of such thin networks are faster that way on CPUs
        class_names=CLASSES,
        palette=PALETTE.tolist(),
    )


def _scene(job: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return tuple(make_scene(*job))  # type: ignore[return-value]


def make_scenes(seeds: Sequence[int], size: int, workers: int) -> Scenes:
    """Scenes of `seeds` in order: uint8 [S, size, size, 3] and uint8 [S, size, size]."""
    images = np.empty((len(seeds), size, size, 3), np.uint8)
    labels = np.empty((len(seeds), size, size), np.uint8)
    jobs = [(seed, size) for seed in seeds]
    # Spawned, not forked: torch may already run threads in this process.
    with ProcessPoolExecutor(max(workers, 1), mp_context=get_context("spawn")) as pool:
        done = pool.map(_scene, jobs, chunksize=2)
        for i, (image, label) in enumerate(Bar(done, "scenes", len(jobs))):
            images[i], labels[i] = image, label
    return images, labels


def crops(scenes: Scenes, side: int, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless random crops, turned and mirrored.

    Every other crop is taken anywhere, and every other one around a random pixel of a random small
    class: small objects are one pixel in a hundred, and a network that sees few of them learns that
    there are none.

    Yields:
        image uint8 [batch, 3, side, side] and labels int64 [batch, side, side].
    """
    images, labels = scenes
    limit = images.shape[1] - side
    rng = np.random.default_rng(seed)
    spots = [np.argwhere(labels == c).astype(np.int32) for c in SMALL_CLASSES]
    spots = [places for places in spots if len(places)]
    while True:
        xs, ys = [], []
        for k in range(batch):
            if spots and k % 2:
                places = spots[int(rng.integers(len(spots)))]
                i, *centre = (int(v) for v in places[int(rng.integers(len(places)))])
                # Anywhere in the crop, so that the network learns no place by heart.
                y, x = (min(max(v - int(rng.integers(side)), 0), limit) for v in centre)
            else:
                i = int(rng.integers(len(images)))
                y, x = (int(v) for v in rng.integers(0, limit + 1, 2))
            image, label = (a[i, y : y + side, x : x + side] for a in scenes)
            turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
            image, label = np.rot90(image, turns), np.rot90(label, turns)
            if mirror:
                image, label = image[:, ::-1], label[:, ::-1]
            xs.append(image.transpose(2, 0, 1))
            ys.append(label)
        yield torch.from_numpy(np.stack(xs)), torch.from_numpy(np.stack(ys).astype(np.int64))


def normalised(image: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to float32, normalised, channels_last."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((image.float() / 255.0 - mean) / std).contiguous(memory_format=torch.channels_last)


def _train(
    model: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    source: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    name: str,
) -> None:
    """AdamW with one cycle of the learning rate, on loss_of(image, labels)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.15)
    running = None
    for _ in (bar := Bar(range(steps), name)):
        loss = loss_of(*next(source))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        value = float(loss.detach())
        running = value if running is None else 0.98 * running + 0.02 * value
        bar.set_postfix(loss=f"{running:.4f}")


def train_coarse(scenes: Scenes, steps: int, *, side: int, batch: int, seed: int) -> nn.Module:
    """Stage 1: weighted cross-entropy at full resolution on the upsampled logits."""
    torch.manual_seed(seed)
    model = build("tiny_fcn", len(CLASSES)).to(memory_format=torch.channels_last)
    weight = torch.ones(len(CLASSES))
    weight[list(SMALL_CLASSES)] = SMALL_WEIGHT

    def loss_of(image: Tensor, labels: Tensor) -> Tensor:
        logits = F.interpolate(model(normalised(image)), size=labels.shape[-2:], mode="bilinear")
        return F.cross_entropy(logits, labels, weight)

    _train(model, loss_of, crops(scenes, side, batch, seed), steps, "coarse")
    return model.eval()


def train_fine(
    coarse: nn.Module,
    scenes: Scenes,
    config: C2FConfig,
    steps: int,
    *,
    side: int,
    batch: int,
    windows: int,
    seed: int,
    **options: Any,
) -> C2FNet:
    """Stage 2: `fine_loss` on up to `windows` windows of each crop, the coarse network frozen."""
    torch.manual_seed(seed + 1)
    fine = build("tiny_fcn", 1, **options).to(memory_format=torch.channels_last)
    net = C2FNet(coarse, fine, config.replace(n=windows)).train()

    def loss_of(image: Tensor, labels: Tensor) -> Tensor:
        # "both": windows of the coarse answer alone would never show what it missed.
        return net.fine_loss(image, labels, windows_from="both")

    _train(fine, loss_of, crops(scenes, side, batch, seed + 1), steps, "fine")
    net.config = config
    return net.eval()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--scenes", type=int, default=200, help="training scenes")
    parser.add_argument("--val-scenes", type=int, default=24, help="validation scenes")
    parser.add_argument("--size", type=int, default=768, help="side of a scene, a multiple of 32")
    parser.add_argument("--coarse-steps", type=int, default=2400)
    parser.add_argument("--fine-steps", type=int, default=1200)
    parser.add_argument("--workers", type=int, default=2, help="processes that make scenes")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Command line entry."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    start = time.perf_counter()

    def done(what: str) -> None:
        print(f"{what} after {time.perf_counter() - start:.0f} s", flush=True)

    scenes = make_scenes(TRAIN_SEEDS[: args.scenes], args.size, args.workers)
    done("scenes")
    coarse = train_coarse(scenes, args.coarse_steps, side=192, batch=8, seed=args.seed)
    done("coarse network")
    net = train_fine(
        coarse,
        scenes,
        demo_config(),
        args.fine_steps,
        side=192,
        batch=8,
        windows=4,
        seed=args.seed,
        output_stride=2,
    )
    done("fine network")
    net.save_pretrained(args.out, overwrite=True)
    print(table(net, score(net, SceneSamples(VAL_SEEDS[: args.val_scenes], args.size))))
    done("validation")


if __name__ == "__main__":
    main()
