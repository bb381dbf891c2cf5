"""select_windows: hand-picked windows, the loop oracle, every backend against the reference."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from availability import need
from compare import assert_labels, assert_repeatable, call
from properties import for_any_data, st

from c2fcore import Windows, ops
from c2fcore.testing import samples, tolerances
from c2fcore.testing.agree import assert_agrees
from c2fcore.testing.samples import Sample
from c2fcore.testing.samples.inputs import label_map

OP = "select_windows"
pytestmark = pytest.mark.usefixtures("poison")

# Two rows; window 2, so window i covers columns i and i + 1, and counts per column decide:
COLUMNS = [2, 2, 0, 1, 1, 0, 1]  # window counts 4, 2, 1, 2, 1, 1
# fmt: off
TABLE = [  # strategy, n, stride, edge, min_pixels -> [(x, count)]
    ("top",   3, 1, "flush", 1, [(0, 4), (1, 2), (3, 2)]),   # ties: lower index first
    ("top",   2, 1, "flush", 1, [(0, 4), (1, 2)]),
    ("top",   9, 1, "flush", 1, [(0, 4), (1, 2), (3, 2), (2, 1), (4, 1), (5, 1)]),
    ("top",   9, 1, "flush", 2, [(0, 4), (1, 2), (3, 2)]),
    ("top",   9, 2, "flush", 1, [(0, 4), (2, 1), (4, 1), (5, 1)]),
    ("top",   9, 2, "drop",  1, [(0, 4), (2, 1), (4, 1)]),
    ("cover", 9, 1, "flush", 1, [(0, 4), (3, 2), (5, 1)]),   # counts are new pixels
    ("cover", 2, 1, "flush", 1, [(0, 4), (3, 2)]),
    ("cover", 9, 1, "flush", 2, [(0, 4), (3, 2)]),
    ("cover", 9, 1, "flush", 5, []),
    ("cover", 9, 2, "flush", 1, [(0, 4), (2, 1), (4, 1), (5, 1)]),
    ("cover", 9, 2, "drop",  1, [(0, 4), (2, 1), (4, 1)]),
    ("all",   9, 1, "flush", 1, [(0, 4), (2, 1), (4, 1), (5, 1)]),  # stride is k; raster order
    ("all",   9, 1, "drop",  1, [(0, 4), (2, 1), (4, 1)]),
    ("all",   2, 1, "drop",  1, [(0, 4), (2, 1)]),           # the first n are kept
    ("all",   9, 5, "drop",  2, [(0, 4)]),
]
# fmt: on


@pytest.mark.parametrize(("strategy", "n", "stride", "edge", "min_pixels", "chosen"), TABLE)
def test_table(
    backend: str,
    device: str,
    strategy: str,
    n: int,
    stride: int,
    edge: str,
    min_pixels: int,
    chosen: list[tuple[int, int]],
) -> None:
    rows = [[int(c >= 1) for c in COLUMNS], [int(c >= 2) for c in COLUMNS]]
    seg = torch.tensor([rows], dtype=torch.uint8, device=device)
    got = ops.select_windows(
        seg, (1,), window=2, stride=stride, n=n, strategy=strategy, min_pixels=min_pixels,
        edge=edge, backend=backend,
    )  # fmt: skip
    unused = n - len(chosen)
    assert got.origins[0].tolist() == [[0, x] for x, _ in chosen] + [[0, 0]] * unused
    assert got.counts[0].tolist() == [count for _, count in chosen] + [0] * unused
    assert got.num.tolist() == [len(chosen)]
    assert got.window == 2
    assert {t.dtype for t in got[:3]} == {torch.int32}


def test_cover_is_the_default_and_origins_are_y_x(backend: str, device: str) -> None:
    seg = torch.zeros(1, 12, 20, dtype=torch.uint8, device=device)
    seg[0, 8:12, 16:20] = 1
    seg[0, 0:3, 4:8] = 1
    got = ops.select_windows(seg, (1,), window=4, stride=4, n=3, backend=backend)
    assert got.origins[0].tolist() == [[8, 16], [0, 4], [0, 0]]
    assert got.counts[0].tolist() == [16, 12, 0]


def test_cover_is_exact_to_the_pixel(backend: str, device: str) -> None:
    """Windows that share half of their area: the second counts only what is new, to the pixel, on a
    grid whose stride shares no cell size with the window."""
    seg = torch.zeros(1, 7, 12, dtype=torch.uint8, device=device)
    seg[0, :, 2:7] = 1  # window 7 at x = 0 has 35 of them, at x = 5 (flush) 14, at x = 3 28
    got = ops.select_windows(seg, (1,), window=7, stride=3, n=4, backend=backend)
    assert got.counts[0].tolist() == [35, 0, 0, 0]
    seg[0, 3, 9] = 1  # seen by x = 3 and x = 5
    got = ops.select_windows(seg, (1,), window=7, stride=3, n=4, backend=backend)
    assert got.origins[0, :2].tolist() == [[0, 0], [0, 3]]
    assert got.counts[0].tolist() == [35, 1, 0, 0]


@cache
def _expected(name: str) -> oracles.Chosen:
    sample = samples.get(OP, name)
    seg, classes = sample.args()
    options = dict(sample.options)
    labels, _ = oracles.labels_of(seg.numpy(), options.pop("size", None))
    return oracles.select_windows(labels, classes, **options)


@pytest.mark.parametrize("sample", [s for s in samples.of(OP) if s.loops], ids=str)
def test_loops(backend: str, device: str, sample: Sample) -> None:
    want = _expected(sample.name)
    got = call(OP, sample, backend, device)
    np.testing.assert_array_equal(got.num.numpy(), want.num)
    np.testing.assert_array_equal(got.counts.numpy(), want.counts)
    np.testing.assert_array_equal(got.origins.numpy(), want.origins)


@pytest.mark.parametrize("sample", samples.of(OP), ids=str)
def test_same_as_reference(backend: str, device: str, sample: Sample) -> None:
    want = call(OP, sample, "reference")
    assert_agrees(OP, sample, call(OP, sample, backend, device), want)


@pytest.mark.parametrize(
    "name",
    [f"{s}-{m}" for s in ("top", "cover", "all") for m in ("large", "logits-blobs", "scattered")],
)
def test_repeatable(backend: str, device: str, name: str, threads: Any) -> None:
    assert_repeatable(OP, samples.get(OP, name), backend, device, threads)


@pytest.mark.parametrize("strategy", ["top", "cover", "all"])
def test_images_at_once_meet_nowhere(strategy: str, threads: Any) -> None:
    """Each is chosen from in its thread's own memory."""
    need("cpu", OP)
    seg = label_map(8, 120, 130, seed=3)
    options: dict[str, Any] = {"window": 9, "stride": 1, "n": 60, "strategy": strategy}
    threads(4)
    found = ops.select_windows(seg, (1, 2), **options, backend="cpu")
    for b in range(8):
        alone = ops.select_windows(seg[b : b + 1], (1, 2), **options, backend="reference")
        assert torch.equal(found.origins[b], alone.origins[0])
        assert torch.equal(found.counts[b], alone.counts[0])


@for_any_data(30)
def test_choices_of_any_geometry(backend: str, device: str, data: st.DataObject) -> None:
    """Windows lie inside; top is sorted; cover adds up; no window left adds more."""
    height, width = data.draw(st.integers(1, 32)), data.draw(st.integers(1, 32))
    window = data.draw(st.integers(1, min(height, width)))
    stride = data.draw(st.integers(1, 20))
    n = data.draw(st.integers(1, 12))
    least = data.draw(st.integers(1, 4))
    edge = data.draw(st.sampled_from(("flush", "drop")))
    density = data.draw(st.sampled_from((0.0, 0.02, 0.3, 1.0)))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    small = torch.rand((1, height, width), generator=g) < density
    options: dict[str, Any] = {"window": window, "stride": stride, "edge": edge}
    seg = small.to(device, torch.int32)
    grid = ops.count_windows(small.int(), (1,), **options, backend="reference").flatten()
    top = _select(seg, n, "top", least, options, backend)
    best = grid[grid >= least].sort(descending=True).values[:n]
    assert top.counts[0, : len(best)].tolist() == best.tolist()
    assert int(top.num) == len(best)
    cover = _select(seg, n, "cover", least, options, backend)
    used = int(cover.num)
    gains = cover.counts[0, :used].tolist()
    assert gains == sorted(gains, reverse=True)
    assert all(gain >= least for gain in gains)
    rest = small.clone()
    for y, x in cover.origins[0, :used].tolist():
        assert 0 <= y <= height - window
        assert 0 <= x <= width - window
        rest[0, y : y + window, x : x + window] = False
    assert sum(gains) == int(small.sum() - rest.sum())
    left = int(ops.count_windows(rest.int(), (1,), **options, backend="reference").max())
    assert left < least if used < n else left <= gains[-1]
    for picked in (top, cover):
        assert not picked.origins[0, int(picked.num) :].any()
        assert not picked.counts[0, int(picked.num) :].any()


def _select(
    seg: torch.Tensor, n: int, strategy: str, least: int, options: dict[str, Any], backend: str
) -> Windows:
    picked: Windows = ops.select_windows(
        seg, (1,), n=n, strategy=strategy, min_pixels=least, **options, backend=backend
    )
    return picked


def test_labels_for_the_pipeline(backend: str, device: str) -> None:
    """The private extra answer: the argmax labels the counts were taken from."""
    for name in ("cover-logits-x4", "top-logits-x4", "all-logits-x4"):
        sample = samples.get(OP, name)
        seg, classes = sample.args(device)
        windows, labels = ops.select_windows(
            seg, classes, **sample.options, _return_labels=True, backend=backend
        )
        want, _ = oracles.labels_of(seg.cpu().numpy(), sample.options["size"])
        assert labels.dtype == torch.uint8
        assert (labels.cpu().numpy() == want).all()
        np.testing.assert_array_equal(windows.counts.cpu(), _expected(name).counts)


@pytest.mark.parametrize(
    "name",
    [
        *("special-x4-16-classes-float16", "special-x4-40-classes", "blobs-wide", "blobs-x2-wide"),
        *("special-own-size-132-float16", "noise-own-size", "every-class-own-size"),
    ],
)
def test_labels_of_large_maps(backend: str, device: str, name: str) -> None:
    """Whole words of labels and single ones; cells that agree, and pixels between classes.

    Windows of 7 begin tiles of the cuda backend within a word.
    """
    sample = samples.get("count_windows", name)
    seg, classes = sample.args(device)
    options = {**sample.options, "window": 7, "stride": 7, "n": 4, "_return_labels": True}
    options["edge"] = "drop"  # the last rows and columns are in no window
    _, labels = ops.select_windows(seg, classes, **options, backend=backend)
    size = sample.options.get("size", seg.shape[2:])
    want, margin = oracles.labels_of(seg.cpu().float().numpy(), size)
    tolerance = -1.0 if sample.exact else tolerances.logit_margin(seg.cpu())
    close = torch.from_numpy(margin.astype(float) <= tolerance)
    assert close.float().mean() < 0.01
    assert_labels(labels.cpu(), torch.from_numpy(want.astype(np.uint8)), close)


LABELS = torch.zeros(1, 8, 10, dtype=torch.uint8)
V, T = ValueError, TypeError
# fmt: off
BAD = [ # options that differ from a good call, exception, message
    ({"n": 0}, V, r"n must be at least 1, got 0"),
    ({"n": -1}, V, r"n must be at least 1, got -1"),
    ({"n": 1.0}, T, r"n must be an integer, got 1\.0"),
    ({"min_pixels": 0}, V, r"min_pixels must be at least 1, got 0"),
    ({"min_pixels": "1"}, T, r"min_pixels must be an integer, got '1'"),
    ({"strategy": "best"}, V, r"strategy must be one of .*'cover'.*got 'best'"),
    ({"window": 9}, V, r"window must be in 1\.\.H, got 9 for H=8"),
    ({"window": 9, "strategy": "all"}, V, r"window must be in 1\.\.H, got 9 for H=8"),
    ({"stride": 0}, V, r"stride must be at least 1, got 0"),
    ({"edge": None}, V, r"edge must be one of 'flush', 'drop', got None"),
    ({"small_classes": (3, 3)}, V, r"small_classes must not repeat"),
    ({"size": (9, 10)}, V, r"size must be .*got \(9, 10\)"),
    ({"backend": "avx"}, V, r"backend must be one of .*got 'avx'"),
]
# fmt: on


@pytest.mark.parametrize(("changes", "error", "message"), BAD, ids=[b[2][:24] for b in BAD])
def test_bad_input(changes: dict[str, Any], error: Any, message: str) -> None:
    options = {"small_classes": (1,), "window": 4, "stride": 2, "n": 2, **changes}
    with pytest.raises(error, match=rf"^{OP}: {message}"):
        ops.select_windows(LABELS, options.pop("small_classes"), **options)


def test_windows_whose_count_would_not_fit() -> None:
    seg = torch.empty(1, 46341, 46341, dtype=torch.uint8, device="meta")
    assert ops.select_windows(seg, (1,), window=46340, stride=1, n=2).num.shape == (1,)
    with pytest.raises(ValueError, match=rf"^{OP}: window must be at most 46340 .*, got 46341"):
        ops.select_windows(seg, (1,), window=46341, stride=1, n=2)


def test_windows_that_a_key_cannot_number(backend: str, device: str) -> None:
    if backend != "cpu":
        pytest.skip("a limit of the cpu backend")
    seg = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(1, 65537, 65537)
    with pytest.raises(ValueError, match=r"^select_windows: .* at most 2\^32 .*got 4295098369"):
        ops.select_windows(seg, (1,), window=1, stride=1, n=2, strategy="top", backend=backend)


def test_bad_dtype() -> None:
    with pytest.raises(TypeError, match=rf"^{OP}: seg must be .*got torch.float64"):
        ops.select_windows(LABELS[None].double(), (1,), window=4, stride=2, n=2)
