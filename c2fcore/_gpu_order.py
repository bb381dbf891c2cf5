"""Which GPU backend comes first, by op and size; where nothing was measured, cuda does.

Measured rows say so, as benchmarks/gpu_order.py sums them up in gpu_order.json.
"""

from __future__ import annotations

import bisect
import functools
import json
from pathlib import Path
from typing import Any, Final

import torch

FILE: Final = Path(__file__).with_name("gpu_order.json")
CUDA_FIRST: Final = ("cuda", "triton")
_ORDERS: Final = {"cuda": CUDA_FIRST, "triton": ("triton", "cuda")}

# Of an op on a device: sizes at which the order may change, and the orders between them.
_Steps = tuple[list[float], list[tuple[str, str]]]
_steps: dict[tuple[str, int], _Steps] = {}


def order(op: str, device: int, elements: int) -> tuple[str, str]:
    """The GPU backends, the faster one first.

    Args:
        op: name of the op.
        device: index of the GPU.
        elements: of the op's first tensor.
    """
    steps = _steps.get((op, device))
    if steps is None:
        steps = _steps[op, device] = _read(op, torch.cuda.get_device_name(device))
    bounds, orders = steps
    return orders[bisect.bisect(bounds, elements)]


def _read(op: str, name: str) -> _Steps:
    """The steps of an op on a GPU of this name: a size belongs to the nearest one measured."""
    measured: list[tuple[int, str]] = _file().get(name, {}).get(op, [])
    if not measured:
        return [], [CUDA_FIRST]
    sizes = [size for size, _ in measured]
    bounds = [(a * b) ** 0.5 for a, b in zip(sizes, sizes[1:])]  # the middle, by ratio
    return bounds, [_ORDERS[backend] for _, backend in measured]


@functools.cache
def _file() -> Any:
    return json.loads(FILE.read_text())
