"""Samples of any geometry, drawn from seeds: every backend against the reference.

A few seeds here; others, as many as wanted, by C2F_SEEDS=FIRST:END (see `make fuzz`), and larger
images by C2F_SIDE:

    C2F_SEEDS=1000:3000 C2F_SIDE=200 pytest tests/test_drawn.py --backend cpu -k aggregate
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from availability import need
from compare import call, drawn, to_device

from c2fcore import Windows, _cuda, _triton, ops
from c2fcore.testing import samples, tolerances
from c2fcore.testing.agree import Differs, Undecided, assert_agrees, assert_close
from c2fcore.testing.samples import Sample

OP = "count_windows"
AGAINST_REFERENCE = True
pytestmark = pytest.mark.usefixtures("poison")


def some(backend: str) -> range:
    """As many seeds as take some seconds."""
    if backend == "triton":  # a kernel to compile for each
        return range(2 if _triton.interpreted() else 12)
    return range(12 if _cuda.on_host() else 60)


def told(op: str, sample: Sample) -> str:
    """What was asked, for a failure's message."""
    shown = [
        f"{x.dtype} {tuple(x.shape)} strides {x.stride()}" if isinstance(x, torch.Tensor) else x
        for x in sample.args()
    ]
    return f"{op}, {sample}: {shown}, {dict(sample.options)}"


@pytest.mark.parametrize("op", samples.OPS)
def test_any_geometry(op: str, backend: str, device: str) -> None:
    need(backend, op)
    undecided, asked = 0, drawn(op, some(backend))
    for sample in asked:
        want = call(op, sample, "reference")
        try:
            assert_agrees(op, sample, call(op, sample, backend, device), want)
            _same_labels(op, sample, backend, device)
            _same_gradient(op, sample, backend, device)
        except Undecided:
            undecided += 1
        except Exception as error:
            raise Differs(f"{error}\n{told(op, sample)}") from error
    assert undecided <= 1 + len(asked) / 50


def _same_labels(op: str, sample: Sample, backend: str, device: str) -> None:
    """The labels that selection hands on, and merging with them, are the same."""
    if not sample.exact:
        return
    if op == "select_windows" and sample.args()[0].is_floating_point():
        labels = [
            call_labels(*sample.args(on), sample.options, by)
            for by, on in (("reference", "cpu"), (backend, device))
        ]
        assert torch.equal(*labels), "labels differ"
    if op == "aggregate" and sample.options["output"] == "labels":
        args = sample.args(device)
        size = sample.options.get("size", args[0].shape[2:])
        grid = {"size": size, "window": min(size), "stride": min(size), "n": 1}
        labels = call_labels(args[0], args[3], grid, "reference").to(device)
        got = [
            ops.aggregate(*args, **sample.options, **given, backend=backend)
            for given in ({}, {"_labels": labels})
        ]
        assert torch.equal(*got), "other labels where the coarse ones are given"


def _same_gradient(op: str, sample: Sample, backend: str, device: str) -> None:
    """The gradient of patches in a float image is the reference's in float64."""
    if op != "extract_patches" or not sample.args()[0].is_floating_point():
        return
    options = {**sample.options, "dtype": torch.float32}
    shape = call(op, sample, "reference").shape
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))

    def gradient(image: torch.Tensor, windows: Windows, up: torch.Tensor, by: str) -> torch.Tensor:
        leaf = image.detach().requires_grad_()
        ops.extract_patches(leaf, windows, **options, backend=by).backward(up.to(leaf.device))
        assert leaf.grad is not None
        return leaf.grad.cpu()

    image, windows = sample.args()
    want = gradient(image.double(), windows, upstream, "reference")
    got = gradient(*sample.args(device), upstream, backend)
    # The largest sum before anything cancels: no weight of "bilinear" is negative.
    options["mode"] = "bilinear" if options["mode"] == "bicubic" else options["mode"]
    options["std"] = [abs(s) for s in options.get("std", [1.0] * shape[1])]
    largest = gradient(image.double(), windows, upstream.abs(), "reference").max().item()
    error = 1.6**2 * tolerances.GRADIENT_ULPS * tolerances.EPS32 * largest
    if image.dtype is not torch.float32:
        error += tolerances.eps(image.dtype) * largest
    assert_close(got, want, error)


def call_labels(seg: torch.Tensor, classes: Any, options: Any, backend: str) -> torch.Tensor:
    """The coarse labels of a selection, on the CPU."""
    _, labels = ops.select_windows(seg, classes, **options, _return_labels=True, backend=backend)
    return to_device(labels, "cpu")


def test_seeds_draw_the_same_and_much() -> None:
    """What is drawn does not depend on the process, and reaches the kinds that matter."""
    again = samples.drawn("aggregate", 5)
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.args()[:2], samples.drawn("aggregate", 5).args()[:2], strict=True)
    )
    many = [samples.drawn("select_windows", seed) for seed in range(200)]
    assert {s.options["strategy"] for s in many} == {"cover", "top", "all"}
    gaps = [s for s in many if s.options["stride"] > s.options["window"]]
    assert 10 < len(gaps) < 150
    assert {s.args()[0].dtype for s in many} > {torch.float16, torch.uint8, torch.int64}
    assert {s.args()[0].ndim for s in many} == {3, 4}
