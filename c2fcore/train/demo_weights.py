"""Train the demo weights on synthetic scenes: `python -m c2fcore.train.demo_weights --out DIR`.

Stage 1 trains a coarse `TinyFCN` on all classes. Stage 2 freezes it and trains a fine `TinyFCN`
through `C2FNet.fine_loss`, on the windows that the coarse network's own output selects. Both see
the same scenes. The result is evaluated on validation scenes and saved with `save_pretrained`.
Scenes come from disjoint ranges of seeds, so that no test scene was ever trained on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from c2fcore.data.scenes import CLASSES, SMALL_CLASSES, make_scene
from c2fcore.models.tiny import TinyFCN

TRAIN_SEEDS = range(10_000)
VAL_SEEDS = range(10_000, 20_000)
TEST_SEEDS = range(20_000, 30_000)
# Of images in 0..1; the scenes' own statistics to one digit, the same for both networks.
MEAN: tuple[float, float, float] = (0.4, 0.4, 0.4)
STD: tuple[float, float, float] = (0.2, 0.2, 0.2)

Scenes = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # [S, H, W, 3], [S, H, W]


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
        for i, (image, label) in enumerate(tqdm(done, "scenes", len(jobs))):
            images[i], labels[i] = image, label
    return images, labels


def crops(scenes: Scenes, side: int, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless random crops, turned and mirrored.

    Each crop is the one of two random places that holds more small-object pixels: they are about
    one pixel in a hundred, and a batch without any teaches the rare classes nothing.

    Yields:
        image uint8 [batch, 3, side, side] and labels int64 [batch, side, side].
    """
    images, labels = scenes
    rng = np.random.default_rng(seed)
    small = np.isin(labels, SMALL_CLASSES)
    while True:
        xs, ys = [], []
        for _ in range(batch):
            i = int(rng.integers(len(images)))
            places = rng.integers(0, images.shape[1] - side + 1, (2, 2))
            y, x = max(places, key=lambda p: small[i, p[0] : p[0] + side, p[1] : p[1] + side].sum())
            image, label = (a[i, y : y + side, x : x + side] for a in scenes)
            turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
            image, label = np.rot90(image, turns), np.rot90(label, turns)
            if mirror:
                image, label = image[:, ::-1], label[:, ::-1]
            xs.append(image.transpose(2, 0, 1))
            ys.append(label)
        yield torch.from_numpy(np.stack(xs)), torch.from_numpy(np.stack(ys).astype(np.int64))


def normalize(image: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to float32, normalised, channels_last (faster convolutions on CPUs)."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return ((image.float() / 255.0 - mean) / std).contiguous(memory_format=torch.channels_last)


def _schedule(
    model: nn.Module, steps: int, peak: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.02)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, steps, pct_start=0.15)


def train_coarse(scenes: Scenes, steps: int, *, side: int, batch: int, seed: int) -> TinyFCN:
    """Stage 1: cross-entropy at full resolution on the upsampled logits."""
    torch.manual_seed(seed)
    model = TinyFCN(len(CLASSES)).to(memory_format=torch.channels_last)
    optimizer, schedule = _schedule(model, steps, 4e-3)
    source = crops(scenes, side, batch, seed)
    running = None
    for _ in (bar := tqdm(range(steps), "coarse")):
        image, label = next(source)
        logits = model(normalize(image))
        logits = F.interpolate(logits, size=label.shape[-2:], mode="bilinear")
        loss = F.cross_entropy(logits, label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        value = float(loss.detach())
        running = value if running is None else 0.98 * running + 0.02 * value
        bar.set_postfix(loss=f"{running:.3f}")
    return model.eval()


def confusion(truth: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Pixel counts int64 [N, N], rows are the truth."""
    index = truth.reshape(-1).long() * num_classes + labels.reshape(-1).long()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


def iou(matrix: Tensor) -> list[float]:
    """Per-class intersection over union in percent; nan for a class that never occurs."""
    hit = matrix.diagonal().double()
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return [float(v) for v in 100.0 * hit / union.double()]


@torch.no_grad()
def evaluate_coarse(model: nn.Module, scenes: Scenes) -> list[float]:
    """Per-class IoU (percent) of the coarse network alone; scene sides must be multiples of 32."""
    total = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64)
    for image, label in tqdm(zip(*scenes, strict=True), "coarse IoU", len(scenes[0])):
        logits = model(normalize(torch.from_numpy(image.transpose(2, 0, 1))[None]))
        logits = F.interpolate(logits, size=label.shape, mode="bilinear")
        total += confusion(torch.from_numpy(label), logits.argmax(1), len(CLASSES))
    return iou(total)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parser.add_argument("--scenes", type=int, default=200, help="training scenes")
    parser.add_argument("--val-scenes", type=int, default=24, help="validation scenes")
    parser.add_argument("--size", type=int, default=768, help="side of a scene, a multiple of 32")
    parser.add_argument("--coarse-steps", type=int, default=1200)
    parser.add_argument("--workers", type=int, default=2, help="processes that make scenes")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Command line entry."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    train = make_scenes(TRAIN_SEEDS[: args.scenes], args.size, args.workers)
    coarse = train_coarse(train, args.coarse_steps, side=256, batch=8, seed=args.seed)
    val = make_scenes(VAL_SEEDS[: args.val_scenes], args.size, args.workers)
    report = dict(zip(CLASSES, evaluate_coarse(coarse, val), strict=True))
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(coarse.state_dict(), args.out / "coarse.pt")
    print(json.dumps({"coarse IoU": {k: round(v, 2) for k, v in report.items()}}, indent=2))


if __name__ == "__main__":
    main()
