"""Batch normalisation as part of the convolution before it: one op less for each, in every frame.

Which convolution a normalisation follows is found by running the network, not by its source: any
PyTorch network may come, and few can be traced symbolically. The answers of the folded network are
compared with the network's own before it takes its place.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from ..models.low_resolution import altered
from ..models.outputs import logits_of

# Relative to the largest logit: folding changes about 1e-6 by rounding, a wrong pair far more.
_TOLERANCE: Final = 1e-4
_NORMS: Final = (nn.BatchNorm2d, nn.SyncBatchNorm)  # in eval mode they do the same


class Pair(NamedTuple):
    """Names of a convolution and of the normalisation that alone reads its output."""

    convolution: str
    norm: str


def fold(network: nn.Module, channels: int, sides: tuple[int, int]) -> int:
    """Folds what can be folded, in place; the network is in eval mode.

    Folded are nn.BatchNorm2d and nn.SyncBatchNorm of float32, also with an activation as in timm,
    whose input is the output of an nn.Conv2d that nothing else reads. The network runs on the CPU,
    on noise, to find them and to compare; one that does not run there, answers otherwise when
    folded, or is of torch.compile stays as it is. What a network does for other values, sizes or
    devices alone is not seen. Subclasses of nn.Conv2d count as one, unless that answers otherwise:
    some pad their input, others have another weight in mind than the one they hold.

    Args:
        network: gives what `logits_of` reads.
        channels: of its input.
        sides: of its input, pixels: the first is the height, each a width; better two that differ.

    Returns:
        How many normalisations there are no more.
    """
    modules = list(network.modules())
    # A network of torch.compile would be compiled anew, for the CPU.
    compiled = any("_orig_mod" in module._modules for module in modules)
    if compiled or not any(map(_foldable_norm, modules)):
        return 0
    for subclasses in (True, False):
        pairs = _tried(network, channels, sides, subclasses)
        if pairs:
            with torch.no_grad():
                _fold_pairs(network, pairs)
            return len(pairs)
    return 0


def _tried(
    network: nn.Module, channels: int, sides: tuple[int, int], subclasses: bool
) -> list[Pair]:
    """The pairs that a copy folds without another answer; none where it has one."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        try:
            seen, other = (
                torch.randn(
                    (1, channels, sides[0], side),
                    generator=generator, dtype=torch.float32, device="cpu",
                )
                for side in sides
            )  # fmt: skip
            plain, folded = copied(network).cpu(), copied(network).cpu()
            # Networks may write into their input.
            pairs = find_pairs(plain, seen.clone(), subclasses)
            if not pairs:
                return []
            _fold_pairs(folded, pairs)
            folded(seen)  # as `plain` has run once: state that a run changes is then the same
            alike = _close(logits_of(folded(other.clone())), logits_of(plain(other)))
        except Exception:  # the network takes no such input, or does not run on a CPU
            return []
        return pairs if alike else []


def copied(network: nn.Module) -> nn.Module:
    """A copy, which may be changed.

    Raises:
        ValueError: a tensor of it is the network's own, which would change, too.
    """
    found = copy.deepcopy(network)
    own, new = (
        {id(tensor) for tensor in chain(module.parameters(), module.buffers())}
        for module in (network, found)
    )
    if shared := own & new:
        raise ValueError(
            "Engine: a copy of a network must have tensors of its own, got "
            f"{len(shared)} that are those of {type(network).__name__}, by its __deepcopy__"
        )
    return found


def find_pairs(network: nn.Module, example: Tensor, subclasses: bool = True) -> list[Pair]:
    """The pairs that can be folded, as one run on an example shows them.

    Args:
        network: in eval mode, on the CPU.
        example: an input of it.
        subclasses: whether those of nn.Conv2d count.
    """
    names = {module: name for name, module in network.named_modules()}
    with _Watch(network, subclasses) as watch:
        network(example)
    return [Pair(names[conv], names[norm]) for conv, norm in watch.pairs()]


class _Watch(TorchFunctionMode):
    """Sees which outputs of convolutions a normalisation reads, and nothing else does."""

    def __init__(self, network: nn.Module, subclasses: bool) -> None:
        super().__init__()
        self._network = network
        self._subclasses = subclasses
        self._hooks: list[Any] = []
        self._within: nn.Module | None = None  # the normalisation being computed
        # Keeps outputs alive: the id of a freed one could be given to another tensor.
        self._outputs: dict[nn.Module, Tensor] = {}
        self._makers: dict[int, nn.Module] = {}
        self._readers: dict[nn.Module, nn.Module] = {}  # normalisation by convolution
        self._uses: Counter[int] = Counter()
        self._calls: Counter[nn.Module] = Counter()

    def __enter__(self) -> _Watch:
        for module in self._network.modules():
            if _foldable_convolution(module, self._subclasses):
                self._hooks.append(module.register_forward_hook(self._after_convolution))
            elif _foldable_norm(module):
                before = module.register_forward_pre_hook(self._before_norm, with_kwargs=True)
                self._hooks.append(before)
                self._hooks.append(module.register_forward_hook(self._after_norm))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._within is None:
            self._uses.update(id(t) for t in _tensors((args, kwargs)))
        return func(*args, **kwargs)

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Convolutions and their normalisations, each called once."""
        for conv, norm in self._readers.items():
            once = self._calls[conv] == self._calls[norm] == 1
            if once and self._uses[id(self._outputs[conv])] == 0:
                yield conv, norm

    def _after_convolution(self, module: nn.Module, given: Any, output: Tensor) -> None:
        self._calls[module] += 1
        self._outputs[module] = output
        self._makers[id(output)] = module
        self._uses[id(output)] = 0  # earlier counts are of a freed tensor with this id

    def _before_norm(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._calls[module] += 1
        for given in _tensors((args, kwargs)):
            maker = self._makers.get(id(given))
            if maker is not None and maker not in self._readers:
                self._readers[maker] = module
            elif maker is not None:
                self._uses[id(given)] += 1
        self._within = module

    def _after_norm(self, module: nn.Module, given: Any, output: Any) -> None:
        self._within = None


def _foldable_convolution(module: nn.Module, subclasses: bool) -> bool:
    known = isinstance(module, nn.Conv2d) and (subclasses or type(module) is nn.Conv2d)
    return known and module.weight.dtype == torch.float32 and not altered(module)


def _with_activation(module: nn.Module) -> bool:
    """BatchNormAct2d of timm: what drops, and an activation, come after the normalisation."""
    return isinstance(module, _NORMS) and set(module._modules) == {"drop", "act"}


def _foldable_norm(module: nn.Module) -> bool:
    return (
        (type(module) in _NORMS or _with_activation(module))
        and not module.training
        and module.running_mean is not None
        and module.running_mean.dtype == torch.float32
        and not altered(module)
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def _fold_pairs(network: nn.Module, pairs: list[Pair]) -> None:
    left: dict[nn.Module, nn.Module] = {}  # of a normalisation
    for pair in pairs:
        conv: Any = network.get_submodule(pair.convolution)
        norm: Any = network.get_submodule(pair.norm)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight,
            norm.bias,
        )  # fmt: skip
        left[norm] = nn.Sequential(norm.drop, norm.act) if _with_activation(norm) else nn.Identity()
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):  # one module may have several names
            if child in left:
                parent.register_module(name, left[child])


def _close(found: Tensor, expected: Tensor) -> bool:
    bound = _TOLERANCE * expected.abs().max()
    # Infinities and NaN are close to nothing.
    return bool(bound.isfinite() and (found - expected).abs().max() <= bound)
