"""Batch normalisation folded into convolutions: where it may be, and that the answer stays."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from c2fcore import C2FConfig, C2FNet
from c2fcore.engine.folding import Pair, _close, find_pairs, fold
from c2fcore.models import available, build

SIDES = (32, 48)


class Block(nn.Module):
    """A convolution and a normalisation, joined as `forward` says."""

    def __init__(self, joined: Callable[[Block, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.joined = joined

    def forward(self, image: Tensor) -> Tensor:
        return self.joined(self, image)


def trained(network: nn.Module) -> nn.Module:
    """Statistics as of a network that has seen something: no normalisation is next to nothing."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = (module.num_features,)
            module.weight.data = 0.5 + torch.rand(shape, generator=generator)
            module.bias.data = torch.randn(shape, generator=generator)
            module.running_mean = torch.randn(shape, generator=generator)
            module.running_var = 0.5 + torch.rand(shape, generator=generator)
    return network.eval().requires_grad_(False)


def norms(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize("name", [name for name in available() if name.startswith(("tiny", "pp"))])
def test_whole_networks(name: str) -> None:
    network = trained(build(name, 4))
    expected = copy.deepcopy(network)
    there = norms(network)
    assert fold(network, 3, (64, 96)) == there > 0
    assert norms(network) == 0
    image = torch.randn(2, 3, 64, 128, generator=torch.Generator().manual_seed(2))
    found, wanted = network(image), expected(image)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


ALONE: dict[str, Callable[[Block, Tensor], Tensor]] = {
    "in a row": lambda m, x: m.norm(m.conv(x)),
    "by a container": lambda m, x: nn.Sequential(m.conv, m.norm)(x),
    "then in place": lambda m, x: m.norm(m.conv(x)).relu_(),
    "with a way around": lambda m, x: x + m.norm(m.conv(x)),
    "by name": lambda m, x: m.norm(input=m.conv(x)),
    "of an input changed in place": lambda m, x: m.norm(m.conv(x.sub_(0.5))),
}
NOT_ALONE: dict[str, Callable[[Block, Tensor], Tensor]] = {
    "read by another op": lambda m, x: (y := m.conv(x)) + m.norm(y),
    "read by a method": lambda m, x: (y := m.conv(x)).abs() + m.norm(y),
    "in a list": lambda m, x: torch.cat([y := m.conv(x), m.norm(y)], 1),
    "by name": lambda m, x: torch.add(input=(y := m.conv(x)), other=m.norm(y)),
    "changed between": lambda m, x: m.norm(m.conv(x).mul_(2)),
    "another tensor between": lambda m, x: m.norm(m.conv(x).relu()),
    "convolution twice": lambda m, x: m.conv(m.norm(m.conv(x))),
    "norm twice": lambda m, x: m.norm(m.norm(m.conv(x))),
    "norm first": lambda m, x: m.conv(m.norm(x)),
    "norm of other things, too": lambda m, x: m.norm(m.conv(x)) + m.norm(x),
}


@pytest.mark.parametrize("how", ALONE)
def test_folded(how: str) -> None:
    network = trained(Block(ALONE[how]))
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = network(image.clone())
    assert find_pairs(network, image.clone()) == [Pair("conv", "norm")]
    assert fold(network, 3, SIDES) == 1
    assert norms(network) == 0
    torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_whatever_the_default_dtype(dtype: torch.dtype) -> None:
    network = trained(Block(ALONE["in a row"]))
    torch.set_default_dtype(dtype)
    try:
        assert fold(network, 3, SIDES) == 1
    finally:
        torch.set_default_dtype(torch.float32)


def test_synchronised_normalisations() -> None:
    network = nn.SyncBatchNorm.convert_sync_batchnorm(trained(Block(ALONE["in a row"])))
    assert type(network.norm) is nn.SyncBatchNorm
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = network(image)
    assert fold(network, 3, SIDES) == 1
    assert type(network.norm) is nn.Identity
    torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", NOT_ALONE)
def test_not_folded(how: str) -> None:
    network = trained(Block(NOT_ALONE[how]))
    weight = network.conv.weight.clone()
    assert find_pairs(network, torch.randn(1, 3, 8, 8)) == []
    assert fold(network, 3, SIDES) == 0
    assert norms(network) == 1
    assert torch.equal(network.conv.weight, weight)


def test_the_answer_decides() -> None:
    """What no op reads while it is watched: another branch for another size."""

    def joined(m: Block, x: Tensor) -> Tensor:
        return m.norm(m.conv(x)) if x.shape[-1] == SIDES[0] else m.conv(x)

    network = trained(Block(joined))
    assert find_pairs(network, torch.randn(1, 3, *SIDES[:1] * 2)) == [Pair("conv", "norm")]
    assert fold(network, 3, SIDES) == 0
    assert norms(network) == 1


class WithActivation(nn.BatchNorm2d):
    """As BatchNormAct2d of timm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.Hardswish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.act(self.drop(super().forward(x)))
        return found


def test_the_activation_of_a_normalisation_stays() -> None:
    network = Block(ALONE["in a row"])
    network.norm = WithActivation(3)
    trained(network)
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = network(image)
    assert fold(network, 3, SIDES) == 1
    assert norms(network) == 0
    torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5)


class Padding(nn.Conv2d):
    """Its weight is as it says."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (0, 2, 0, 2)))


class Standardising(nn.Conv2d):
    """Its weight is another one than it says."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / weight.std(), self.bias)


@pytest.mark.parametrize(("kind", "folded"), [(Padding, 2), (Standardising, 1)])
def test_subclasses_of_convolutions(kind: type[nn.Conv2d], folded: int) -> None:
    """They are folded where the answer stays, and keep no other from it where it does not."""
    first, second = Block(ALONE["in a row"]), Block(ALONE["in a row"])
    first.conv = kind(3, 3, 3, padding=1, bias=False)
    network = trained(nn.Sequential(first, second))
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = network(image)
    assert fold(network, 3, SIDES) == folded
    assert norms(network) == 2 - folded
    torch.testing.assert_close(network(image), expected, rtol=1e-5, atol=1e-5)


# smp keeps the head of its EfficientNet, and a normalisation in it, but does not run it.
@pytest.mark.parametrize(
    ("encoder", "unused"), [("tu-mobilenetv3_small_100", 0), ("efficientnet-b0", 1)]
)
def test_encoders_of_timm_and_smp(encoder: str, unused: int) -> None:
    """Normalisations with an activation; convolutions that pad."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    network = trained(smp.Unet(encoder, encoder_weights=None, classes=4))
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    expected = network(image)
    assert fold(network, 3, (64, 96)) > 40
    assert norms(network) == unused
    close = float((network(image) - expected).abs().max() / expected.abs().max())
    assert close < 1e-4


class Remembering(Block):
    """Its answers are in tensors of its own, which the next one overwrites."""

    def __init__(self) -> None:
        super().__init__(ALONE["in a row"])
        self.answers: dict[torch.Size, Tensor] = {}

    def forward(self, image: Tensor) -> Tensor:
        found = self.conv(image)
        if image.shape[-1] == SIDES[0]:
            found = self.norm(found)
        return self.answers.setdefault(found.shape, torch.empty_like(found)).copy_(found)


class SettingUp(Block):
    """Its first run makes the weight."""

    def __init__(self) -> None:
        super().__init__(ALONE["in a row"])
        self.made = False

    def forward(self, image: Tensor) -> Tensor:
        if not self.made:
            self.conv.weight.data = torch.ones_like(self.conv.weight)
            self.made = True
        return super().forward(image)


class Shared(Block):
    """All copies are the one."""

    def __init__(self) -> None:
        super().__init__(ALONE["in a row"])

    def __deepcopy__(self, memo: dict[int, object]) -> Shared:
        return self


class TwoNorms(Block):
    """The second one's input has a name; the watch must see it, too."""

    def __init__(self) -> None:
        super().__init__(ALONE["in a row"])
        self.second = nn.BatchNorm2d(3)

    def forward(self, image: Tensor) -> Tensor:
        found = self.conv(image)
        return self.norm(found) + self.second(input=found)


@pytest.mark.parametrize("kind", [Remembering, SettingUp, Shared, TwoNorms])
def test_networks_that_stay_as_they_are(kind: type[Block]) -> None:
    network = trained(kind())
    there = norms(network)
    assert fold(network, 3, SIDES) == 0
    assert norms(network) == there
    if kind is TwoNorms:
        assert find_pairs(network, torch.randn(1, 3, 8, 8)) == []


def test_what_is_infinite_is_close_to_nothing() -> None:
    infinite = torch.tensor([1.0, torch.inf])
    for found in (infinite, torch.ones(2), -infinite, torch.full((2,), torch.nan)):
        assert not _close(found, infinite)
        assert not _close(infinite, found)
    assert _close(torch.tensor([1.0, 2.00001]), torch.tensor([1.0, 2.0]))
    assert not _close(torch.tensor([1.0, 2.001]), torch.tensor([1.0, 2.0]))


def test_compiled_networks_are_not_compiled_for_it() -> None:
    def refused(*args: object, **options: object) -> None:
        pytest.fail("compiled")

    network = trained(nn.Sequential(torch.compile(Block(ALONE["in a row"]), backend=refused)))
    assert fold(network, 3, SIDES) == 0


def _hooked(m: Block) -> None:
    m.conv.register_forward_hook(lambda module, given, output: 2 * output)


def _own_forward(m: Block) -> None:
    weight = m.conv.weight.clone()
    m.conv.forward = lambda x: nn.functional.conv2d(x, weight, padding=1)


def _own_kind(m: Block) -> None:
    class Twice(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    m.conv = Twice(3, 3, 3, padding=1)
    m.norm.bias.data.fill_(1.0)  # which must not be doubled


def _parametrized(m: Block) -> None:
    nn.utils.parametrizations.weight_norm(m.conv)


def _other_precision(m: Block) -> None:
    m.double()


def _no_statistics(m: Block) -> None:
    m.norm = nn.BatchNorm2d(3, track_running_stats=False)


def _more_channels(m: Block) -> None:
    m.conv = nn.Conv2d(5, 3, 3, padding=1)


@pytest.mark.parametrize(
    "change",
    [
        _hooked,
        _own_forward,
        _own_kind,
        _parametrized,
        _other_precision,
        _no_statistics,
        _more_channels,
    ],
)
def test_left_as_they_are(change: Callable[[Block], None]) -> None:
    network = Block(ALONE["in a row"])
    change(network)
    network.eval().requires_grad_(False)
    assert fold(network, 3, SIDES) == 0
    assert norms(network) == 1


def test_training_normalisations_are_left() -> None:
    network = trained(Block(ALONE["in a row"]))
    network.norm.train()
    assert fold(network, 3, SIDES) == 0


def test_a_norm_of_two_names_and_one_in_no_container() -> None:
    network = trained(Block(ALONE["in a row"]))
    network.again = network.norm
    assert fold(network, 3, SIDES) == 1
    assert norms(network) == 0

    hidden = trained(Block(lambda m, x: m.kept[0](m.conv(x))))
    hidden.kept = [hidden.norm]  # stays there when the attribute is replaced: norm and fold
    assert fold(hidden, 3, SIDES) == 0


def test_engines_fold_copies() -> None:
    torch.manual_seed(0)
    config = C2FConfig(num_classes=4, small_classes=(1,), window=32, stride=16, n=4)
    coarse, fine = trained(build("tiny_fcn", 4, width=8)), trained(build("tiny_fcn", 2, width=8))
    net = C2FNet(coarse, fine, config).eval()
    there = norms(net)
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    engine, plain = net.compile(), net.compile(fold_norms=False)
    assert (engine.networks.folded, plain.networks.folded) == (there, 0)
    assert (norms(net), norms(engine.networks.coarse), norms(engine.networks.fine)) == (there, 0, 0)
    assert (engine(image) == net(image[None])[0]).float().mean() > 0.999


class Stem(nn.Conv2d):
    """Of a kind that is not folded, as in networks that pad as TensorFlow does."""


def test_engines_show_what_networks_take() -> None:
    class Late(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.stem, self.block = Stem(3, 8, 3, padding=1), nn.Conv2d(8, channels, 1)
            self.norm = nn.BatchNorm2d(channels)

        def forward(self, image: Tensor) -> Tensor:
            shown.append(image.shape[-2:])
            return self.norm(self.block(self.stem(image)))

    shown: list[torch.Size] = []
    config = C2FConfig(num_classes=4, small_classes=(1,), window=32, stride=16, n=4)
    net = C2FNet(trained(Late(4)), trained(Late(2)), config).eval()
    assert net.compile(size_multiple=4096).networks.folded == 2
    assert max(map(max, shown)) < 256
