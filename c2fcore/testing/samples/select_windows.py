"""Sample inputs of select_windows: (seg, small_classes), then options."""

from __future__ import annotations

from typing import Any

import torch

from . import Sample
from .inputs import blob_logits, clustered_map, grid_logits, label_map, laid_out


def _map(
    name: str,
    kind: str,
    shape: tuple[int, int, int],
    window: int,
    stride: int,
    n: int,
    *,
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

    options = {"window": window, "stride": stride, "n": n, **options}
    return Sample(name, make, options, loops=loops, exact=True)


def _logits(name: str, *, kind: str, loops: bool, exact: bool, **options: Any) -> Sample:
    def make(device: str) -> tuple[Any, ...]:
        if kind == "grid":
            return grid_logits((2, 5, 7, 9), seed=31).to(device), (1, 2)
        x = blob_logits(2, 8, 40, 48, seed=32).half()
        return laid_out(x.to(device), "channels_last"), (1, 5)

    return Sample(name, make, options, loops=loops, exact=exact)


# Kind, shape, window, stride, n, further options.
_Row = tuple[str, tuple[int, int, int], int, int, int, dict[str, Any]]
_MAPS: dict[str, _Row] = {
    "clusters": ("clusters", (1, 37, 53), 8, 4, 6, {}),
    "primes-drop": ("clusters", (2, 31, 43), 7, 3, 5, {"edge": "drop"}),
    "stride-over-window": ("clusters", (1, 37, 41), 5, 9, 8, {}),
    "stride-1": ("clusters", (1, 17, 19), 5, 1, 4, {}),
    "window-is-image": ("clusters", (1, 16, 16), 16, 3, 3, {}),
    "one-pixel": ("full", (1, 1, 1), 1, 1, 1, {}),
    "full": ("full", (1, 20, 24), 8, 4, 5, {}),
    "checkers": ("checkers", (1, 24, 24), 8, 4, 5, {}),
    "n-over-windows": ("clusters", (1, 20, 20), 8, 8, 50, {}),
    "n-1": ("clusters", (1, 37, 53), 8, 4, 1, {}),
    "none-small": ("clusters", (2, 20, 20), 8, 4, 3, {"classes": (77,)}),
    "every-class": ("clusters", (1, 17, 23), 6, 4, 7, {"classes": (0, 1, 2)}),
    "mixed-batch": ("mixed-batch", (4, 26, 27), 6, 3, 9, {}),
    "min-pixels": ("clusters", (1, 37, 53), 8, 4, 12, {"min_pixels": 20}),
    "min-pixels-out-of-reach": ("clusters", (1, 20, 20), 4, 4, 3, {"min_pixels": 17}),
    "scattered": ("scattered", (1, 29, 33), 9, 5, 10, {}),
    "empty-batch": ("clusters", (0, 16, 16), 8, 4, 3, {}),
    "int64-strided": (
        "clusters", (1, 37, 53), 8, 4, 6, {"dtype": torch.int64, "layout": "strided"},
    ),
    "large": ("clusters", (2, 301, 257), 64, 16, 16, {"loops": False}),
}  # fmt: skip
_LOGITS: dict[str, dict[str, Any]] = {
    "logits-x4": {
        **{"kind": "grid", "loops": True, "exact": True},
        **{"size": (28, 36), "window": 8, "stride": 4, "n": 6},
    },
    "logits-blobs": {
        **{"kind": "blobs", "loops": False, "exact": False},
        **{"size": (160, 192), "window": 32, "stride": 16, "n": 7},
    },
}

# Where kernels with a limit to what overlaps a window, to its bins or to the number of windows
# change their ways.
_GRIDS: dict[str, _Row] = {
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
    # More than the 256 threads of a program, and bins of a window than its lanes and warps.
    "300-columns": ("scattered", (1, 14, 305), 6, 1, 60, {}),
    "300-rows": ("scattered", (1, 305, 14), 6, 1, 60, {}),
    "36-bins": ("scattered", (1, 60, 76), 36, 1, 20, {"min_pixels": 2}),
}

_OF_COVER: dict[str, _Row] = {
    "odd-grid": ("scattered", (1, 61, 67), 13, 5, 12, {}),
    "window-1": ("scattered", (1, 9, 9), 1, 1, 81, {}),
    "flush-overlap": ("clusters", (1, 33, 35), 16, 16, 9, {}),
    "flush-overlaps-1-px": ("full", (1, 19, 27), 6, 4, 12, {}),
}
_ROWS = {
    "top": {**_MAPS, **_GRIDS},
    "cover": {**_MAPS, **_GRIDS, **_OF_COVER},
    "all": _MAPS,
}

SAMPLES: list[Sample] = [
    *(
        _map(f"{strategy}-{name}", *row[:-1], strategy=strategy, **row[-1])
        for strategy, rows in _ROWS.items()
        for name, row in rows.items()
    ),
    *(
        _logits(f"{strategy}-{name}", strategy=strategy, **options)
        for strategy in _ROWS
        for name, options in _LOGITS.items()
    ),
]
