"""Argument checks shared by the ops. Every message says the op, the rule, then the value."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, SupportsIndex, cast

import numpy as np
import torch
from torch import Tensor, nn

from ._classes import MAX_CLASSES
from .windows import Windows

LOGIT_DTYPES = frozenset((torch.float32, torch.float16, torch.bfloat16))
LABEL_DTYPES = frozenset((torch.uint8, torch.int16, torch.int32, torch.int64))
INTEGER_IMAGE_DTYPES = frozenset((torch.uint8, torch.uint16, torch.int16))
INT32_MAX = 2**31 - 1
MOST_THREADS = 1024  # OpenMP aborts the process if it cannot create its threads
_FLOAT32_MAX = torch.finfo(torch.float32).max
_FLOAT32_TINY = torch.finfo(torch.float32).tiny  # 1 / x overflows below
FLOAT_DTYPES = frozenset((torch.float32, torch.float16, torch.bfloat16, torch.float64))
_BOOLS = (bool, np.bool_)  # NumPy's passes as a number, and in NumPy 2.2 as an index


def integer(op: str, name: str, value: object, low: int, high: int | None = None) -> int:
    """`value` as an int within low..high."""
    if isinstance(value, _BOOLS):
        raise TypeError(f"{op}: {name} must be an integer, got {value!r}")
    # A symbolic size of a traced call stays symbolic.
    if type(value) is not int and not isinstance(value, torch.SymInt):
        try:
            value = operator.index(cast(SupportsIndex, value))
        except TypeError:
            raise TypeError(f"{op}: {name} must be an integer, got {value!r}") from None
    assert isinstance(value, (int, torch.SymInt))
    if value < low or (high is not None and value > high):
        open_ended = high is None or (high == INT32_MAX and value < low)
        rule = f"at least {low}" if open_ended else f"in {low}..{high}"
        raise ValueError(f"{op}: {name} must be {rule}, got {value}")
    return value  # type: ignore[return-value]


def number(op: str, name: str, value: object) -> float:
    """`value` as a float that is finite in float32, which the ops compute in."""
    if type(value) is not float:
        if isinstance(value, (*_BOOLS, str)) or not hasattr(value, "__float__"):
            raise TypeError(f"{op}: {name} must be a number, got {value!r}")
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        except (TypeError, ValueError, RuntimeError):  # an array of several elements
            raise TypeError(f"{op}: {name} must be a number, got {value!r}") from None
    if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
        raise ValueError(f"{op}: {name} must be finite, got {value}")
    return value


def choice(op: str, name: str, value: object, options: Sequence[str]) -> None:
    """`value` is one of `options`."""
    if not isinstance(value, str) or value not in options:
        listed = ", ".join(repr(o) for o in options)
        raise ValueError(f"{op}: {name} must be one of {listed}, got {value!r}")


_checked_ids: dict[tuple[int, ...], int] = {}  # ids that passed, with the largest of them


def class_ids(op: str, small_classes: Iterable[int], num_classes: int | None) -> tuple[int, ...]:
    """`small_classes` as a tuple of distinct ids below `num_classes` (256 for label maps)."""
    ids: tuple[int, ...] = ()
    largest = None
    # Not while torch.compile traces: it would guard on a table that its own fakes write to.
    remembers = not torch.compiler.is_dynamo_compiling()
    if remembers and type(small_classes) is tuple and _all_int(small_classes):
        ids = small_classes
        largest = _checked_ids.get(ids)  # one access: another thread may empty the table
    if largest is None:
        ids = _check_ids(op, small_classes)
        largest = max(ids)
        if remembers:
            if len(_checked_ids) > 4096:
                _checked_ids.clear()
            _checked_ids[ids] = largest
    limit = MAX_CLASSES if num_classes is None else num_classes
    if largest >= limit:
        raise ValueError(f"{op}: small_classes must be in 0..{limit - 1}, got {largest}")
    return ids


def _all_int(values: tuple[object, ...]) -> bool:
    """Whether these are ints and nothing else: True and 1.0 equal 1, and would be found as 1."""
    for value in values:  # noqa: SIM110 - a generator costs half a microsecond
        if type(value) is not int:
            return False
    return True


def _check_ids(op: str, small_classes: Iterable[int]) -> tuple[int, ...]:
    # Arrays without dimensions pass as Iterable, but cannot be iterated.
    alone = isinstance(small_classes, (str, bytes)) or getattr(small_classes, "ndim", 1) == 0
    if alone or not isinstance(small_classes, Iterable):
        raise TypeError(f"{op}: small_classes must be class ids, got {small_classes!r}")
    ids = tuple(integer(op, "small_classes", c, 0, MAX_CLASSES - 1) for c in small_classes)
    if not ids:
        raise ValueError(f"{op}: small_classes must not be empty, got ()")
    if len(set(ids)) != len(ids):
        raise ValueError(f"{op}: small_classes must not repeat, got {ids}")
    return ids


def segmentation(
    op: str, name: str, seg: Tensor, size: Sequence[int] | None
) -> tuple[int, int, int | None]:
    """Full size H, W and the number of classes (None for a label map) of `seg`."""
    if seg.dtype in LOGIT_DTYPES:
        return _logits(op, name, seg, size)
    if seg.dtype not in LABEL_DTYPES:
        raise TypeError(
            f"{op}: {name} must be float32/float16/bfloat16 logits or a uint8/int16/int32/int64 "
            f"label map, got {seg.dtype}"
        )
    shape = seg.shape
    if len(shape) != 3:
        raise ValueError(f"{op}: {name} as a label map must be [B, H, W], got shape {tuple(shape)}")
    _, height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"{op}: {name} must have pixels, got shape {tuple(seg.shape)}")
    if size is not None and _size(op, size) != (height, width):
        raise ValueError(
            f"{op}: size must be a label map's own ({height}, {width}) or None, got {tuple(size)}"
        )
    return height, width, None


def size_hint(seg: Tensor, size: Sequence[int] | None) -> str:
    """What may be wrong where a window is larger than `seg`."""
    low = size is None and seg.dtype in LOGIT_DTYPES
    return "; size=(H, W) says what the logits' full size is" if low else ""


def _logits(op: str, name: str, logits: Tensor, size: Sequence[int] | None) -> tuple[int, int, int]:
    shape = logits.shape
    if len(shape) != 4:
        raise ValueError(f"{op}: {name} as logits must be [B, N, h, w], got shape {tuple(shape)}")
    _, classes, height, width = shape
    if classes < 1 or classes > MAX_CLASSES:
        raise ValueError(f"{op}: {name} must have 1..{MAX_CLASSES} classes, got {classes}")
    if height < 1 or width < 1:
        raise ValueError(f"{op}: {name} must have pixels, got shape {tuple(logits.shape)}")
    if size is None:
        return height, width, classes
    full_height, full_width = _size(op, size)
    if full_height < height or full_width < width:
        raise ValueError(
            f"{op}: size must not be below the logits' own ({height}, {width}), "
            f"got ({full_height}, {full_width})"
        )
    return full_height, full_width, classes


def _size(op: str, size: object) -> tuple[int, int]:
    if not isinstance(size, (tuple, list)) and (
        isinstance(size, str) or not isinstance(size, Sequence)
    ):
        raise TypeError(f"{op}: size must be (H, W), got {size!r}")
    if len(size) != 2:
        raise ValueError(f"{op}: size must be (H, W), got {tuple(size)}")
    height, width = size
    return _side(op, height), _side(op, width)


def _side(op: str, side: Any) -> int:
    if type(side) is int and 1 <= side <= INT32_MAX:
        return side
    return integer(op, "size", side, 1, INT32_MAX)


def window_fits(op: str, window: object, height: int, width: int, hint: str = "") -> int:
    """`window` as an int that fits into H x W; `hint` ends what is said if it does not."""
    side = window if type(window) is int else integer(op, "window", window, 1)
    if side < 1 or side > height:
        raise ValueError(
            f"{op}: window must be in 1..H, got {side} for H={height}, W={width}{hint}"
        )
    if side > width:
        if width <= 4:
            hint = "; is it [B, H, W, C], and should be [B, C, H, W]?"
        raise ValueError(
            f"{op}: window must be in 1..W, got {side} for H={height}, W={width}{hint}"
        )
    return side


def windows(
    op: str, value: Windows, batch: int, height: int, width: int, like: Tensor, hint: str = ""
) -> int:
    """Checks shape, dtype and device; returns n. Origins are checked where they are read."""
    if not isinstance(value, Windows):
        raise TypeError(f"{op}: windows must be a c2fcore.Windows, got {type(value).__name__}")
    origins, num = value.origins, value.num
    if origins.dtype != torch.int32 or num.dtype != torch.int32:
        raise TypeError(
            f"{op}: windows.origins and windows.num must be int32, "
            f"got {origins.dtype} and {num.dtype}"
        )
    shape, per_image = origins.shape, num.shape
    if len(shape) != 3 or shape[2] != 2 or shape[1] < 1:
        raise ValueError(
            f"{op}: windows.origins must be [B, n, 2] with n >= 1, got shape {tuple(shape)}"
        )
    if shape[0] != batch or len(per_image) != 1 or per_image[0] != batch:
        raise ValueError(
            f"{op}: windows must be of as many images as the batch, got origins "
            f"{tuple(shape)} and num {tuple(per_image)} for B={batch}"
        )
    same_device(op, "windows.origins", origins, like)
    same_device(op, "windows.num", num, like)
    if type(value.window) is not int:
        raise TypeError(f"{op}: windows.window must be an int, got {value.window!r}")
    window_fits(op, value.window, height, width, hint)
    return shape[1]


def same_device(op: str, name: str, tensor: Tensor, like: Tensor) -> None:
    """Both tensors are on one device."""
    if tensor.device != like.device:
        raise ValueError(
            f"{op}: {name} must be on the same device as the first argument, "
            f"got {tensor.device} and {like.device}"
        )


def network(who: str, name: str, value: object) -> nn.Module | None:
    """A network as it is, None if none is given.

    Raises:
        TypeError: something else, such as a name.
    """
    if value is None or isinstance(value, nn.Module):
        return value
    got, hint = type(value).__name__, ""
    if isinstance(value, str):
        hint = f" {value!r}; models.build(name, ...) makes a module of a name"
    raise TypeError(f"{who}: {name} must be an nn.Module, got {got}{hint}")


def finite(name: str, stage: str, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Weights of a network are numbers.

    Raises:
        ValueError: one is not; says which.
    """
    trained = dict(network.named_parameters(remove_duplicate=False))
    for key, value in weights.items():
        # A buffer may hold infinity on purpose, such as the mask of an attention.
        bad = value.isnan() if key not in trained else ~value.isfinite()
        if bad.any():
            raise ValueError(
                f"{name} must be finite, got {float(value[bad][0])} in {stage}.{key} "
                f"({int(bad.sum())} of {value.numel()} values)"
            )


def per_channel(op: str, name: str, value: object, channels: int) -> list[float] | None:
    """`value` (None, a number, or one per channel) as floats, one per channel."""
    if value is None:
        return None
    numbers = numbers_of(op, name, value)
    if isinstance(numbers, float):
        return [numbers] * channels
    if len(numbers) != channels:
        raise ValueError(
            f"{op}: {name} must have one value per channel, got {len(numbers)} for C={channels}"
        )
    return numbers


def numbers_of(op: str, name: str, value: object) -> float | list[float]:
    """`value`, a number or several in a row, as finite floats."""
    # Arrays without dimensions are numbers, but pass as Iterable.
    if not isinstance(value, Iterable) or isinstance(value, str) or getattr(value, "ndim", 1) == 0:
        return number(op, name, value)
    if isinstance(value, (bytes, Set, Mapping)):  # numbers, but which is whose?
        raise TypeError(f"{op}: {name} must be a sequence of numbers, got {value!r}")
    return [number(op, name, v) for v in value]


def nonzero(op: str, name: str, numbers: Iterable[float], given: object) -> None:
    """None of `numbers` is 0, or so small that float32 cannot divide by it."""
    if min(map(abs, numbers)) < _FLOAT32_TINY:
        raise ValueError(f"{op}: {name} must not be 0, got {given!r}")


def quotient(op: str, name: str, a: float, b: float) -> None:
    """A / b is finite in float32."""
    if abs(a) > _FLOAT32_MAX * abs(b):
        raise ValueError(f"{op}: {name} must be finite in float32, got {a} / {b}")
