"""How a network is optimised; the paper's recipe is the default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .. import _checks


@dataclass(frozen=True)
class Recipe:
    """Optimiser and schedule, stepped once per iteration.

    The learning rate falls as (1 - step / steps) ** power, after a linear rise over `warmup` steps.

    Attributes:
        optimizer: "sgd" or "adamw".
        lr: highest learning rate.
        momentum: of sgd.
        weight_decay: 4e-5 in the authors' C2FNet configurations, 5e-4 in their baselines'.
        power: of the polynomial.
        warmup: steps.
    """

    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 4e-5
    power: float = 0.9
    warmup: int = 0

    def __post_init__(self) -> None:
        """Checks every field."""
        _checks.choice("recipe", "optimizer", self.optimizer, ("sgd", "adamw"))
        if not self.lr > 0 or self.weight_decay < 0 or self.power < 0 or self.warmup < 0:
            raise ValueError(
                "recipe: lr must be above 0, weight_decay, power and warmup at least 0, got "
                f"{self.lr}, {self.weight_decay}, {self.power}, {self.warmup}"
            )

    def factor(self, step: int, steps: int) -> float:
        """Learning rate of `step` (0-based) of `steps`, as a share of `lr`."""
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        fall: float = max(0.0, 1 - step / steps) ** self.power
        return rise * fall

    def build(
        self, parameters: Iterable[nn.Parameter], steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Optimiser of `parameters` and its schedule over `steps` iterations."""
        trained = [p for p in parameters if p.requires_grad]
        optimizer: torch.optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                trained, self.lr, momentum=self.momentum, weight_decay=self.weight_decay
            )
        else:
            optimizer = torch.optim.AdamW(trained, self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.factor(step, steps)
        )
        return optimizer, schedule


def class_weights(
    balance: str | Sequence[float],
    pixels: Sequence[int],
    num_classes: int,
    small_classes: Sequence[int] = (),
) -> tuple[float, ...] | None:
    """Weight of each class in a loss.

    Args:
        balance: "none"; "sqrt" or "inverse", by frequency; "small", the small classes among each
            other by inverse frequency, 1 for all others: each counts as much as the next, and
            background against small objects as before; or the weights.
        pixels: of each class in the training split.
        num_classes: how many weights there must be.
        small_classes: for "small".

    Returns:
        One weight per class, 0 for a class without pixels where frequency counts; the weights' mean
        over all pixels concerned is 1. None for "none".

    Raises:
        ValueError: another word, or not num_classes weights.
    """
    if not isinstance(balance, str):
        if len(balance) != num_classes:
            raise ValueError(f"balance must have {num_classes} weights, got {len(balance)}")
        return tuple(float(w) for w in balance)
    _checks.choice("loss", "balance", balance, ("none", "sqrt", "inverse", "small"))
    if balance == "none":
        return None
    power = 0.5 if balance == "sqrt" else 1.0
    concerned = small_classes if balance == "small" else range(num_classes)
    raw = {c: pixels[c] ** -power if pixels[c] else 0.0 for c in concerned}
    total = sum(pixels[c] for c in concerned)
    if not total:
        return None
    mean = sum(w * pixels[c] for c, w in raw.items()) / total
    return tuple(raw[c] / mean if c in raw else 1.0 for c in range(num_classes))
