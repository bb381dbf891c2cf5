"""Slope and shift of the fine logits at which their confidence is right (Platt's scaling)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn

from . import _fine_loss, _stages
from .config import C2FConfig

_LIMIT: Final = 20.0  # logits beyond it count as this one
_BINS: Final = 4001  # of 0.01 each: memory does not grow with the number of examples


@torch.no_grad()
def fit(
    coarse: nn.Module,
    fine: nn.Module,
    config: C2FConfig,
    examples: Iterable[tuple[Tensor, Tensor]],
) -> tuple[float, float]:
    """See `C2FNet.calibrate`."""
    counts = torch.zeros((2, _BINS), dtype=torch.float64, device="cpu")
    for image, labels in examples:
        counts += _histogram(coarse, fine, config, image, labels)
    return _platt(counts)


def _histogram(
    coarse: nn.Module, fine: nn.Module, config: C2FConfig, image: Tensor, labels: Tensor
) -> Tensor:
    """Pixels of the windows by target (0, 1) and foreground logit, float64 [2, _BINS]."""
    _stages.check_image(image)
    labels = _fine_loss.checked_labels(image, labels, config.ignore_index)
    found = _fine_loss.examples(coarse, fine, config, image, labels, _fine_loss.FineLoss())
    counts = torch.zeros(2 * _BINS, dtype=torch.int64, device="cpu")
    if found is None:
        return counts.view(2, _BINS).double()
    size = (config.window, config.window)
    pieces = (t.split(config.max_batch) for t in (found.patches, found.targets))
    for patches, targets in zip(*pieces, strict=True):
        logits = _stages.all_fine_logits(fine, patches, config)[0]
        foreground = _fine_loss.foreground_at(logits, size)[:, 0].nan_to_num(0.0)
        bins = (foreground.clamp(-_LIMIT, _LIMIT) + _LIMIT) * ((_BINS - 1) / (2 * _LIMIT))
        index = bins.round().long() + _BINS * (targets == 1)
        counts += index[targets != _stages.IGNORED].bincount(minlength=2 * _BINS).cpu()
    return counts.view(2, _BINS).double()


def _platt(counts: Tensor) -> tuple[float, float]:
    """Slope and shift of least cross-entropy, by Newton's method with halved steps."""
    negative, positive = counts.sum(1).tolist()
    if not negative or not positive:
        raise ValueError(
            "C2FNet: examples must have small objects and other pixels in their windows, got "
            f"{positive:.0f} and {negative:.0f} pixels"
        )
    x = torch.linspace(-_LIMIT, _LIMIT, _BINS, dtype=torch.float64, device=counts.device)
    design = torch.stack((x, torch.ones_like(x)))
    # Platt's targets, short of 0 and 1, bound the slope where the logits separate both kinds.
    total = counts.sum(0)
    hits = counts[1] * ((positive + 1) / (positive + 2)) + counts[0] / (negative + 2)

    def loss(both: Tensor) -> float:
        z = both @ design
        return float((total * torch.nn.functional.softplus(z) - hits * z).sum())

    both = counts.new_tensor([1.0, 0.0])
    for _ in range(100):
        p = (both @ design).sigmoid()
        gradient = design @ (total * p - hits)
        curvature = (design * (total * p * (1 - p))) @ design.T
        curvature += 1e-9 * total.sum() * torch.eye(2, dtype=torch.float64, device=counts.device)
        step = torch.linalg.solve(curvature, gradient)
        before = loss(both)
        while loss(both - step) > before and float(step.abs().max()) > 1e-9:
            step = step / 2
        both = both - step
        if float(step.abs().max()) < 1e-7:
            break
    slope, shift = both.tolist()
    if slope <= 0:
        raise ValueError(
            f"C2FNet: the fine network must be better than chance in the windows, got slope {slope}"
        )
    return slope, shift
