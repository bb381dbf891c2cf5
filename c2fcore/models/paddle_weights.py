"""Weights of the authors' code (PaddleSeg, PaddleRS) without paddle.

A .pdparams file is a pickle of NumPy arrays by name. It is read by an unpickler that knows nothing
but arrays, tuples and mappings, so no code of the file is run; a hostile file can at worst be
refused, hold other numbers, or ask for more memory than there is.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..checkpoint import check_fit
from .registry import build

Arrays = dict[str, npt.NDArray[Any]]

_NAME_TABLE: Final = "StructuredToParameterName@@"  # paddle's own names, of no use here
_WIDTHS: Final = {270: "fcn_hrnet_w18", 720: "fcn_hrnet_w48"}
_HEADS: Final = {"head.": "coarse", "head_fgbg.": "fine"}

# Their names, and ours for a convolution and its batch norm. {0} is stage - 1 and so on: they count
# from 1.
_LAYERS: Final[tuple[tuple[str, str, str], ...]] = (
    (r"backbone\.conv_layer1_(\d)", "backbone.branches.conv{1}", "backbone.branches.bn{1}"),
    (
        r"backbone\.la1\.bb_layer2_(\d)\.conv(\d)",
        "backbone.branches.layer1.{0}.conv{3}",
        "backbone.branches.layer1.{0}.bn{3}",
    ),
    (
        r"backbone\.la1\.bb_layer2_(\d)\.conv_down",
        "backbone.branches.layer1.{0}.downsample.0",
        "backbone.branches.layer1.{0}.downsample.1",
    ),
    # The finest branch keeps its stride; the others are made by a convolution of stride 2.
    (
        r"backbone\.tr(\d)\.transition_tr\d_layer_1",
        "backbone.branches.transition{1}.0.0",
        "backbone.branches.transition{1}.0.1",
    ),
    (
        r"backbone\.tr(\d)\.transition_tr\d_layer_(\d)",
        "backbone.branches.transition{1}.{2}.0.0",
        "backbone.branches.transition{1}.{2}.0.1",
    ),
    (
        r"backbone\.st(\d)\.stage_st\d_(\d)\.branches_func\.bb_st\d_\d_branch_layer_(\d)_(\d)"
        r"\.conv(\d)",
        "backbone.branches.stage{1}.{2}.branches.{4}.{6}.conv{9}",
        "backbone.branches.stage{1}.{2}.branches.{4}.{6}.bn{9}",
    ),
    (
        r"backbone\.st(\d)\.stage_st\d_(\d)\.fuse_func\.residual_st\d_\d_layer_(\d)_(\d)",
        "backbone.branches.stage{1}.{2}.fuse_layers.{4}.{6}.0",
        "backbone.branches.stage{1}.{2}.fuse_layers.{4}.{6}.1",
    ),
    (
        r"backbone\.st(\d)\.stage_st\d_(\d)\.fuse_func\.residual_st\d_\d_layer_(\d)_(\d)_(\d)",
        "backbone.branches.stage{1}.{2}.fuse_layers.{4}.{6}.{8}.0",
        "backbone.branches.stage{1}.{2}.fuse_layers.{4}.{6}.{8}.1",
    ),
    (r"(?:head|head_fgbg)\.conv_1", "head.0", "head.1"),
)
_ENDINGS: Final = {
    "_conv.weight": (0, "weight"),
    "_conv.bias": (0, "bias"),
    "_batch_norm.weight": (1, "weight"),
    "_batch_norm.bias": (1, "bias"),
    "_batch_norm._mean": (1, "running_mean"),
    "_batch_norm._variance": (1, "running_var"),
}


class PaddleWeights(NamedTuple):
    """A network of the authors.

    Attributes:
        stage: "coarse" (their FCN) or "fine" (their C2FNet).
        network: ours, with its weights, in eval mode.
        num_classes: its channels.
    """

    stage: str
    network: nn.Module
    num_classes: int


def load(path: str | Path) -> PaddleWeights:
    """Reads a .pdparams file of FCN on HRNet-W18 or W48, or of the fine network of C2FNet.

    The network is built as theirs computes: branches joined bilinearly, and convolutions of stride
    2 padded below and on the right only.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, code in it, or weights of another network.
        ImportError: timm is not installed.
    """
    arrays = read_pdparams(path)
    stages = [stage for prefix, stage in _HEADS.items() if f"{prefix}cls.weight" in arrays]
    if len(stages) != 1:
        heads = ", ".join(f"{prefix}cls.weight" for prefix in _HEADS)
        raise ValueError(
            f"import-paddle: weights must be of FCN or C2FNet on HRNet and hold one of {heads}, "
            f"got {', '.join(list(arrays)[-2:]) or 'nothing'} in {path}"
        )
    prefix = next(p for p, stage in _HEADS.items() if stage == stages[0])
    num_classes, width = arrays[f"{prefix}cls.weight"].shape[:2]
    if width not in _WIDTHS:
        raise ValueError(
            f"import-paddle: the head must be 270 (W18) or 720 (W48) channels wide, got {width}"
        )
    found = {_our_name(name): torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    network = build(_WIDTHS[width], num_classes, same_padding=True)
    own = network.state_dict().items()
    counters = {key: value for key, value in own if key.endswith("num_batches_tracked")}
    check_fit("import-paddle", stages[0], network, {**counters, **found}, path)
    network.load_state_dict(found, strict=False)
    return PaddleWeights(stages[0], network.eval(), num_classes)


def _our_name(name: str) -> str:
    """Our name of a weight; a name that is not theirs stays as it is."""
    for head in _HEADS:
        if name.startswith(f"{head}cls."):
            return f"head.3.{name.rpartition('.')[2]}"
    for ending, (place, kind) in _ENDINGS.items():
        if not name.endswith(f".{ending}"):
            continue
        layer = name[: -len(ending) - 1]
        for pattern, *ours in _LAYERS:
            match = re.fullmatch(pattern, layer)
            if match:
                # Every number twice: less one, and as it is.
                numbers = [n for g in match.groups() for n in (int(g) - 1, int(g))]
                return f"{ours[place].format(*numbers)}.{kind}"
    return name


def read_pdparams(path: str | Path) -> Arrays:
    """The arrays of a .pdparams file by name, without running code of it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no pickle, one that asks for anything but arrays, or other contents.
    """
    with Path(path).open("rb") as file:
        try:
            found = _Arrays(file, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise ValueError(f"import-paddle: {path} must hold arrays alone: {error}") from None
        except (EOFError, AttributeError, IndexError, KeyError, TypeError, ImportError) as error:
            raise ValueError(f"import-paddle: {path} must be a .pdparams file: {error}") from error
    if not isinstance(found, Mapping):
        raise ValueError(
            f"import-paddle: {path} must hold a mapping of names to arrays, "
            f"got {type(found).__name__}"
        )
    arrays: Arrays = {}
    for name, value in found.items():
        if name == _NAME_TABLE:
            continue
        if isinstance(value, tuple) and len(value) == 2:  # paddle >= 2.1: (its own name, array)
            value = value[1]
        if not isinstance(name, str) or not isinstance(value, np.ndarray) or value.dtype == object:
            raise ValueError(
                f"import-paddle: {path} must hold arrays by name, got {name!r}: "
                f"{type(value).__name__}"
            )
        arrays[name] = value
    return arrays


def _latin1(text: str, encoding: str) -> bytes:
    """What protocol 2 stores bytes with."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text encoded as {encoding}")
    return text.encode("latin1")


_PROBE: Final = np.zeros(1)
_REBUILDS: Final[tuple[tuple[str, str, Any], ...]] = (
    ("multiarray", "_reconstruct", _PROBE.__reduce__()[0]),
    ("numeric", "_frombuffer", _PROBE.__reduce_ex__(5)[0]),
)
_KNOWN: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): tuple,
    ("__builtin__", "tuple"): tuple,
    ("_codecs", "encode"): _latin1,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # Private functions, under their names in NumPy 1 and 2, taken from where NumPy itself says.
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in _REBUILDS
    },
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _KNOWN[module, name]
