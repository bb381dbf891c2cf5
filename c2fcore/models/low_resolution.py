"""Networks that can be asked for the logits before their last upsampling."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_TORCHVISION = ("_SimpleSegmentationModel", "LRASPP")


class _WithoutUpsampling(nn.Module):
    """A segmentation network of torchvision up to its classifier; no auxiliary output."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.classifier = network.classifier
        self.takes_all = type(network).__name__ == "LRASPP"

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, N, h, w] of [B, C, H, W]."""
        features = self.backbone(image)
        logits: Tensor = self.classifier(features if self.takes_all else features["out"])
        return logits


def altered(module: nn.Module) -> bool:
    """Whether a module does more, or other, than its class: by hooks or a `forward` of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def low_resolution(network: nn.Module) -> nn.Module:
    """`network` without the bilinear upsampling (align_corners=False) to its input's size.

    The ops interpolate in that very way where they need to, and never make the full-size logits.
    Known are

    - networks with a method `low_resolution()`, which returns such a module (`models.build`'s
      fcn_hrnet_*);
    - torchvision's fcn_*, deeplabv3_* and lraspp_*.

    Others come back as they are, as do those that upsample with align_corners=True
    (segmentation_models_pytorch): dropping that would move their answer by up to half a pixel; and
    those that somebody has given hooks, which see the answer, or a `forward` of their own.
    The module returned may share, and change, the one given.
    """
    if altered(network):
        return network
    method = getattr(network, "low_resolution", None)
    if callable(method):
        found = method()
        if not isinstance(found, nn.Module):
            raise TypeError(
                f"{type(network).__name__}.low_resolution() must return an nn.Module, "
                f"got {type(found).__name__}"
            )
        return found
    bases: tuple[Any, ...] = type(network).__mro__
    for base in bases:
        ours = base.__module__.startswith("torchvision.models.segmentation")
        if ours and base.__name__ in _TORCHVISION and type(network).forward is base.forward:
            short = _WithoutUpsampling(network)
            if hasattr(network, "stride_multiple"):
                short.stride_multiple = network.stride_multiple
            return short
    return network
