"""Samples of any geometry, drawn from seeds: every backend against the reference.

A few seeds here; others, as many as wanted, by C2F_SEEDS=FIRST:END (see `make fuzz`), and larger
images by C2F_SIDE:

    C2F_SEEDS=1000:3000 C2F_SIDE=200 pytest tests/test_drawn.py --backend cpu -k aggregate
"""

from __future__ import annotations

import pytest
import torch
from availability import need
from compare import drawn
from like_reference import assert_like_reference

from c2fcore import _cuda, _triton
from c2fcore.testing import samples
from c2fcore.testing.agree import Undecided

OP = "count_windows"
AGAINST_REFERENCE = True
pytestmark = pytest.mark.usefixtures("poison")


def some(backend: str) -> range:
    """As many seeds as take some seconds."""
    if backend == "triton":  # a kernel to compile for each
        return range(2 if _triton.interpreted() else 12)
    return range(12 if _cuda.on_host() else 60)


@pytest.mark.parametrize("op", samples.OPS)
def test_any_geometry(op: str, backend: str, device: str) -> None:
    need(backend, op)
    undecided, asked = 0, drawn(op, some(backend))
    for sample in asked:
        try:
            assert_like_reference(op, sample, backend, device)
        except Undecided:
            undecided += 1
    assert undecided <= 1 + len(asked) / 50


def test_seeds_draw_the_same_and_much() -> None:
    """What is drawn does not depend on the process, and reaches the kinds that matter."""
    again = samples.drawn("aggregate", 5)
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.args()[:2], samples.drawn("aggregate", 5).args()[:2], strict=True)
    )
    many = [samples.drawn("select_windows", seed) for seed in range(200)]
    assert {s.options["strategy"] for s in many} == {"cover", "top", "all"}
    gaps = [s for s in many if s.options["stride"] > s.options["window"]]
    assert 10 < len(gaps) < 150
    assert {s.args()[0].dtype for s in many} > {torch.float16, torch.uint8, torch.int64}
    assert {s.args()[0].ndim for s in many} == {3, 4}
