"""Sample inputs of count_windows: (seg, small_classes), then options."""

from __future__ import annotations

from typing import Any

import torch

from . import Sample
from .inputs import (
    ALMOST_ALIGNED,
    BOUNDARY_CLASSES,
    LAYOUTS,
    almost_aligned_shape,
    blob_logits,
    grid_logits,
    label_map,
    laid_out,
    noise_logits,
    one_hot_logits,
    signed_nans,
)

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTS = (torch.uint8, torch.int16, torch.int32, torch.int64)


def _labels(name: str, shape: tuple[int, int, int], classes: Any, **options: Any) -> Sample:
    def make(device: str) -> tuple[Any, ...]:
        return label_map(*shape, seed=7).to(torch.uint8).to(device), classes

    return Sample(name, make, options, loops=True, exact=True)


def _labels_as(dtype: torch.dtype, layout: str) -> Sample:
    def make(device: str) -> tuple[Any, ...]:
        ids = label_map(2, 23, 37, seed=8).to(dtype).to(device)
        # A label map has no channel axis: "channels_last" means nothing to it.
        return laid_out(ids, "expanded" if layout == "channels_last" else layout), (1, 3)

    name = f"labels-{str(dtype).removeprefix('torch.')}-{layout}"
    return Sample(name, make, {"window": 7, "stride": 3}, loops=True, exact=True)


def _every_id(name: str) -> Sample:
    def make(device: str) -> tuple[Any, ...]:
        return one_hot_logits().argmax(1).to(torch.uint8).to(device), BOUNDARY_CLASSES

    return Sample(name, make, {"window": 1, "stride": 1}, loops=True, exact=True)


def _far_ids(dtype: torch.dtype, ids: tuple[int, ...]) -> Sample:
    """Ids that no class can have, and that wrap to small classes when cut to 8 bits."""

    def make(device: str) -> tuple[Any, ...]:
        seg = label_map(1, 16, 16, seed=9).to(dtype)
        flat = seg.view(-1)
        flat[: len(ids) * 5] = torch.tensor(ids, dtype=dtype).repeat(5)
        return seg.to(device), (0, 1, 255)

    name = f"ids-out-of-range-{str(dtype).removeprefix('torch.')}"
    return Sample(name, make, {"window": 8, "stride": 4}, loops=True, exact=True)


def _logits(
    name: str,
    shape: tuple[int, int, int, int],
    size: tuple[int, int] | None,
    *,
    kind: str = "grid",
    dtype: torch.dtype = torch.float32,
    layout: str = "planar",
    classes: Any = (1, 2),
    loops: bool = True,
    exact: bool = False,
    **options: Any,
) -> Sample:
    def make(device: str) -> tuple[Any, ...]:
        if kind == "grid":
            x = grid_logits(shape, seed=sum(shape))
        elif kind == "ties":  # five levels only: most pixels are tied
            x = grid_logits(shape, seed=sum(shape), levels=5)
        elif kind == "blobs":
            x = blob_logits(*shape, seed=sum(shape))
        elif kind == "special":
            x = _scattered(torch.round(blob_logits(*shape, seed=sum(shape)) * 8) / 8)
        elif kind == "one-hot":
            x = one_hot_logits()
        else:
            x = noise_logits(shape, seed=sum(shape))
        x = signed_nans(x.to(dtype))
        return laid_out(x.to(device), layout), classes

    opts = {"window": 8, "stride": 4, **options}
    if size is not None:
        opts["size"] = size
    return Sample(name, make, opts, loops=loops, exact=exact)


def _scattered(x: torch.Tensor) -> torch.Tensor:
    """NaN and both infinities here and there, over all classes of some pixels, half of some."""
    values = torch.tensor([float("nan"), float("inf"), float("-inf")])
    some = torch.Generator().manual_seed(x.numel())
    pixels = (x.shape[0], 1, *x.shape[2:])
    drawn = torch.randint(300, x.shape, generator=some)
    whole, half = (torch.randint(100, pixels, generator=some).expand_as(x) for _ in range(2))
    half = torch.where(torch.rand(x.shape, generator=some) < 0.5, half, 100)
    for chosen in (drawn, half, whole):
        x = torch.where(chosen < 3, values[chosen.clamp(max=2)], x)
    return x


def _special(name: str, size: tuple[int, int] | None) -> Sample:
    """NaN, +inf and -inf in single classes, in whole pixels, and beside each other."""

    def make(device: str) -> tuple[Any, ...]:
        x = grid_logits((1, 4, 6, 8), seed=3)
        nan, inf = float("nan"), float("inf")
        x[0, 1, 0, 0] = nan
        x[0, :, 1, 1] = nan
        x[0, 2, 2, 2] = inf
        x[0, 1:3, 3, 3] = inf
        x[0, 0, 4, 4] = -inf
        x[0, :, 5, 5] = -inf
        x[0, 3, 0, 6], x[0, 2, 0, 6] = inf, nan
        x[0, 0, 5, 7], x[0, 1, 5, 7] = inf, -inf
        return x.to(device), (1, 2)

    options: dict[str, Any] = {"window": 3, "stride": 1}
    if size is not None:
        options = {"window": 5, "stride": 2, "size": size}
    return Sample(name, make, options, loops=True, exact=True)


def _inf_beside_the_border(dtype: torch.dtype) -> Sample:
    """One class is largest everywhere, but where a tap of weight 0 makes a NaN of it."""

    def make(device: str) -> tuple[Any, ...]:
        x = torch.zeros(1, 16, 12, 36, dtype=dtype)
        x[:, 3], x[:, 5] = 2, 1
        x[:, 3, 3, 1] = x[:, 3, 6:8, :2] = float("inf")  # one corner of a cell, all of one
        return x.to(device), (3,)

    name = f"inf-beside-the-border-{dtype}".replace("torch.", "")
    options: dict[str, Any] = {"window": 4, "stride": 4, "size": (48, 144)}
    return Sample(name, make, options, loops=False, exact=True)


# Larger ones, against the reference only: shape, size, kind, window, stride, further options. Of
# "special" widths of whole quads, and compiled or any numbers of classes, by type.
_LARGE: dict[str, tuple[Any, Any, str, int, int, dict[str, Any]]] = {
    **{
        f"special-x4-{n}-classes-{d}".replace("torch.", ""): (
            (1, n, 12, 36), (48, 144), "special", 32, 8,
            {"dtype": d, "classes": (0, 2), "exact": True},
        )
        for n, d in ((16, FLOATS[0]), (16, FLOATS[1]), (7, FLOATS[1]), (16, FLOATS[2]))
    },
    **{
        f"special-x4-channels_last-{d}".replace("torch.", ""): (
            (1, 16, 12, 35), (48, 140), "special", 32, 8,
            {"dtype": d, "layout": "channels_last", "classes": (0, 2), "exact": True},
        )
        for d in FLOATS[1:]
    },
    **{  # of whole quads, and others
        f"special-own-size-{width}-{d}".replace("torch.", ""): (
            (1, 16, 21, width), None, "special", 16, 9,
            {"dtype": d, "classes": (0, 2), "exact": True},
        )
        for width, d in ((36, FLOATS[0]), (36, FLOATS[1]), (35, FLOATS[1]), (35, FLOATS[2]))
    },
    "special-own-size-channels_last-float16": (
        (1, 16, 21, 35), None, "special", 16, 9,
        {"dtype": FLOATS[1], "layout": "channels_last", "classes": (0, 2), "exact": True},
    ),
    "special-own-size-132-float16": (  # tiles of the cuda backend cut its quads
        (1, 16, 12, 132), None, "special", 7, 7,
        {"dtype": FLOATS[1], "classes": (0, 2), "exact": True},
    ),
    **{
        f"every-class-{'own-size' if size is None else 'x2'}": (
            (1, 256, 16, 16), size, "one-hot", 1, 1,
            {"dtype": d, "classes": BOUNDARY_CLASSES, "exact": True},
        )
        for size, d in ((None, FLOATS[1]), ((32, 32), FLOATS[0]))
    },
    "special-x4-40-classes": (
        (1, 40, 12, 36), (48, 144), "special", 32, 8, {"classes": (1, 33, 39), "exact": True},
    ),
    "blobs-wide": ((1, 6, 20, 84), (77, 333), "blobs", 32, 9, {"dtype": torch.float16}),
    "blobs-x2-wide": ((1, 16, 36, 140), (72, 280), "blobs", 48, 12, {}),
    "blobs-x4": ((2, 16, 40, 48), (160, 192), "blobs", 64, 16, {}),
    "noise-x4": ((1, 16, 33, 37), (132, 148), "noise", 32, 16, {}),
    **{  # the last columns are 1, 2 or 3 of four
        f"special-wider-{w}-columns": (
            (1, 16, 64, w), (64, 4 * w), "special", 16, 7,
            {"classes": tuple(range(0, 16, 2)), "exact": True},
        )
        for w in (5, 6, 7)
    },
    "noise-own-size": ((1, 16, 70, 129), None, "noise", 64, 32, {}),
    "noise-ratio-3.7": (
        (1, 7, 30, 41), (111, 150), "noise", 32, 13, {"layout": "channels_last"},
    ),
    "noise-x8-bf16": ((1, 6, 16, 20), (128, 160), "noise", 32, 16, {"dtype": torch.bfloat16}),
}  # fmt: skip

SAMPLES: list[Sample] = [
    # Geometry, on label maps.
    _labels("window-is-image", (1, 8, 11), (1,), window=8, stride=8),
    _labels("one-pixel", (1, 1, 1), (1,), window=1, stride=1),
    _labels("one-row", (2, 1, 13), (1, 2), window=1, stride=2),
    _labels("one-column", (1, 17, 1), (1, 2), window=1, stride=5),
    _labels("window-1", (1, 5, 7), (2,), window=1, stride=1),
    _labels("stride-1", (1, 13, 11), (1, 2), window=5, stride=1),
    _labels("stride-over-window-flush", (1, 29, 31), (1, 2), window=3, stride=7),
    _labels("stride-over-window-drop", (1, 29, 31), (1, 2), window=3, stride=7, edge="drop"),
    _labels("stride-over-image", (1, 11, 13), (1, 2), window=4, stride=100),
    _labels("primes-flush", (2, 53, 61), (1, 2), window=17, stride=5),
    _labels("primes-drop", (2, 53, 61), (1, 2), window=17, stride=5, edge="drop"),
    _labels("exact-fit", (1, 32, 48), (1, 2), window=16, stride=8),
    _labels("wide-over-64", (1, 9, 131), (1, 4), window=9, stride=1),
    # Class sets.
    _labels("every-class-small", (1, 16, 16), tuple(range(6)), window=8, stride=4),
    _labels("over-65535-pixels", (1, 257, 300), tuple(range(6)), window=257, stride=43),
    _labels("none-present", (1, 16, 16), (9,), window=8, stride=4),
    _labels("class-list", (1, 16, 16), [5, 1], window=8, stride=4),
    _labels("class-255", (1, 16, 16), (255,), window=8, stride=4),
    _labels("empty-batch", (0, 16, 16), (1,), window=8, stride=4),
    *[_labels_as(dtype, "planar") for dtype in INTS],
    *[_labels_as(torch.uint8, layout) for layout in LAYOUTS[1:]],
    _labels_as(torch.int64, "strided"),
    _every_id("every-id"),
    _far_ids(torch.int16, (256, 257, -1, -255, 511)),
    _far_ids(torch.int32, (1 << 16, (1 << 16) + 1, -(1 << 31), 256, -256)),
    _far_ids(torch.int64, (1 << 40, (1 << 32) + 1, -(1 << 63), 256, -1)),
    # Logits: own size, then upsampled.
    _logits("logits-own-size", (2, 5, 13, 17), None, exact=True),
    _logits("logits-x4-ties", (1, 6, 5, 7), (20, 28), kind="ties", exact=True),
    _logits("logits-x2-ties", (2, 3, 9, 8), (18, 16), kind="ties", exact=True),
    _logits("logits-rows-only", (1, 4, 6, 16), (12, 16), exact=True),
    _logits("logits-odd-ratio", (1, 5, 7, 11), (23, 31), kind="noise"),
    _logits("logits-near-1", (1, 5, 12, 13), (13, 14), kind="noise"),
    # The last window starts where another one ends: of the bins between, tiles here, one is empty.
    _logits("logits-flush-on-a-cut", (1, 4, 19, 19), (76, 76), window=3, stride=70, exact=True),
    _logits("logits-1x1", (1, 4, 1, 1), (9, 10), exact=True),
    _logits("logits-3-columns", (1, 4, 64, 3), (64, 12), exact=True),
    _logits("logits-one-class", (1, 1, 4, 4), (16, 16), classes=(0,), exact=True),
    _logits("logits-every-class-small", (1, 3, 4, 4), (8, 8), classes=(0, 1, 2), exact=True),
    _logits("logits-all-equal", (1, 5, 4, 4), (16, 16), kind="ties", classes=(0,), exact=True),
    _logits("logits-empty-batch", (0, 4, 4, 4), (16, 16), exact=True),
    _logits("logits-19-classes", (1, 19, 8, 8), (32, 32), classes=(1, 17, 18), exact=True),
    _logits(
        "logits-256-classes", (1, 256, 3, 3), (12, 12), classes=(0, 255), loops=False, exact=True
    ),
    *[
        _logits(f"logits-{d}".replace("torch.", ""), (1, 6, 6, 9), (24, 36), dtype=d, exact=True)
        for d in FLOATS
    ],
    *[
        _logits(f"logits-{lay}", (2, 5, 6, 9), (24, 36), layout=lay, exact=True)
        for lay in (*LAYOUTS[1:], "expanded")
    ],
    _logits(
        "logits-f16-channels_last",
        (2, 16, 6, 9),
        (24, 36),
        dtype=torch.float16,
        layout="channels_last",
        exact=True,
    ),
    _logits(
        "ties-own-size-channels_last-float16",
        (1, 16, 9, 11),
        None,
        kind="ties",
        dtype=FLOATS[1],
        layout="channels_last",
        exact=True,
    ),
    *[
        _logits(
            f"{layout}-{'own-size' if size is None else 'x2'}",
            almost_aligned_shape(layout),
            size,
            layout=layout,
            dtype=dtype,
            exact=True,
        )
        for layout in ALMOST_ALIGNED
        for size, dtype in (
            (None, FLOATS[1]),
            ((32, 74 if layout == "planar-of-8" else 80), FLOATS[0]),
        )
    ],
    *[_inf_beside_the_border(d) for d in FLOATS[:2]],
    _special("nan-inf-own-size", None),
    _special("nan-inf-upsampled", (12, 16)),
    # On the axis that keeps its size a pixel has no neighbour.
    _special("nan-inf-taller", (12, 8)),
    _special("nan-inf-wider", (6, 16)),
    *(
        _logits(name, *row[:2], kind=row[2], window=row[3], stride=row[4], loops=False, **row[5])
        for name, row in _LARGE.items()
    ),
]
