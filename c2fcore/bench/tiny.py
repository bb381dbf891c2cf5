"""Calls so small that the kernel does not count: what is left is the cost of calling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .. import ops
from ..windows import Windows
from .inputs import NUM_CLASSES

_SIDE, _WINDOW, _STRIDE, _N = 16, 8, 8, 2
_CLASSES = (1, 2)


def tiny_calls(backend: str, batch: int = 1) -> dict[str, Callable[[], Any]]:
    """One call per op (two where it takes logits or a label map) on 16 x 16 pixels.

    With batch=0 nothing is computed at all: a call that does no work.
    """
    logits = torch.randn((batch, NUM_CLASSES, 4, 4), generator=torch.Generator().manual_seed(0))
    labels = logits.repeat_interleave(4, 2).repeat_interleave(4, 3).argmax(1).to(torch.uint8)
    image = torch.zeros((batch, 3, _SIDE, _SIDE), dtype=torch.uint8)
    fine = torch.zeros((batch * _N, 2, _WINDOW // 2, _WINDOW // 2))
    origins = torch.tensor([[0, 0], [8, 8]], dtype=torch.int32).expand(batch, _N, 2).contiguous()
    windows = Windows(
        origins,
        torch.ones((batch, _N), dtype=torch.int32),
        torch.full((batch,), _N, dtype=torch.int32),
        _WINDOW,
    )
    size = (_SIDE, _SIDE)
    grid: dict[str, Any] = {"window": _WINDOW, "stride": _STRIDE}
    bind = functools.partial
    calls = {
        "count_windows labels": bind(ops.count_windows, labels, _CLASSES, **grid),
        "count_windows logits": bind(ops.count_windows, logits, _CLASSES, **grid, size=size),
        "select_windows labels": bind(ops.select_windows, labels, _CLASSES, **grid, n=_N),
        "select_windows logits": bind(
            ops.select_windows, logits, _CLASSES, **grid, n=_N, size=size
        ),
        "extract_patches": bind(ops.extract_patches, image, windows),
        "extract_targets": bind(ops.extract_targets, labels, windows, _CLASSES),
        "aggregate": bind(ops.aggregate, logits, fine, windows, _CLASSES, size=size),
    }
    return {name: bind(call, backend=backend) for name, call in calls.items()}
