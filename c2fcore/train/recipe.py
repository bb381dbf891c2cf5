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
    balance: str | Sequence[float], pixels: Sequence[int], num_classes: int
) -> tuple[float, ...] | None:
    """Weight of each class in a loss.

    Args:
        balance: "none"; "sqrt" or "inverse", by frequency, the weights' mean over all pixels being
            1; or the weights.
        pixels: of each class in the training split.
        num_classes: how many weights there must be.

    Returns:
        One weight per class, 0 for a class without pixels; None for "none".

    Raises:
        ValueError: another word, or not num_classes weights.
    """
    if not isinstance(balance, str):
        if len(balance) != num_classes:
            raise ValueError(f"balance must have {num_classes} weights, got {len(balance)}")
        return tuple(float(w) for w in balance)
    _checks.choice("loss", "balance", balance, ("none", "sqrt", "inverse"))
    if balance == "none":
        return None
    power = 0.5 if balance == "sqrt" else 1.0
    raw = [count**-power if count else 0.0 for count in pixels]
    mean = sum(w * count for w, count in zip(raw, pixels)) / max(sum(pixels), 1)
    return tuple(w / mean for w in raw) if mean else None
