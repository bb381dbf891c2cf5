"""Layers that several networks share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (or divides it by `stride`), batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def resize(features: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear resize to (height, width), align_corners=False."""
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


class Pyramid(nn.Module):
    """Feature pyramid: every level, projected to one width, plus what comes from below it.

    Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.
    """

    def __init__(self, channels: list[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Levels of `width` channels, finest first as given."""
        levels = [lateral(f) for lateral, f in zip(self.lateral, features)]
        for i in range(len(levels) - 2, -1, -1):
            size = levels[i].shape[-2:]
            levels[i] = levels[i] + F.interpolate(levels[i + 1], size=size, mode="nearest")
        return [smooth(level) for smooth, level in zip(self.smooth, levels)]


class PyramidDecoder(nn.Module):
    """The mean of all pyramid levels, each brought to the finest by convolutions and doublings.

    Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019.
    """

    def __init__(self, levels: int, width: int, outputs: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.ModuleList(
                conv_bn_relu(width if k == 0 else outputs, outputs) for k in range(max(1, level))
            )
            for level in range(levels)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """[B, outputs, h, w] at the size of the first level."""
        brought = []
        for level, x in enumerate(features):
            chain: Any = self.steps[level]
            for k, step in enumerate(chain):
                x = step(x)
                if level:
                    x = resize(x, features[level - k - 1].shape[-2:])
            brought.append(x)
        return torch.stack(brought).mean(0)
