"""Sample inputs of extract_patches and extract_targets.

(image, windows), or (labels, windows, small_classes); then options.
"""

from __future__ import annotations

from typing import Any

import torch

from . import Sample
from .inputs import LAYOUTS, generator, label_map, laid_out, random_windows, windows_of

IMAGE_DTYPES = (
    torch.uint8,
    torch.uint16,
    torch.int16,
    torch.float16,
    torch.bfloat16,
    torch.float32,
)
ZOOMS = (0.5, 1.0, 1.5, 2.0, 4.0)
MODES = ("nearest", "bilinear", "bicubic")
RGB: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def image_of(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Noise over the range of a dtype."""
    g = generator(seed)
    if dtype.is_floating_point:
        return (torch.rand(shape, generator=g) * 4 - 1).to(dtype)
    top = {torch.uint8: 255, torch.uint16: 65535, torch.int16: 32767}[dtype]
    low = -32768 if dtype is torch.int16 else 0
    values = torch.randint(low, top + 1, shape, generator=g, dtype=torch.int32)
    return values.to(dtype)


def _patches(
    name: str,
    shape: tuple[int, int, int, int] = (2, 3, 21, 26),
    window: int = 8,
    n: int = 3,
    dtype: torch.dtype = torch.uint8,
    layout: str = "planar",
    boxes: list[list[tuple[int, int]]] | None = None,
    loops: bool = True,
    **options: Any,
) -> Sample:
    out = options.pop("out", None)
    if out is not None:
        options["dtype"] = out

    def make(device: str) -> tuple[Any, ...]:
        image = laid_out(image_of(shape, dtype, seed=sum(shape)).to(device), layout)
        if boxes is not None:
            return image, windows_of(boxes, window, n, device)
        return image, random_windows(shape[0], *shape[2:], window, n, seed=n, device=device)

    return Sample(name, make, options, loops=loops)


def _targets(
    name: str,
    dtype: torch.dtype = torch.uint8,
    layout: str = "planar",
    classes: Any = (1, 3),
    boxes: list[list[tuple[int, int]]] | None = None,
    shape: tuple[int, int, int] = (2, 21, 26),
    window: int = 8,
    n: int = 3,
    **options: Any,
) -> Sample:
    def make(device: str) -> tuple[Any, ...]:
        labels = label_map(*shape, seed=4).to(dtype)
        flat = labels.view(-1)
        flat[3::11] = 255
        if dtype in (torch.int32, torch.int64):  # 8 low bits of a small class or of ignore_index
            far = torch.tensor([257, -255, -1, (1 << 16) + 3, 511], dtype=dtype)
            flat[5::17] = far.repeat(flat.numel() // 5 + 1)[: flat[5::17].numel()]
        labels = laid_out(labels.to(device), layout)
        if boxes is not None:
            return labels, windows_of(boxes, window, n, device), classes
        windows = random_windows(shape[0], *shape[1:], window, n, seed=n, device=device)
        return labels, windows, classes

    return Sample(name, make, options, loops=True, exact=True)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


SAMPLES: list[Sample] = [
    *[_patches(f"{mode}-zoom-{zoom}", mode=mode, zoom=zoom) for mode in MODES for zoom in ZOOMS],
    *[_patches(f"{_short(dtype)}-zoom-2", dtype=dtype, zoom=2.0) for dtype in IMAGE_DTYPES],
    *[_patches(f"{_short(dtype)}-zoom-1", dtype=dtype) for dtype in IMAGE_DTYPES],
    *[
        _patches(f"{layout}-zoom-{zoom}", layout=layout, zoom=zoom, **RGB)
        for layout in (*LAYOUTS[1:], "expanded")
        for zoom in (1.0, 2.0)
    ],
    *[
        _patches(f"to-{_short(out)}", out=out, zoom=1.5, **RGB)
        for out in (torch.float16, torch.bfloat16, torch.float32)
    ],
    _patches("normalised", zoom=2.0, **RGB),
    _patches("normalised-bicubic", zoom=2.0, mode="bicubic", **RGB),
    _patches("mean-only", mean=0.5),
    _patches("std-only", std=(0.2, 0.3, 0.4)),
    _patches("scale-0", scale=0.0, mean=0.25),
    _patches("scale-negative", scale=-2.0, dtype=torch.float32, zoom=2.0),
    _patches("out-channels_last", channels_last=True, zoom=2.0, **RGB),
    _patches(
        "out-channels_last-f16", channels_last=True, out=torch.float16, layout="channels_last"
    ),
    *[  # rows of more pixels than are loaded at a time, and the image's last one
        _patches(
            f"channels_last-{c}-wide",
            (1, c, 29, 31),
            window=21,
            n=2,
            layout="channels_last",
            boxes=[[(0, 0), (8, 10)]],
            zoom=2.0,
        )
        for c in (2, 3, 4)
    ],
    _patches("one-channel", (1, 1, 17, 19), zoom=2.0),
    _patches("five-channels", (1, 5, 17, 19), zoom=1.5, mean=(1, 2, 3, 4, 5), scale=1.0),
    _patches("seventeen-channels", (1, 17, 9, 9), window=4, zoom=2.0, channels_last=True),
    _patches("seventy-channels", (1, 70, 9, 9), window=2, n=2, mean=tuple(range(70)), scale=1.0),
    _patches("seventy-channels-last", (1, 70, 9, 9), window=2, n=2, zoom=2.0, channels_last=True),
    # Rows of 536 elements, whose half is no multiple of 8.
    _patches(
        "eight-channels-last",
        (1, 8, 34, 36),
        window=30,
        n=1,
        out=torch.float16,
        zoom=67 / 30,
        channels_last=True,
    ),
    _patches("window-1", (1, 3, 5, 7), window=1, n=2, zoom=3.0),
    _patches("window-is-image", (1, 3, 11, 11), window=11, n=1, zoom=1.3),
    # Whole loads of pixels up to the image's last byte.
    _patches("interleaved-to-the-end", (1, 3, 24, 24), window=24, n=1, layout="channels_last"),
    _patches("shrunk-to-one-pixel", (1, 3, 9, 9), window=7, n=2, zoom=1 / 7),
    _patches("odd-shrink", (1, 3, 19, 23), window=13, n=2, zoom=0.7),
    # Sources of 8 neighbours lie exactly a vector apart, or two.
    _patches("shrink-by-8-of-7", (1, 3, 19, 23), window=16, n=2, zoom=7 / 8),
    _patches("shrink-by-16-of-7", (1, 3, 37, 41), window=32, n=2, zoom=7 / 16),
    _patches("primes", (1, 3, 37, 41), window=11, n=4, zoom=17 / 11, mode="bicubic"),
    _patches("corners", boxes=[[(0, 0), (13, 18), (0, 18)], [(13, 0)]], zoom=2.0),
    _patches("num-0", boxes=[[], []], n=2, mean=0.5),
    _patches("num-0-and-full", boxes=[[], [(1, 1), (2, 2)]], n=2, zoom=2.0, mean=0.5),
    _patches("empty-batch", (0, 3, 16, 16), n=2),
    _patches("f16-to-f32", dtype=torch.float16, out=torch.float32, zoom=4.0, mode="bicubic"),
    _patches("large", (2, 3, 140, 150), window=64, n=5, zoom=2.0, loops=False, **RGB),
    _patches("large-128", (1, 3, 200, 210), window=128, n=2, zoom=1.0, loops=False, **RGB),
    # Gradients: few outputs read a source, side by side or three apart, or more than have room, out
    # of more rows than are looked at together; windows overlap, and lie across tiles.
    *[
        _patches(f"gradient-{name}", shape, window, 5, torch.float32, loops=False, **options)
        for name, shape, window, options in (
            ("zoom-2-last", (1, 3, 70, 40), 24, {"zoom": 2.0, "channels_last": True}),
            (
                "cubic-last",
                (1, 3, 70, 40),
                24,
                {"zoom": 2.0, "channels_last": True, "mode": "bicubic"},
            ),
            ("zoom-4", (1, 2, 40, 40), 24, {"zoom": 4.0}),
            ("zoom-20", (1, 1, 14, 14), 12, {"zoom": 20.0}),
        )
    ],
    # A GPU is full of patches: blocks make more rows than have room for their sources at once.
    *[
        _patches(f"many-{name}", (1, 1, 60, 70), window=40, n=270, loops=False, **options)
        for name, options in (
            ("grown", {"zoom": 50 / 40, "out": torch.float16}),
            ("own-size", {"out": torch.bfloat16}),
            ("shrunk", {"zoom": 0.45}),
            ("shrunk-bicubic", {"zoom": 0.5, "mode": "bicubic", "mean": 0.5}),
        )
    ],
]

TARGETS: list[Sample] = [
    *[
        _targets(f"{_short(d)}", dtype=d)
        for d in (torch.uint8, torch.int16, torch.int32, torch.int64)
    ],
    *[
        _targets(f"{layout}", layout=layout)
        for layout in ("offset", "strided", "transposed", "expanded")
    ],
    _targets("ignore-0", ignore_index=0),
    _targets("ignore-is-small", ignore_index=3),
    _targets("int64-ignore-100", dtype=torch.int64, ignore_index=100, layout="strided"),
    _targets("class-255", classes=(255,), ignore_index=254),
    _targets("num-0-and-full", boxes=[[], [(13, 18), (2, 2)]], n=2),
    _targets("window-is-image", shape=(1, 9, 9), window=9, n=1),
    _targets("empty-batch", shape=(0, 9, 9), window=4, n=2),
]
