"""A small, fast fully convolutional network for the demo weights, the examples and the tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import conv_bn_relu


class _Residual(nn.Module):
    """Two 3 x 3 convolutions around an identity; the second may be dilated."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = conv_bn_relu(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class TinyFCN(nn.Module):
    """Encoder to stride 32 and an additive decoder, logits at a quarter or half of the input.

    The encoder halves five times (3 x 3 convolutions, residual blocks from stride 4 on); a global
    average joins at stride 32; the decoder adds each stage, projected to a common width, to the
    upsampled stage below it. 0.37 M parameters at the default width.

    Args:
        num_classes: channels of the logits, N.
        width: channels at stride 2; the stages have 1, 2, 3, 4 and 5 times as many.
        in_channels: bands of the image.
        output_stride: 4 or 2; 2 adds one decoder stage and sharper edges for about 1.5 times
            the time.
    """

    stride_multiple = 32

    def __init__(
        self,
        num_classes: int,
        width: int = 16,
        in_channels: int = 3,
        output_stride: int = 4,
    ) -> None:
        super().__init__()
        if output_stride not in (2, 4):
            raise ValueError(f"TinyFCN: output_stride must be 2 or 4, got {output_stride}")
        if min(num_classes, width, in_channels) < 1:
            raise ValueError(
                "TinyFCN: num_classes, width and in_channels must be at least 1, got "
                f"{num_classes}, {width} and {in_channels}"
            )
        self.output_stride = output_stride
        c2, c4, c8, c16, c32 = (width * k for k in (1, 2, 3, 4, 5))
        decoder = 3 * width
        self.stem = conv_bn_relu(in_channels, c2, stride=2)  # stride 2
        self.stage4 = nn.Sequential(conv_bn_relu(c2, c4, stride=2), _Residual(c4))
        self.stage8 = nn.Sequential(conv_bn_relu(c4, c8, stride=2), _Residual(c8))
        self.stage16 = nn.Sequential(conv_bn_relu(c8, c16, stride=2), _Residual(c16))
        self.stage32 = nn.Sequential(conv_bn_relu(c16, c32, stride=2), _Residual(c32, dilation=2))
        self.scene = nn.Conv2d(c32, decoder, 1)
        strides = (c32, c16, c8, c4)
        self.lateral = nn.ModuleList(nn.Conv2d(c, decoder, 1) for c in strides)
        self.merge = nn.ModuleList(conv_bn_relu(decoder, decoder) for _ in strides[1:])
        if output_stride == 2:
            self.sharp = conv_bn_relu(decoder + c2, 2 * width)
        self.head = nn.Conv2d(decoder if output_stride == 4 else 2 * width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Segment a batch.

        Args:
            image: float [B, in_channels, H, W], normalised; H and W multiples of 32.

        Returns:
            Logits [B, N, H / output_stride, W / output_stride].

        Raises:
            ValueError: H or W is not a multiple of `stride_multiple`.
        """
        height, width = image.shape[-2:]
        if height % self.stride_multiple or width % self.stride_multiple:
            raise ValueError(
                f"TinyFCN: height and width must be multiples of {self.stride_multiple}, "
                f"got {height} x {width}"
            )
        x2 = self.stem(image)
        x4 = self.stage4(x2)
        x8 = self.stage8(x4)
        x16 = self.stage16(x8)
        x32 = self.stage32(x16)
        x = self.lateral[0](x32) + self.scene(x32.mean((2, 3), keepdim=True))
        for lateral, merge, skip in zip(self.lateral[1:], self.merge, (x16, x8, x4), strict=True):
            x = merge(F.interpolate(x, scale_factor=2.0, mode="nearest") + lateral(skip))
        if self.output_stride == 2:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.sharp(torch.cat((x, x2), dim=1))
        logits: Tensor = self.head(x)
        return logits
