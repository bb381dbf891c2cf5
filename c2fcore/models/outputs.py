"""Reading the logits out of whatever a segmentation network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_KEYS = ("out", "logits")  # torchvision; Hugging Face and others


def logits_of(output: Any, network: str = "network") -> Tensor:
    """The main logits [B, N, h, w] of a network's output.

    Known forms: a tensor; an object with `.logits` (Hugging Face); a mapping with "out"
    (torchvision) or "logits"; a tuple or list, whose first entry counts (auxiliary outputs follow
    it). h and w may be any fraction of the input's size.

    Args:
        output: what the network returned.
        network: its name in error messages.

    Raises:
        TypeError: another form, or no floating-point tensor.
        ValueError: not four dimensions, or no pixels.
    """
    found = output
    while not isinstance(found, Tensor):
        if isinstance(getattr(found, "logits", None), Tensor):
            found = found.logits
        elif isinstance(found, Mapping):
            key = next((key for key in _KEYS if key in found), None)
            if key is None:
                keys = ", ".join(repr(key) for key in found) or "none"
                raise TypeError(
                    f"{network}: output mapping must hold 'out' or 'logits', got {keys}"
                )
            found = found[key]
        elif isinstance(found, (tuple, list)) and found:
            found = found[0]
        else:
            what = "an empty one" if isinstance(found, (tuple, list)) else type(found).__name__
            raise TypeError(
                f"{network}: output must be a tensor, a mapping, a tuple or list, or have .logits, "
                f"got {what}"
            )
    if not found.is_floating_point():
        raise TypeError(f"{network}: output must be floating-point logits, got {found.dtype}")
    if found.ndim != 4:
        raise ValueError(f"{network}: logits must be [B, N, h, w], got shape {tuple(found.shape)}")
    if 0 in found.shape[2:]:
        raise ValueError(f"{network}: logits must have pixels, got shape {tuple(found.shape)}")
    # The ops read float32 and below.
    return found.float() if found.dtype == torch.float64 else found


def all_logits(output: Any, network: str = "network") -> list[Tensor]:
    """The main logits and, after them, the auxiliary ones that a network in training gives.

    Auxiliary are the later entries of a tuple or list and a mapping's "aux", where they are logits
    like the main ones: tensors [B, N, h, w] of as many channels.

    Args:
        output: what the network returned.
        network: its name in error messages.

    Raises:
        TypeError, ValueError: as `logits_of`.
    """
    main = logits_of(output, network)
    further: list[Any] = []
    if isinstance(output, Mapping):
        further = [output.get("aux")]
    elif isinstance(output, (tuple, list)):
        further = list(output[1:])
    return [main] + [
        t
        for t in further
        if isinstance(t, Tensor)
        and t.is_floating_point()
        and t.ndim == 4
        and t.shape[:2] == main.shape[:2]
    ]
