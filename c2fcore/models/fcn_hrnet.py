"""FCN head on HRNet, the paper's default for both stages."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .hrnet import HRNet
from .layers import resize


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
        upsample: bool = False,
        **options: Any,
    ) -> None:
        """Builds the network.

        Args:
            backbone: an HRNet of timm.
            num_classes: output channels.
            in_channels: image channels.
            upsample: return logits at full size rather than at 1/4.
            **options: of `HRNet`: pretrained, fuse, same_padding, and those of timm.create_model.
        """
        super().__init__()
        self.backbone = HRNet(backbone, in_channels, **options)
        width = self.backbone.channels
        self.head = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=1),  # with PaddleSeg's bias, to take its weights
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, num_classes, kernel_size=1),
        )
        self.upsample = upsample

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, N, H/4, W/4] or [B, N, H, W] of [B, C, H, W]; sides are multiples of 32."""
        logits: Tensor = self.head(self.backbone(image))
        return resize(logits, image.shape[-2:]) if self.upsample else logits

    def low_resolution(self) -> FCNHRNet:
        """This network, from now on with logits at 1/4."""
        self.upsample = False
        return self
