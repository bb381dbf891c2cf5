"""Errors against float64, in PyTorch's own error in the same dtype; positions float32 rounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from c2fcore import Windows, ops
from c2fcore.testing import tolerances
from c2fcore.testing.samples.extract_patches import image_of
from c2fcore.testing.samples.inputs import noise_logits, random_windows, windows_of

OP = "aggregate"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def assert_as_good_as_pytorch(got: Tensor, pytorch: Tensor, exact: Tensor) -> None:
    """Largest error at most twice PyTorch's own, plus a floor in units of the output type."""
    theirs = (pytorch.double() - exact).abs().max().item()
    ours = (got.cpu().double() - exact).abs().max().item()
    floor = tolerances.FLOOR_ULPS * tolerances.eps(got.dtype) * exact.abs().max().item()
    allowed = tolerances.TIMES_PYTORCH * theirs + floor
    assert ours <= allowed, f"error {ours:.3g}, PyTorch's own {theirs:.3g}, allowed {allowed:.3g}"


def _crops(image: Tensor, windows: Windows, p: int, mode: str) -> Tensor:
    """F.interpolate of every crop, in the image's own dtype."""
    k = windows.window
    corners = {} if mode == "nearest" else {"align_corners": False}
    patches = [
        F.interpolate(image[b : b + 1, :, y : y + k, x : x + k], size=p, mode=mode, **corners)
        for b in range(image.shape[0])
        for y, x in windows.origins[b, : int(windows.num[b])].tolist()
    ]
    return torch.cat(patches)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.7, 2.0, 4.0])
@pytest.mark.parametrize("dtype", FLOATS)
def test_patches(backend: str, device: str, mode: str, zoom: float, dtype: torch.dtype) -> None:
    image = image_of((1, 3, 40, 50), dtype, seed=9)
    windows = random_windows(1, 40, 50, 24, 3, seed=1)
    on = Windows(*(t.to(device) for t in windows[:3]), 24)
    options: dict[str, Any] = {"mode": mode, "zoom": zoom, "mean": 0.3, "std": 0.7}
    got = ops.extract_patches(image.to(device), on, **options, backend=backend)
    assert got.dtype == dtype
    p = round(24 * zoom)
    exact = (_crops(image.double(), windows, p, mode) - 0.3) / 0.7
    pytorch = (_crops(image, windows, p, mode) - 0.3) / 0.7
    assert_as_good_as_pytorch(got, pytorch, exact)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("layout", ["planar", "channels_last"])
def test_softmax_of_upsampled_logits(
    backend: str, device: str, dtype: torch.dtype, spread: float, layout: str
) -> None:
    """Pixels without a patch: p, whatever the range of the logits."""
    logits = noise_logits((1, 16, 12, 14), 5, spread).to(dtype)
    if layout == "channels_last":
        logits = logits.contiguous(memory_format=torch.channels_last)
    windows = random_windows(1, 48, 56, 16, 1, seed=2)._replace(num=torch.zeros(1).int())
    on = Windows(*(t.to(device) for t in windows[:3]), 16)
    fine = torch.zeros(1, 1, 4, 4, device=device)
    got = ops.aggregate(logits.to(device), fine, on, (1,), size=(48, 56), output="probs",
                        backend=backend)  # fmt: skip

    def softmax(x: Tensor) -> Tensor:
        return F.interpolate(x, size=(48, 56), mode="bilinear").softmax(1)

    # Computed in float32 from the logits as stored.
    assert_as_good_as_pytorch(got, softmax(logits.float()), softmax(logits.double()))
    assert (got >= 0).all()
    assert (got.sum(1) - 1).abs().max() <= 4 * tolerances.EPS32


@pytest.mark.parametrize("spread", [1.0, 20.0])
def test_foreground(backend: str, device: str, spread: float) -> None:
    """p_f as rule "official" adds it to logits of zero, mean of overlaps included."""
    windows = random_windows(1, 40, 44, 24, 5, seed=3)
    fine = noise_logits((5, 2, 7, 9), 6, spread)
    on = Windows(*(t.to(device) for t in windows[:3]), 24)
    got = ops.aggregate(
        torch.zeros(1, 2, 40, 44, device=device), fine.to(device), on, (1,), rule="official",
        output="probs", backend=backend,
    )[:, 1]  # fmt: skip

    def mean(x: Tensor) -> Tensor:
        up = F.interpolate(x[:, 1:] - x[:, :1], size=(24, 24), mode="bilinear").sigmoid()
        total, covering = torch.zeros(1, 40, 44).to(x), torch.zeros(1, 40, 44).to(x)
        for j, (y, x0) in enumerate(windows.origins[0].tolist()):
            total[0, y : y + 24, x0 : x0 + 24] += up[j, 0]
            covering[0, y : y + 24, x0 : x0 + 24] += 1
        return total / covering.clamp(min=1)

    # The difference of the channels is taken in float32 by definition.
    exact = mean(torch.stack([torch.zeros_like(fine[:, 0]), fine[:, 1] - fine[:, 0]], 1).double())
    assert_as_good_as_pytorch(got, mean(fine), exact)


@pytest.mark.parametrize("largest", [1e-30, 1e4, 3e37])
def test_extreme_logits(backend: str, device: str, largest: float) -> None:
    """No overflow, no loss: probabilities of huge and tiny logits stay probabilities."""
    logits = noise_logits((1, 5, 6, 6), 8, 1.0)
    logits = logits / logits.abs().max() * largest
    windows = random_windows(1, 24, 24, 8, 2, seed=4)
    on = Windows(*(t.to(device) for t in windows[:3]), 8)
    fine = noise_logits((2, 1, 3, 3), 9, largest if largest < 1e30 else 1e30)
    for rule in ("paper", "normalized"):
        got = ops.aggregate(
            logits.to(device), fine.to(device), on, (1, 2), size=(24, 24), rule=rule,
            output="probs", backend=backend,
        )  # fmt: skip
        assert got.isfinite().all()
        assert (got.sum(1) - 1).abs().max() <= 8 * tolerances.EPS32


def test_columns_that_float32_skips(backend: str, device: str) -> None:
    """On a long axis that hardly grows, 8 neighbours now and then span 9 columns of the logits."""
    if backend == "triton" and device == "cpu":
        pytest.skip("takes minutes in Triton's interpreter")
    coarse, fine = noise_logits((1, 2, 1, 133475), 8).to(device), torch.zeros(1, 1, 1, 1).to(device)
    args = (coarse, fine, windows_of([[(0, 0)]], 1, 1, device), (1,))
    options: dict[str, Any] = {"size": (1, 133530), "output": "probs"}
    got, want = (ops.aggregate(*args, **options, backend=b) for b in (backend, "reference"))
    assert ((got - want).abs() <= tolerances.prob_error(coarse)).all()


def test_labels_of_columns_that_float32_skips(backend: str, device: str) -> None:
    """There 16 neighbours may span 17 columns, too; most cells agree, and are not interpolated."""
    if backend == "triton" and device == "cpu":
        pytest.skip("takes minutes in Triton's interpreter")
    columns = torch.arange(526403) // 5 % 4
    coarse = 10 * F.one_hot(columns, 4).T.float()[None, :, None].to(device)
    args = (coarse, torch.zeros(1, 1, 1, 1).to(device), windows_of([[]], 1, 1, device), (1,))
    got, want = (ops.aggregate(*args, size=(1, 526644), backend=b) for b in (backend, "reference"))
    assert torch.equal(got, want)
