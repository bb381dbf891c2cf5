"""FarSeg and FactSeg: networks for small objects on vast backgrounds."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Pyramid, PyramidDecoder, conv_bn_relu
from .registry import optional_import


class _OnPyramid(nn.Module):
    """A network on features of timm's `encoder` at 1/4, 1/8, 1/16 and 1/32.

    Args:
        num_classes: channels of the logits.
        in_channels: image channels.
        encoder: a network of timm.
        pretrained: download ImageNet weights of the encoder.
        width: channels of feature pyramids.
        decoder: channels of decoders.
        **options: further options of timm.create_model.
    """

    stride_multiple = 32

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        encoder: str = "resnet50",
        pretrained: bool = False,
        width: int = 256,
        decoder: int = 128,
        **options: Any,
    ) -> None:
        super().__init__()
        timm = optional_import("timm", encoder)
        self.encoder = timm.create_model(
            encoder,
            pretrained=pretrained,
            in_chans=in_channels,
            features_only=True,
            out_indices=(1, 2, 3, 4),
            **options,
        )
        self._build(self.encoder.feature_info.channels(), num_classes, width, decoder)

    def _build(self, channels: list[int], num_classes: int, width: int, decoder: int) -> None:
        """Makes what comes behind the encoder, whose levels have these channels."""
        raise NotImplementedError


class FarSeg(_OnPyramid):
    """Foreground-aware relation network, logits at 1/4.

    Zheng et al., "Foreground-Aware Relation Network for Geospatial Object Segmentation in High
    Spatial Resolution Remote Sensing Imagery", CVPR 2020. A vector of the whole scene is compared
    with every pixel of the feature pyramid; pixels that relate to it are strengthened. Its
    foreground-aware loss, which weighs hard pixels, is not part of the network.
    """

    def _build(self, channels: list[int], num_classes: int, width: int, decoder: int) -> None:
        self.pyramid = Pyramid(channels, width)
        self.scene = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[-1], width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 1)
            )
            for _ in channels
        )
        self.content = nn.ModuleList(conv_bn_relu(width, width, 1) for _ in channels)
        self.encode = nn.ModuleList(conv_bn_relu(width, width, 1) for _ in channels)
        self.decoder = PyramidDecoder(len(channels), width, decoder)
        self.classify = nn.Conv2d(decoder, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, N, H/4, W/4]; sides are multiples of 32."""
        features: list[Tensor] = self.encoder(image)
        whole = F.adaptive_avg_pool2d(features[-1], 1)
        levels = []
        for i, level in enumerate(self.pyramid(features)):
            related = (self.scene[i](whole) * self.content[i](level)).sum(1, keepdim=True)
            levels.append(related.sigmoid() * self.encode[i](level))
        logits: Tensor = self.classify(self.decoder(levels))
        return logits


class FactSeg(_OnPyramid):
    """Foreground activation and semantics in two decoders, merged as probabilities; logits at 1/4.

    Ma et al., "FactSeg: Foreground Activation-Driven Small Object Semantic Segmentation in
    Large-Scale Remote Sensing Imagery", IEEE TGRS 2021. One decoder of the feature pyramid tells
    foreground from background, the other the classes, with the first one's features beside its own;
    the joint probability of class c is that of c times that of foreground, of class 0 (background)
    times that of background. The logits are its logarithm, so cross-entropy is the paper's
    collaborative loss; its mining of small objects is a matter of the loss and not part of this.

    Class 0 is background; a single class is foreground against the rest.
    """

    def _build(self, channels: list[int], num_classes: int, width: int, decoder: int) -> None:
        self.activation_pyramid = Pyramid(channels, width)
        self.semantic_pyramid = Pyramid(channels, width)
        self.activation = PyramidDecoder(len(channels), width, decoder)
        self.semantics = PyramidDecoder(len(channels), width, decoder)
        self.foreground = nn.Conv2d(decoder, 1, 1)
        self.classify = nn.Conv2d(decoder, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, N, H/4, W/4]; sides are multiples of 32."""
        features: list[Tensor] = self.encoder(image)
        activated = self.activation_pyramid(features)
        joined = [a + b for a, b in zip(activated, self.semantic_pyramid(features))]
        foreground = self.foreground(self.activation(activated))
        logits: Tensor = self.classify(self.semantics(joined))
        if logits.shape[1] == 1:  # log odds: the foreground's add up
            joint: Tensor = logits + foreground
            return joint
        background = logits[:, :1] + F.logsigmoid(-foreground)
        others = logits[:, 1:] + F.logsigmoid(foreground)
        return torch.cat((background, others), dim=1)
