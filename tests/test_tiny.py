"""TinyFCN: shapes, size rules, budget, and that it can learn."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from c2fcore.models.tiny import TinyFCN


@pytest.mark.parametrize("output_stride", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (160, 32)])
def test_logits_shape(output_stride: int, height: int, width: int) -> None:
    model = TinyFCN(5, width=4, output_stride=output_stride).eval()
    logits = model(torch.rand(2, 3, height, width))
    assert logits.shape == (2, 5, height // output_stride, width // output_stride)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("in_channels", [1, 4, 7])
def test_bands(in_channels: int) -> None:
    model = TinyFCN(3, width=4, in_channels=in_channels).eval()
    assert model(torch.rand(1, in_channels, 32, 32)).shape == (1, 3, 8, 8)


def test_sizes_off_the_stride_are_refused() -> None:
    model = TinyFCN(3, width=4)
    with pytest.raises(ValueError, match=r"multiples of 32, got 48 x 64"):
        model(torch.rand(1, 3, 48, 64))
    assert TinyFCN.stride_multiple == 32


@pytest.mark.parametrize("output_stride", [0, 1, 3, 8])
def test_bad_output_stride(output_stride: int) -> None:
    with pytest.raises(ValueError, match=f"output_stride must be 2 or 4, got {output_stride}"):
        TinyFCN(3, output_stride=output_stride)


def test_bad_counts() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0, 16 and 3"):
        TinyFCN(0)


def test_two_networks_fit_the_budget() -> None:
    coarse, fine = TinyFCN(8), TinyFCN(2, output_stride=2)
    count = sum(p.numel() for m in (coarse, fine) for p in m.parameters())
    assert count <= 1_000_000


def test_every_parameter_gets_a_gradient() -> None:
    for output_stride in (2, 4):
        model = TinyFCN(3, width=4, output_stride=output_stride)
        model(torch.rand(2, 3, 64, 64)).square().mean().backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert missing == []


def test_memory_formats_agree() -> None:
    model = TinyFCN(4, width=4).eval()
    image = torch.rand(2, 3, 64, 64)
    last = image.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(model(image), model(last), rtol=1e-4, atol=1e-5)


def test_learns_a_bright_square() -> None:
    torch.manual_seed(0)
    model = TinyFCN(2, width=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    image = 0.1 * torch.rand(4, 3, 64, 64)
    target = torch.zeros(4, 64, 64, dtype=torch.int64)
    for i in range(4):
        image[i, :, 8 * i : 8 * i + 24, 16:40] += 0.8
        target[i, 8 * i : 8 * i + 24, 16:40] = 1
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(F.interpolate(model(image), size=64, mode="bilinear"), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.25 * losses[0]
