"""HRNet as segmentation networks use it, on timm's."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from .layers import resize
from .registry import optional_import


class HRNet(nn.Module):
    """timm's HRNet, its four branches joined at 1/4 of the image.

    Attributes:
        channels: of the answer, 270 for W18 and 720 for W48.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        *,
        pretrained: bool = False,
        fuse: str = "bilinear",
        same_padding: bool = False,
        **options: Any,
    ) -> None:
        """Builds the network.

        Args:
            name: of an HRNet of timm.
            in_channels: image channels.
            pretrained: download ImageNet weights.
            fuse: "bilinear", as PaddleSeg and mmsegmentation join the branches, or "nearest", as
                networks for classification do.
            same_padding: convolutions of stride 2 are padded by one pixel below and on the right,
                as in PaddleSeg ("same"), rather than all around.
            **options: further options of timm.create_model.
        """
        super().__init__()
        _checks.choice("HRNet", "fuse", fuse, ("bilinear", "nearest"))
        timm = optional_import("timm", name)
        # feature_location="" gives HRNet's own branches, not those widened for classification.
        self.branches = timm.create_model(
            name,
            pretrained=pretrained,
            in_chans=in_channels,
            features_only=True,
            feature_location="",
            out_indices=(1, 2, 3, 4),
            **options,
        )
        self.channels = sum(self.branches.feature_info.channels())
        for module in list(self.branches.modules()):
            if isinstance(module, nn.Upsample) and fuse == "bilinear":
                module.mode, module.align_corners = "bilinear", False
            for key, child in list(module.named_children()):
                if same_padding and isinstance(child, nn.Conv2d) and child.stride == (2, 2):
                    padded = _SamePadded(
                        child.in_channels, child.out_channels, 3, stride=2, bias=False
                    )
                    padded.load_state_dict(child.state_dict())
                    setattr(module, key, padded)

    def forward(self, image: Tensor) -> Tensor:
        """Features [B, channels, H/4, W/4] of [B, C, H, W]; sides are multiples of 32."""
        found: list[Tensor] = self.branches(image)  # at 1/4, 1/8, 1/16, 1/32
        size = found[0].shape[-2:]
        return torch.cat([found[0], *(resize(branch, size) for branch in found[1:])], dim=1)


class _SamePadded(nn.Conv2d):
    """3 x 3 convolution of stride 2 on even sides, padded below and on the right alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))
