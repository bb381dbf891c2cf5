"""The two networks as an engine runs them: copies, in the layout and precision that are fastest."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from .. import _channels, _checks, _stages
from ..models import low_resolution
from .folding import copied, fold

if TYPE_CHECKING:
    from ..pipeline import C2FNet

PRECISIONS: Final = ("bfloat16", "float16", "auto")
# Autocast casts their inputs to the lower precision, whoever calls them.
_CAST: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
_EXAMPLE_PX: Final = 128
_CAPTURING: Final = ("reduce-overhead", "max-autotune")  # modes of torch.compile
_RECOMPILE_LIMIT: Final = 64  # one per image size and number of patches; torch's own is 8


class Networks:
    """Copies of the networks of a `C2FNet`, in eval mode; the net itself stays as it is.

    Attributes:
        coarse: stage 1, asked for low-resolution logits where it can give them.
        fine: stage 2, likewise where a patch is shown at its window's own size. At another zoom the
            eager path interpolates twice, which is not the same.
        config: the net's, with the memory format of the copies.
        device: where they are.
        precision: of autocast, or None.
        compiled: options of torch.compile, or None.
        folded: normalisations that are part of their convolutions, of both networks.
        channels: of images, where it is known how many the networks take.
    """

    def __init__(
        self,
        net: C2FNet,
        precision: str | None,
        channels_last: bool,
        compile_options: object,
        size_multiple: int | None,
        fold_norms: bool,
    ) -> None:
        """Makes the copies; see `Engine` for the options."""
        self.config = net.config.replace(channels_last=channels_last)
        for stage, network in (("coarse", net.coarse), ("fine", net.fine)):
            _check_functions(stage, network)
        with torch.no_grad():  # or autograd would record the copying of TorchScript parameters
            coarse, fine = copied(net.coarse), copied(net.fine)
        for stage, network in (("coarse", coarse), ("fine", fine)):
            _checks.finite("Engine: weights", stage, network, _plain_floats(network))
        self.device = next((p.device for p in coarse.parameters()), torch.device("cpu"))
        self.precision = _precision(precision, self.device, (coarse, fine))
        self.channels = _channels.needed(net.config, coarse, fine)
        self.coarse = low_resolution(coarse)
        same_size = round(net.config.window * net.config.zoom) == net.config.window
        self.fine = low_resolution(fine) if same_size else fine
        self.compiled = check_compile(compile_options, self.device)
        # Sides by the networks' own multiples: `size_multiple` may ask for large ones.
        shown = self._sides(self.coarse), self._sides(self.fine)
        if size_multiple is not None:
            _raise_multiple(self.coarse, size_multiple, net.config.stride_multiple)
        self.folded = 0
        for network, sides in zip((self.coarse, self.fine), shown, strict=True):
            network.eval()
            for parameter in network.parameters():  # TorchScript has no requires_grad_
                parameter.requires_grad_(False)
            if fold_norms:
                self.folded += fold(network, self._channels(network), sides)
            if self.precision is not None:
                _cast(network, self.precision)
            if channels_last:
                for tensor in chain(network.parameters(), network.buffers()):
                    if tensor.ndim == 4:  # `Module.to` would raise for 5-dimensional weights
                        tensor.data = tensor.contiguous(memory_format=torch.channels_last)
            if self.compiled is not None:
                network.compile(**_with_limit(self.compiled))

    def _channels(self, network: nn.Module) -> int:
        """Of a network's input, as far as can be told: its first convolution's."""
        return self.channels or _channels.first_convolution(network) or 3

    def _sides(self, network: nn.Module) -> tuple[int, int]:
        """Two small sides that a network's input may have."""
        multiple = _stages.multiple_of(network, self.config)
        patch = round(self.config.window * self.config.zoom)
        least = min(patch, _EXAMPLE_PX) if network is self.fine else _EXAMPLE_PX
        side = -(-least // multiple) * multiple
        return side, side + multiple

    def autocast(self) -> AbstractContextManager[Any]:
        """The context that both networks are called in, whatever the caller's is.

        Casts of weights are not kept: in a graph they would be memory that the next one takes.
        """
        wanted = self.precision is not None
        return torch.autocast(self.device.type, self.precision, enabled=wanted, cache_enabled=False)


def _check_functions(stage: str, network: nn.Module) -> None:
    """No hook, or `forward` put on a module, is a function that holds parts of the network.

    Functions are not copied: a copy's would go on writing to the original, and the copy read what
    once was there.

    Raises:
        ValueError: one does.
    """
    modules = dict(network.named_modules())
    values = (value for module in modules.values() for value in vars(module).values())
    parts = {id(value) for value in values if isinstance(value, (dict, list, set))}
    parts |= set(map(id, modules.values()))
    for name, module in modules.items():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        # Copies of torch.compile's wrappers create their own `forward`.
        own = None if "_orig_mod" in module._modules else vars(module).get("forward")
        for function in filter(inspect.isfunction, (*hooks, own)):
            found = inspect.getclosurevars(function)
            for held in (*found.nonlocals.values(), *found.globals.values()):
                if id(getattr(held, "__self__", held)) in parts:
                    raise ValueError(
                        "Engine: functions put on a module must not hold parts of the network, "
                        "which a copy has anew, got "
                        f"{function.__qualname__} on {stage}{name and f'.{name}'}; methods of a "
                        "module (self.keep) are copied with it"
                    )


def _plain_floats(network: nn.Module) -> dict[str, Tensor]:
    """Weights that can be asked whether they are finite; quantised ones need not know."""
    state = network.state_dict().items()
    known = _checks.FLOAT_DTYPES
    return {key: value for key, value in state if type(value) is Tensor and value.dtype in known}


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices faster than float32 ones.

    Processors with the vector instructions alone (AVX-512 BF16, no AMX tiles) do not: on a Xeon of
    the kind four networks took 1.1 to 1.7 times the processor time they take in float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def check_compile(options: object, device: torch.device) -> Mapping[str, Any] | None:
    """Options of torch.compile, None for networks that stay as they are.

    Raises:
        TypeError: neither a bool nor a mapping.
        ValueError: a mode whose graphs are its own, and of the thread that made them.
    """
    if isinstance(options, bool):
        return {} if options else None
    if not isinstance(options, Mapping):
        raise TypeError(f"Engine: compile must be a bool or a mapping of options, got {options!r}")
    mode = options.get("mode")
    if device.type == "cuda" and mode in _CAPTURING:
        raise ValueError(
            "Engine: compile must leave CUDA graphs to the engine, as mode 'default' and "
            f"'max-autotune-no-cudagraphs' do, got mode {mode!r}"
        )
    return options


def _precision(
    name: str | None, device: torch.device, networks: Iterable[nn.Module]
) -> torch.dtype | None:
    if name is None:
        return None
    _checks.choice("Engine", "precision", name, PRECISIONS)
    own = {_stages.dtype_of(network) for network in networks}
    if own != {torch.float32}:
        if name == "auto":
            return None
        listed = ", ".join(sorted(map(str, own)))
        raise ValueError(f"Engine: precision {name!r} must be of networks in float32, got {listed}")
    if name == "auto":
        return torch.bfloat16 if native_bfloat16(device) else None
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _cast(network: Any, dtype: torch.dtype) -> None:
    """Weights that autocast would cast at every call, cast once.

    Not the input: a network may do arithmetic of its own before its first convolution.
    """
    network._c2f_input_dtype = _stages.dtype_of(network)
    for module in network.modules():
        # Subclasses may do other arithmetic with their weights (weight standardisation).
        if type(module) in _CAST and next(module.parameters()).dtype == torch.float32:
            module.to(dtype)


def _raise_multiple(coarse: Any, multiple: int, default: int) -> None:
    multiple = _checks.integer("Engine", "size_multiple", multiple, 1)
    own = int(getattr(coarse, "stride_multiple", default))
    if multiple % own:
        raise ValueError(
            f"Engine: size_multiple must be a multiple of the coarse network's {own}, "
            f"got {multiple}"
        )
    coarse.stride_multiple = multiple


def _with_limit(options: Mapping[str, Any]) -> dict[str, Any]:
    known = "recompile_limit" in inspect.signature(torch.compile).parameters
    limit = {"recompile_limit": _RECOMPILE_LIMIT} if known else {}
    return {"dynamic": False, **limit, **options}
