"""select_windows: which windows deserve a second look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _arrays, _backend, _checks
from .._classes import class_set
from ..reference.select_windows import select_with_labels
from ..windows import Windows
from . import _library
from .count_windows import check_grid

STRATEGIES = ("cover", "top", "all")

_Found = tuple[Tensor, Tensor, Tensor, Tensor | None]  # origins, counts, num, labels if wanted


def select_windows(
    seg: Any,
    small_classes: Iterable[int],
    *,
    window: int,
    stride: int,
    n: int,
    strategy: str = "cover",
    min_pixels: int = 1,
    size: Sequence[int] | None = None,
    edge: str = "flush",
    backend: str = "auto",
    _return_labels: bool = False,
) -> Any:
    """Chooses up to n windows per image that are rich in small objects.

    No window with fewer than `min_pixels` small-object pixels (new ones, for "cover") is ever
    taken. Static shapes, no host synchronisation.

    Args:
        seg: logits [B, N, h, w] or label map [B, H, W], as in `count_windows`.
        small_classes: distinct ids of the small classes C.
        window: side k of a window, pixels.
        stride: distance of neighbouring candidate windows, pixels; for "all" it is taken as k.
        n: windows per image at most; may exceed the number of candidates.
        strategy: "cover", greedy maximum coverage: again and again the window with most
            small-object pixels not yet covered. "top": the windows with the highest counts. Ties go
            to the lower row-major index in both. "all": disjoint windows in raster order, the first
            n that hold enough.
        min_pixels: fewest pixels worth a look, at least 1.
        size: full size (H, W) of logits; their own if None.
        edge: "flush" or "drop", as in `count_windows`.
        backend: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        Windows(origins int32 [B, n, 2] as (y, x), counts int32 [B, n], num int32 [B], window).
        Counts are of new pixels for "cover". Unused slots have origin (0, 0) and count 0; `num`
        says how many are in use. Not differentiable.

    Raises:
        ValueError: a value breaks a rule; the message says which, and the value.
        TypeError: `seg` has another dtype or is no array.
    """
    if not isinstance(seg, Tensor):
        return _arrays.in_kind(
            select_windows,
            "seg",
            seg,
            small_classes,
            window=window,
            stride=stride,
            n=n,
            strategy=strategy,
            min_pixels=min_pixels,
            size=size,
            edge=edge,
            backend=backend,
            _return_labels=_return_labels,
        )
    given = (small_classes, window, stride, size, edge, n, strategy, min_pixels)
    options = _checked(seg, *given)
    seen = options is None
    if options is None:
        seg = _arrays.as_tensor("select_windows", "seg", seg)
        options = _check_select_windows(seg, *given)
    if seen and _library.dispatched(seg):
        found = torch.ops.c2fcore.select_windows(seg, *options, _return_labels, backend)
    else:
        run = _backend.choose("select_windows", backend, seg)
        found = run(seg, *options, _return_labels)
    windows = Windows._make((found[0], found[1], found[2], options[1]))
    return (windows, found[3]) if _return_labels else windows


def _check_select_windows(
    seg: Tensor,
    small_classes: Iterable[int],
    window: int,
    stride: int,
    size: Sequence[int] | None,
    edge: str,
    n: int,
    strategy: str,
    min_pixels: int,
) -> tuple[tuple[int, ...], int, int, int, int, str, int, str, int]:
    """Checks a call; returns what check_grid does, n, strategy and min_pixels."""
    op = "select_windows"
    grid = check_grid(op, seg, small_classes, window, stride, size, edge)
    n = _checks.integer(op, "n", n, 1, _checks.INT32_MAX)
    min_pixels = _checks.integer(op, "min_pixels", min_pixels, 1, _checks.INT32_MAX)
    if strategy not in STRATEGIES:
        _checks.choice(op, "strategy", strategy, STRATEGIES)
    return (*grid, n, strategy, min_pixels)


_checked = _library.remembered(_check_select_windows)


def _check_call(
    seg: Tensor,
    ids: Sequence[int],
    window: int,
    stride: int,
    height: int,
    width: int,
    edge: str,
    n: int,
    strategy: str,
    min_pixels: int,
    return_labels: bool,
) -> None:
    size = (height, width)
    _check_select_windows(seg, tuple(ids), window, stride, size, edge, n, strategy, min_pixels)


def _reference(
    seg: Tensor,
    ids: Sequence[int],
    window: int,
    stride: int,
    height: int,
    width: int,
    edge: str,
    n: int,
    strategy: str,
    min_pixels: int,
    return_labels: bool,
) -> _Found:
    windows, labels = select_with_labels(
        seg,
        ids,
        window=window,
        stride=stride,
        n=n,
        strategy=strategy,
        min_pixels=min_pixels,
        size=(height, width),
        edge=edge,
    )
    # A copy even of uint8 label maps: an op's result never shares memory with its input.
    kept = labels.to(torch.uint8, copy=True) if return_labels else None
    return windows.origins, windows.counts, windows.num, kept


def _by_kernels(
    launch: Callable[..., None],
    seg: Tensor,
    ids: Sequence[int],
    window: int,
    stride: int,
    height: int,
    width: int,
    edge: str,
    n: int,
    strategy: str,
    min_pixels: int,
    return_labels: bool,
) -> _Found:
    origins, counts, num, labels = found = _outputs(seg, height, width, n, return_labels)
    launch(
        "select_windows",
        seg,
        class_set(tuple(ids)).table,
        height,
        width,
        window,
        stride,
        edge == "flush",
        n,
        strategy,
        min_pixels,
        origins,
        counts,
        num,
        labels,
    )
    return found


def _outputs(seg: Tensor, height: int, width: int, n: int, return_labels: bool) -> _Found:
    batch, device, int32 = seg.shape[0], seg.device, torch.int32
    return (
        torch.empty(batch, n, 2, dtype=int32, device=device),
        torch.empty(batch, n, dtype=int32, device=device),
        torch.empty(batch, dtype=int32, device=device),
        torch.empty(batch, height, width, dtype=torch.uint8, device=device)
        if return_labels
        else None,
    )


def _complete(found: _Found) -> tuple[Tensor, ...]:
    """The schema wants a tensor of labels always: an empty one where they were not wanted."""
    origins, counts, num, labels = found
    if labels is None:
        labels = torch.empty(0, dtype=torch.uint8, device=origins.device)
    return origins, counts, num, labels


def _fake(
    seg: Tensor,
    ids: Sequence[int],
    window: int,
    stride: int,
    height: int,
    width: int,
    edge: str,
    n: int,
    strategy: str,
    min_pixels: int,
    return_labels: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    return _complete(_outputs(seg, height, width, n, return_labels))


_library.register("select_windows", _by_kernels, _reference)
_library.define(
    "select_windows(Tensor seg, int[] small_classes, int window, int stride, SymInt height, "
    "SymInt width, str edge, SymInt n, str strategy, int min_pixels, bool return_labels, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    _check_call,
    _fake,
    _complete,
)
