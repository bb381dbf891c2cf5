"""Samples of any geometry, drawn from a seed: sizes, strides, layouts, types and options together.

Hand-picked samples hold what someone thought of. These hold the rest, and the same seed always
draws the same sample.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from . import Sample
from .count_windows import FLOATS, INTS
from .extract_patches import IMAGE_DTYPES, MODES, image_of
from .inputs import (
    ALMOST_ALIGNED,
    LAYOUTS,
    blob_logits,
    clustered_map,
    grid_logits,
    label_map,
    laid_out,
    noise_logits,
    signed_nans,
    windows_of,
)

CLASSES = (1, 2, 3, 4, 6, 7, 8, 15, 16, 17, 19, 20, 33, 40)
# Where interpolated multiples of 1/8 are exact in float32.
EXACT_FACTORS = (1, 1, 2, 4, 4, 8)
NAN, INF = float("nan"), float("inf")


def drawn(op: str, seed: int, side: int) -> Sample:
    """A sample of an op with images of at most `side` rows and columns."""
    draw = Random(f"{op} {seed}")
    made = {
        "count_windows": _count,
        "select_windows": _select,
        "extract_patches": _patches,
        "extract_targets": _targets,
        "aggregate": _merge,
    }[op](draw, side)
    return replace(made, name=f"drawn-{seed}")


def _length(draw: Random, most: int) -> int:
    """1..most; as often below 13, where kernels have their ends, as anywhere."""
    return min(most, draw.choice((draw.randint(1, 12), draw.randint(1, max(1, most)))))


def _grid(draw: Random, height: int, width: int) -> dict[str, Any]:
    """Window, stride and edge: strides that divide, that overlap, and that leave gaps."""
    least = min(height, width)
    window = draw.randint(1, least if draw.random() < 0.5 else -(-least // 4))
    strides = [draw.randint(1, window), draw.randint(1, least), -(-window // 2), -(-window // 4)]
    # With these the last window begins where another one does, or ends, or a window before that.
    rest = draw.choice((height, width)) - draw.choice((1, 2, 2, 3)) * window
    met = [stride for stride in range(1, rest + 1) if rest % stride == 0]
    strides += [draw.choice(met)] * 2 if met else []
    edge = draw.choice(("flush", "flush", "drop"))
    return {"window": window, "stride": draw.choice(strides), "edge": edge}


def _small(draw: Random, classes: int) -> tuple[int, ...]:
    return tuple(draw.sample(range(classes), draw.randint(1, min(classes, 5))))


class _Logits:
    """What logits are drawn: their content is made when they are asked for."""

    def __init__(self, draw: Random, side: int, exact: bool) -> None:
        factors = draw.choice(EXACT_FACTORS), draw.choice(EXACT_FACTORS)
        if draw.random() < 0.7:
            factors = factors[0], factors[0]
        self.batch, self.classes = draw.choice((1, 1, 2, 3)), draw.choice(CLASSES)
        self.low = (_length(draw, side // factors[0]), _length(draw, side // factors[1]))
        self.size = (self.low[0] * factors[0], self.low[1] * factors[1])
        self.kind = draw.choice(("grid", "ties", "blobs", "special"))
        self.dtype = draw.choice(FLOATS)
        self.exact = exact or draw.random() < 0.8
        if not self.exact:  # noise in fewer bits is full of ties
            self.kind, self.dtype = "noise", torch.float32
            self.size = (draw.randint(self.low[0], side), draw.randint(self.low[1], side))
        self.layout = draw.choice((*LAYOUTS, *LAYOUTS, "expanded", draw.choice(ALMOST_ALIGNED)))
        self.seed = draw.randrange(1 << 30)

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.size == self.low and self.seed % 2 else {"size": self.size}

    def make(self, device: str) -> Tensor:
        shape = (self.batch, self.classes, *self.low)
        if self.kind == "noise":
            x = noise_logits(shape, self.seed, spread=1.5)
        elif self.kind == "ties":
            x = grid_logits(shape, self.seed, levels=5)
        elif self.kind == "grid":
            x = grid_logits(shape, self.seed)
        else:
            x = (blob_logits(*shape, self.seed) * 8).round().clamp(-64, 64) / 8
        if self.kind == "special":
            g = torch.Generator().manual_seed(self.seed)
            which = torch.randint(200, x.shape, generator=g)
            x = torch.where(which < 3, torch.tensor([NAN, INF, -INF])[which.clamp(max=2)], x)
        return laid_out(signed_nans(x.to(self.dtype)).to(device), self.layout)


def _segmentation(draw: Random, side: int, exact: bool) -> tuple[Any, Any, bool, tuple[int, int]]:
    """Maker of logits or of a label map, options, whether labels are exact, and the full size."""
    if draw.random() < 0.6:
        logits = _Logits(draw, side, exact)
        small, options = _small(draw, logits.classes), logits.options
        return lambda device: (logits.make(device), small), options, logits.exact, logits.size
    make, small, size = _labels(draw, side)
    return lambda device: (make(device), small), {}, True, size


def _labels(draw: Random, side: int) -> tuple[Any, tuple[int, ...], tuple[int, int]]:
    """Maker of a label map, small classes, and its size."""
    size = (_length(draw, side), _length(draw, side))
    batch, seed, density = draw.choice((1, 1, 2, 3)), draw.randrange(1 << 30), draw.random()
    classes, dtype, clusters = draw.randint(2, 9), draw.choice(INTS), draw.random() < 0.4
    layout = draw.choice(("planar", "planar", "offset", "strided", "transposed", "expanded"))

    def make(device: str) -> Tensor:
        if clusters:
            ids = clustered_map(batch, *size, seed, objects=9)
        else:
            ids = label_map(batch, *size, seed, classes, density)
        return laid_out(ids.to(dtype).to(device), layout)

    return make, _small(draw, classes), size


def _count(draw: Random, side: int) -> Sample:
    make, options, exact, size = _segmentation(draw, side, exact=False)
    return Sample("", make, {**options, **_grid(draw, *size)}, exact=exact)


def _select(draw: Random, side: int) -> Sample:
    make, options, exact, size = _segmentation(draw, side, exact=True)
    options = {**options, **_grid(draw, *size), "n": draw.randint(1, 40)}
    options["strategy"] = draw.choice(("cover", "cover", "top", "all"))
    options["min_pixels"] = draw.choice((1, 1, 2, 5, options["window"]))
    return Sample("", make, options, exact=exact)


def _boxes(
    draw: Random, batch: int, size: tuple[int, int]
) -> tuple[list[list[tuple[int, int]]], int, int]:
    """Windows in use per image, at borders as often as anywhere; their side, and n."""
    window, n = draw.randint(1, min(size)), draw.choice((1, 2, 4, 9, 33))
    ends = [side - window for side in size]

    def place(end: int) -> int:
        return draw.choice((0, end, draw.randint(0, end), draw.randint(0, end)))

    return [
        [(place(ends[0]), place(ends[1])) for _ in range(draw.choice((0, n, draw.randint(0, n))))]
        for _ in range(batch)
    ], window, n  # fmt: skip


def _patches(draw: Random, side: int) -> Sample:
    size = (_length(draw, side), _length(draw, side))
    channels, dtype = draw.choice((1, 3, 3, 4, 5, 8, 17)), draw.choice(IMAGE_DTYPES)
    shape = (draw.choice((1, 1, 2, 3)), channels, *size)
    boxes, window, n = _boxes(draw, shape[0], size)
    layout = draw.choice((*LAYOUTS, "expanded", draw.choice(ALMOST_ALIGNED[:8])))
    if layout in ALMOST_ALIGNED and not dtype.is_floating_point:
        layout = "offset"
    seed = draw.randrange(1 << 30)
    zooms = (1.0, 1.0, 2.0, 4.0, draw.randint(1, 2 * window) / window)
    options: dict[str, Any] = {"zoom": draw.choice(zooms), "mode": draw.choice(MODES)}
    if draw.random() < 0.5:
        options["mean"] = tuple(draw.uniform(-1, 1) for _ in range(channels))
        options["std"] = tuple(draw.choice((-1, 1)) * draw.uniform(0.1, 2) for _ in range(channels))
    if draw.random() < 0.5:
        options["dtype"] = draw.choice(FLOATS)
    options["channels_last"] = draw.random() < 0.4

    def make(device: str) -> tuple[Any, ...]:
        image = laid_out(image_of(shape, dtype, seed).to(device), layout)
        return image, windows_of(boxes, window, n, device)

    return Sample("", make, options)


def _targets(draw: Random, side: int) -> Sample:
    labels, small, size = _labels(draw, side)
    batch = labels("cpu").shape[0]
    boxes, window, n = _boxes(draw, batch, size)

    def make(device: str) -> tuple[Any, ...]:
        return labels(device), windows_of(boxes, window, n, device), small

    return Sample("", make, {"ignore_index": draw.choice((255, 0, 1, 7))}, exact=True)


def _merge(draw: Random, side: int) -> Sample:
    logits = _Logits(draw, side, exact=False)
    boxes, window, n = _boxes(draw, logits.batch, logits.size)
    half = -(-window // 2)
    sides = [draw.choice((window, half, -(-window // 4), draw.randint(1, window + 3)))] * 2
    if draw.random() < 0.2:
        sides[1] = draw.randint(1, window + 3)
    channels, seed = draw.choice((1, 2)), draw.randrange(1 << 30)
    dtype = draw.choice((logits.dtype, draw.choice(FLOATS)))
    layout = draw.choice((*LAYOUTS, *LAYOUTS, draw.choice(ALMOST_ALIGNED)))
    small = _small(draw, logits.classes)
    options = {
        **logits.options,
        "rule": draw.choice(("paper", "normalized", "official")),
        "output": draw.choice(("labels", "labels", "probs")),
    }

    def make(device: str) -> tuple[Any, ...]:
        fine = noise_logits((logits.batch * n, channels, *sides), seed, spread=1.5).to(dtype)
        windows = windows_of(boxes, window, n, device)
        return logits.make(device), laid_out(fine.to(device), layout), windows, small

    return Sample("", make, options, exact=logits.exact)
