"""Whether two backends agree on a sample: one rule per op, for whatever calls the sample lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import tolerances
import torch
from compare import assert_close, assert_rare, close_calls
from samples import Sample
from torch import Tensor

from c2fcore import Windows, ops


def assert_agrees(op: str, sample: Sample, got: Any, want: Any) -> None:
    """`got` is as good an answer to a sample as the reference's `want`; both on the CPU."""
    _RULES[op](sample, got, want)


def _count_windows(sample: Sample, got: Tensor, want: Tensor) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if sample.exact:
        assert torch.equal(got, want)
        return
    seg, _ = sample.args()
    close = close_calls(seg, sample.options.get("size")).to(torch.uint8)
    grid = {k: v for k, v in sample.options.items() if k != "size"}
    # A window's count may be off by at most the pixels in it that are too close to call.
    slack = ops.count_windows(close, (1,), **grid, backend="reference")
    assert ((got - want).abs() <= slack).all()
    assert close.float().mean() <= tolerances.EXCUSED_SHARE


def _select_windows(sample: Sample, got: Windows, want: Windows) -> None:
    if not sample.exact:  # one label too close to call may change every later choice
        seg, _ = sample.args()
        assert not close_calls(seg, sample.options.get("size")).any(), "sample needs another seed"
    for g, w in zip(got[:3], want[:3], strict=True):
        assert g.dtype == w.dtype
        assert torch.equal(g, w)
    assert got.window == want.window


def _extract_patches(sample: Sample, got: Tensor, want: Tensor) -> None:
    assert got.dtype == want.dtype
    assert_close(got, want, patch_error(sample))
    if sample.options.get("mode") == "nearest":
        # Nothing is interpolated: at most the fold of scale.
        assert_close(got, want, 2 * tolerances.EPS32 * max(want.abs().max().item(), 1e-30))


def _extract_targets(sample: Sample, got: Tensor, want: Tensor) -> None:
    assert got.dtype == want.dtype
    assert torch.equal(got, want)


def _aggregate(sample: Sample, got: Tensor, want: Tensor) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if got.dtype == torch.uint8:
        assert_rare(got != want)
        return
    # A toss changes which class gets the addition: whole pixels, and rarely.
    off = ((got - want).abs() > merge_error(sample)).any(1) & ~got.isinf().any(1)
    assert torch.equal(got.isnan(), want.isnan())
    assert_rare(off)


_RULES = {
    "count_windows": _count_windows,
    "select_windows": _select_windows,
    "extract_patches": _extract_patches,
    "extract_targets": _extract_targets,
    "aggregate": _aggregate,
}


def patch_terms(sample: Sample) -> tuple[Tensor, Windows, dict[str, Any], float, torch.dtype]:
    """Image, windows, normalisation per channel, largest term before cancellation, output dtype."""
    image, windows = sample.args()
    options = dict(sample.options)
    channels = image.shape[1]
    scale = options.get("scale", 1 / 255 if image.dtype is torch.uint8 else 1.0)
    mean = np.broadcast_to(options.get("mean", 0.0), channels).tolist()
    std = np.broadcast_to(options.get("std", 1.0), channels).tolist()
    dtype = options.get("dtype") or (image.dtype if image.is_floating_point() else torch.float32)
    overshoot = 1.6**2 if options.get("mode") == "bicubic" else 1.0
    peak = image.float().abs().max().item() if image.numel() else 0.0
    largest = max(
        (overshoot * abs(scale) * peak + abs(m)) / abs(s) for m, s in zip(mean, std, strict=True)
    )
    return image, windows, {"scale": scale, "mean": mean, "std": std}, largest, dtype


def patch_error(sample: Sample) -> float:
    """Error of the patches of a sample of extract_patches."""
    *_, largest, dtype = patch_terms(sample)
    return tolerances.patch_error(largest, dtype, sample.options.get("mode", "bilinear"))


def merge_error(sample: Sample) -> float:
    """Error of the scores of a sample of aggregate; of probabilities and of p_f alike, so also of
    every decision on them."""
    coarse, fine, _, _ = sample.args()
    return tolerances.prob_error(coarse) + tolerances.logit_margin(fine)
