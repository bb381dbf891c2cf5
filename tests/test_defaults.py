"""What a program sets as PyTorch's default dtype or device changes no answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from compare import assert_same_bits, flat
from networks import network, scene
from torch import Tensor

from c2fcore import ops
from c2fcore import scene as scenes
from c2fcore._fine_loss import FineLoss
from c2fcore.metrics import covered_mask
from c2fcore.testing.samples.inputs import noise_logits, windows_of


@contextmanager
def _dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# On the meta device whatever forgets to name its own cannot be mixed with tensors that have memory.
DEFAULTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: _dtype(torch.float64),
    "bfloat16": lambda: _dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
}

IMAGE, LABELS = scene(96, 104, objects=9)
WINDOWS = windows_of([[(0, 1), (2, 2)], [(1, 0)]], 4)
PIXELS = noise_logits((2, 3, 8, 7), 1)
COARSE, FINE = noise_logits((2, 4, 4, 4), 3), noise_logits((4, 2, 3, 3), 4)
NET, NORMALISED = network(), network(mean=(0.1, 0.2, 0.3), std=(0.9, 1.1, 0.7))


def _gradients() -> tuple[Tensor, ...]:
    image, coarse, fine = (t.clone().requires_grad_() for t in (PIXELS, COARSE, FINE))
    patches = ops.extract_patches(image, WINDOWS, mean=0.1, std=2)
    scores = ops.aggregate(coarse, fine, WINDOWS, (1, 3), size=(8, 7), output="probs")
    total = patches.square().sum() + scores.square().sum()
    return torch.autograd.grad(total, (image, coarse, fine))


def _loss(options: FineLoss) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    loss = NORMALISED.fine_loss(IMAGE, LABELS, options)
    return loss.detach(), *torch.autograd.grad(loss, list(NORMALISED.fine_parameters()))


def _of_a_scene() -> tuple[Tensor, ...]:
    found = scenes.segment(NET.compile(), IMAGE[0], tile=64, overlap=32)
    assert found.windows is not None
    return found.labels, found.windows


CALLS: dict[str, Callable[[], Any]] = {
    "gradients": _gradients,
    "net": lambda: NORMALISED(IMAGE),
    "net, smaller than a window": lambda: NORMALISED(IMAGE[..., :20, :30], "probs"),
    "net, no windows": lambda: NET(0 * IMAGE, "probs"),
    "net, no images": lambda: NET(IMAGE[:0], "probs"),
    "engine": lambda: NORMALISED.compile()(IMAGE),
    "engine, smaller than a window": lambda: NET.compile()(IMAGE[..., :20, :30]),
    "loss": lambda: _loss(FineLoss()),
    "loss, weighed": lambda: _loss(
        FineLoss(sampling="random", class_weights=(1, 2, 3, 4), boundary_weight=3, negatives=2)
    ),
    "loss, no windows": lambda: NET.fine_loss(0 * IMAGE, 0 * LABELS),
    "calibrate": lambda: torch.tensor(
        copy.deepcopy(NET).calibrate([(IMAGE, LABELS)]), dtype=torch.float64, device="cpu"
    ),
    "scene": _of_a_scene,
    "covered": lambda: covered_mask(WINDOWS, 8, 8),
}


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("name", CALLS)
def test_no_answer_depends_on_defaults(name: str, default: str) -> None:
    with torch.random.fork_rng():
        want = CALLS[name]()
        with DEFAULTS[default]():
            got = CALLS[name]()
    pairs = [tuple(t) if isinstance(t, tuple) else (t,) for t in (got, want)]
    for g, w in zip(*map(flat, pairs), strict=True):
        assert_same_bits(g.detach(), w.detach())
