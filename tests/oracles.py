"""The ops as plain Python loops over pixels, written from their specification, not from the code.

Slow and simple on purpose. Taps are computed in float32 as the specification says; values are
Python floats (float64), so a float32 implementation may differ by its own rounding. Where that can
change a label, the oracle says how far away the nearest other decision is (`margin`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

f32 = np.float32
Plane = list[list[float]]


def position(dst: int, in_size: int, out_size: int) -> np.float32:
    """scale * (dst + 0.5) - 0.5 in float32, rounded once, as PyTorch's builds contract it.

    The product of two float32 is exact in float64.
    """
    scale = f32(in_size) / f32(out_size)
    return f32(float(scale) * (dst + 0.5) - 0.5)


def tap(dst: int, in_size: int, out_size: int) -> tuple[int, int, float]:
    """Source indices and the weight of the second, float32 as F.interpolate computes them."""
    if in_size == out_size:
        return dst, dst, 0.0
    src = max(f32(0), position(dst, in_size, out_size))
    i0 = min(int(src), in_size - 1)
    return i0, min(i0 + 1, in_size - 1), float(src - f32(i0))


def resize(plane: Plane, height: int, width: int) -> Plane:
    """Bilinear, align_corners=False. All four taps are multiplied, also those of weight 0."""
    h, w = len(plane), len(plane[0])
    if (h, w) == (height, width):
        return plane
    columns = [tap(x, w, width) for x in range(width)]
    out = []
    for y in range(height):
        y0, y1, wy = tap(y, h, height)
        row = []
        for x0, x1, wx in columns:
            top = (1 - wx) * plane[y0][x0] + wx * plane[y0][x1]
            bottom = (1 - wx) * plane[y1][x0] + wx * plane[y1][x1]
            row.append((1 - wy) * top + wy * bottom)
        out.append(row)
    return out


def minus_inf_for_nan(values: Sequence[float]) -> list[float]:
    return [-math.inf if math.isnan(v) else v for v in values]


def first_max(values: Sequence[float]) -> int:
    """Lowest index of the largest value; 0 when all are -inf."""
    best = 0
    for i, v in enumerate(values):
        if v > values[best]:
            best = i
    return best


def top_two(values: Sequence[float]) -> float:
    """Distance of the largest value to the second largest; inf if that cannot matter."""
    if len(values) < 2:
        return math.inf
    a, b = sorted(values)[-1:-3:-1]
    return math.inf if math.isinf(a) or math.isinf(b) else a - b


def upsampled(logits: np.ndarray, height: int, width: int) -> list[list[list[float]]]:
    """[N, h, w] -> pixel-major [H][W][N], NaN as -inf."""
    planes = [resize(plane.tolist(), height, width) for plane in logits.astype(np.float64)]
    return [
        [minus_inf_for_nan([plane[y][x] for plane in planes]) for x in range(width)]
        for y in range(height)
    ]


def labels_of(seg: np.ndarray, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels [B, H, W] of logits or of a label map, and the margin of each pixel."""
    if seg.ndim == 3:
        return seg.astype(object), np.full(seg.shape, math.inf)
    batch, _, h, w = seg.shape
    height, width = size or (h, w)
    labels = np.zeros((batch, height, width), dtype=object)
    margin = np.full(labels.shape, math.inf)
    for b in range(batch):
        pixels = upsampled(seg[b], height, width)
        for y in range(height):
            for x in range(width):
                labels[b, y, x] = first_max(pixels[y][x])
                margin[b, y, x] = top_two(pixels[y][x])
    return labels, margin


def starts(size: int, window: int, stride: int, edge: str) -> list[int]:
    out, at = [], 0
    while at + window <= size:
        out.append(at)
        at += stride
    if edge == "flush" and out[-1] + window < size:
        out.append(size - window)
    return out


def count_windows(
    labels: np.ndarray, classes: Sequence[int], window: int, stride: int, edge: str = "flush"
) -> np.ndarray:
    batch, height, width = labels.shape
    ys = starts(height, window, stride, edge)
    xs = starts(width, window, stride, edge)
    counts = np.zeros((batch, len(ys), len(xs)), dtype=np.int32)
    for b in range(batch):
        for i, y in enumerate(ys):
            for j, x in enumerate(xs):
                for row in labels[b, y : y + window, x : x + window]:
                    for label in row:
                        counts[b, i, j] += label in classes
    return counts


@dataclass
class Chosen:
    origins: np.ndarray
    counts: np.ndarray
    num: np.ndarray


def select_windows(
    labels: np.ndarray,
    classes: Sequence[int],
    *,
    window: int,
    stride: int,
    n: int,
    strategy: str = "cover",
    min_pixels: int = 1,
    edge: str = "flush",
) -> Chosen:
    batch, height, width = labels.shape
    if strategy == "all":
        stride = window
    boxes = [
        (y, x)
        for y in starts(height, window, stride, edge)
        for x in starts(width, window, stride, edge)
    ]
    chosen = Chosen(
        np.zeros((batch, n, 2), np.int32), np.zeros((batch, n), np.int32), np.zeros(batch, np.int32)
    )
    for b in range(batch):
        pixels = [
            {
                (y, x)
                for y in range(y0, y0 + window)
                for x in range(x0, x0 + window)
                if labels[b, y, x] in classes
            }
            for y0, x0 in boxes
        ]
        if strategy == "cover":
            picks = _greedy(pixels, n, min_pixels)
        else:
            enough = [(i, len(p)) for i, p in enumerate(pixels) if len(p) >= min_pixels]
            if strategy == "top":
                enough.sort(key=lambda pick: (-pick[1], pick[0]))
            picks = enough[:n]
        chosen.num[b] = len(picks)
        for slot, (i, count) in enumerate(picks):
            chosen.origins[b, slot] = boxes[i]
            chosen.counts[b, slot] = count
    return chosen


def _greedy(pixels: list[set[tuple[int, int]]], n: int, min_pixels: int) -> list[tuple[int, int]]:
    covered: set[tuple[int, int]] = set()
    picks: list[tuple[int, int]] = []
    while len(picks) < n:
        new = [len(p - covered) for p in pixels]
        best = first_max(new)
        if new[best] < min_pixels:
            break
        picks.append((best, new[best]))
        covered |= pixels[best]
    return picks


def _cubic(t: float) -> list[float]:
    """Weights of the taps at -1, 0, 1, 2 (Keys' kernel)."""
    a = -0.75

    def near(d: float) -> float:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: float) -> float:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def axis_taps(dst: int, in_size: int, out_size: int, mode: str) -> list[tuple[int, float]]:
    """(source index, weight) pairs of one output position along one axis."""
    if mode == "nearest":
        scale = f32(in_size) / f32(out_size)
        return [(min(int(np.floor(f32(dst) * scale)), in_size - 1), 1.0)]
    if mode == "bilinear":
        i0, i1, w1 = tap(dst, in_size, out_size)
        return [(i0, 1 - w1), (i1, w1)]
    src = position(dst, in_size, out_size)
    i = math.floor(src)
    weights = _cubic(float(src - f32(i)))
    return [(min(max(i - 1 + m, 0), in_size - 1), weights[m]) for m in range(4)]


def extract_patches(
    image: np.ndarray,
    origins: np.ndarray,
    num: np.ndarray,
    window: int,
    *,
    zoom: float = 1.0,
    mode: str = "bilinear",
    scale: float = 1.0,
    mean: Sequence[float],
    std: Sequence[float],
) -> np.ndarray:
    batch, channels = image.shape[:2]
    n = origins.shape[1]
    p = round(window * zoom)
    taps = [axis_taps(i, window, p, mode) for i in range(p)]
    out = np.zeros((batch * n, channels, p, p))
    for b in range(batch):
        for j in range(int(num[b])):
            y0, x0 = (int(v) for v in origins[b, j])
            for c in range(channels):
                crop = image[b, c, y0 : y0 + window, x0 : x0 + window].astype(np.float64).tolist()
                for y in range(p):
                    for x in range(p):
                        value = 0.0
                        for iy, wy in taps[y]:
                            for ix, wx in taps[x]:
                                value += wy * wx * crop[iy][ix]
                        out[b * n + j, c, y, x] = (value * scale - mean[c]) / std[c]
    return out


def extract_targets(
    labels: np.ndarray,
    origins: np.ndarray,
    num: np.ndarray,
    window: int,
    classes: Sequence[int],
    ignore_index: int = 255,
) -> np.ndarray:
    batch, n = origins.shape[:2]
    out = np.full((batch * n, window, window), ignore_index, dtype=np.uint8)
    for b in range(batch):
        for j in range(int(num[b])):
            y0, x0 = (int(v) for v in origins[b, j])
            for y in range(window):
                for x in range(window):
                    label = int(labels[b, y0 + y, x0 + x])
                    out[b * n + j, y, x] = (
                        ignore_index if label == ignore_index else int(label in classes)
                    )
    return out
