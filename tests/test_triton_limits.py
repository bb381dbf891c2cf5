"""What Triton kernels number in 32 bits: calls up to the limit are planned, others are refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from triton_cases import meta, scratch

from c2fcore import _triton
from c2fcore._classes import class_set

pytestmark = pytest.mark.skipif(bool(_triton.unfit()), reason=_triton.unfit())

MOST = 2**30 - 1  # pixels along an axis, windows per image
RESIZED = 2**22
TABLE = class_set((1,)).table
U8, F32 = torch.uint8, torch.float32


def _virtual(*shape: int, dtype: torch.dtype = F32) -> torch.Tensor:
    """Of any size: all elements are one."""
    return torch.empty((1,) * len(shape), dtype=dtype, device="meta").expand(shape)


def _plan(op: str, *args: Any) -> Any:
    return getattr(_triton.kernels(op), f"plan_{op}")(*args, scratch)


def _count(seg: torch.Tensor, height: int, width: int, stride: int = 2**20) -> Any:
    grid = (TABLE, height, width, 1, stride, True)
    return _plan("count_windows", seg, *grid, meta(1), None)


def _select(n: int) -> Any:
    grid = (TABLE, 8, 8, 2, 2, True)
    return _plan("select_windows", _virtual(1, 8, 8, dtype=U8), *grid, n, "all", 1, *[meta(1)] * 3,
                 None)  # fmt: skip


def _merge(
    low: tuple[int, int] = (4, 4), full: tuple[int, int] = (4, 4), n: int = 1, fine: int = 2
) -> Any:
    logits, patches = _virtual(1, 2, *low), _virtual(n, 1, fine, 2)
    rest = (TABLE, *full, "paper", _virtual(1, *full, dtype=U8), False)
    return _plan("aggregate", logits, patches, _virtual(1, n, 2), meta(1), 2, *rest)


def _cut(
    op: str, width: int = 2**22 + 1, window: int = 2, side: int = 2, n: int = 1, height: int = 0
) -> Any:
    image, patches = _virtual(1, 1, height or width, width), _virtual(n, 1, side, side)
    where = (_virtual(1, n, 2), meta(1), window)
    if op == "extract_targets":
        targets = _virtual(n, window, window, dtype=U8)
        return _plan(op, image[0], *where, TABLE, 255, targets)
    if op == "extract_patches":
        return _plan(op, image, *where, patches, "bilinear", 1.0, None, None, False)
    return _plan(op, patches, *where, image, "bilinear", 1.0, None)


CALLS: dict[str, tuple[Callable[[int], Any], int, str]] = {
    "count-side": (
        lambda x: _count(_virtual(1, 1, x, dtype=U8), 1, x), MOST,
        "count_windows: backend 'triton' takes images of at most {most} pixels a side, "
        "got 1 x {got}; 'reference' can run this",
    ),
    "count-bins": (
        lambda x: _count(_virtual(1, 2**12, x, dtype=U8), 2**12, x, 1), 2**19 - 1,
        "count_windows: backend 'triton' takes at most 2147479552 bins (parts of windows) per "
        "image, got 2147483648;",
    ),
    "count-resized": (
        lambda x: _count(_virtual(1, 2, 1, 5), 1, x), RESIZED,
        "count_windows: backend 'triton' takes at most {most} pixels a side of resized logits, "
        "got 1 x 5 to 1 x {got};",
    ),
    "select-n": (_select, MOST, "triton' takes at most {most} windows per image, got {got};"),
    "merge-side": (
        lambda x: _merge((x, 4), (x, 4)), MOST, "at most {most} pixels a side, got {got} x 4;",
    ),
    "merge-n": (lambda x: _merge(n=x), MOST, "at most {most} windows per image, got {got};"),
    "merge-resized": (
        lambda x: _merge((4, 4), (4, x)), RESIZED,
        "at most {most} pixels a side of resized coarse logits, got 4 x 4 to 4 x {got};",
    ),
    "merge-fine": (
        lambda x: _merge(fine=x), RESIZED, "resized fine logits, got {got} x 2 to 2 x 2;",
    ),
}  # fmt: skip
for op in ("extract_patches", "extract_patches_backward", "extract_targets"):
    CALLS[f"{op}-side"] = (
        functools.partial(_cut, op, height=4), MOST,
        op + ": backend 'triton' takes images of at most {most} pixels a side, got 4 x {got};",
    )  # fmt: skip
    CALLS[f"{op}-n"] = (
        lambda x, op=op: _cut(op, 4, n=x), MOST, "at most {most} windows per image, got {got};",
    )  # fmt: skip
for op in ("extract_patches", "extract_patches_backward"):
    for side, text in (("window", "{got} x {got} to 2 x 2"), ("side", "2 x 2 to {got} x {got}")):
        CALLS[f"{op}-zoomed-{side}"] = (
            lambda x, op=op, side=side: _cut(op, **{side: x}), RESIZED,
            f"at most {{most}} pixels a side of resized windows, got {text};",
        )  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_limits(name: str) -> None:
    call, most, text = CALLS[name]
    assert call(most)
    with pytest.raises(NotImplementedError) as refused:
        call(most + 1)
    assert text.format(most=most, got=most + 1) in str(refused.value)


def test_programs_of_a_launch() -> None:
    from c2fcore.kernels.triton._launch import Launch
    from c2fcore.kernels.triton.count_windows import _window_sums_kernel

    with pytest.raises(NotImplementedError, match="at most 2147483647 programs, got 2147483648 of"):
        Launch(_window_sums_kernel, 2**31, {}, {}, 4).run()
