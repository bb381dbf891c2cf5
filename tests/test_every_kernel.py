"""Every kernel that is compiled for a type, a kind of map and a number of classes runs once.

The lists of samples look for what is hard; here types, kinds and numbers are gone through.
test_cuda_on_host.py sees to it that no kernel of the cuda backend is left out.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from compare import call
from torch import Tensor

from c2fcore import Windows, ops
from c2fcore.testing import tolerances
from c2fcore.testing.agree import assert_agrees, assert_close
from c2fcore.testing.samples import Sample
from c2fcore.testing.samples.inputs import (
    generator,
    grid_logits,
    label_map,
    laid_out,
    noise_logits,
    random_windows,
)

OP = "aggregate"  # of those that are built together
AGAINST_REFERENCE = True
pytestmark = pytest.mark.usefixtures("poison")

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, *HALVES)
LABELS = (torch.uint8, torch.int16, torch.int32, torch.int64)
IMAGES = (torch.uint8, torch.uint16, torch.int16, *FLOATS)
CLASSES = (2, 5, 6, 7, 16)  # 5 stands for all numbers that none is compiled for
FULL = (24, 48)  # a quarter of it has rows of whole quads

logits = pytest.mark.parametrize("dtype", FLOATS, ids=str)
classes = pytest.mark.parametrize("number", CLASSES)
kinds = pytest.mark.parametrize("ratio", [1, 4], ids=["own-size", "upsampled"])
layouts = pytest.mark.parametrize("layout", ["planar", "channels_last"])


def coarse(number: int, dtype: torch.dtype, ratio: int, layout: str) -> Tensor:
    """Logits that are exact in all types, upsampled, too: ties included, labels must agree.

    Those of the second image are NaN or infinite here and there, of some pixels all.
    """
    shape = (2, number, FULL[0] // ratio, FULL[1] // ratio)
    found = grid_logits(shape, seed=number)
    special = torch.tensor([math.nan, math.inf, -math.inf])
    g = generator(number)
    drawn = special[torch.randint(3, shape[1:], generator=g)]
    found[1] = torch.where(torch.rand(shape[1:], generator=g) < 0.1, drawn, found[1])
    found[1] = torch.where(torch.rand(shape[2:], generator=g) < 0.05, math.nan, found[1])
    return laid_out(found.to(dtype), layout)


@logits
@classes
@kinds
@layouts
def test_counts_of_logits(
    backend: str, device: str, number: int, dtype: torch.dtype, ratio: int, layout: str
) -> None:
    seg = coarse(number, dtype, ratio, layout)
    options: dict[str, Any] = {"window": 9, "stride": 4, "size": FULL}
    sample = Sample(
        "", lambda device: (seg.to(device), tuple(range(1, number, 2))), options, exact=True
    )
    got = call("count_windows", sample, backend, device)
    assert_agrees("count_windows", sample, got, call("count_windows", sample, "reference"))


@pytest.mark.parametrize("dtype", LABELS, ids=str)
def test_labels(backend: str, device: str, dtype: torch.dtype) -> None:
    seg, windows = label_map(2, *FULL, seed=1).to(dtype), random_windows(2, *FULL, 9, 3, seed=2)
    grid: dict[str, Any] = {"window": 9, "stride": 4}
    counts = Sample("", lambda device: (seg.to(device), (1, 3)), grid, exact=True)
    cut = Sample("", lambda device: (seg.to(device), _to(windows, device), (1, 3)))
    for op, sample in (("count_windows", counts), ("extract_targets", cut)):
        got = call(op, sample, backend, device)
        assert_agrees(op, sample, got, call(op, sample, "reference"))


@logits
@classes
@kinds
@layouts
def test_merging(
    backend: str, device: str, number: int, dtype: torch.dtype, ratio: int, layout: str
) -> None:
    """To labels, found and given, and to scores."""
    small = tuple(range(1, number, 2))
    seg, windows = coarse(number, dtype, ratio, layout), random_windows(2, *FULL, 12, 4, seed=3)
    fine = noise_logits((8, 1 + number % 2, 6, 6), seed=number)
    size: dict[str, Any] = {"size": FULL}

    def make(device: str) -> tuple[Any, ...]:
        return seg.to(device), fine.to(device), _to(windows, device), small

    for output in ("labels", "probs"):
        sample = Sample("", make, {**size, "output": output})
        want = call(OP, sample, "reference")
        assert_agrees(OP, sample, call(OP, sample, backend, device), want)
        if output == "labels":
            grid = {"window": 12, "stride": 12, "n": 1}
            _, given = ops.select_windows(seg, small, **grid, **size, _return_labels=True)
            edited = call(OP, sample, backend, device, _labels=given.to(device))
            assert_agrees(OP, sample, edited, want)


@pytest.mark.parametrize("dtype", IMAGES, ids=str)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_patches(backend: str, device: str, dtype: torch.dtype, mode: str) -> None:
    image = (noise_logits((2, 3, *FULL), seed=4).abs() * 20).to(dtype)
    windows = random_windows(2, *FULL, 9, 3, seed=5)
    sample = Sample(
        "", lambda device: (image.to(device), _to(windows, device)), {"zoom": 1.5, "mode": mode}
    )
    got = call("extract_patches", sample, backend, device)
    assert_agrees("extract_patches", sample, got, call("extract_patches", sample, "reference"))


@logits
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_gradients_of_patches(backend: str, device: str, dtype: torch.dtype, mode: str) -> None:
    windows = random_windows(2, *FULL, 9, 3, seed=6)
    grad = noise_logits((6, 3, 14, 14), seed=7).to(dtype)
    image = torch.zeros(2, 3, *FULL, dtype=dtype)

    def gradient(backend: str, device: str) -> Tensor:
        where = _to(windows, device)
        found: Tensor = torch.ops.c2fcore.extract_patches_backward(
            *(grad.to(device), image.to(device), where.origins, where.num, 9),
            *(mode, 1.0, None, backend),
        )
        return found.cpu()

    want = gradient("reference", "cpu")
    error = tolerances.GRADIENT_ULPS * torch.finfo(dtype).eps * want.float().abs().max().item()
    assert_close(gradient(backend, device), want, error)


def _to(windows: Windows, device: str) -> Windows:
    return Windows(*(part.to(device) for part in windows[:3]), windows.window)
