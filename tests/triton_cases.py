"""Calls whose Triton launches are compiled ahead of time: tests, benchmarks/kernel_table.py.

Tensors are on the "meta" device: a plan needs their shapes, strides and dtypes only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from c2fcore import _triton
from c2fcore._classes import class_set
from c2fcore.windows import grid_shape

ARCHITECTURES = (80, 90, 100)
CLASSES = (2, 6, 7, 16, 21, 150, 256)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
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
        changed = [
            f"{field}={value}".replace("torch.", "")
            for field, value in self._asdict().items()
            if value != Case._field_defaults[field] and field != "sm"
        ]
        return "-".join([f"sm_{self.sm}", *changed])


def plan(case: Case) -> list[Any]:
    """The launches of a case, on tensors that have no memory."""

    def meta(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    def scratch(name: str, dtype: torch.dtype, numel: int) -> torch.Tensor:
        return meta(numel, dtype=dtype)

    b, full = case.batch, case.full
    if case.classes:
        seg = meta(b, case.classes, case.low, case.low, dtype=case.dtype)
        if case.channels_last:
            seg = seg.to(memory_format=torch.channels_last)
    else:
        seg = meta(b, full, full, dtype=case.dtype)
    labels = meta(b, full, full, dtype=torch.uint8) if case.labels else None
    grid = (class_set(case.small).table, full, full, case.window, case.stride, True)
    module = _triton.kernels(case.op)
    if case.op == "count_windows":
        rows, columns = grid_shape(full, full, case.window, case.stride, "flush")
        counts = meta(b, rows, columns)
        launches = module.plan_count_windows(seg, *grid, counts, labels, scratch)
    else:
        slots = (meta(b, 32, 2), meta(b, 32), meta(b))
        launches = module.plan_select_windows(
            seg, *grid, 32, case.strategy, 1, *slots, labels, scratch
        )
    assert len(launches) <= 2
    return list(launches)


def every_case() -> Iterator[Case]:
    for sm in ARCHITECTURES:
        for dtype in DTYPES:
            for classes in CLASSES:
                for channels_last in (False, True):
                    up = Case(sm=sm, dtype=dtype, classes=classes, channels_last=channels_last)
                    yield up
                    yield up._replace(low=512, op="count_windows", labels=False)
        for dtype in (torch.float32, torch.float16):
            for channels_last in (False, True):
                at = Case(sm=sm, dtype=dtype, channels_last=channels_last)
                yield at._replace(labels=False)
                yield at._replace(full=6000, low=1500, strategy="top")
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
        # Integers equal to 1 are compiled in.
        yield Case(sm=sm, low=1, full=9, window=5, stride=3)
        yield Case(sm=sm, low=1, full=1, window=1, stride=1, classes=2)
        yield Case(sm=sm, dtype=torch.uint8, classes=0, full=1, window=1, stride=1, strategy="top")


F16, BF16, U8, I64 = torch.float16, torch.bfloat16, torch.uint8, torch.int64
SOME = [
    Case(),
    Case(sm=80, dtype=F16, classes=6, full=1024, low=256, strategy="top"),
    Case(sm=100, dtype=BF16, classes=21, channels_last=True),
    Case(sm=80, classes=150, full=500, low=213, stride=5, labels=False),
    Case(dtype=F16, classes=256, channels_last=True, small=(3, 200)),
    Case(sm=100, dtype=F16, classes=7, full=500, low=480, stride=50),
    Case(dtype=F16, full=6000, low=1500, op="count_windows"),
    Case(sm=100, classes=2, full=512, low=512, op="count_windows", labels=False),
    Case(sm=80, dtype=BF16, channels_last=True, full=512, low=512),
    Case(dtype=U8, classes=0, full=6000, strategy="cover"),
    Case(sm=80, dtype=I64, classes=0, full=6000, stride=16, strategy="top"),
    Case(sm=100, dtype=U8, classes=0, strategy="all"),
    Case(low=1, full=9, window=5, stride=3, strategy="top"),
]
