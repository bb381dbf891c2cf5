"""Networks that write into their input, have hooks, or are TorchScript: engines answer alike."""

from __future__ import annotations

import copy
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine_doubles import Replayed, replay_everywhere
from networks import Coarse, Fine, network, scene
from torch import Tensor, nn

from c2fcore import C2FNet
from c2fcore.models import low_resolution

pytestmark = pytest.mark.usefixtures("one_thread")


class CoarseInPlace(Coarse):
    """Answers like `Coarse`, and leaves other values where it found its input."""

    def logits(self, image: Tensor) -> Tensor:
        found = super().logits(image)
        image.add_(0.5)
        return found


class FineInPlace(Fine):
    """Likewise."""

    def logits(self, image: Tensor) -> Tensor:
        found = super().logits(image)
        image.add_(0.5)
        return found


IN_PLACE_SIZES = [(96, 64), (75, 83), (20, 50), (7, 9)]  # as it is, padded, below a window


@pytest.mark.parametrize("size", IN_PLACE_SIZES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_networks_may_write_into_their_input(size: tuple[int, int], dtype: torch.dtype) -> None:
    plain, net = network(zoom=2.0), network(CoarseInPlace(), FineInPlace(), zoom=2.0)
    engine = net.compile()
    scale = 1.0 if dtype == torch.uint8 else 1 / 255
    for seed in range(4):
        image = (scene(*size, objects=8, seed=seed)[0] * scale).to(dtype)
        expected = plain(image)
        given = image.clone()
        assert torch.equal(engine(given), expected)
        assert torch.equal(net(given), expected)
        assert torch.equal(given, image)


@pytest.mark.parametrize("threads", [1, 2])  # what another one warmed up runs twice
def test_captured_networks_may_write_into_their_input(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorders: list[Replayed] = replay_everywhere(monkeypatch)
    options: dict[str, Any] = {"n": 9, "max_batch": 4, "zoom": 2.0}
    plain, net = network(**options), network(CoarseInPlace(), FineInPlace(), **options)
    engine = net.compile(buckets="powers")
    for seed in range(10):
        image = scene(75, 83, objects=20, seed=seed % 2)[0]
        with ThreadPoolExecutor() if threads > 1 else nullcontext() as pool:
            labels = pool.submit(engine, image).result() if pool else engine(image)
        assert torch.equal(labels, plain(image))
    assert sum(recorder.captures for recorder in recorders) > 0


class Bound(nn.Module):
    """Answers like a network, in the same memory every time, as runtimes with bound outputs do."""

    def __init__(self, network: Coarse | Fine) -> None:
        super().__init__()
        self.network = network
        self.stride_multiple = network.stride_multiple
        self.held: dict[tuple[int, ...], Tensor] = {}

    def forward(self, image: Tensor) -> Tensor:
        """The answer, which the next one of its shape overwrites."""
        found = self.network(image)
        return self.held.setdefault(tuple(found.shape), torch.empty_like(found)).copy_(found)


@pytest.mark.parametrize("batch", [1, 3])
def test_networks_may_answer_in_the_same_memory_every_time(batch: int) -> None:
    options = {"window": 16, "max_batch": 2}  # several forwards of the fine network
    plain, net = network(**options), network(Bound(Coarse()), Bound(Fine()), **options)
    images = [scene(96, 64, objects=8, seed=seed)[0][0] for seed in range(4)]
    expected = [plain(image[None])[0] for image in images]
    assert [torch.equal(net(i[None])[0], e) for i, e in zip(images, expected)] == [True] * 4
    results = net.compile(batch=batch).run(images)
    assert [torch.equal(r.labels, e) for r, e in zip(results, expected)] == [True] * 4


def _input_hook(network: nn.Module) -> None:
    network.register_forward_pre_hook(lambda module, given: (given[0] / 2,))


def _output_hook(network: nn.Module) -> None:
    network.register_forward_hook(lambda module, given, output: {"out": output["out"].flip(1)})


def _own_forward(network: Any) -> None:
    def flipped(self: Any, image: Tensor) -> dict[str, Tensor]:
        return {"out": type(self).forward(self, image)["out"].flip(1)}

    network.forward = types.MethodType(flipped, network)


@pytest.mark.parametrize("change", [_input_hook, _output_hook, _own_forward])
def test_what_was_put_on_a_network_stays(change: Callable[[nn.Module], None]) -> None:
    """Networks of torchvision are taken apart for the engine, but not those."""
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(0)
    full = segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    ).eval()
    assert low_resolution(copy.deepcopy(full)) is not full
    change(full)
    assert low_resolution(full) is full
    image, _ = scene(64, 96, objects=9)
    net = network(full)
    logits = net.compile().networks.coarse(image / 255)["out"]
    torch.testing.assert_close(logits, full(image / 255)["out"], rtol=1e-4, atol=1e-4)


def test_hooks_see_the_answer_that_the_network_gives() -> None:
    class Enlarging(Coarse):
        enlarging = True

        def low_resolution(self) -> Enlarging:
            self.enlarging = False
            return self

        def logits(self, image: Tensor) -> Tensor:
            found = super().logits(image)
            return F.interpolate(found, image.shape[-2:]) if self.enlarging else found

    coarse = Enlarging()
    coarse.register_forward_hook(lambda module, given, output: F.avg_pool2d(output, 9, 1, 4))
    image, _ = scene(64, 96, objects=9)
    net = network(coarse)
    assert torch.equal(net.compile()(image), net(image))


class Keeping(Coarse):
    """Answers with what a hook has kept of one of its layers."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        self.kept = kept = {}  # type: ignore[var-annotated]
        hooks = {
            "method": self.keep,
            "module": lambda module, given, output: self.kept.update(found=output),
            "container": lambda module, given, output: kept.update(found=output),
        }
        self.layer.register_forward_hook(hooks[hook])

    def keep(self, module: nn.Module, given: Any, output: Tensor) -> None:
        self.kept["found"] = output

    def logits(self, image: Tensor) -> Tensor:
        self.layer(image)
        return F.avg_pool2d(self.kept["found"], 4)


def test_hooks_of_a_copy_write_into_the_copy() -> None:
    net = network(Keeping("method"))
    engine = net.compile()
    for seed in range(3):
        image, _ = scene(64, 96, objects=9, seed=seed)
        assert torch.equal(engine(image), net(image))


@pytest.mark.parametrize("hook", ["module", "container"])
def test_hooks_that_a_copy_would_share_are_refused(hook: str) -> None:
    """They would write into the original, and the engine answer to what that saw last."""
    with pytest.raises(ValueError, match=r"must not hold parts of .* on coarse\.layer; methods"):
        network(Keeping(hook)).compile()


def test_a_forward_that_a_copy_would_share_is_refused() -> None:
    fine = Fine()
    forward = fine.forward
    fine.forward = lambda image: -forward(image)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"must not hold parts of .* on fine; methods"):
        network(fine=fine).compile()


def test_a_copy_that_is_the_network_is_refused() -> None:
    """Its weights would be cast, and trained no more."""

    class Once(Fine):
        def __deepcopy__(self, memo: dict[int, Any]) -> Once:
            return self

    net = network(fine=Once())
    with pytest.raises(ValueError, match=r"of its own, got 2 that are those of Once, by its"):
        net.compile(precision="bfloat16")
    assert all(parameter.requires_grad for parameter in net.fine.parameters())


def test_weights_of_five_dimensions() -> None:
    class Deep(Coarse):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv2d(4, 4, 3)
            self.deep = nn.Conv3d(4, 4, 1, bias=False)
            self.deep.weight.data = torch.eye(4).reshape(4, 4, 1, 1, 1) * 2

        def logits(self, image: Tensor) -> Tensor:
            return self.deep(super().logits(image)[:, :, None])[:, :, 0]

    net = network(Deep())
    engine = net.compile()
    image, _ = scene(75, 83, objects=9)
    assert torch.equal(engine(image), net(image))
    weight = engine.networks.coarse.wide.weight
    assert not net.coarse.wide.weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_networks_of_torch_compile() -> None:
    plain = network()
    coarse, fine = (torch.compile(net, backend="eager") for net in (Coarse(), Fine()))
    net = C2FNet(coarse, fine, plain.config).eval()
    image, _ = scene(75, 83, objects=9)
    assert torch.equal(net.compile()(image), plain(image))


class Plain(nn.Module):
    """What TorchScript takes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(image), 4)


def _scripted(network: nn.Module) -> Any:
    return torch.jit.script(network)


def _traced(network: nn.Module) -> Any:
    return torch.jit.trace(network, torch.zeros(1, 3, 64, 64))


def _frozen(network: nn.Module) -> Any:
    return torch.jit.freeze(torch.jit.script(network.eval()))


@pytest.mark.parametrize("kind", [_scripted, _traced, _frozen])
def test_networks_of_torchscript(kind: Callable[[nn.Module], Any]) -> None:
    torch.manual_seed(0)
    coarse, fine = Plain(4), Plain(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = network(kind(coarse), kind(fine), zoom=2.0)
    plain = network(coarse, fine, zoom=2.0)
    assert not any(parameter.requires_grad for parameter in net.coarse.parameters())
    image, _ = scene(75, 83, objects=9)
    expected = plain.detailed(image)
    assert int(expected.windows.num) > 0
    assert torch.equal(net(image), expected.labels)
    assert (net.compile()(image) == expected.labels).float().mean() > 0.999
