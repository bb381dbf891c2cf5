"""benchmarks/results/instructions.md is of today's kernels."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from c2fcore import _cuda, _triton

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_triton.interpreted(), reason="the interpreter replaces the compiler"),
    pytest.mark.skipif(bool(_triton.unfit()), reason=_triton.unfit()),
    pytest.mark.skipif(bool(_cuda.on_host()), reason="runs in that process"),
]
# These are counted again.
NAMES = (
    "count_windows 512, x4 fp32",
    "extract_patches zoom 2, uint8 to bf16, channels_last",
    "aggregate labels 512, labels given, answers agree",
)
AGAIN = "run benchmarks/instructions.py"


@pytest.fixture(scope="module")
def table() -> Any:
    """The module that writes it."""
    pytest.importorskip("cupy.cuda", reason="needs CuPy (pip install 'c2fcore[cuda13]')")
    import instructions  # with Triton, which may be missing or unfit

    return instructions


@pytest.fixture(scope="module")
def counted(table: Any) -> Any:
    """Its function, by the name of an input."""
    inputs = {each.name: each for each in table.INPUTS}
    return cache(lambda name, backend: table.counted(inputs[name], backend))


def test_the_committed_rows(table: Any) -> None:
    """All but what was counted is derived again."""
    written, top = table.TABLE.read_text(encoding="utf-8").splitlines(), list(table.head())
    wanted = [(each, backend) for each in table.INPUTS for backend in table.BACKENDS]
    cells = [line.split("|") for line in written[len(top) :]]
    executed = [table.Counts(int(row[5]), int(row[6])) for row in cells]
    assert len(executed) == len(wanted), AGAIN
    now = [table.line(*row, found) for row, found in zip(wanted, executed, strict=True)]
    assert written[len(top) :] == now, AGAIN
    if all(version in "\n".join(written) for version in table.versions().values()):
        assert written[: len(top)] == top, AGAIN


@pytest.mark.parametrize("kernels", ["triton", "cuda"])
@pytest.mark.parametrize("name", NAMES)
def test_the_committed_counts(table: Any, counted: Any, name: str, kernels: str) -> None:
    written = table.TABLE.read_text(encoding="utf-8")
    if table.versions()[kernels] not in written:
        pytest.skip(f"they are not of {table.versions()[kernels]}")
    cells = [line.split(" | ") for line in written.splitlines()]
    found = {(row[0], row[3]): row[4:6] for row in cells if len(row) == 12 and row[4].isdigit()}
    found = {row: table.Counts(*map(int, counts)) for row, counts in found.items()}
    assert counted(name, kernels)[0] == found[f"| {name}", kernels], AGAIN


@pytest.mark.parametrize("name", NAMES)
def test_what_was_counted_answers_right(counted: Any, name: str) -> None:
    """Both backends give the same answer, for as large a part."""
    triton, cuda = (
        [arg for arg in counted(name, backend)[1] if isinstance(arg, torch.Tensor)]
        for backend in ("triton", "cuda")
    )
    assert triton[-1].any()
    for one, other in zip(triton, cuda, strict=True):
        assert torch.equal(one, other)
