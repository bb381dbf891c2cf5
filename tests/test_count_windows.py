"""count_windows: hand-counted tables, the loop oracle, every backend against the reference."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from compare import assert_repeatable, call
from properties import for_any_data, st

from c2fcore import ops
from c2fcore.testing import samples, tolerances
from c2fcore.testing.agree import assert_agrees
from c2fcore.testing.samples import Sample

OP = "count_windows"
pytestmark = pytest.mark.usefixtures("poison")

MAP = [
    [1, 0, 0, 2, 0, 1],
    [0, 1, 0, 2, 2, 0],
    [0, 0, 0, 0, 1, 1],
    [3, 1, 0, 0, 1, 0],
]
# fmt: off
TABLE = [  # classes, window, stride, edge, counts
    ((1,),         2, 2, "flush", [[2, 0, 1], [1, 0, 3]]),
    ((1,),         2, 2, "drop",  [[2, 0, 1], [1, 0, 3]]),
    ((1, 2),       2, 2, "flush", [[2, 2, 2], [1, 0, 3]]),
    ((1,),         2, 3, "flush", [[2, 0, 1], [1, 2, 3]]),  # rows 0, 2; columns 0, 3, 4
    ((1,),         2, 3, "drop",  [[2, 0]]),                # row 0; columns 0, 3
    ((1,),         3, 2, "flush", [[2, 1, 3], [2, 2, 3]]),  # rows 0, 1; columns 0, 2, 3
    ((1,),         3, 2, "drop",  [[2, 1]]),
    ((1,),         4, 1, "flush", [[3, 4, 4]]),
    ((0, 1, 2, 3), 4, 2, "flush", [[16, 16]]),
    ((7,),         4, 2, "flush", [[0, 0]]),
    ((3,),         1, 3, "flush", [[0, 0, 0], [1, 0, 0]]),  # stride over the window
    ((1,),         1, 9, "flush", [[1, 1], [0, 0]]),        # stride over the image: first and last
    ((1,),         1, 9, "drop",  [[1]]),
]
# fmt: on


@pytest.mark.parametrize(("classes", "window", "stride", "edge", "counts"), TABLE)
def test_table(
    backend: str, device: str, classes: Any, window: int, stride: int, edge: str, counts: Any
) -> None:
    seg = torch.tensor([MAP], dtype=torch.uint8, device=device)
    got = ops.count_windows(seg, classes, window=window, stride=stride, edge=edge, backend=backend)
    assert got.dtype == torch.int32
    assert got[0].tolist() == counts


# fmt: off
NAN, INF = float("nan"), float("inf")
PIXELS = [  # logits of one pixel, its label
    ([0.0, 1.0, 2.0],       2),
    ([2.0, 2.0, 1.0],       0),  # the lowest class wins a tie
    ([1.0, 2.0, 2.0],       1),
    ([0.0, -0.0, 0.0],      0),
    ([NAN, 1.0, 2.0],       2),  # NaN counts as -inf
    ([NAN, -INF, -5.0],     2),
    ([NAN, -INF, -INF],     0),  # all -inf: class 0
    ([NAN, NAN, NAN],       0),
    ([-INF, -INF, -3e38],   2),
    ([INF, INF, 0.0],       0),
    ([1.0, NAN, INF],       2),
    ([1.0, 1.0000001, 1.0], 1),  # one ulp apart
]
# fmt: on


@pytest.mark.parametrize(("logits", "label"), PIXELS)
def test_label_of_a_pixel(backend: str, device: str, logits: list[float], label: int) -> None:
    seg = torch.tensor(logits, device=device).view(1, 3, 1, 1)
    got = [int(ops.count_windows(seg, (c,), window=1, stride=1, backend=backend)) for c in range(3)]
    assert got == [int(c == label) for c in range(3)]


def test_logits_first_argmax_after(backend: str, device: str) -> None:
    """Between corners of classes 0 and 2, class 1 wins: no label map at low resolution has it."""
    seg = torch.tensor([[4.0, 0.0], [3.0, 3.0], [0.0, 4.0]], device=device).view(1, 3, 1, 2)
    # x4 in x: weights of the right corner 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1. Classes 0, 1, 2 have
    # 4 - 4w, 3, 4w: class 1 wins for 1/4 < w < 3/4.
    got = ops.count_windows(seg, (1,), window=1, stride=1, size=(1, 8), backend=backend)
    assert got[0].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0]]


@cache
def _expected(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Oracle counts of a sample, and which windows hold a pixel too close to call."""
    sample = samples.get(OP, name)
    seg, classes = sample.args()
    options = dict(sample.options)
    labels, margin = oracles.labels_of(_numpy(seg), options.pop("size", None))
    counts = oracles.count_windows(labels, classes, **options)
    tolerance = 0.0 if sample.exact else tolerances.logit_margin(seg)
    close = np.zeros(labels.shape, int) if sample.exact else (margin <= tolerance).astype(int)
    return counts, oracles.count_windows(close, (1,), **options) > 0


def _numpy(x: torch.Tensor) -> np.ndarray:
    return (x.float() if x.dtype.is_floating_point else x).numpy()


@pytest.mark.parametrize("sample", [s for s in samples.of(OP) if s.loops], ids=str)
def test_loops(backend: str, device: str, sample: Sample) -> None:
    counts, excused = _expected(sample.name)
    got = call(OP, sample, backend, device).numpy()
    assert got.dtype == np.int32
    assert got.shape == counts.shape
    assert (got == counts)[~excused].all()
    assert excused.mean() < 0.05 if excused.size else True


@pytest.mark.parametrize("sample", samples.of(OP), ids=str)
def test_same_as_reference(backend: str, device: str, sample: Sample) -> None:
    want = call(OP, sample, "reference")
    assert_agrees(OP, sample, call(OP, sample, backend, device), want)


REPEATED = (
    *("primes-flush", "blobs-x4", "noise-x4", "noise-own-size", "noise-ratio-3.7"),
    "over-65535-pixels",  # bytes are added up for 255 rows: by one thread there are more
)


@pytest.mark.parametrize("name", REPEATED)
def test_repeatable(backend: str, device: str, name: str, threads: Any) -> None:
    assert_repeatable(OP, samples.get(OP, name), backend, device, threads)


@for_any_data(30)
def test_counts_of_any_geometry(backend: str, device: str, data: st.DataObject) -> None:
    """A class set and its complement fill the window; disjoint windows sum to the total."""
    height = data.draw(st.integers(1, 40))
    width = data.draw(st.integers(1, 40))
    window = data.draw(st.integers(1, min(height, width)))
    stride = data.draw(st.integers(1, 45))
    edge = data.draw(st.sampled_from(("flush", "drop")))
    seed = data.draw(st.integers(0, 1000))
    seg = torch.randint(0, 4, (1, height, width), generator=torch.Generator().manual_seed(seed)).to(
        device, torch.int16
    )
    geometry: dict[str, Any] = {"window": window, "stride": stride, "edge": edge}
    inside = ops.count_windows(seg, (1, 3), **geometry, backend=backend)
    outside = ops.count_windows(seg, (0, 2), **geometry, backend=backend)
    assert (inside + outside == window * window).all()
    ys = oracles.starts(height, window, stride, edge)
    xs = oracles.starts(width, window, stride, edge)
    assert inside.shape == (1, len(ys), len(xs))
    last = seg[0, ys[-1] : ys[-1] + window, xs[-1] : xs[-1] + window]
    assert inside[0, -1, -1] == ((last == 1) | (last == 3)).sum()
    disjoint: dict[str, Any] = {"window": window, "stride": window, "edge": "drop"}
    tiles = ops.count_windows(seg, (1, 3), **disjoint, backend=backend)
    fits = seg[0, : height // window * window, : width // window * window]
    assert tiles.sum() == ((fits == 1) | (fits == 3)).sum()


LOGITS = torch.zeros(1, 4, 8, 10)
LABELS = torch.zeros(1, 8, 10, dtype=torch.uint8)
VAST = torch.empty(1, 46341, 46341, dtype=torch.uint8, device="meta")
V, T = ValueError, TypeError
# fmt: off
BAD = [ # seg, options that differ from a good call, exception, message
    (LABELS, {"window": 9}, V, r"window must be in 1\.\.H, got 9 for H=8"),
    (LABELS.mT, {"window": 9}, V, r"window must be in 1\.\.W, got 9 for .*W=8"),
    (LABELS, {"window": 0}, V, r"window must be .*got 0"),
    (LABELS, {"window": -3}, V, r"window must be .*got -3"),
    (LABELS, {"window": 2.5}, T, r"window must be an integer, got 2\.5"),
    (LABELS, {"window": True}, T, r"window must be an integer, got True"),
    (VAST, {"window": 46341}, V, r"window must be at most 46340 .* fit int32, got 46341"),
    (LABELS, {"stride": 0}, V, r"stride must be at least 1, got 0"),
    (LABELS, {"stride": 1.5}, T, r"stride must be an integer, got 1\.5"),
    (LABELS, {"edge": "pad"}, V, r"edge must be one of 'flush', 'drop', got 'pad'"),
    (LABELS, {"small_classes": ()}, V, r"small_classes must not be empty"),
    (LABELS, {"small_classes": (1, 1)}, V, r"small_classes must not repeat, got .*\(1, 1\)"),
    (LABELS, {"small_classes": (256,)}, V, r"small_classes must be in 0\.\.255, got 256"),
    (LABELS, {"small_classes": (-1,)}, V, r"small_classes must be in 0\.\.255, got -1"),
    (LABELS, {"small_classes": (0.5,)}, T, r"small_classes must be an integer, got 0\.5"),
    (LABELS, {"small_classes": 3}, T, r"small_classes must be class ids.* 3"),
    (LOGITS, {"small_classes": (4,)}, V, r"small_classes must be in 0\.\.3, got 4"),
    (LABELS, {"size": (16, 20)}, V, r"size must be .*\(8, 10\).*got \(16, 20\)"),
    (LOGITS, {"size": (7, 20)}, V, r"size must not be below.*\(8, 10\), got .*\(7, 20\)"),
    (LOGITS, {"size": (16,)}, V, r"size must be \(H, W\), got"),
    (LOGITS, {"size": 16}, T, r"size must be \(H, W\), got 16"),
    (LOGITS, {"size": (16.5, 20)}, T, r"size must be .*got"),
    (LOGITS[0], {}, V, r"seg as logits must be \[B, N, h, w\], got .*\(4, 8, 10\)"),
    (LABELS[0], {}, V, r"seg as a label map must be \[B, H, W\], got .*\(8, 10\)"),
    (LABELS[None], {}, V, r"seg as a label map must be .*got shape \(1, 1, 8, 10\)"),
    (LOGITS[:, :0], {}, V, r"seg must have 1\.\.256 classes, got 0"),
    (LOGITS[:, :1].expand(1, 257, 8, 10), {}, V, r"seg must have 1\.\.256 classes, got 257"),
    (LOGITS[:, :, :0], {}, V, r"seg must have pixels"),
    (LABELS[:, :, :0], {}, V, r"seg must have pixels"),
    (LOGITS.double(), {}, T, r"seg must be .*got .*float64"),
    (LABELS.bool(), {}, T, r"seg must be .*got .*bool"),
    (LABELS.to(torch.int8), {}, T, r"seg must be .*got .*int8"),
    ([[1]], {}, T, r"seg must be .*got list"),
    (None, {}, T, r"seg must be .*got NoneType"),
    (LABELS, {"backend": "gpu"}, V, r"backend must be one of .*got 'gpu'"),
]
# fmt: on


@pytest.mark.parametrize(
    ("seg", "changes", "error", "message"), BAD, ids=[f"{i}-{b[3][:24]}" for i, b in enumerate(BAD)]
)
def test_bad_input(seg: Any, changes: dict[str, Any], error: Any, message: str) -> None:
    options = {"small_classes": (1,), "window": 4, "stride": 2, **changes}
    with pytest.raises(error, match=rf"^{OP}: {message}"):
        ops.count_windows(seg, options.pop("small_classes"), **options)


def test_options_are_keywords() -> None:
    with pytest.raises(TypeError, match="positional"):
        ops.count_windows(LABELS, (1,), 4, 2)  # type: ignore[misc]
