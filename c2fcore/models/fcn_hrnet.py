"""FCN head on HRNet, the paper's default for both stages."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from .registry import optional_import


class FCNHRNet(nn.Module):
    """HRNet whose four branches are joined at 1/4 and classified by two 1x1 convolutions.

    The head is that of PaddleSeg and mmsegmentation (bilinear resize to the finest branch,
    concatenation, 1x1 convolution with batch norm and ReLU, 1x1 convolution), at 270 channels for
    W18 and 720 for W48.
    """

    # The coarsest branch; branches are doubled until they can be added.
    stride_multiple = 32

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        in_channels: int = 3,
        *,
        pretrained: bool = False,
        upsample: bool = False,
        fuse: str = "bilinear",
        same_padding: bool = False,
        **backbone_options: Any,
    ) -> None:
        """Builds the network.

        Args:
            backbone: an HRNet of timm.
            num_classes: output channels.
            in_channels: image channels.
            pretrained: download ImageNet weights of the backbone.
            upsample: return logits at full size rather than at 1/4.
            fuse: "bilinear", as PaddleSeg and mmsegmentation join HRNet's branches, or "nearest",
                as networks for classification do.
            same_padding: convolutions of stride 2 are padded by one pixel below and on the right,
                as in PaddleSeg ("same"), rather than all around.
            **backbone_options: further options of timm.create_model.
        """
        super().__init__()
        _checks.choice("FCNHRNet", "fuse", fuse, ("bilinear", "nearest"))
        timm = optional_import("timm", backbone)
        # feature_location="" gives HRNet's own branches, not those widened for classification.
        self.backbone = timm.create_model(
            backbone,
            pretrained=pretrained,
            in_chans=in_channels,
            features_only=True,
            feature_location="",
            out_indices=(1, 2, 3, 4),
            **backbone_options,
        )
        for module in list(self.backbone.modules()):
            if isinstance(module, nn.Upsample) and fuse == "bilinear":
                module.mode, module.align_corners = "bilinear", False
            for name, child in module.named_children():
                if same_padding and isinstance(child, nn.Conv2d) and child.stride == (2, 2):
                    padded = _SamePadded(
                        child.in_channels, child.out_channels, 3, stride=2, bias=False
                    )
                    padded.load_state_dict(child.state_dict())
                    setattr(module, name, padded)
        width = sum(self.backbone.feature_info.channels())
        self.head = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=1),  # with PaddleSeg's bias, to take its weights
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, num_classes, kernel_size=1),
        )
        self.upsample = upsample

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, N, H/4, W/4] or [B, N, H, W] of [B, C, H, W]; sides are multiples of 32."""
        branches: list[Tensor] = self.backbone(image)  # at 1/4, 1/8, 1/16, 1/32
        size = branches[0].shape[-2:]
        joined = [branches[0], *(_resize(b, size) for b in branches[1:])]
        logits: Tensor = self.head(torch.cat(joined, dim=1))
        return _resize(logits, image.shape[-2:]) if self.upsample else logits

    def low_resolution(self) -> FCNHRNet:
        """This network, from now on with logits at 1/4."""
        self.upsample = False
        return self


class _SamePadded(nn.Conv2d):
    """3 x 3 convolution of stride 2 on even sides, padded below and on the right alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def _resize(features: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
