"""Whole pipelines drawn from seeds: two networks, their configuration, images.

All weights are small multiples of powers of two, and so is what lies between the layers: float32
holds every sum, in whatever order it is made. Neither memory formats nor folded normalisations may
change a bit of any answer.
"""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from networks import FORMS
from torch import Tensor, nn

from c2fcore import C2FConfig, C2FNet, _stages

EPS = 2.0**-10
BRIGHTEST = 250  # of the images drawn here
DTYPES = (torch.uint8, torch.uint8, torch.uint16, torch.int16, torch.float16, torch.bfloat16,
          torch.float32, torch.float64)  # fmt: skip


def tidy(x: Tensor) -> Tensor:
    """Eighths in -16..16."""
    return (x * 8).round().clamp(-128, 128) / 8


def halves(draw: Random, *shape: int) -> Tensor:
    """Of -2..2, by halves."""
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    return torch.randint(-4, 5, shape, generator=generator) / 2


@torch.no_grad()
def conv(draw: Random, inside: int, outside: int, side: int, stride: int = 1) -> nn.Conv2d:
    made = nn.Conv2d(inside, outside, side, stride, side // 2, bias=draw.random() < 0.5)
    made.weight.copy_(halves(draw, *made.weight.shape) / (4 if side == 3 else 1))
    if made.bias is not None:
        made.bias.copy_(halves(draw, outside))
    return made


@torch.no_grad()
def norm(draw: Random, channels: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels, eps=EPS)
    made.running_mean.copy_(halves(draw, channels))
    made.running_var.copy_(4.0 ** halves(draw, channels).round() - EPS)
    made.weight.copy_(2.0 ** halves(draw, channels).round())
    made.bias.copy_(halves(draw, channels))
    return made


class Block(nn.Module):
    """A convolution and a normalisation, some of which must not become one."""

    def __init__(self, draw: Random, width: int) -> None:
        super().__init__()
        self.conv, self.norm = conv(draw, width, width, 3), norm(draw, width)
        self.kind = draw.choice(("plain", "both read", "called twice"))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "both read":
            return tidy(self.norm(y) + y)
        if self.kind == "called twice":
            return tidy(self.norm(self.conv(tidy(y))) + x)
        return tidy(self.norm(y) + x)


class Widest(nn.Module):
    """Every pixel sees all of its image: the padding, too."""

    def forward(self, x: Tensor) -> Tensor:
        return tidy(x + F.adaptive_max_pool2d(x, 1) / 2)


class Drawn(nn.Module):
    """A network of any layers, output stride, form; it may write into its input."""

    def __init__(self, draw: Random, inside: int, outside: int) -> None:
        super().__init__()
        self.form = draw.choice(list(FORMS))
        self.low_bits = draw.random() < 0.3
        self.writes = draw.random() < 0.2
        self.limit = float("inf")
        width, stride = draw.choice((2, 3, 4)), 1
        layers = [conv(draw, inside, width, draw.choice((1, 3))), norm(draw, width)]
        layers += [nn.ReLU(inplace=True)] if draw.random() < 0.5 else []
        layers += [nn.Hardtanh(-16, 16)] if draw.random() < 0.5 else []
        self.first = nn.Sequential(*layers)
        layers = []
        for _ in range(draw.randint(0, 3)):
            kind, by = (
                draw.choice(("conv", "pool", "block", "block", "widest")),
                draw.choice((2, 3)),
            )
            if kind in ("conv", "pool") and stride * by <= 8:
                pool = nn.MaxPool2d(by, ceil_mode=True)
                layers += [pool if kind == "pool" else conv(draw, width, width, 3, by)]
                stride *= by
            elif kind == "widest":
                layers += [Widest()]
            else:
                layers += [Block(draw, width)]
        self.middle = nn.Sequential(*layers)
        self.last = nn.Conv2d(width, outside, 1)
        self.full_size = draw.random() < 0.5
        # Elsewhere interpolating rounds: here and in the ops not at the same places.
        self.dyadic = stride in (1, 2, 4, 8) and draw.random() < 0.7
        if self.dyadic:
            self.stride_multiple = stride * draw.choice((1, 1, 2, 3))

    def features(self, image: Tensor) -> Tensor:
        if self.low_bits:  # sees when the last bit is another one
            image = (image.contiguous().view(torch.int32) & 15) / 2
        return tidy(self.middle(tidy(self.first(tidy(image)))))

    @torch.no_grad()
    def settle(self, draw: Random, image: Tensor) -> None:
        """A last layer with which no class wins everywhere."""
        self.last.weight.copy_(halves(draw, *self.last.weight.shape))
        logits = F.conv2d(self.features(image), self.last.weight)
        self.last.bias.copy_(tidy(-logits.mean((0, 2, 3))))

    def low_resolution(self) -> Drawn:
        self.full_size = self.full_size and not self.dyadic
        return self

    def forward(self, image: Tensor) -> Any:
        if bool((image[:, 0, 0, 0] > self.limit).any()):
            raise RuntimeError("a corner too bright")
        logits = tidy(self.last(self.features(image)))
        if self.full_size:
            logits = F.interpolate(logits, size=image.shape[-2:], mode="bilinear")
        if self.writes:
            image.fill_(7)
        return FORMS[self.form](logits)


def configured(draw: Random, channels: int) -> C2FConfig:
    classes = draw.choice((2, 3, 4, 5, 9, 17))
    window = draw.choice((draw.randint(1, 8), draw.randint(4, 24)))
    statistics: dict[str, Any] = {"scale": draw.choice((None, 1 / 16, 0.11))}
    for name, values in (("mean", (0.0, 0.5, -1.1)), ("std", (0.5, 1.1))):
        each = tuple(draw.choice(values) for _ in range(channels))
        statistics[name] = draw.choice((None, each[0], each))
    return C2FConfig(
        num_classes=classes,
        small_classes=draw.sample(range(classes), draw.randint(1, min(classes - 1, 4))),
        window=window,
        stride=draw.choice((draw.randint(1, window), draw.randint(1, 2 * window), window)),
        n=draw.choice((None, 1, 4, draw.randint(1, 40))),
        zoom=draw.choice((1.0, 1.0, 2.0, draw.randint(1, 3 * window) / window)),
        mode=draw.choice(("nearest", "bilinear", "bicubic")),
        strategy=draw.choice(("cover", "cover", "top", "all")),
        min_pixels=draw.choice((1, 1, 2, window)),
        edge=draw.choice(("flush", "drop")),
        rule=draw.choice(("normalized", "paper", "official")),
        fine_slope=draw.choice((1.0, 1.0, 0.5)),
        fine_shift=draw.choice((0.0, 0.0, -0.5)),
        max_batch=draw.choice((1, 2, 3, 8, 32)),
        stride_multiple=draw.choice((1, 1, 2, 5, 8)),
        channels_last=draw.random() < 0.3,
        backend=draw.choice(("auto", "auto", "reference")),
        **statistics,
    )


def image_of(draw: Random, channels: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """[C, H, W]: noise, blocks, or a flat ground with some objects."""
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    (height, width), side = size, draw.choice((1, draw.randint(2, 6), max(size)))
    low = (channels, -(-height // side), -(-width // side))
    image = torch.randint(0, BRIGHTEST + 1, low, generator=generator)
    image = image.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :height, :width]
    for _ in range(draw.randint(0, 4)):
        y, x, side = draw.randrange(height), draw.randrange(width), draw.randint(1, 6)
        image[:, y : y + side, x : x + side] = torch.randint(
            0, BRIGHTEST + 1, (channels, 1, 1), generator=generator
        )
    return image.to(dtype).contiguous()


class Pipeline(NamedTuple):
    """A net in eval mode, and images [C, H, W] of few sizes and dtypes."""

    net: C2FNet
    images: list[Tensor]


def drawn(draw: Random, side: int) -> Pipeline:
    """A pipeline, and images of at most `side` rows and columns, or of a window's."""
    channels = draw.choice((1, 2, 3, 3, 4))
    config = configured(draw, channels)
    networks = [Drawn(draw, channels, n) for n in (config.num_classes, draw.choice((1, 2)))]
    seen = [image_of(draw, channels, (48, 48), torch.uint8) for _ in range(4)]
    for network in networks:
        network.eval().settle(draw, _stages.normalise(torch.stack(seen), config))
    lengths = (1, config.window, draw.randint(1, side), draw.randint(1, side))
    sizes = [(draw.choice(lengths), draw.choice(lengths)) for _ in range(draw.choice((1, 2, 3)))]
    dtypes = [draw.choice(DTYPES) for _ in range(draw.choice((1, 1, 2)))]
    images = [image_of(draw, channels, draw.choice(sizes), draw.choice(dtypes)) for _ in range(6)]
    return Pipeline(C2FNet(*networks, config).eval(), images)
