"""Calls whose launches are planned without a GPU: tests, benchmarks/kernel_table.py, cuda_table.py.

Tensors are on the "meta" device: a plan needs their shapes, strides and dtypes only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch

from c2fcore import _triton
from c2fcore._classes import class_set
from c2fcore.windows import grid_shape

ARCHITECTURES = (80, 90, 100)
CLASSES = (2, 6, 7, 16, 21, 150, 256)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
IMAGE_DTYPES = (
    torch.uint8,
    torch.uint16,
    torch.int16,
    torch.float16,
    torch.bfloat16,
    torch.float32,
)
LABEL_DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


class Case(NamedTuple):
    """A call; shapes decide which code the launchers ask for."""

    op: str = "select_windows"
    dtype: torch.dtype = torch.float32
    classes: int = 16  # 0: a label map
    channels_last: bool = False
    low: int = 128  # side of the logits
    full: int = 512
    batch: int = 1
    window: int = 128
    stride: int = 32
    strategy: str = "cover"
    labels: bool = True
    small: tuple[int, ...] = (1,)
    sm: int = 90

    def __str__(self) -> str:
        return _changed(self)


class PatchCase(NamedTuple):
    """A call of extract_patches, of its backward, or of extract_targets."""

    op: str = "extract_patches"
    dtype: torch.dtype = torch.uint8  # of the image; of the gradient; of the labels
    out: torch.dtype = torch.bfloat16
    channels: int = 3
    channels_last: bool = True  # patches and image
    mode: str = "bilinear"
    zoom: float = 1.0
    window: int = 128
    n: int = 32
    full: int = 1024
    sm: int = 90

    def __str__(self) -> str:
        return _changed(self)


class MergeCase(NamedTuple):
    """A call of aggregate."""

    op: str = "aggregate"
    dtype: torch.dtype = torch.float32
    classes: int = 16
    channels_last: bool = False
    low: int = 128  # side of the coarse logits
    full: int = 512
    window: int = 128
    n: int = 32
    side: int = 32  # of the fine logits
    channels: int = 2
    rule: str = "paper"
    output: str = "labels"
    given: bool = False  # the labels of select_windows are edited
    small: tuple[int, ...] = (1,)
    sm: int = 90

    def __str__(self) -> str:
        return _changed(self)


AnyCase = Case | PatchCase | MergeCase


def _changed(case: Any) -> str:
    changed = [
        f"{field}={value}".replace("torch.", "")
        for field, value in case._asdict().items()
        if value != type(case)._field_defaults[field] and field != "sm"
    ]
    kind = "" if isinstance(case, Case) else f"{case.op}-"
    return "-".join([f"{kind}sm_{case.sm}", *changed])


def meta(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def scratch(name: str, dtype: torch.dtype, numel: int) -> torch.Tensor:
    return meta(numel, dtype=dtype)


def arguments(case: AnyCase) -> tuple[Any, ...]:
    """What both GPU backends are asked for: tensors that have no memory, and options."""
    if isinstance(case, Case):
        return _windows_arguments(case)
    return _patches_arguments(case) if isinstance(case, PatchCase) else _merge_arguments(case)


def plan(case: AnyCase) -> list[Any]:
    """The launches of a case."""
    return launches_of(case, arguments(case), scratch)


def launches_of(case: AnyCase, given: Sequence[Any], scratch: Any) -> list[Any]:
    """Those of a call with these arguments, and memory where `scratch` says."""
    options = [case.channels_last] if case.op == "extract_patches" else []
    make = getattr(_triton.kernels(case.op), f"plan_{case.op}")
    launches = list(make(*given, *options, scratch))
    assert len(launches) <= 2
    return launches


def _merge_arguments(case: MergeCase) -> tuple[Any, ...]:
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    coarse = meta(1, case.classes, case.low, case.low, dtype=case.dtype).to(memory_format=layout)
    fine = meta(case.n, case.channels, case.side, case.side, dtype=case.dtype)
    out = meta(1, case.full, case.full, dtype=torch.uint8)
    if case.output == "probs":
        out = meta(1, case.classes, case.full, case.full, dtype=torch.float32)
    return (
        coarse, fine.to(memory_format=layout), meta(1, case.n, 2), meta(1), case.window,
        class_set(case.small).table, case.full, case.full, case.rule, out, case.given,
    )  # fmt: skip


def _patches_arguments(case: PatchCase) -> tuple[Any, ...]:
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    side, full = round(case.window * case.zoom), case.full
    windows = (meta(1, case.n, 2), meta(1), case.window)
    if case.op == "extract_targets":
        labels = meta(1, full, full, dtype=case.dtype)
        targets = meta(case.n, case.window, case.window, dtype=torch.uint8)
        return labels, *windows, class_set((1,)).table, 255, targets
    image = meta(1, case.channels, full, full, dtype=case.dtype).to(memory_format=layout)
    patches = meta(case.n, case.channels, side, side, dtype=case.out).to(memory_format=layout)
    mean, std = [0.5] * case.channels, [0.2] * case.channels
    if case.op == "extract_patches_backward":
        found = torch.empty(image.shape, dtype=case.dtype, device="meta")
        return patches, *windows, found, case.mode, 1 / 255, std
    return image, *windows, patches, case.mode, 1 / 255, mean, std


def _windows_arguments(case: Case) -> tuple[Any, ...]:
    b, full = case.batch, case.full
    if case.classes:
        seg = meta(b, case.classes, case.low, case.low, dtype=case.dtype)
        if case.channels_last:
            seg = seg.to(memory_format=torch.channels_last)
    else:
        seg = meta(b, full, full, dtype=case.dtype)
    labels = meta(b, full, full, dtype=torch.uint8) if case.labels else None
    grid = (class_set(case.small).table, full, full, case.window, case.stride, True)
    if case.op == "count_windows":
        rows, columns = grid_shape(full, full, case.window, case.stride, "flush")
        return seg, *grid, meta(b, rows, columns), labels
    return seg, *grid, 32, case.strategy, 1, meta(b, 32, 2), meta(b, 32), meta(b), labels


def take_route(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Selection as if there were many windows, as if counts needed 64-bit keys, or both."""
    from c2fcore.kernels.triton import _select_many, _selection, select_windows

    if route.startswith("many"):
        monkeypatch.setattr(select_windows, "FEW", 0)
    if route.endswith("wide-keys"):
        for module in (select_windows, _select_many):
            monkeypatch.setattr(
                module, "key_format", lambda _, n: _selection.key_format(1 << 16, n)
            )


def every_case() -> Iterator[AnyCase]:
    """The whole grid."""
    for sm in ARCHITECTURES:
        yield from _window_cases(sm)
        yield from _patch_cases(sm)
        yield from _merge_cases(sm)


def _merge_cases(sm: int) -> Iterator[MergeCase]:
    for dtype in DTYPES:
        for classes in CLASSES:
            for channels_last in (False, True):
                at = MergeCase(sm=sm, dtype=dtype, classes=classes, channels_last=channels_last)
                yield at
                yield at._replace(output="probs")
                yield at._replace(full=6000, low=1500)
            yield MergeCase(sm=sm, dtype=dtype, classes=classes, full=500, low=480)  # ratio near 1
            yield MergeCase(sm=sm, dtype=dtype, classes=classes, full=2000, low=1000)
        for classes in (16, 256):
            yield MergeCase(sm=sm, dtype=dtype, classes=classes, given=True)
            yield MergeCase(sm=sm, dtype=dtype, classes=classes, given=True, rule="official")
    for rule in ("paper", "normalized", "official"):
        for given in (False, True):
            for channels in (1, 2):
                at = MergeCase(sm=sm, rule=rule, given=given, channels=channels)
                yield at
                yield at._replace(side=128, low=512)
        for classes in (2, 16, 17, 21, 32, 150):
            yield MergeCase(sm=sm, rule=rule, output="probs", classes=classes)
            yield MergeCase(sm=sm, rule=rule, output="probs", classes=classes, low=512, side=128)
    yield MergeCase(sm=sm, dtype=torch.float16, low=50_000, full=50_000, given=True)
    for output in ("labels", "probs"):
        at = MergeCase(sm=sm, output=output, dtype=torch.float16)
        yield at._replace(full=50_000, low=50_000)  # strides beyond 32 bits
        yield at._replace(full=6000, low=1500)
        yield at._replace(full=6001, low=2999)  # rows of labels start at any address
        # One or two blocks of classes: no loop over them is left.
        of_8 = at._replace(full=6000, low=3000, classes=8, channels_last=True)
        yield of_8
        yield of_8._replace(dtype=torch.float32)
        yield at._replace(full=6000, low=6000, n=2209, rule="official")
        yield at._replace(full=500, low=213, window=37, n=3)
        yield at._replace(full=500, low=480, n=1)
        yield at._replace(full=9, low=1, window=1, side=1, n=1, classes=2)
        yield at._replace(classes=256, small=(3, 200))


def _patch_cases(sm: int) -> Iterator[PatchCase]:
    for mode in ("bilinear", "nearest", "bicubic"):
        for zoom in (0.5, 1.0, 1.5, 2.0, 4.0):
            for channels_last in (False, True):
                at = PatchCase(sm=sm, mode=mode, zoom=zoom, channels_last=channels_last)
                yield at
                yield at._replace(dtype=torch.float32, out=torch.float32)
                yield at._replace(
                    op="extract_patches_backward", dtype=torch.float16, out=torch.float16
                )
    for dtype in IMAGE_DTYPES:
        for out in DTYPES:
            yield PatchCase(sm=sm, dtype=dtype, out=out, zoom=2.0)
            yield PatchCase(sm=sm, dtype=dtype, out=out, zoom=2.0, mode="bicubic", channels=4)
    for channels in (1, 4, 5, 13, 32):
        for channels_last in (False, True):
            yield PatchCase(sm=sm, channels=channels, channels_last=channels_last, zoom=2.0)
    for channels_last in (False, True):
        yield PatchCase(sm=sm, full=50_000, channels_last=channels_last, zoom=2.0)
    for window in (1, 7, 64, 256):
        yield PatchCase(sm=sm, window=window, zoom=3.0, n=1)
    for dtype in DTYPES:
        yield PatchCase(op="extract_patches_backward", sm=sm, dtype=dtype, out=dtype, zoom=2.0)
    for dtype in LABEL_DTYPES:
        yield PatchCase(op="extract_targets", sm=sm, dtype=dtype)
        yield PatchCase(op="extract_targets", sm=sm, dtype=dtype, window=1, n=1)


def _window_cases(sm: int) -> Iterator[Case]:
    for dtype in DTYPES:
        for classes in CLASSES:
            for channels_last in (False, True):
                up = Case(sm=sm, dtype=dtype, classes=classes, channels_last=channels_last)
                yield up
                yield up._replace(low=512, op="count_windows", labels=False)
                yield up._replace(full=6000, low=1500)
    for dtype in (torch.float32, torch.float16):
        for channels_last in (False, True):
            at = Case(sm=sm, dtype=dtype, channels_last=channels_last)
            yield at._replace(labels=False)
            yield at._replace(full=6000, low=1500, strategy="top")
            yield at._replace(full=6000, low=3000, classes=8)
            yield at._replace(full=6000, low=6000, strategy="all")
            yield at._replace(full=1024, low=256, batch=2, strategy="top")
            yield at._replace(full=500, low=213, stride=5)  # many bins, odd ratio
            yield at._replace(full=500, low=480, stride=50)  # ratio near 1
            yield at._replace(full=512, low=64, small=(3, 200), classes=256)
            yield at._replace(full=300, low=3, stride=300)
    for dtype in LABEL_DTYPES:
        for strategy in ("cover", "top", "all"):
            yield Case(sm=sm, dtype=dtype, classes=0, strategy=strategy)
            yield Case(sm=sm, dtype=dtype, classes=0, strategy=strategy, full=6000, stride=16)
        yield Case(sm=sm, op="count_windows", dtype=dtype, classes=0, labels=False, stride=8)
    # Strides beyond 32 bits.
    far = Case(sm=sm, dtype=torch.float16, full=50_000, low=50_000, window=1000, stride=1000)
    yield far  # and keys beyond 32 bits, of many windows and
    yield far._replace(window=20_000, stride=20_000, strategy="top")  # of few
    yield far._replace(full=100_000, op="count_windows", labels=False)
    # Integers equal to 1 are compiled in.
    yield Case(sm=sm, low=1, full=9, window=5, stride=3)
    yield Case(sm=sm, low=1, full=1, window=1, stride=1, classes=2)
    yield Case(sm=sm, dtype=torch.uint8, classes=0, full=1, window=1, stride=1, strategy="top")


F16, BF16, U8, I64 = torch.float16, torch.bfloat16, torch.uint8, torch.int64
SOME: list[AnyCase] = [
    Case(),
    Case(sm=80, dtype=F16, classes=6, full=1024, low=256, strategy="top"),
    Case(sm=100, dtype=BF16, classes=21, channels_last=True),
    Case(sm=80, classes=150, full=500, low=213, stride=5, labels=False),
    Case(dtype=F16, classes=256, channels_last=True, small=(3, 200)),
    Case(sm=100, dtype=F16, classes=7, full=500, low=480, stride=50),
    Case(dtype=F16, full=500, low=480, stride=50),
    Case(dtype=F16, full=6000, low=1500, op="count_windows"),
    Case(sm=100, classes=2, full=512, low=512, op="count_windows", labels=False),
    Case(sm=80, dtype=BF16, channels_last=True, full=512, low=512),
    Case(dtype=F16, full=6000, low=6000, strategy="all"),
    Case(dtype=U8, classes=0, full=6000, strategy="cover"),
    Case(sm=80, dtype=I64, classes=0, full=6000, stride=16, strategy="top"),
    Case(sm=100, dtype=U8, classes=0, strategy="all"),
    Case(low=1, full=9, window=5, stride=3, strategy="top"),
    PatchCase(),
    PatchCase(sm=80, zoom=4.0),
    PatchCase(sm=100, zoom=1.5, channels_last=False, dtype=torch.uint16, out=F16),
    PatchCase(zoom=2.0, mode="bicubic", channels=13, dtype=torch.int16),
    PatchCase(sm=80, zoom=0.5, mode="nearest", dtype=torch.float32, out=torch.float32),
    PatchCase(sm=100, zoom=2.0, window=1, n=1, dtype=BF16),
    PatchCase(op="extract_patches_backward", dtype=BF16, zoom=2.0),
    PatchCase(op="extract_patches_backward", sm=100, dtype=F16, out=F16, zoom=2.0, mode="bicubic"),
    PatchCase(op="extract_targets", dtype=U8),
    PatchCase(op="extract_targets", sm=80, dtype=I64),
    MergeCase(),
    MergeCase(sm=80, dtype=F16, classes=21, channels_last=True, given=True, channels=1),
    MergeCase(sm=100, dtype=BF16, classes=150, rule="official", low=512, side=128),
    MergeCase(sm=80, classes=256, rule="normalized", small=(3, 200)),
    MergeCase(sm=80, dtype=F16, full=500, low=480, n=1),
    MergeCase(dtype=F16, full=6000, low=1500),
    MergeCase(sm=100, dtype=BF16, classes=150, full=6001, low=2999),
    MergeCase(sm=100, classes=6, output="probs"),
    MergeCase(dtype=F16, classes=16, output="probs", full=6000, low=1500),
    MergeCase(dtype=F16, classes=7, output="probs", rule="normalized", channels_last=True),
    MergeCase(sm=80, classes=2, output="probs", rule="official"),
    MergeCase(sm=100, classes=21, output="probs", rule="official"),
    MergeCase(classes=21, output="probs"),
    MergeCase(sm=100, dtype=BF16, classes=150, output="probs"),
]
