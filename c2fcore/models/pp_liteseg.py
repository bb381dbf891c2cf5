"""PP-LiteSeg: a fast encoder (STDC), cheap context, and attention where levels are joined."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import conv_bn_relu, resize

_BINS = (1, 2, 4)
# Blocks of each of STDC's three stages.
_LAYERS = {"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}


class _ShortTermDense(nn.Module):
    """Four convolutions in a row of 1/2, 1/4, 1/8 and 1/8 of the channels, concatenated."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn_relu(inputs, outputs // 2, kernel=1)
        half = outputs // 2
        self.halve = None
        if stride == 2:
            self.halve = nn.Sequential(
                nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False), nn.BatchNorm2d(half)
            )
        self.rest = nn.ModuleList(
            (
                conv_bn_relu(half, outputs // 4),
                conv_bn_relu(outputs // 4, outputs // 8),
                conv_bn_relu(outputs // 8, outputs // 8),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        parts = [x if self.halve is None else F.avg_pool2d(x, 3, 2, 1)]
        if self.halve is not None:
            x = self.halve(x)
        for layer in self.rest:
            x = layer(x)
            parts.append(x)
        return torch.cat(parts, dim=1)


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    first = _ShortTermDense(inputs, outputs, stride=2)
    return nn.Sequential(first, *(_ShortTermDense(outputs, outputs, 1) for _ in range(blocks - 1)))


class _Context(nn.Module):
    """Simple pyramid pooling: averages over 1, 2 x 2 and 4 x 4 parts of the image, added up."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pooled = nn.ModuleList(conv_bn_relu(inputs, outputs, kernel=1) for _ in _BINS)
        self.join = conv_bn_relu(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        levels = [
            resize(pooled(F.adaptive_avg_pool2d(x, bins)), size)
            for pooled, bins in zip(self.pooled, _BINS)
        ]
        joined: Tensor = self.join(torch.stack(levels).sum(0))
        return joined


class _Fusion(nn.Module):
    """Unified attention fusion, spatial: every pixel weighs the deep level against the shallow."""

    def __init__(self, shallow: int, deep: int, outputs: int) -> None:
        super().__init__()
        self.shallow = conv_bn_relu(shallow, deep)
        self.attention = nn.Sequential(
            conv_bn_relu(4, 2), nn.Conv2d(2, 1, 3, padding=1, bias=False), nn.BatchNorm2d(1)
        )
        self.join = conv_bn_relu(deep, outputs)

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        shallow = self.shallow(shallow)
        deep = resize(deep, shallow.shape[-2:])
        looks = [
            look(t, dim=1, keepdim=True)
            for t in (deep, shallow)
            for look in (torch.mean, torch.amax)
        ]
        alpha = self.attention(torch.cat(looks, dim=1)).sigmoid()
        joined: Tensor = self.join(alpha * deep + (1 - alpha) * shallow)
        return joined


class PPLiteSeg(nn.Module):
    """PP-LiteSeg on STDC, logits at 1/8.

    Peng et al., "PP-LiteSeg: A Superior Real-Time Semantic Segmentation Model", 2022; encoder: Fan
    et al., "Rethinking BiSeNet For Real-time Semantic Segmentation", CVPR 2021. Without the
    auxiliary heads of its training.

    Args:
        num_classes: channels of the logits.
        in_channels: image channels.
        encoder: "stdc1" (PP-LiteSeg-T) or "stdc2" (PP-LiteSeg-B).
        decoder: channels at 1/32, 1/16 and 1/8.

    Raises:
        ValueError: another encoder.
    """

    stride_multiple = 32

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        encoder: str = "stdc1",
        decoder: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        if encoder not in _LAYERS:
            raise ValueError(f"PPLiteSeg: encoder must be stdc1 or stdc2, got {encoder!r}")
        c32, c16, c8 = decoder or ((128, 64, 32) if encoder == "stdc1" else (128, 96, 64))
        blocks = _LAYERS[encoder]
        self.stem = nn.Sequential(
            conv_bn_relu(in_channels, 32, stride=2), conv_bn_relu(32, 64, stride=2)
        )
        self.stage8 = _stage(64, 256, blocks[0])
        self.stage16 = _stage(256, 512, blocks[1])
        self.stage32 = _stage(512, 1024, blocks[2])
        self.context = _Context(1024, c32)
        self.fuse16 = _Fusion(512, c32, c16)
        self.fuse8 = _Fusion(256, c16, c8)
        self.head = nn.Sequential(conv_bn_relu(c8, c8), nn.Conv2d(c8, num_classes, 1, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, N, H/8, W/8]; sides are multiples of 32."""
        x8 = self.stage8(self.stem(image))
        x16 = self.stage16(x8)
        x = self.context(self.stage32(x16))
        logits: Tensor = self.head(self.fuse8(x8, self.fuse16(x16, x)))
        return logits
