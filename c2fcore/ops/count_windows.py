"""count_windows: small-object pixels of every window of a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _arrays, _backend, _checks, reference
from .._classes import class_set
from ..windows import grid_shape
from . import _library

EDGES = ("flush", "drop")
LARGEST_WINDOW = 46340  # k * k is the last square below 2^31


def count_windows(
    seg: Any,
    small_classes: Iterable[int],
    *,
    window: int,
    stride: int,
    size: Sequence[int] | None = None,
    edge: str = "flush",
    backend: str = "auto",
) -> Any:
    """Counts the small-object pixels of every window of a grid.

    Windows start at i * stride while they fit; with edge "flush" a last row and column at H - k and
    W - k are added where those do not reach the border.

    Args:
        seg: coarse answer. Float logits [B, N, h, w] (float32/float16/bfloat16, any strides): taken
            to `size` by bilinear interpolation (align_corners=False), then argmax; the lowest class
            wins a tie, a NaN counts as -inf, all NaN gives class 0. Or an integer label map [B, H,
            W] (uint8/int16/int32/int64); ids outside `small_classes` are not counted.
        small_classes: distinct ids of the small classes C.
        window: side k of a window, pixels; at most 46340, so that a count fits int32.
        stride: distance of neighbouring windows, pixels.
        size: full size (H, W) of logits, not below their own; their own if None.
        edge: "flush" or "drop".
        backend: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        int32 [B, R, S], exact counts. Not differentiable.

    Raises:
        ValueError: a value breaks a rule above; the message says which, and the value.
        TypeError: `seg` has another dtype or is no array.
    """
    if not isinstance(seg, Tensor):
        options: dict[str, Any] = {"window": window, "stride": stride, "size": size, "edge": edge}
        return _arrays.in_kind(count_windows, "seg", seg, small_classes, **options, backend=backend)
    grid = _checked("count_windows", seg, small_classes, window, stride, size, edge)
    if grid is None:
        seg = _arrays.as_tensor("count_windows", "seg", seg)
        grid = check_grid("count_windows", seg, small_classes, window, stride, size, edge)
        if _library.dispatched(seg):
            return torch.ops.c2fcore.count_windows(seg, *grid, backend)
    return _backend.choose("count_windows", backend, seg)(seg, *grid)


def check_grid(
    op: str,
    seg: Tensor,
    small_classes: Iterable[int],
    window: int,
    stride: int,
    size: Sequence[int] | None,
    edge: str,
) -> tuple[tuple[int, ...], int, int, int, int, str]:
    """Checks what count_windows and select_windows share.

    Returns the ids of C, window, stride, H, W and edge.
    """
    height, width, num_classes = _checks.segmentation(op, "seg", seg, size)
    ids = _checks.class_ids(op, small_classes, num_classes)
    window = _checks.window_fits(op, window, height, width, _checks.size_hint(seg, size))
    if window > LARGEST_WINDOW:
        raise ValueError(
            f"{op}: window must be at most {LARGEST_WINDOW} for its count to fit int32, "
            f"got {window}"
        )
    stride = _checks.integer(op, "stride", stride, 1, _checks.INT32_MAX)
    if edge not in EDGES:
        _checks.choice(op, "edge", edge, EDGES)
    return ids, window, stride, height, width, edge


_checked = _library.remembered(check_grid, tensors=2)  # the op's name, and seg


def _check_call(
    seg: Tensor, ids: Sequence[int], window: int, stride: int, height: int, width: int, edge: str
) -> None:
    check_grid("count_windows", seg, tuple(ids), window, stride, (height, width), edge)


def _reference(
    seg: Tensor,
    ids: Sequence[int],
    window: int,
    stride: int,
    height: int,
    width: int,
    edge: str,
) -> Tensor:
    return reference.count_windows(
        seg, ids, window=window, stride=stride, size=(height, width), edge=edge
    )


def _by_kernels(
    launch: Callable[..., None],
    seg: Tensor,
    ids: Sequence[int],
    window: int,
    stride: int,
    height: int,
    width: int,
    edge: str,
) -> Tensor:
    counts = _fake(seg, ids, window, stride, height, width, edge)
    table = class_set(tuple(ids)).table
    flush = edge == "flush"
    launch("count_windows", seg, table, height, width, window, stride, flush, counts, None)
    return counts


def _fake(
    seg: Tensor,
    ids: Sequence[int],
    window: int,
    stride: int,
    height: int,
    width: int,
    edge: str,
    backend: str = "",
) -> Tensor:
    rows, columns = grid_shape(height, width, window, stride, edge)
    return torch.empty(seg.shape[0], rows, columns, dtype=torch.int32, device=seg.device)


_library.register("count_windows", _by_kernels, _reference)
_library.define(
    "count_windows(Tensor seg, int[] small_classes, int window, int stride, SymInt height, "
    "SymInt width, str edge, str backend) -> Tensor",
    _check_call,
    _fake,
)
