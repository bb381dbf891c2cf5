"""Training for real_pixels.py: both stages on crops drawn once, without a data loader.

The networks, losses, augmentation and recipe are those of `c2f train` with the configurations
"small"; only the loop is another, several times cheaper, so that many variants fit into an hour of
one CPU core. Weights are kept in the work folder, and taken from there if they exist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c2fcore import C2FConfig, C2FNet, _stages
from c2fcore._fine_loss import FineLoss
from c2fcore.data.augment import Augment
from c2fcore.data.catalogue import DATASETS, IGNORED
from c2fcore.models import build, foreground_of
from c2fcore.train.recipe import Recipe, class_weights
from c2fcore.train.tasks import CoarseLoss

INFO = DATASETS["isaid"]
CLASSES = len(INFO.class_names)
CROPS, CROP = 1000, 96  # crops drawn, and their side
GREY = 128  # of pixels that training does not see
RECIPE = Recipe(optimizer="adamw", lr=0.004, weight_decay=0.02, warmup=50)
CHANNELS_LAST = torch.channels_last

Pair = tuple[Tensor, Tensor]  # uint8 [3, H, W] and uint8 [H, W], or batches of them


@dataclass(frozen=True)
class Variant:
    """How stage 2 is trained, and how it looks.

    Attributes:
        balance: of `class_weights`.
        start: "new", a network of one channel at stride 2; "warm", that with the coarse network's
            weights where names and shapes agree; "coarse", the coarse network as `Foreground`.
        steps: of training; with 0 a start "coarse" looks again as it is.
        lr: highest learning rate.
        loss: fields of FineLoss.
        config: fields of C2FConfig.
        train_n: windows per crop.
        crops: per step.
    """

    balance: str = "small"
    start: str = "new"
    steps: int = 400
    lr: float = 0.004
    loss: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    train_n: int = 1
    crops: int = 6


def configuration(**changes: Any) -> C2FConfig:
    """Windows of 64 at zoom 2, as in the configuration "small"; as many as coverage asks for."""
    values = {"window": 64, "stride": 32, "n": 64, "zoom": 2.0, "max_batch": 16, "mean": 0.5,
              "std": 0.5, "channels_last": True, **changes}  # fmt: skip
    return C2FConfig.preset("fast", num_classes=CLASSES, small_classes=INFO.small_classes, **values)


def draw_crops(images: list[Pair], seed: int, file: Path) -> Pair:
    """CROPS augmented crops of scale 0.5 to 2, kept in `file`.

    Every other one is around a random pixel of a random small class, the rest around any labelled
    pixel, near the image's border as often as elsewhere.
    """
    if file.is_file():
        kept: Pair = torch.load(file)
        return kept
    torch.manual_seed(seed)
    padded = [
        (F.pad(image, [2 * CROP] * 4, value=GREY), F.pad(labels, [2 * CROP] * 4, value=IGNORED))
        for image, labels in images
    ]
    places = {c: _places(padded, lambda t, c=c: t == c) for c in INFO.small_classes}
    rare = [found for found in places.values() if len(found)]
    anywhere = _places(padded, lambda t: t != IGNORED)
    augment = Augment(crop=CROP, scales=(1, 1), turns=True, distort=0.4, hue=0.1)
    crops: list[Pair] = []
    while len(crops) < CROPS:
        pool = rare[_below(len(rare))] if len(crops) % 2 else anywhere
        index, y, x = pool[_below(len(pool))].tolist()
        side = round(CROP / (0.5 + 1.5 * float(torch.rand(()))))
        y, x = y - _below(side), x - _below(side)
        image, labels = (t[..., y : y + side, x : x + side] for t in padded[index])
        pixels = F.interpolate(image[None].float(), (CROP, CROP), mode="bilinear", antialias=True)
        target = F.interpolate(labels[None, None], (CROP, CROP), mode="nearest-exact")
        crops.append(augment(pixels[0].round().to(torch.uint8), target[0, 0]))
    drawn = torch.stack([c[0] for c in crops]), torch.stack([c[1] for c in crops])
    torch.save(drawn, file)
    return drawn


def _places(images: list[Pair], wanted: Callable[[Tensor], Tensor]) -> Tensor:
    """(image, y, x) of all pixels whose label is wanted, [P, 3]."""
    found = (wanted(labels).nonzero() for _, labels in images)
    return torch.cat([F.pad(p, (1, 0), value=i) for i, p in enumerate(found)])


def _below(limit: int) -> int:
    return int(torch.randint(limit, ()))


def batches(crops: Pair, size: int, seed: int) -> Iterator[Pair]:
    """Endless batches, each turned and mirrored anew."""
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=generator)

    while True:
        chosen, turns, mirror = draw(len(crops[0]), size), int(draw(4)), int(draw(2))
        pair = tuple(torch.rot90(t[chosen], turns, (-2, -1)) for t in crops)
        image, labels = (t.flip(-1) for t in pair) if mirror else pair
        yield image.contiguous(), labels.contiguous()


def weights_of(balance: str, crops: Pair) -> tuple[float, ...] | None:
    """Weight of each class in the loss, by its pixels in the crops."""
    counts = torch.bincount(crops[1].flatten().long(), minlength=256)[:CLASSES].tolist()
    return class_weights(balance, counts, CLASSES, INFO.small_classes)


def train_coarse(crops: Pair, seed: int, steps: int, file: Path) -> nn.Module:
    """Stage 1, classes balanced by "sqrt"."""
    torch.manual_seed(seed)
    network = build("tiny_fcn", CLASSES).to(memory_format=CHANNELS_LAST)
    loss, config = CoarseLoss(class_weights=weights_of("sqrt", crops)), configuration()

    def loss_of(image: Tensor, labels: Tensor) -> Tensor:
        pixels = _stages.normalise(image, config).contiguous(memory_format=CHANNELS_LAST)
        return loss([network(pixels)], labels)

    _optimised(network, loss_of, batches(crops, 8, seed), steps, file)
    return network.eval()


def train_fine(
    coarse: nn.Module, crops: Pair, seed: int, variant: Variant,
    file: Path,
) -> C2FNet:  # fmt: skip
    """Stage 2 of one variant on top of `coarse`."""
    torch.manual_seed(seed + 100)
    if variant.start == "coarse":
        fine: nn.Module = foreground_of(coarse, INFO.small_classes)
    else:
        fine = build("tiny_fcn", 1, output_stride=2)
        if variant.start == "warm":
            warm_start(fine, coarse)
    fine = fine.to(memory_format=CHANNELS_LAST)
    config = configuration(**variant.config)
    weights = weights_of(variant.balance, crops)
    loss = FineLoss(**{"windows_from": "both", "class_weights": weights, **variant.loss})
    net = C2FNet(coarse, fine, config.replace(n=variant.train_n)).train()

    def loss_of(image: Tensor, labels: Tensor) -> Tensor:
        return net.fine_loss(image, labels, loss)

    _optimised(
        fine, loss_of, batches(crops, variant.crops, seed + 100), variant.steps, file, variant.lr
    )
    net.config = config
    return net.eval()


def warm_start(fine: nn.Module, coarse: nn.Module) -> None:
    """Copies every tensor of `coarse` that `fine` has under the same name in the same shape."""
    own = fine.state_dict()
    same = {k: v for k, v in coarse.state_dict().items() if k in own and own[k].shape == v.shape}
    fine.load_state_dict(same, strict=False)


def _optimised(
    network: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    source: Iterator[Pair],
    steps: int,
    file: Path,
    lr: float = RECIPE.lr,
) -> None:
    if not steps:
        return
    if file.is_file():
        network.load_state_dict(torch.load(file))
        return
    optimizer, schedule = replace(RECIPE, lr=lr).build(network.parameters(), steps)
    start = time.process_time()
    for _ in range(steps):
        loss = loss_of(*next(source))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"{file.stem}: {steps} steps, {time.process_time() - start:.0f} CPU seconds", flush=True)
    torch.save(network.state_dict(), file)
