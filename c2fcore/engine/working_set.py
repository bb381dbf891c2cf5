"""How many patches of the fine network's work stay in the processor's cache."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from .. import _stages
from .networks import Networks

_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL_BYTES: Final = 16 << 20  # if the system does not say
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def patches_in_cache(networks: Networks, channels: int) -> int:
    """A power of two of patches whose largest layer, input and output, fits the last-level cache.

    Larger forwards go to memory between layers, smaller ones use threads and vectors less well.
    Runs the fine network once, on one black patch.
    """
    config = networks.config
    side = round(config.window * config.zoom)
    dtype = _stages.dtype_of(networks.fine)
    patch = torch.zeros((1, channels, side, side), dtype=dtype, device=networks.device)
    largest = 1

    def measure(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal largest
        held = [t for t in (*inputs, output) if isinstance(t, Tensor)]
        largest = max(largest, sum(t.numel() * t.element_size() for t in held))

    network = copy.deepcopy(networks.fine)  # other threads, or a compiler, must not see hooks
    for module in network.modules():
        # Hooks do not run inside TorchScript.
        if not list(module.children()) and not isinstance(module, torch.jit.ScriptModule):
            module.register_forward_hook(measure)
    with torch.inference_mode(), networks.autocast():
        _stages.fine_logits(network, patch, config)
    fitting = max(1, cache_bytes() // largest)
    return 1 << (fitting.bit_length() - 1)


def cache_bytes() -> int:
    """Size of the last-level cache, as Linux tells it."""
    sizes = [_bytes(path) for path in _CACHES.glob("index*/size")]
    return max(sizes, default=0) or _USUAL_BYTES


def _bytes(path: Path) -> int:
    try:
        text = path.read_text().strip()
        return int(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else int(text)
    except (OSError, ValueError, IndexError):
        return 0
