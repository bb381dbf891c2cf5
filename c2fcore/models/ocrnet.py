"""OCRNet: pixels look at what the classes look like in this image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .hrnet import HRNet
from .layers import conv_bn_relu


class OCRNet(nn.Module):
    """HRNet with object-contextual representations, logits at 1/4.

    Yuan, Chen and Wang, "Object-Contextual Representations for Semantic Segmentation", ECCV 2020.
    A first, supervised guess of the classes weighs the pixels that represent each class; every
    pixel then attends to those representations.

    Args:
        backbone: an HRNet of timm.
        num_classes: channels of the logits.
        in_channels: image channels.
        width: channels of pixel and object representations.
        keys: channels in which they are compared.
        **options: of `HRNet`.
    """

    stride_multiple = 32

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        in_channels: int = 3,
        *,
        width: int = 512,
        keys: int = 256,
        **options: Any,
    ) -> None:
        super().__init__()
        self.backbone = HRNet(backbone, in_channels, **options)
        channels = self.backbone.channels
        self.guess = nn.Sequential(
            conv_bn_relu(channels, channels, kernel=1), nn.Conv2d(channels, num_classes, 1)
        )
        self.pixels = conv_bn_relu(channels, width)
        self.query = nn.Sequential(conv_bn_relu(width, keys, 1), conv_bn_relu(keys, keys, 1))
        self.key = nn.Sequential(conv_bn_relu(width, keys, 1), conv_bn_relu(keys, keys, 1))
        self.value = conv_bn_relu(width, keys, 1)
        self.context = conv_bn_relu(keys, width, 1)
        self.join = nn.Sequential(conv_bn_relu(2 * width, width, 1), nn.Dropout2d(0.05))
        self.classify = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [B, N, H/4, W/4]; in training also those of the first guess."""
        features = self.backbone(image)
        guess = self.guess(features)
        pixels = self.pixels(features)
        share = guess.flatten(2).softmax(dim=2)  # [B, N, P]: of each class, over the pixels
        objects = torch.einsum("bnp,bcp->bcn", share, pixels.flatten(2))[..., None]
        query = self.query(pixels)  # [B, keys, h, w]
        key, value = self.key(objects)[..., 0], self.value(objects)[..., 0]  # [B, keys, N]
        likeness = torch.einsum("bcp,bcn->bpn", query.flatten(2), key) * query.shape[1] ** -0.5
        context = torch.einsum("bpn,bcn->bcp", likeness.softmax(dim=2), value)
        context = self.context(context.unflatten(2, query.shape[-2:]))
        logits = self.classify(self.join(torch.cat((context, pixels), dim=1)))
        return (logits, guess) if self.training else logits
