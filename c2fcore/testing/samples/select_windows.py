"""Sample inputs of select_windows: (seg, small_classes), then options."""

from __future__ import annotations

from typing import Any

import torch

from . import Sample
from .inputs import blob_logits, clustered_map, grid_logits, label_map, laid_out

STRATEGIES = ("top", "cover", "all")


def _map(
    name: str,
    shape: tuple[int, int, int],
    *,
    kind: str = "clusters",
    classes: Any = (1, 2),
    dtype: torch.dtype = torch.uint8,
    layout: str = "planar",
    loops: bool = True,
    **options: Any,
) -> Sample:
    def make(device: str) -> tuple[Any, ...]:
        if kind == "clusters":
            seg = clustered_map(*shape, seed=sum(shape))
        elif kind == "full":  # every window has the same count: ties decide everything
            seg = torch.ones(shape, dtype=torch.int64)
        elif kind == "checkers":
            seg = torch.arange(shape[1])[:, None] // 4 + torch.arange(shape[2])[None, :] // 4
            seg = (seg % 2).expand(shape).contiguous()
        elif kind == "mixed-batch":  # full, empty, one pixel, clusters
            seg = clustered_map(*shape, seed=5)
            seg[0] = 1
            seg[1] = 0
            seg[2] = 0
            seg[2, -1, -1] = 2
        else:
            seg = label_map(*shape, seed=sum(shape))
        return laid_out(seg.to(dtype).to(device), layout), classes

    return Sample(name, make, options, loops=loops, exact=True)


def _logits(name: str, *, kind: str, loops: bool, exact: bool, **options: Any) -> Sample:
    def make(device: str) -> tuple[Any, ...]:
        if kind == "grid":
            return grid_logits((2, 5, 7, 9), seed=31).to(device), (1, 2)
        x = blob_logits(2, 8, 40, 48, seed=32).half()
        return laid_out(x.to(device), "channels_last"), (1, 5)

    return Sample(name, make, options, loops=loops, exact=exact)


def _every_strategy() -> list[Sample]:
    samples = []
    for strategy in STRATEGIES:
        s: dict[str, Any] = {"strategy": strategy}
        samples += [
            _map(f"{strategy}-clusters", (1, 37, 53), window=8, stride=4, n=6, **s),
            _map(f"{strategy}-primes-drop", (2, 31, 43), window=7, stride=3, n=5, edge="drop", **s),
            _map(f"{strategy}-stride-over-window", (1, 37, 41), window=5, stride=9, n=8, **s),
            _map(f"{strategy}-stride-1", (1, 17, 19), window=5, stride=1, n=4, **s),
            _map(f"{strategy}-window-is-image", (1, 16, 16), window=16, stride=3, n=3, **s),
            _map(f"{strategy}-one-pixel", (1, 1, 1), kind="full", window=1, stride=1, n=1, **s),
            _map(f"{strategy}-full", (1, 20, 24), kind="full", window=8, stride=4, n=5, **s),
            _map(
                f"{strategy}-checkers", (1, 24, 24), kind="checkers", window=8, stride=4, n=5, **s
            ),
            _map(f"{strategy}-n-over-windows", (1, 20, 20), window=8, stride=8, n=50, **s),
            _map(f"{strategy}-n-1", (1, 37, 53), window=8, stride=4, n=1, **s),
            _map(
                f"{strategy}-none-small", (2, 20, 20), classes=(77,), window=8, stride=4, n=3, **s
            ),
            _map(
                f"{strategy}-every-class",
                (1, 17, 23),
                classes=(0, 1, 2),
                window=6,
                stride=4,
                n=7,
                **s,
            ),
            _map(
                f"{strategy}-mixed-batch",
                (4, 26, 27),
                kind="mixed-batch",
                window=6,
                stride=3,
                n=9,
                **s,
            ),
            _map(
                f"{strategy}-min-pixels", (1, 37, 53), window=8, stride=4, n=12, min_pixels=20, **s
            ),
            _map(
                f"{strategy}-min-pixels-out-of-reach",
                (1, 20, 20),
                window=4,
                stride=4,
                n=3,
                min_pixels=17,
                **s,
            ),
            _map(
                f"{strategy}-scattered",
                (1, 29, 33),
                kind="scattered",
                window=9,
                stride=5,
                n=10,
                **s,
            ),
            _map(f"{strategy}-empty-batch", (0, 16, 16), window=8, stride=4, n=3, **s),
            _map(
                f"{strategy}-int64-strided",
                (1, 37, 53),
                dtype=torch.int64,
                layout="strided",
                window=8,
                stride=4,
                n=6,
                **s,
            ),
            _logits(
                f"{strategy}-logits-x4",
                kind="grid",
                loops=True,
                exact=True,
                size=(28, 36),
                window=8,
                stride=4,
                n=6,
                **s,
            ),
            _logits(
                f"{strategy}-logits-blobs",
                kind="blobs",
                loops=False,
                exact=False,
                size=(160, 192),
                window=32,
                stride=16,
                n=7,
                **s,
            ),
            _map(f"{strategy}-large", (2, 301, 257), loops=False, window=64, stride=16, n=16, **s),
        ]
    return samples


# Where kernels with a limit to what overlaps a window, to its bins or to the number of windows
# change their ways: kind, shape, window, stride, n, further options.
_GRIDS: dict[str, tuple[str, tuple[int, int, int], int, int, int, dict[str, Any]]] = {
    "7-overlap": ("clusters", (2, 52, 60), 16, 4, 12, {}),
    "7-overlap-ties": ("full", (1, 36, 44), 16, 4, 40, {}),
    "7-overlap-few": ("scattered", (1, 44, 40), 16, 4, 12, {"min_pixels": 60}),
    "8-overlap-flush": ("scattered", (1, 38, 41), 16, 4, 12, {}),
    "8-overlap-flush-ties": ("checkers", (1, 41, 38), 16, 4, 40, {}),
    "9-overlap": ("scattered", (1, 45, 49), 17, 4, 12, {}),
    "7-bins": ("clusters", (1, 30, 34), 14, 4, 9, {}),
    "9-bins": ("scattered", (1, 32, 33), 14, 4, 9, {}),
    "flush-cuts-twice": ("scattered", (1, 25, 26), 7, 4, 40, {}),
    "flush-apart": ("scattered", (1, 37, 38), 4, 9, 40, {}),
    "gaps-drop": ("scattered", (1, 40, 37), 4, 9, 40, {"edge": "drop"}),
    "one-row": ("scattered", (1, 8, 90), 8, 2, 50, {}),
    "one-column": ("clusters", (1, 90, 8), 8, 2, 50, {}),
    "272-places": ("scattered", (2, 68, 16), 2, 2, 70, {}),
    "more-than-a-warp": ("scattered", (1, 25, 31), 3, 2, 70, {}),
    "more-than-there-are": ("clusters", (1, 25, 31), 9, 8, 70, {}),
    "many": ("scattered", (1, 60, 61), 6, 1, 33, {}),
}


def _every_grid() -> list[Sample]:
    return [
        _map(
            f"{strategy}-{name}",
            shape,
            kind=kind,
            window=window,
            stride=stride,
            n=n,
            strategy=strategy,
            **options,
        )
        for strategy in ("top", "cover")
        for name, (kind, shape, window, stride, n, options) in _GRIDS.items()
    ]


SAMPLES: list[Sample] = [
    *_every_strategy(),
    *_every_grid(),
    _map(
        "cover-odd-grid", (1, 61, 67), kind="scattered", window=13, stride=5, n=12, strategy="cover"
    ),
    _map("cover-window-1", (1, 9, 9), kind="scattered", window=1, stride=1, n=81, strategy="cover"),
    _map("cover-flush-overlap", (1, 33, 35), window=16, stride=16, n=9, strategy="cover"),
]
