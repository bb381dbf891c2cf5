"""Building blocks of the sample inputs: seeded content, memory layouts, realistic maps.

Everything is drawn on the CPU from a seed, so the same sample holds the same numbers on every
device and backend, and is laid out in memory only afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from c2fcore import Windows

LAYOUTS = ("planar", "channels_last", "offset", "strided", "transposed")
# Nearly such that a row's pixels, or a pixel's classes, can be loaded some at a time: what is not
# is the start, the step of one axis (numbered as in memory), or their number.
ALMOST_ALIGNED = tuple(
    f"{order}-{what}"
    for order in LAYOUTS[:2]
    for what in ("odd-start", "odd-0", "odd-1", "odd-2", "of-8")
)


def almost_aligned_shape(layout: str) -> tuple[int, int, int, int]:
    """A shape for one of ALMOST_ALIGNED of which nothing else is odd."""
    return 2, 5 if layout == "channels_last-of-8" else 16, 16, 37 if layout == "planar-of-8" else 40


def generator(seed: int) -> torch.Generator:
    """A seeded generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Same values, other strides. Kernels must follow strides and never assume a copy."""
    if layout == "planar":
        return x.contiguous()
    if layout == "channels_last":  # [B, C, H, W] whose memory is [B, H, W, C], as an HWC view gives
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "offset":  # inside a larger buffer, at an odd element offset
        room = torch.empty([side + 3 for side in x.shape], dtype=x.dtype, device=x.device)
        view = room[tuple(slice(1, 1 + side) for side in x.shape)]
        return view.copy_(x)
    if layout == "strided":  # every second row and third column of a larger buffer
        *lead, height, width = x.shape
        room = torch.empty([*lead, height * 2, width * 3], dtype=x.dtype, device=x.device)
        return room[..., ::2, ::3].copy_(x)
    if layout == "every-16th":  # column: each is as well aligned as the first, and none beside it
        *lead, width = x.shape
        room = torch.empty([*lead, width * 16], dtype=x.dtype, device=x.device)
        return room[..., ::16].copy_(x)
    if layout == "transposed":  # rows contiguous along y
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "expanded":  # one image seen B times: stride 0 along the batch
        return x[:1].contiguous().expand_as(x)
    if layout in ALMOST_ALIGNED:
        order, what = layout.split("-", 1)
        return (
            _almost_aligned(x, what)
            if order == "planar"
            else _almost_aligned(x.movedim(1, -1), what).movedim(-1, 1)
        )
    raise ValueError(layout)


def _almost_aligned(x: Tensor, what: str) -> Tensor:
    start, steps, step = int(what == "odd-start"), [0] * x.ndim, 1
    for axis in reversed(range(x.ndim)):
        steps[axis] = step = step + (what == f"odd-{axis}")
        step *= x.shape[axis]
        if what == "of-8" and axis == x.ndim - 1:
            step = -(-step // 8) * 8
    # What lies between would be the largest of all.
    most = torch.finfo(x.dtype).max
    room = torch.full((start + step,), most, dtype=x.dtype, device=x.device)
    return room.as_strided(x.shape, steps, start).copy_(x)


def grid_logits(shape: tuple[int, ...], seed: int, levels: int = 17) -> Tensor:
    """Multiples of 1/8, full of ties.

    Upsampled by 2 or 4 they are exact in float32 in any order of summation, so that every backend
    has to give the same label, ties included.
    """
    half = levels // 2
    return torch.randint(-half, half + 1, shape, generator=generator(seed)).float() / 8


def noise_logits(shape: tuple[int, ...], seed: int, spread: float = 4.0) -> Tensor:
    """Independent normal noise."""
    return torch.randn(shape, generator=generator(seed)) * spread


def blob_logits(
    batch: int, classes: int, height: int, width: int, seed: int, cell: int = 8
) -> Tensor:
    """Smooth class regions of about `cell` pixels, as a network's answer has them."""
    coarse = noise_logits((batch, classes, height // cell + 2, width // cell + 2), seed)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


def signed_nans(x: Tensor) -> Tensor:
    """Sets the sign of every other NaN, which conversions between types may drop."""
    bits = x.view({2: torch.int16, 4: torch.int32}[x.element_size()])
    every_other = x.isnan() & (x.isnan().flatten().cumsum(0).view(x.shape) % 2 == 1)
    return torch.where(every_other, bits | torch.iinfo(bits.dtype).min, bits).view(x.dtype)


# Those at both ends of the words of a bit set, whichever its words.
BOUNDARY_CLASSES = (0, 31, 32, 63, 64, 127, 128, 255)


def one_hot_logits() -> Tensor:
    """[1, 256, 16, 16] where every pixel has a class of its own."""
    order = torch.randperm(256, generator=generator(256)).view(1, 16, 16)
    return torch.nn.functional.one_hot(order, 256).movedim(-1, 1).float()


def label_map(
    batch: int, height: int, width: int, seed: int, classes: int = 6, density: float = 0.3
) -> Tensor:
    """Mostly class 0 with scattered other ids; int64 [B, H, W]."""
    g = generator(seed)
    ids = torch.randint(1, classes, (batch, height, width), generator=g)
    keep = torch.rand((batch, height, width), generator=g) < density
    return torch.where(keep, ids, torch.zeros_like(ids))


def clustered_map(
    batch: int, height: int, width: int, seed: int, objects: int = 12, side: int = 5
) -> Tensor:
    """Small square objects (classes 1 and 2), half of them crowded around one spot; int64."""
    g = generator(seed)
    out = torch.zeros((batch, height, width), dtype=torch.int64)
    for b in range(batch):
        spot = torch.rand(2, generator=g)
        for i in range(objects):
            centre = torch.rand(2, generator=g)
            if i % 2:
                centre = (spot + 0.15 * (centre - 0.5)).clamp(0, 1)
            y = int(centre[0] * max(height - side, 0))
            x = int(centre[1] * max(width - side, 0))
            out[b, y : y + side, x : x + side] = 1 + i % 2
    return out


def windows_of(
    boxes: list[list[tuple[int, int]]], window: int, n: int | None = None, device: str = "cpu"
) -> Windows:
    """Windows from lists of (y, x) per image; slots beyond an image's list are unused."""
    slots = max([len(row) for row in boxes] + [1]) if n is None else n
    origins = torch.zeros((len(boxes), slots, 2), dtype=torch.int32)
    counts = torch.zeros((len(boxes), slots), dtype=torch.int32)
    for b, row in enumerate(boxes):
        for j, (y, x) in enumerate(row):
            origins[b, j, 0], origins[b, j, 1] = y, x
            counts[b, j] = 1
    num = torch.tensor([len(row) for row in boxes], dtype=torch.int32)
    return Windows(origins.to(device), counts.to(device), num.to(device), window)


def random_windows(
    batch: int, height: int, width: int, window: int, n: int, seed: int, device: str = "cpu"
) -> Windows:
    """Overlapping windows at any pixel, and a different number of them per image."""
    g = generator(seed)
    boxes = []
    for b in range(batch):
        taken = max(n - b, 0)
        ys = torch.randint(0, height - window + 1, (taken,), generator=g).tolist()
        xs = torch.randint(0, width - window + 1, (taken,), generator=g).tolist()
        boxes.append(list(zip(ys, xs, strict=True)))
    return windows_of(boxes, window, n, device)
