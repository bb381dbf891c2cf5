"""How many channels images must have, told before a network meets others, or when it fails."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import C2FConfig


def needed(config: C2FConfig, *networks: nn.Module) -> int | None:
    """Channels of images, where networks of `models.build`, or several means or stds, tell."""
    for network in networks:
        spec = getattr(network, "c2f_spec", None) or {}
        channels: int | None = spec.get("kwargs", {}).get("in_channels")
        if channels is not None:
            return channels
    for values in (config.mean, config.std):
        if isinstance(values, tuple) and len(values) > 1:
            return len(values)
    return None


def check(who: str, wanted: int | None, channels: int, size: tuple[int, int]) -> None:
    """An image of `size` has the channels wanted.

    Raises:
        ValueError: it has others; says what to do about grey, RGBA and transposed images.
    """
    if wanted not in (None, channels):
        raise ValueError(_rule(who, wanted, channels, size))


def call(who: str, network: nn.Module, pixels: Tensor, size: tuple[int, int]) -> Any:
    """What `network` answers to [B, C, H, W], which was made of images of `size`.

    Nothing tells for sure how many channels a module given by hand takes: its first convolution
    need not be what sees the image. If it fails, though, and that one has others, this is why.

    Raises:
        ValueError: it failed, on images of other channels than its first convolution has.
    """
    try:
        return network(pixels)
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        wanted = first_convolution(network)
        if wanted in (None, pixels.shape[1]):
            raise
        raise ValueError(_rule(who, wanted, pixels.shape[1], size)) from error


def first_convolution(network: nn.Module) -> int | None:
    """Input channels of the first convolution of a network, if there is one."""
    return next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)), None)


def _rule(who: str, wanted: int | None, channels: int, size: tuple[int, int]) -> str:
    hint = ""
    if wanted in size:
        hint = (
            "; arrays are [H, W, C], tensors [C, H, W]: image.transpose(1, 2, 0) of an array, or "
            "image.permute(2, 0, 1) of a tensor, makes it so"
        )
    elif wanted == 3 and channels in (1, 2, 4):
        hint = "; Pillow's image.convert('RGB') makes 3 of grey, and of RGBA"
    return (
        f"{who}: image must have {wanted} channels, got {channels} in an image of "
        f"{size[0]} x {size[1]}{hint}"
    )
