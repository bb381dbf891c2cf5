"""A sample of an op by a backend, against the reference in all that can be asked of it."""

from __future__ import annotations

from typing import Any

import torch
from compare import call, to_device

from c2fcore import Windows, ops
from c2fcore.testing import tolerances
from c2fcore.testing.agree import Differs, Undecided, assert_agrees, assert_close
from c2fcore.testing.samples import Sample
from c2fcore.testing.samples.inputs import laid_out


def assert_like_reference(op: str, sample: Sample, backend: str, device: str = "cpu") -> None:
    """The answer, the labels handed on and merging with given ones, the gradient of patches.

    Raises:
        Undecided: a choice that rounding decides; see `assert_agrees`.
        Differs: another answer, and what was asked.
    """
    want = call(op, sample, "reference")
    try:
        assert_agrees(op, sample, call(op, sample, backend, device), want)
        _same_labels(op, sample, backend, device)
        _same_gradient(op, sample, backend, device)
    except Undecided:
        raise
    except Exception as error:
        raise Differs(f"{error}\n{_told(op, sample)}") from error


def _told(op: str, sample: Sample) -> str:
    """What was asked, for a failure's message."""
    shown = [
        f"{x.dtype} {tuple(x.shape)} strides {x.stride()}" if isinstance(x, torch.Tensor) else x
        for x in sample.args()
    ]
    return f"{op}, {sample}: {shown}, {dict(sample.options)}"


def _same_labels(op: str, sample: Sample, backend: str, device: str) -> None:
    """The labels that selection hands on, and merging with them, are the same."""
    if not sample.exact:
        return
    if op == "select_windows":
        labels = [
            _call_labels(*sample.args(on), sample.options, by)
            for by, on in (("reference", "cpu"), (backend, device))
        ]
        assert torch.equal(*labels), "labels differ"
    if op == "aggregate" and sample.options.get("output", "labels") == "labels":
        args = sample.args(device)
        size = sample.options.get("size", args[0].shape[2:])
        grid = {"size": size, "window": min(size), "stride": min(size), "n": 1}
        labels = _call_labels(args[0], args[3], grid, "reference").to(device)
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
    layout = "channels_last" if options.get("channels_last") else "planar"
    upstream = laid_out(upstream, layout)

    def gradient(image: torch.Tensor, windows: Windows, up: torch.Tensor, by: str) -> torch.Tensor:
        leaf = image.detach().requires_grad_()
        ops.extract_patches(leaf, windows, **options, backend=by).backward(up.to(leaf.device))
        assert leaf.grad is not None
        return leaf.grad.cpu()

    image, windows = sample.args()
    want = gradient(image.double(), windows, upstream, "reference")
    got = gradient(*sample.args(device), upstream, backend)
    # The largest sum before anything cancels: no weight of "bilinear" is negative.
    options["mode"] = "nearest" if options.get("mode") == "nearest" else "bilinear"
    options["std"] = [abs(s) for s in options.get("std", [1.0] * shape[1])]
    largest = gradient(image.double(), windows, upstream.abs(), "reference").abs().max().item()
    error = 1.6**2 * tolerances.GRADIENT_ULPS * tolerances.EPS32 * largest
    if image.dtype is not torch.float32:
        error += tolerances.eps(image.dtype) * largest
    assert_close(got, want, error)


def _call_labels(seg: torch.Tensor, classes: Any, options: Any, backend: str) -> torch.Tensor:
    """The coarse labels of a selection, on the CPU."""
    _, labels = ops.select_windows(seg, classes, **options, _return_labels=True, backend=backend)
    return to_device(labels, "cpu")
