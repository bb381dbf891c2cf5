"""Segmentation networks by name.

`timm` and `segmentation_models_pytorch` are imported only when a network that needs them is built.
Networks of segmentation_models_pytorch are built without its final upsampling: c2fcore reads logits
at their own resolution, and interpolates them itself (align_corners=False).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from torch import nn

from .. import _checks
from .._classes import MAX_CLASSES
from .foreground import Foreground

_WHO: Final = "models.build"

# Architecture, its default encoder, and what differs from the package's defaults. The ResNet-50-D
# family is what the paper's PSPNet, DeepLabV3+ and UPerNet use.
_SMP: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "unet": ("Unet", "resnet34", {}),
    "pspnet": ("PSPNet", "tu-resnet50d", {"upsampling": 1}),
    "deeplabv3plus": ("DeepLabV3Plus", "tu-resnet50d", {"upsampling": 1}),
    "upernet": ("UPerNet", "tu-resnet50d", {"upsampling": 1}),
    "segformer": ("Segformer", "mit_b0", {"upsampling": 1}),
}
# On an HRNet of timm: module and class here, backbone.
_HRNET: Final = {
    "fcn_hrnet_w18": ("fcn_hrnet", "FCNHRNet", "hrnet_w18_ssld"),
    "fcn_hrnet_w48": ("fcn_hrnet", "FCNHRNet", "hrnet_w48_ssld"),
    "ocrnet_hrnet_w18": ("ocrnet", "OCRNet", "hrnet_w18_ssld"),
    "ocrnet_hrnet_w48": ("ocrnet", "OCRNet", "hrnet_w48_ssld"),
}
# Others written here: module, class, and whether an encoder has pretrained weights.
_OURS: Final = {
    "farseg": ("far_seg", "FarSeg", True),
    "factseg": ("far_seg", "FactSeg", True),
    "pp_liteseg": ("pp_liteseg", "PPLiteSeg", False),
    "tiny_fcn": ("tiny", "TinyFCN", False),
}


def available() -> tuple[str, ...]:
    """Names that `build` knows, besides "package.module:function"."""
    return (*_HRNET, *_SMP, *_OURS, "foreground")


def build(
    name: str, num_classes: int, in_channels: int = 3, pretrained: bool = False, **kwargs: Any
) -> nn.Module:
    """A segmentation network by name.

    - fcn_hrnet_w18, fcn_hrnet_w48: FCN head on timm's HRNet, logits at 1/4; `upsample=True` for
      full size.
    - unet: segmentation_models_pytorch, encoder resnet34, logits at full size.
    - pspnet (logits at 1/8), deeplabv3plus and upernet (1/4): the same package, encoder
      tu-resnet50d; segformer (1/4): encoder mit_b0. `encoder_name=...` and every other option of
      that package are passed on.
    - ocrnet_hrnet_w18, ocrnet_hrnet_w48, farseg, factseg (logits at 1/4; the latter two on
      `encoder="resnet50"` of timm) and pp_liteseg (1/8; `encoder="stdc1"` or "stdc2"): written
      here after the papers.
    - tiny_fcn: c2fcore's own, for tests and demos, logits at 1/4.
    - foreground: `network` (one of these names) of `classes` classes, answering with the log-odds
      of its `small_classes`; see `Foreground`. num_classes must be 1.
    - "package.module:function": called as function(num_classes, in_channels=..., **kwargs), with
      pretrained=True only if asked for.

    The module remembers how it was built in `c2f_spec`, which `save_pretrained` stores, and the
    multiple of pixels its input sides must have in `stride_multiple`.

    Args:
        name: one of `available()`, or "package.module:function".
        num_classes: output channels, 1..256; 1 or 2 for a fine network.
        in_channels: image channels.
        pretrained: download ImageNet weights of the encoder.
        **kwargs: options of the network, see above.

    Raises:
        ValueError: unknown name, numbers out of range, no pretrained weights for that network.
        TypeError: an option that the network does not have; a name that is no string, or stands
            for no function that returns an nn.Module.
        ImportError: timm or segmentation_models_pytorch is not installed.
    """
    if not isinstance(name, str):
        raise TypeError(f"{_WHO}: name must be a string, got {type(name).__name__}")
    num_classes = _checks.integer(_WHO, "num_classes", num_classes, 1, MAX_CLASSES)
    in_channels = _checks.integer(_WHO, "in_channels", in_channels, 1)
    if name in _HRNET:
        module, class_, backbone = _HRNET[name]
        options = {"pretrained": pretrained, **kwargs}
        network: nn.Module = _class(module, class_)(backbone, num_classes, in_channels, **options)
    elif name in _SMP:
        network = _build_smp(name, num_classes, in_channels, pretrained, kwargs)
    elif name in _OURS:
        module, class_, with_encoder = _OURS[name]
        if pretrained and not with_encoder:
            raise ValueError(f"{_WHO}: {name} has no pretrained encoder, got pretrained=True")
        options = {"pretrained": pretrained, **kwargs} if with_encoder else kwargs
        network = _class(module, class_)(num_classes, in_channels=in_channels, **options)
    elif name == "foreground":
        network = _build_foreground(num_classes, in_channels, pretrained, **kwargs)
    elif ":" in name:
        options = {"pretrained": True, **kwargs} if pretrained else kwargs
        network = _function(name)(num_classes, in_channels=in_channels, **options)
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"{_WHO}: {name} must return an nn.Module, got {type(network).__name__}"
            )
    else:
        known = ", ".join(available())
        raise ValueError(
            f"{_WHO}: name must be one of {known}, or 'package.module:function', got {name!r}"
        )
    # Loading a checkpoint builds the network anew and then fills it: never download weights for
    # that.
    kept = {key: value for key, value in kwargs.items() if key != "encoder_weights"}
    spec = {"num_classes": num_classes, "in_channels": in_channels, **kept}
    remembering: Any = network
    remembering.c2f_spec = {"name": name, "kwargs": spec}
    return network


def _class(module: str, class_: str) -> Callable[..., nn.Module]:
    found: Callable[..., nn.Module] = getattr(
        importlib.import_module(f"{__package__}.{module}"), class_
    )
    return found


def _build_smp(
    name: str, num_classes: int, in_channels: int, pretrained: bool, kwargs: dict[str, Any]
) -> nn.Module:
    architecture, encoder, defaults = _SMP[name]
    smp = optional_import("segmentation_models_pytorch", name)
    options = {
        "encoder_name": encoder,
        "encoder_weights": "imagenet" if pretrained else None,
        **defaults,
        **kwargs,
    }
    # Any: nn.Module declares every attribute a Tensor or a Module.
    network: Any = getattr(smp, architecture)(
        in_channels=in_channels, classes=num_classes, **options
    )
    network.stride_multiple = int(network.encoder.output_stride)
    return cast(nn.Module, network)


def _build_foreground(
    num_classes: int,
    in_channels: int,
    pretrained: bool,
    network: str,
    classes: int,
    small_classes: Sequence[int],
    **options: Any,
) -> nn.Module:
    if num_classes != 1:
        raise ValueError(f"{_WHO}: foreground must have num_classes=1, got {num_classes}")
    return Foreground(build(network, classes, in_channels, pretrained, **options), small_classes)


def _function(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{_WHO}: {name!r} must be an importable function, got {error}") from error
    if not callable(found):
        raise TypeError(f"{_WHO}: {name!r} must be callable, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def optional_import(package: str, network: str) -> Any:
    """Imports `package`, which `network` needs.

    Raises:
        ImportError: it is not installed; says how to get it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{_WHO}: {network} needs {package} ({error}); pip install 'c2fcore[models]'"
        ) from error
