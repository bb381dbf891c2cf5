"""What C2FNet refuses: networks' outputs, images, options."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from networks import BASE, Answering, Coarse, Fine, Learner, network, scene
from torch import nn

from c2fcore import C2FConfig, C2FNet
from c2fcore.models import build

LOGITS = torch.zeros(1, 4, 8, 8)


@pytest.mark.parametrize(
    ("coarse", "error", "message"),
    [
        (Coarse(num_classes=6), ValueError, "return num_classes=4 channels, got 6"),
        (Answering(LOGITS[0]), ValueError, "logits must be .B, N, h, w., got shape .4, 8, 8."),
        (Answering(LOGITS.repeat(2, 1, 1, 1)), ValueError, "one map per image, got 2 for 1"),
        (Answering(torch.zeros(1, 4, 99, 8)), ValueError, "not be above its input's size"),
        (Answering(LOGITS.long()), TypeError, "floating-point logits, got torch.int64"),
        (Answering({"aux": LOGITS}), TypeError, "'out' or 'logits', got 'aux'"),
        (Answering({}), TypeError, "'out' or 'logits', got none"),
        (Answering(()), TypeError, "got an empty one"),
        (Answering(None), TypeError, "coarse network: output must be a tensor.*got NoneType"),
    ],
)
def test_refuses_coarse_outputs(coarse: nn.Module, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        network(coarse)(scene(40, 40, objects=3)[0])


@pytest.mark.parametrize(
    ("fine", "error", "message"),
    [
        (Coarse(num_classes=3), ValueError, "fine network must return 1 or 2 channels, got 3"),
        (Answering(torch.zeros(99, 1, 8, 8)), ValueError, "one map per patch, got 99"),
        (Answering("no"), TypeError, "fine network: output must be a tensor.*got str"),
    ],
)
def test_refuses_fine_outputs(fine: nn.Module, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        network(fine=fine)(scene(40, 40, objects=3)[0])


class Uneven(Fine):
    """Answers with a map whose width is the number of patches."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return patches[:, :1, :4, : len(patches)]


def test_refuses_fine_maps_of_several_sizes() -> None:
    image = scene(40, 40, objects=3)[0]
    net = network(fine=Uneven(), window=8, stride=8, n=5, max_batch=2, strategy="top")
    assert int(net.detailed(image.expand(2, -1, -1, -1)).windows.num.sum()) % 2 == 0
    net.config = net.config.replace(max_batch=3)
    with pytest.raises(ValueError, match=r"maps of one shape .*, got \[\(1, 4, 1\), \(1, 4, 3\)"):
        net(image.expand(2, -1, -1, -1))


@pytest.mark.parametrize("value", [0, -3, "x", 1.5])
def test_refuses_multiples_that_are_none(value: Any) -> None:
    coarse = Coarse()
    coarse.stride_multiple = value
    with pytest.raises((ValueError, TypeError), match=r"^C2FNet: a network's stride_multiple must"):
        network(coarse)(IMAGE)


IMAGE = torch.zeros(1, 3, 40, 40)


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (IMAGE.numpy(), {}, TypeError, "image must be a torch.Tensor, got ndarray"),
        (IMAGE.long(), {}, TypeError, "image must be uint8.*got torch.int64"),
        (IMAGE.to_sparse(), {}, TypeError, "image must be a dense tensor, got torch.sparse_coo"),
        (IMAGE.to("meta"), {}, ValueError, "image must have memory, .* got device meta"),
        (IMAGE[0], {}, ValueError, r"image must be \[B, C, H, W\] with pixels, got shape"),
        (IMAGE[..., :0], {}, ValueError, "with pixels, got shape"),
        (IMAGE[:, :2], {"std": (1.0,) * 3}, ValueError, "3 channels, got 2 in .*; Pillow"),
        (IMAGE.permute(0, 2, 3, 1), {"mean": (0.0,) * 3}, ValueError, "got 40 .*image.permute"),
        (
            IMAGE,
            {"mean": (1.0,)},
            ValueError,
            "mean must have one value per channel, got 1 for C=3",
        ),
    ],
)
def test_refuses_images(
    image: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^C2FNet: .*{message}"):
        network(**options)(image)


def test_refuses_what_is_no_network() -> None:
    config = C2FConfig(**BASE)
    with pytest.raises(TypeError, match=r"C2FNet: coarse must be .*, got str 'unet'; models.build"):
        C2FNet("unet", Fine(), config)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="C2FNet: config must be a C2FConfig, got dict"):
        C2FNet(Coarse(), Fine(), BASE)  # type: ignore[arg-type]
    shared = Fine()
    with pytest.raises(ValueError, match="must not share parameters, got 2 shared"):
        C2FNet(shared, nn.Sequential(shared), config)
    with pytest.raises(ValueError, match="the coarse network must have 4 channels, got 3"):
        C2FNet(build("tiny_fcn", 3), Fine(), config)
    with pytest.raises(ValueError, match="the fine network must have 1 or 2 channels, got 4"):
        C2FNet(Coarse(), build("tiny_fcn", 4), config)
    net = network()
    with pytest.raises(ValueError, match="output must be one of 'labels', 'probs', got 'mask'"):
        net(IMAGE, output="mask")
    with pytest.raises(ValueError, match="on the networks' device, got cpu and meta"):
        network(Coarse().to("meta"))(IMAGE)
    with pytest.raises(ValueError, match="on the networks' device, got cpu and meta"):
        network(fine=Fine().to("meta"))(scene(40, 40, objects=3)[0])
    with pytest.raises(RuntimeError, match=r"C2FNet: call eval\(\) before inference"):
        net.train()(IMAGE)


def test_a_fine_network_in_training_mode_by_itself() -> None:
    net = network(fine=Learner(1))
    image, labels = scene(96, 96, objects=9)
    expected, statistics = net(image), copy.deepcopy(net.fine.norm.state_dict())
    net.fine.train()
    for call in (net, net.detailed, net.profile, lambda image: net.calibrate([(image, labels)])):
        with pytest.raises(RuntimeError, match="got the fine network in training mode"):
            call(image)
    assert torch.equal(net.compile()(image), expected)  # on copies, in eval mode
    for name, value in net.fine.norm.state_dict().items():
        assert torch.equal(value, statistics[name])
    net.fine.eval()
    net.fine.pooled.train()  # parts are their owner's affair
    net(image)
