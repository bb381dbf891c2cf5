"""Checkpoints of a C2FNet: config.json and model.safetensors, in a folder or on the hub.

config.json holds `format` and `format_version`, the C2FConfig, and for each network the name and
options it was built from (null for a module given by hand). Weights are named "coarse.*" and
"fine.*". A checkpoint of stage 1 is the same without a fine network (`save_coarse`, `load_coarse`).

huggingface_hub's PyTorchModelHubMixin is not used: it rebuilds the model from the arguments of
__init__, which cannot be written down for modules given by hand, and is silent on unknown keys.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import _checkpoint_files, _checks, _files
from ._checkpoint_files import CONFIG_FILE, FORMAT, FORMAT_VERSION, SHOWN, STAGES, WEIGHTS_FILE
from .config import C2FConfig

if TYPE_CHECKING:
    from .pipeline import C2FNet


def save(
    net: C2FNet, directory: str | Path, *, include_coarse: bool = True, overwrite: bool = False
) -> None:
    """Writes `net` to a folder, which is made if needed.

    Args:
        net: the network.
        directory: where to; files of other names in it stay.
        include_coarse: False leaves the frozen network out; `load` must then be given it.
        overwrite: replace a checkpoint that is there.

    Raises:
        FileExistsError: there is a checkpoint, and `overwrite` is False; or a file has the name.
        OSError: the files cannot be written, as on a full disk.
        TypeError: a network was built with options that JSON cannot hold.
        ImportError: safetensors is not installed.
    """
    stages = {"coarse": _plain(net.coarse), "fine": _plain(net.fine)}
    held = STAGES if include_coarse else ("fine",)
    _write("save_pretrained", Path(directory), net.config, stages, held, overwrite)


def save_coarse(
    network: nn.Module, config: C2FConfig, directory: str | Path, *, overwrite: bool = False
) -> None:
    """Writes a coarse network, what stage 1 of the training gives, to a folder.

    Args:
        network: the coarse network, built by `models.build` if it is to be built on loading.
        config: classes, normalisation and, as a proposal for stage 2, all the rest.
        directory: where to; files of other names in it stay.
        overwrite: replace a checkpoint that is there.

    Raises:
        FileExistsError, OSError, TypeError, ImportError: as `save`.
    """
    held = ("coarse",)
    _write("save_coarse", Path(directory), config, {"coarse": _plain(network)}, held, overwrite)


def _write(
    who: str,
    folder: Path,
    config: C2FConfig,
    networks: dict[str, nn.Module],
    held: tuple[str, ...],
    overwrite: bool,
) -> None:
    """Writes a checkpoint of `networks`, with the weights of those in `held`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if (folder / name).exists() and not overwrite:
            raise FileExistsError(f"{who}: {folder / name} must not exist unless overwrite=True")
    description: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
    description["config"] = config.to_dict()
    description.update((s, getattr(networks.get(s), "c2f_spec", None)) for s in STAGES)
    # Copies, since safetensors refuses tensors that share memory (tied weights).
    weights = {
        f"{stage}.{key}": value.detach().clone().contiguous().cpu()
        for stage in held
        for key, value in networks[stage].state_dict().items()
    }
    try:
        text = json.dumps(description, indent=2) + "\n"
    except TypeError as error:
        raise TypeError(f"{who}: network options must be JSON values: {error}") from None
    _files.make_folder(f"{who}: directory", folder)
    # Both stand under second names first, so that no failure leaves half of a checkpoint, or parts
    # of two.
    with (
        _files.whole(folder / WEIGHTS_FILE, unnamed=SafetensorError) as weights_file,
        _files.whole(folder / CONFIG_FILE) as config_file,
    ):
        save_file(weights, str(weights_file), metadata={"format": "pt"})
        config_file.write_text(text, encoding="utf-8")


def load(
    source: str | Path,
    coarse: nn.Module | None = None,
    fine: nn.Module | None = None,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    trust_code: bool = False,
    **changes: Any,
) -> tuple[nn.Module, nn.Module, C2FConfig]:
    """Reads a checkpoint: both networks with their weights, and the configuration.

    Args:
        source: a folder, or the id of a model on the Hugging Face hub, 'owner/name', which a
            revision may follow: 'owner/name@v1'.
        coarse: the coarse network, needed if the checkpoint does not say how to build it. If the
            checkpoint holds coarse weights they are loaded into it; if not, it is taken as it is.
        fine: the fine network, likewise.
        device: where the networks go.
        revision: branch, tag or commit on the hub.
        token: access token of the hub.
        local_files_only: do not ask the hub, only its cache.
        trust_code: build networks that were named "package.module:function", which runs that
            function. Off by default: the name comes from the checkpoint.
        **changes: fields of the configuration to change, such as n, window or backend.

    Returns:
        (coarse, fine, config)

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: the files are damaged or of another format, a network is missing, or the weights
            do not fit the networks or are no numbers; the message names the first.
        TypeError: a field of the configuration or of `changes`, or a network, is of another type.
        ImportError: safetensors, huggingface_hub or the package of a network is not installed.
    """
    config_path, weights_path = _checkpoint_files.locate(source, revision, token, local_files_only)
    description = _checkpoint_files.describe(config_path)
    config = C2FConfig.from_dict(description["config"])
    for name in ("num_classes", "small_classes"):
        if name in changes:
            raise ValueError(
                f"from_pretrained: {name} belongs to the weights and must not be changed, "
                f"got {changes[name]!r}"
            )
    config = config.replace(**changes)
    weights = _checkpoint_files.read_weights(weights_path)
    held = {stage: _of_stage(weights, stage) for stage in STAGES}
    if not held["fine"]:
        raise ValueError(
            f"from_pretrained: {weights_path} must hold fine weights, got none: stage 1 alone "
            "(c2f train fine adds stage 2)"
        )
    networks: list[nn.Module] = []
    for stage, given in (("coarse", coarse), ("fine", fine)):
        network = _checks.network("from_pretrained", stage, given)
        if network is None:
            if not held[stage]:
                raise ValueError(
                    f"from_pretrained: {source} holds no {stage} weights: pass {stage}=, got None"
                )
            network = _rebuild(stage, description.get(stage), trust_code)
        if held[stage]:
            check_fit("from_pretrained", stage, _plain(network), held[stage], source)
        networks.append(network)
    # Only now that everything fits are modules changed that may be the caller's.
    for stage, network in zip(STAGES, networks, strict=True):
        if held[stage]:
            _plain(network).load_state_dict(held[stage])
        network.to(device)
    return networks[0], networks[1], config


def load_coarse(
    source: str | Path,
    coarse: nn.Module | None = None,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    trust_code: bool = False,
) -> tuple[nn.Module, C2FConfig]:
    """Reads the coarse network of any checkpoint that holds one: of stage 1, or of a whole C2FNet.

    Args:
        source: a folder, or the id of a model on the Hugging Face hub, 'owner/name', which a
            revision may follow: 'owner/name@v1'.
        coarse: the network, needed if the checkpoint does not say how to build it.
        device: where it goes.
        revision: branch, tag or commit on the hub.
        token: access token of the hub.
        local_files_only: do not ask the hub, only its cache.
        trust_code: build a network that was named "package.module:function"; see `load`.

    Returns:
        (coarse network in eval mode, configuration)

    Raises:
        FileNotFoundError, TypeError, ImportError: as `load`.
        ValueError: the files are damaged, hold no coarse weights, or do not fit the network.
    """
    coarse = _checks.network("load_coarse", "coarse", coarse)
    config_path, weights_path = _checkpoint_files.locate(source, revision, token, local_files_only)
    description = _checkpoint_files.describe(config_path)
    weights = _of_stage(_checkpoint_files.read_weights(weights_path), "coarse")
    if not weights:
        raise ValueError(f"load_coarse: {weights_path} must hold coarse weights, got none")
    if coarse is None:
        coarse = _rebuild("coarse", description.get("coarse"), trust_code)
    check_fit("from_pretrained", "coarse", _plain(coarse), weights, source)
    _plain(coarse).load_state_dict(weights)
    return coarse.to(device).eval(), C2FConfig.from_dict(description["config"])


def stages(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
) -> tuple[str, ...]:
    """Which of "coarse" and "fine" a checkpoint holds weights of; raises what `load` does.

    A checkpoint of stage 1 holds "coarse", one saved with include_coarse=False "fine".
    """
    _, path = _checkpoint_files.locate(source, revision, token, local_files_only)
    return _checkpoint_files.stages_in(path)


def _of_stage(weights: dict[str, Tensor], stage: str) -> dict[str, Tensor]:
    prefix = f"{stage}."
    return {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}


def _rebuild(stage: str, spec: Any, trust_code: bool) -> nn.Module:
    """The network that config.json describes, without weights."""
    from .models import build

    if spec is None:
        raise ValueError(
            f"from_pretrained: the {stage} network was given by hand when it was saved, and must "
            f"be passed as {stage}=, got None (for the command line, make it with "
            'models.build("package.module:function", ...) before saving)'
        )
    if (
        not isinstance(spec, dict)
        or not {"name", "kwargs"} <= spec.keys()
        or not isinstance(spec["kwargs"], dict)
    ):
        raise ValueError(f"from_pretrained: {stage} must have a name and kwargs, got {spec!r}")
    # A network may be built around another one.
    for name in (spec["name"], spec["kwargs"].get("network", "")):
        if ":" in str(name) and not trust_code:
            raise ValueError(
                f"from_pretrained: the checkpoint names code for the {stage} network; pass "
                f"{stage}= or trust_code=True (--trust-code; for c2f train --trust_code true), got "
                f"{name!r}"
            )
    try:
        return build(spec["name"], **{**spec["kwargs"], "pretrained": False})
    except TypeError as error:  # an option that this version of the network does not have
        raise ValueError(
            f"from_pretrained: {stage} must be options of {spec['name']}, got {error}"
        ) from error


def check_fit(
    who: str, stage: str, network: nn.Module, weights: dict[str, Tensor], source: str | Path
) -> None:
    """Names, shapes and kinds of number of `weights` are those of `network`; all are numbers."""
    expected = network.state_dict()
    wrong = [f"{key} is missing" for key in expected if key not in weights]
    wrong += [f"{key} is unknown" for key in weights if key not in expected]
    wrong += [
        f"{key} is {list(weights[key].shape)} instead of {list(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    # Floats of another width are converted; integers would be other weights.
    wrong += [
        f"{key} is {weights[key].dtype} instead of {value.dtype}"
        for key, value in expected.items()
        if key in weights and weights[key].is_floating_point() != value.is_floating_point()
    ]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(
            f"{who}: weights of {source} must fit the {stage} network, "
            f"got {', '.join(wrong[:SHOWN])}{more}"
        )
    _checks.finite(f"{who}: weights of {source}", stage, network, weights)


def _plain(module: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper, whose names carry no prefix."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module
