"""One op = one row = one name in every folder: fails when a row is incomplete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import c2fcore
from c2fcore import ops, reference
from c2fcore.testing import samples

ROOT = Path(__file__).resolve().parents[1]
OPS = ("count_windows", "select_windows", "extract_patches", "aggregate")
# extract_targets rides with extract_patches: its own files where it has some, no folder has to.
RIDERS = {"extract_targets": "extract_patches"}

ALWAYS = (
    "c2fcore/ops/{}.py",
    "c2fcore/reference/{}.py",
    "kernels/cpu/{}.h",
    "csrc/{}.cpp",
    "tests/test_{}.py",
    "c2fcore/testing/samples/{}.py",
    "benchmarks/bench_{}.py",
)
# A further backend may join op by op; what it has stands in the backend table, nothing else does.
OPTIONAL = {"triton": "kernels/triton/{}.py", "cuda": "kernels/cuda/{}.cuh"}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("cell", ALWAYS)
def test_row(op: str, cell: str) -> None:
    assert (ROOT / cell.format(op)).is_file(), f"{op} lacks {cell.format(op)}"


@pytest.mark.parametrize("further", OPTIONAL)
@pytest.mark.parametrize("op", OPS)
def test_row_of_a_further_backend(op: str, further: str) -> None:
    there = (ROOT / OPTIONAL[further].format(op)).is_file()
    known = c2fcore.backends()[op][further][1] != "not part of this version"
    assert there == known, f"{OPTIONAL[further].format(op)}: file {there}, in the table {known}"


@pytest.mark.parametrize("op", [*OPS, *RIDERS])
def test_public_names(op: str) -> None:
    """The same name in the API, the reference, the backend table and the sample lists."""
    assert callable(getattr(ops, op))
    assert callable(getattr(reference, op))
    assert op in ops.__all__
    assert op in c2fcore.backends()
    assert samples.of(op)


@pytest.mark.parametrize("op", OPS)
def test_readme_row(op: str) -> None:
    """A table row that starts with the op."""
    readme = (ROOT / "README.md").read_text()
    assert re.search(rf"^\| *`(ops\.)?{op}", readme, re.MULTILINE), f"README.md: no row for {op}"


def test_no_op_beside_the_table() -> None:
    """A new public op has to be entered here, and so to fill a row."""
    assert set(ops.__all__) == {*OPS, *RIDERS}
    assert set(reference.__all__) == {*OPS, *RIDERS}
