"""C2FNet.calibrate: slope and shift that were put in are found; what is merged uses them."""

from __future__ import annotations

import pytest
import torch
from networks import Answering, Counting, network, scene
from torch import Tensor

from c2fcore import C2FConfig, C2FNet, _stages

SLOPE, SHIFT = 0.5, -1.2


class Brightness(Counting):
    """A foreground logit of -4 to 4 by the brightness of channel 0."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.channels, self.stride_multiple = channels, 8

    def logits(self, image: Tensor) -> Tensor:
        found = 8 * image[:, :1] - 4
        return found if self.channels == 1 else torch.cat((-0.25 * found, 0.75 * found), dim=1)


def small_everywhere(side: int) -> Answering:
    logits = torch.zeros((1, 4, side, side))
    logits[:, 1] = 0.5
    return Answering(logits)


def overconfident(channels: int, side: int = 256) -> tuple[C2FNet, Tensor, Tensor]:
    """A network and an image whose pixels are small objects with sigmoid(SLOPE * logit + SHIFT)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, side, side), generator=generator, dtype=torch.uint8)
    net = network(small_everywhere(side), Brightness(channels), n=None, strategy="all")
    p = (SLOPE * (8 * image[:, 0].float() / 255 - 4) + SHIFT).sigmoid()
    labels = 3 * (torch.rand(p.shape, generator=generator) < p).to(torch.uint8)
    return net, image, labels


@pytest.mark.parametrize("channels", [1, 2])
def test_what_distorts_the_logits_is_found(channels: int) -> None:
    net, image, labels = overconfident(channels)
    wrong = labels.clone()
    wrong[:, :64] = 3
    assert net.calibrate([(image, wrong)]) != pytest.approx((SLOPE, SHIFT), abs=0.03)
    labels[:, :64] = net.config.ignore_index
    net.coarse.train()
    found = net.calibrate([(image, labels)])
    assert not net.coarse.training  # its statistics must not move
    assert found == pytest.approx((SLOPE, SHIFT), abs=0.03)
    assert (net.config.fine_slope, net.config.fine_shift) == found
    assert net.calibrate([(image, labels)]) == found  # nothing builds on an earlier calibration


@pytest.mark.parametrize("channels", [1, 2])
def test_fine_logits_are_calibrated(channels: int) -> None:
    fine = Brightness(channels)
    patches = torch.rand((2, 3, 32, 32))
    config = network().config
    changed = config.replace(fine_slope=SLOPE, fine_shift=SHIFT)
    before, after = (_stages.fine_logits(fine, patches, c) for c in (config, changed))
    if channels == 2:
        before, after = (t[:, 1:] - t[:, :1] for t in (before, after))
    torch.testing.assert_close(after, SLOPE * before + SHIFT)


def test_answers_of_network_and_engine_change_alike() -> None:
    image, _ = scene(64, 64, objects=8)
    net = network(n=4)
    plain = net(image)
    net.config = net.config.replace(fine_slope=0.5, fine_shift=-4.0)
    assert not torch.equal(net(image), plain)
    assert torch.equal(net.compile()(image), net(image))


def test_the_loss_sees_logits_as_they_are() -> None:
    image, labels = scene(64, 64, objects=8)
    net = network().train()
    plain = net.fine_loss(image, labels)
    net.config = net.config.replace(fine_slope=0.5, fine_shift=-4.0)
    assert torch.equal(net.fine_loss(image, labels), plain)


def test_logits_that_separate_leave_a_finite_slope() -> None:
    image, labels = scene(64, 64, objects=8)
    net = network(n=None)
    slope, shift = net.calibrate([(image, labels)])
    assert 0 < slope < 100
    assert abs(shift) < 100


def test_what_cannot_be_calibrated() -> None:
    net, image, labels = overconfident(1, side=64)
    with pytest.raises(ValueError, match="must have small objects and other pixels"):
        net.calibrate([(image, torch.zeros_like(labels))])
    with pytest.raises(ValueError, match="must have small objects and other pixels"):
        net.calibrate([])
    with pytest.raises(ValueError, match="must be better than chance"):
        net.calibrate([(image, (image[:, 0] < 128).to(torch.uint8))])
    assert (net.config.fine_slope, net.config.fine_shift) == (1.0, 0.0)
    with pytest.raises(RuntimeError, match="call eval"):
        net.train().calibrate([(image, labels)])


def test_a_slope_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fine_slope must be above 0, got 0\.0"):
        C2FConfig(4, (1,), fine_slope=0)
