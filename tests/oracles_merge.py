"""aggregate as plain Python loops; see oracles.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from oracles import Plane, first_max, resize, top_two, upsampled


@dataclass
class Merged:
    labels: np.ndarray  # [B, H, W]
    scores: np.ndarray  # [B, N, H, W]
    margin: np.ndarray  # [B, H, W], distance of the nearest other decision


def sigmoid(x: float) -> float:
    if math.isnan(x):
        return math.nan
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softmax(values: Sequence[float]) -> list[float]:
    """One-hot at the first maximum where that is +inf, or where all are -inf."""
    best = first_max(values)
    if math.isinf(values[best]):
        return [1.0 if c == best else 0.0 for c in range(len(values))]
    powers = [math.exp(v - values[best]) for v in values]
    return [v / sum(powers) for v in powers]


def foreground(fine: np.ndarray, window: int) -> list[Plane]:
    """Foreground probability [k, k] of every patch: logit at the fine network's own resolution, one
    bilinear sample per pixel, sigmoid."""
    # The difference of two channels is taken in float32.
    logit = fine[:, 0] if fine.shape[1] == 1 else fine[:, 1] - fine[:, 0]
    return [
        [[sigmoid(v) for v in row] for row in resize(plane.tolist(), window, window)]
        for plane in logit.astype(np.float64)
    ]


def covering_mean(
    patches: list[Plane], boxes: list[tuple[int, int]], window: int, y: int, x: int
) -> float:
    """Mean foreground of the patches over a pixel in slot order; NaN where none covers it."""
    total, covering = 0.0, 0
    for (y0, x0), patch in zip(boxes, patches, strict=True):
        if 0 <= y - y0 < window and 0 <= x - x0 < window:
            total += patch[y - y0][x - x0]
            covering += 1
    return total / covering if covering else math.nan


def merge_pixel(
    logits: list[float], p_f: float, classes: Sequence[int], rule: str
) -> tuple[int, list[float], float]:
    """Label, scores and margin of one pixel; p_f is NaN where it is not covered."""
    covered = not math.isnan(p_f)
    if rule == "official":
        scores = [v + p_f if covered and c in classes else v for c, v in enumerate(logits)]
        return first_max(scores), scores, top_two(scores)
    p = softmax(logits)
    best = first_max(logits)
    if not covered:
        return best, p, top_two(logits)
    margin = min(abs(p_f - 0.5), top_two(logits))
    small = best in classes
    if small and p_f < 0.5:
        group, bonus = [c for c in range(len(p)) if c not in classes], 1 - p_f
    elif not small and p_f >= 0.5:
        group, bonus = [c for c in range(len(p)) if c in classes], p_f
    else:
        group, bonus = [], 0.0
    label, added = best, list(p)
    if group:
        # By their logits: p of classes far below the top may round to the same number.
        target = group[first_max([logits[c] for c in group])]
        added[target] += bonus
        margin = min(margin, top_two([logits[c] for c in group]), abs(added[target] - p[best]))
        if added[target] > p[best] or (added[target] == p[best] and target < best):
            label = target
    if rule == "paper":
        return label, softmax(added), margin
    scores = [v / sum(added) for v in added] if group else p
    return label, scores, margin


def aggregate(
    coarse: np.ndarray,
    fine: np.ndarray,
    origins: np.ndarray,
    num: np.ndarray,
    window: int,
    classes: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    rule: str = "paper",
) -> Merged:
    batch, count, h, w = coarse.shape
    height, width = size or (h, w)
    n = origins.shape[1]
    out = Merged(
        np.zeros((batch, height, width), np.uint8),
        np.zeros((batch, count, height, width)),
        np.zeros((batch, height, width)),
    )
    patches = foreground(fine, window)
    for b in range(batch):
        pixels = upsampled(coarse[b], height, width)
        boxes = [(int(y), int(x)) for y, x in origins[b, : num[b]]]
        mine = patches[b * n : b * n + len(boxes)]
        for y in range(height):
            for x in range(width):
                p_f = covering_mean(mine, boxes, window, y, x)
                label, scores, margin = merge_pixel(pixels[y][x], p_f, classes, rule)
                out.labels[b, y, x] = label
                out.scores[b, :, y, x] = scores
                out.margin[b, y, x] = margin
    return out
