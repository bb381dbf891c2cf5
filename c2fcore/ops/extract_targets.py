"""extract_targets: what the fine network should answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _arrays, _backend, _checks, reference
from .._classes import class_set
from ..windows import Windows
from . import _library
from ._extract_patches_backward import windows_of
from .extract_patches import checked_windows


def extract_targets(
    labels: Any,
    windows: Windows,
    small_classes: Iterable[int],
    *,
    ignore_index: int = 255,
    backend: str = "auto",
) -> Any:
    """Binary targets of the windows, at the label map's native resolution.

    Args:
        labels: [B, H, W] integer label map (uint8/int16/int32/int64), any strides.
        windows: as `select_windows` returns them; windows in use must lie inside the map.
        small_classes: distinct ids of the small classes C.
        ignore_index: label in 0..255 that no loss should count.
        backend: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        uint8 [B*n, k, k]: 1 where the label is in C, 0 where not, `ignore_index` where it was and
        in unused slots.

    Raises:
        ValueError: a value breaks a rule above; the message says which, and the value.
        TypeError: `labels` is not an integer map.
    """
    if not isinstance(labels, Tensor):
        options: dict[str, Any] = {"ignore_index": ignore_index, "backend": backend}
        args = (windows, small_classes)
        return _arrays.in_kind(extract_targets, "labels", labels, *args, **options)
    found = _checked(labels, windows, small_classes, ignore_index)
    seen = found is None
    if found is None:
        labels = _arrays.as_tensor("extract_targets", "labels", labels)
        windows = _arrays.windows_as_tensors("extract_targets", windows)
        found = _check_extract_targets(labels, windows, small_classes, ignore_index)
    call = (windows.origins, windows.num, windows.window, *found)
    if seen and _library.dispatched(labels, windows.origins, windows.num):
        return torch.ops.c2fcore.extract_targets(labels, *call, backend)
    return _backend.choose("extract_targets", backend, labels)(labels, *call)


def _check_extract_targets(
    labels: Tensor, windows: Windows, small_classes: Iterable[int], ignore_index: int
) -> tuple[tuple[int, ...], int]:
    """Checks a call; returns the ids of C and the label to ignore."""
    op = "extract_targets"
    if labels.dtype not in _checks.LABEL_DTYPES:
        raise TypeError(f"{op}: labels must be uint8/int16/int32/int64, got {labels.dtype}")
    height, width, _ = _checks.segmentation(op, "labels", labels, None)
    ids = _checks.class_ids(op, small_classes, None)
    _checks.windows(op, windows, labels.shape[0], height, width, labels)
    return ids, _checks.integer(op, "ignore_index", ignore_index, 0, 255)


_checked = _library.remembered(_check_extract_targets)


def _check_call(
    labels: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    ids: Sequence[int],
    ignore_index: int,
) -> None:
    _check_extract_targets(labels, windows_of(origins, num, window), tuple(ids), ignore_index)


def _reference(
    labels: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    ids: Sequence[int],
    ignore_index: int,
) -> Tensor:
    windows = windows_of(origins, num, window)
    return reference.extract_targets(labels, windows, ids, ignore_index=ignore_index)


def _by_kernels(
    launch: Callable[..., None],
    labels: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    ids: Sequence[int],
    ignore_index: int,
) -> Tensor:
    targets = _fake(labels, origins, num, window, ids, ignore_index)
    where = checked_windows("extract_targets", origins, num, window, *labels.shape[-2:])
    table = class_set(tuple(ids)).table
    launch("extract_targets", labels, *where, table, ignore_index, targets)
    return targets


def _fake(
    labels: Tensor,
    origins: Tensor,
    num: Tensor,
    window: int,
    ids: Sequence[int],
    ignore_index: int,
    backend: str = "",
) -> Tensor:
    batch, n, _ = origins.shape
    return torch.empty(batch * n, window, window, dtype=torch.uint8, device=labels.device)


_library.register("extract_targets", _by_kernels, _reference)
_library.define(
    "extract_targets(Tensor labels, Tensor origins, Tensor num, int window, int[] small_classes, "
    "int ignore_index, str backend) -> Tensor",
    _check_call,
    _fake,
)
