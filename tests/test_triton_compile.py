"""Ahead-of-time compilation of what the launchers ask for, without a GPU; a spill is a failure.

The few cases that always run meet every kernel, dtype, number of classes, option and architecture
once; C2F_TRITON_GRID=all runs the whole grid (hundreds of compilations, 1 to 10 seconds each).
"""

from __future__ import annotations

import inspect
import json
import os
import re
from typing import Any

import pytest
import torch
from triton_cases import (
    ARCHITECTURES,
    CLASSES,
    DTYPES,
    IMAGE_DTYPES,
    SOME,
    AnyCase,
    Case,
    MergeCase,
    PatchCase,
    every_case,
    plan,
)

from c2fcore import _triton

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_triton.interpreted(), reason="the interpreter replaces the compiler"),
    pytest.mark.skipif(bool(_triton.unfit()), reason=_triton.unfit()),
]

CASES = list(every_case()) if os.environ.get("C2F_TRITON_GRID") == "all" else SOME


@pytest.fixture(scope="module")
def seen() -> set[tuple[Any, ...]]:
    """Kernels compiled so far in this run: many cases share their second launch."""
    return set()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiles_without_spills(case: AnyCase, seen: set[tuple[Any, ...]]) -> None:
    from c2fcore.kernels.triton import _compile

    for launch in plan(case):
        key = (*_compile.signature(launch), case.sm)
        if key in seen:
            continue
        seen.add(key)
        taken = _compile.resources(launch, case.sm)
        name = launch.kernel.__name__
        assert taken.stack == 0, f"{name}: {taken.stack} bytes of stack a thread: {taken}"
        assert taken.registers <= launch.max_registers
        assert taken.shared <= 48 * 1024


def test_selection_among_many_windows_waits_little() -> None:
    """16 rows of bins are loaded together; warps wait where the source says, and for maxima."""
    from c2fcore.kernels.triton import _compile

    launch = plan(Case(dtype=torch.uint8, classes=0, full=6000, strategy="cover"))[1]
    assert launch.kernel.__name__ == "_many_kernel"
    ptx = _compile.compile_launch(launch, 90).asm["ptx"]
    accesses = "".join(re.findall(r"\b([ls])[dt]\.global", ptx))
    assert "l" * 16 + "s" * 16 in accesses
    assert ptx.count("bar.sync") == inspect.getsource(launch.kernel.fn).count("debug_barrier") + 2


@pytest.mark.parametrize("case", SOME, ids=str)
def test_few_launches(case: AnyCase) -> None:
    """Two for counting, with selection or without, one for all else: four for the whole glue.

    Merging alone makes the labels of large images in a launch of their own.
    """
    large = isinstance(case, MergeCase) and case.full >= 6000 and case.output == "labels"
    assert len(plan(case)) == (2 if isinstance(case, Case) or large else 1)


class _Driver:
    """What a launch asks a GPU's driver before it compiles."""

    def get_current_device(self) -> int:
        return 99  # what is compiled for it stays apart

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What launches would have compiled; they compile and launch nothing."""
    from triton import knobs
    from triton.runtime import driver

    found: list[dict[str, Any]] = []
    monkeypatch.setattr(
        knobs.runtime, "jit_cache_hook", lambda **call: found.append(call["compile"]) or True
    )
    monkeypatch.setattr(driver, "_active", _Driver())  # reset_active() wants a GPU
    return found


@pytest.mark.parametrize("case", SOME, ids=str)
def test_a_call_compiles_what_is_compiled_ahead_of_time(
    case: AnyCase, asked: list[dict[str, Any]]
) -> None:
    from c2fcore.kernels.triton import _compile

    for launch in plan(case):
        real = {k: torch.empty(0, dtype=v.dtype) if isinstance(v, torch.Tensor) else v
                for k, v in launch.args.items()}  # fmt: skip
        launch._replace(args=real).run()
        at_call = asked.pop()
        signature, constants, attributes = _compile._specialise(launch)
        assert at_call["signature"] == signature
        assert at_call["constants"] == constants
        assert {k: v for k, v in at_call["configs"][0].items() if v} == attributes
        options = json.loads(at_call["specialization_data"])["options"]
        assert launch.options().items() <= options.items()


def test_the_few_cases_cover_the_grid() -> None:
    wanted: list[tuple[type, str, Any]] = [
        (Case, "sm", ARCHITECTURES),
        (Case, "dtype", DTYPES),
        (Case, "classes", CLASSES),
        (Case, "strategy", ("cover", "top", "all")),
        (PatchCase, "sm", ARCHITECTURES),
        (PatchCase, "dtype", IMAGE_DTYPES),
        (PatchCase, "out", DTYPES),
        (PatchCase, "mode", ("nearest", "bilinear", "bicubic")),
        (PatchCase, "op", ("extract_patches", "extract_patches_backward", "extract_targets")),
        (MergeCase, "sm", ARCHITECTURES),
        (MergeCase, "dtype", DTYPES),
        (MergeCase, "classes", CLASSES),
        (MergeCase, "rule", ("paper", "normalized", "official")),
        (MergeCase, "output", ("labels", "probs")),
        (MergeCase, "given", (False, True)),
    ]
    for kind, field, values in wanted:
        found = {getattr(case, field) for case in SOME if isinstance(case, kind)}
        assert found >= set(values), (kind, field)


def test_the_committed_table() -> None:
    """benchmarks/results/triton-kernels.md has every launch of its rows, without a spill.

    Bytes and grids are those of today's launches; registers are as of when it was written, and are
    compared only when the whole grid is compiled.
    """
    import kernel_table  # with Triton, which may be missing or unfit

    written = kernel_table.TABLE.read_text(encoding="utf-8").splitlines()
    bytes_now = list(kernel_table.byte_lines())
    assert written[-len(bytes_now) :] == bytes_now
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in written]
    found = {(c[0], c[1], c[2], c[3], c[4]) for c in cells if len(c) == 9 and c[8] == "0"}
    wanted = {
        (
            row.name,
            launch.kernel.__name__.strip("_"),
            str(sm),
            str(launch.grid),
            str(launch.num_warps),
        )
        for row in kernel_table.ROWS
        for launch in row.plan(row.case)
        for sm in ARCHITECTURES
    }
    assert found == wanted
    if CASES is not SOME:
        assert written == list(kernel_table.lines(ARCHITECTURES))
