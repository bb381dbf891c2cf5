"""extract_targets: a hand-made table, the loop oracle, every backend against the reference."""

from __future__ import annotations

from typing import Any

import oracles
import pytest
import torch
from compare import assert_repeatable, call

from c2fcore import ops
from c2fcore.testing import samples
from c2fcore.testing.samples import Sample
from c2fcore.testing.samples.inputs import windows_of

OP = "extract_targets"
pytestmark = pytest.mark.usefixtures("poison")

LABELS = [
    [0, 1, 2, 255],
    [3, 0, 1, 2],
    [255, 3, 257, -1],
]
# fmt: off
TABLE = [  # classes, ignore_index, target at y = 1, x = 1 of side 2, which is 0 1 / 3 257
    ((1,),     255, [[0, 1], [0, 0]]),
    ((1, 3),   255, [[0, 1], [1, 0]]),      # 257 is not class 1
    ((1, 3),   3,   [[0, 1], [3, 0]]),      # ignored before it is small
    ((1, 3),   0,   [[0, 1], [1, 0]]),
    ((1, 3),   1,   [[0, 1], [1, 0]]),
]
# fmt: on


@pytest.mark.parametrize(("classes", "ignore_index", "target"), TABLE)
def test_table(backend: str, device: str, classes: Any, ignore_index: int, target: Any) -> None:
    labels = torch.tensor([LABELS], dtype=torch.int32, device=device)
    windows = windows_of([[(1, 1)]], 2, 2, device)
    got = ops.extract_targets(labels, windows, classes, ignore_index=ignore_index, backend=backend)
    assert got.dtype == torch.uint8
    assert got[0].tolist() == target
    # An unused slot has nothing to learn from.
    assert got[1].tolist() == [[ignore_index] * 2] * 2


@pytest.mark.parametrize("sample", samples.of(OP), ids=str)
def test_loops(backend: str, device: str, sample: Sample) -> None:
    labels, windows, classes = sample.args()
    want = oracles.extract_targets(
        labels.numpy(), windows.origins.numpy(), windows.num.numpy(), windows.window, classes,
        **sample.options,
    )  # fmt: skip
    got = call(OP, sample, backend, device)
    assert got.dtype == torch.uint8
    assert (got.numpy() == want).all()


@pytest.mark.parametrize("name", ["uint8", "int64-ignore-100"])
def test_repeatable(backend: str, device: str, name: str, threads: Any) -> None:
    assert_repeatable(OP, samples.get(OP, name), backend, device, threads)


MAP = torch.zeros(2, 8, 10, dtype=torch.uint8)
GOOD = windows_of([[(0, 0)], [(1, 1)]], 4)
V, T = ValueError, TypeError
# fmt: off
BAD = [ # labels, classes, options, exception, message
    (MAP.float(), (1,), {}, T, r"labels must be .*got .*float32"),
    (MAP.bool(), (1,), {}, T, r"labels must be .*got .*bool"),
    (MAP[0], (1,), {}, V, r"labels .*must be \[B, H, W\], got .*\(8, 10\)"),
    (MAP[:1], (1,), {}, V, r"windows must be of as many images.*B=1"),
    (MAP[:, :3], (1,), {}, V, r"window must be in 1\.\.H, got 4 for H=3"),
    (MAP, (), {}, V, r"small_classes must not be empty"),
    (MAP, (2, 2), {}, V, r"small_classes must not repeat"),
    (MAP, (300,), {}, V, r"small_classes must be in 0\.\.255, got 300"),
    (MAP, (1,), {"ignore_index": 256}, V, r"ignore_index must be in 0\.\.255, got 256"),
    (MAP, (1,), {"ignore_index": -100}, V, r"ignore_index must be in 0\.\.255, got -100"),
    (MAP, (1,), {"ignore_index": 1.0}, T, r"ignore_index must be an integer, got 1\.0"),
]
# fmt: on


@pytest.mark.parametrize(
    ("labels", "classes", "options", "error", "message"),
    BAD,
    ids=[f"{i}-{b[4][:24]}" for i, b in enumerate(BAD)],
)
def test_bad_input(
    labels: torch.Tensor, classes: Any, options: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=rf"^{OP}: {message}"):
        ops.extract_targets(labels, GOOD, classes, **options)
