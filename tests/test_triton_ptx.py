"""The compiled Triton kernels, executed without a GPU: answers, memory accesses, races.

Most samples of counting and of patches always run, and a few of the others, for sm_90: quicker than
in the interpreter, the more so where they are compiled already. C2F_TRITON_GRID=all runs every
sample of every op, C2F_SEEDS=FIRST:END those drawn from seeds besides, C2F_TRITON_SM=80 for another
architecture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import compare
import numpy as np
import pytest
import torch
from compare import drawn
from glue_inputs import Glue
from like_reference import assert_like_reference
from ptx_machine import Fault
from triton_cases import take_route
from triton_compiled import Executed
from triton_instructions import CHECKS

from c2fcore import Windows, _backend, _triton, ops
from c2fcore.testing import samples
from c2fcore.testing.agree import assert_agrees, assert_rare
from c2fcore.testing.samples import Sample
from c2fcore.testing.samples.inputs import blob_logits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_triton.interpreted(), reason="the interpreter replaces the compiler"),
    pytest.mark.skipif(bool(_triton.unfit()), reason=_triton.unfit()),
]

SM = int(os.environ.get("C2F_TRITON_SM", "90"))
# By name, or all but those that take longest, whose names hold one of these.
SOME = {
    "select_windows": (
        *("cover-odd-grid", "top-n-over-windows", "all-checkers", "cover-logits-x4"),
        *("top-300-columns", "cover-300-rows", "cover-36-bins"),
    ),
    "extract_targets": ("ignore-is-small",),
    "aggregate": (
        *("paper-labels-two-channels", "normalized-probs-overlaps", "official-labels-one-channel"),
        *("normalized-labels-nan-inf-fine", "bfloat16-probs", "every-16th-probs", "many-windows"),
    ),
}
NOT = {
    "count_windows": ("256-classes", "blobs", "noise", "every-class-x2"),
    "extract_patches": ("large",),
}
ALL = os.environ.get("C2F_TRITON_GRID") == "all"


def _chosen(op: str) -> list[Sample]:
    listed = samples.of(op)
    if ALL:
        return listed
    if op in SOME:
        return [samples.get(op, name) for name in SOME[op]]
    return [s for s in listed if not any(part in s.name for part in NOT[op])]


CASES = [(op, sample) for op in samples.OPS for sample in _chosen(op)]
# These have products and fields of 64 bits.
CASES += [(op, samples.drawn(op, seed)) for op, seed in (("select_windows", 11), ("aggregate", 22))]
CASES += [(op, sample) for op in samples.OPS for sample in drawn(op, range(0))]


@pytest.fixture(scope="module")
def executed() -> Executed:
    return Executed(SM)


@pytest.fixture
def machine(executed: Executed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executed]:
    """Backend "triton" runs on CPU tensors, by the machine."""
    monkeypatch.setattr(_triton, "interpreted", lambda: True)  # takes CPU tensors
    for op in (*samples.OPS, "extract_patches_backward"):
        monkeypatch.setitem(_backend._missing, (op, "triton"), "")
    from c2fcore.kernels.triton import _launch

    monkeypatch.setattr(_launch.Launch, "run", lambda self: executed.run(self))
    executed.races.clear()
    yield executed
    _triton.missing.cache_clear()


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("op", "sample"), CASES, ids=[f"{op}-{s}" for op, s in CASES])
def test_compiled_sample(machine: Executed, op: str, sample: Sample) -> None:
    assert_like_reference(op, sample, "triton")
    assert not machine.races


# Paths that the sample lists are too small to take.


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("name", ["cover-flush-overlaps-1-px", "top-primes-drop"])
@pytest.mark.parametrize("route", ["many", "few-wide-keys", "many-wide-keys"])
def test_other_routes_of_selection(
    machine: Executed, name: str, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_route(route, monkeypatch)
    sample = samples.get("select_windows", name)
    want = compare.call("select_windows", sample, "reference")
    assert_agrees("select_windows", sample, compare.call("select_windows", sample, "triton"), want)
    assert not machine.races


def test_lanes_lie_along_rows_of_many_windows() -> None:
    """Across them, a load would take 32 passes through the memory pipe: ten times more in all."""
    from c2fcore.kernels.triton._select_many import plan_many
    from c2fcore.kernels.triton._window_grid import make_axis

    axis = make_axis(3000, 128, 32, True, 32)
    taken, found, num = (torch.zeros(k, dtype=torch.int32) for k in (6, 3, 1))
    args = {
        "bins_ptr": torch.ones(axis.bins**2, dtype=torch.int32),
        **{"origins_ptr": taken, "counts_ptr": found, "num_ptr": num},
        **{"n": 3, "min_pixels": 1, "window": 128, "grid_y": axis, "grid_x": axis},
    }

    def scratch(_: str, dtype: torch.dtype, numel: int) -> torch.Tensor:
        return torch.empty(numel, dtype=dtype)

    counted = Executed(SM, watched=False)
    counted.run(plan_many(args, 1, axis, axis, 128, True, scratch))
    assert num.item() == 3
    assert counted.passes < counted.issued / 2


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("width", [32, 128])
def test_whole_glue(machine: Executed, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the labels handed over, which merging edits in place; also in wide tiles."""
    from c2fcore.kernels.triton import _cell_counts

    monkeypatch.setattr(_cell_counts, "tile_width", lambda *_: width)
    glue = Glue(128, device="cpu", dtype=torch.float16)
    windows, patches, merged = glue.run("triton")
    wanted = glue.run("reference")
    assert torch.equal(windows.origins, wanted[0].origins)
    assert (patches - wanted[1]).abs().max() < 0.03  # a step of bfloat16 at 2.6
    assert_rare(merged != wanted[2])
    assert not machine.races


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize(("size", "stride"), [((48, 416), 32), ((43, 411), 9)])
def test_labels_of_wide_tiles(
    machine: Executed,
    size: tuple[int, int],
    stride: int,
    by_row: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four labels a store, or one; in a second step, and in a second tile."""
    from c2fcore.kernels.triton import _cell_counts

    monkeypatch.setattr(_cell_counts, "tile_width", lambda *_: 384)
    if by_row:
        _rows_of(384, monkeypatch)
    seg = blob_logits(1, 3, 12, 104, seed=1)
    options: dict[str, Any] = {"size": size, "window": 10, "stride": stride}
    (want, want_labels), (got, labels) = (
        ops.select_windows(seg, (1,), n=4, **options, backend=backend, _return_labels=True)
        for backend in ("reference", "triton")
    )
    assert torch.equal(got.origins, want.origins)
    assert torch.equal(got.counts, want.counts)
    assert_rare(labels != want_labels)
    assert not machine.races


def _rows_of(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are gone over row by row in every tile that is one row of bins."""
    from c2fcore.kernels.triton import _cell_counts

    monkeypatch.setattr(_cell_counts, "ROW_PX", 1)
    monkeypatch.setattr(_cell_counts, "row_width", lambda *_: width)


MERGED_IN_ROWS = (
    *("paper-labels-nan-inf-coarse", "normalized-labels-overlaps", "official-labels-blobs"),
    *("paper-labels-num-0", "wide", "wide-official-float16", "wide-odd-sizes", "bfloat16-labels"),
    *("strided-labels", "odd-ratio", "many-classes", "256-classes", "planar-odd-start-labels"),
    *("wide-channels_last", "channels_last-of-8-labels", "channels_last-odd-1-labels"),
)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("width", [36, 480])
@pytest.mark.parametrize("name", MERGED_IN_ROWS)
def test_labels_of_a_launch_of_their_own(
    machine: Executed, name: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in several tiles of a row: 36 pixels, of which the last ones are fewer."""
    from c2fcore.kernels.triton import aggregate as module

    monkeypatch.setattr(module, "row_width", lambda *_: width)
    sample = samples.get("aggregate", name)
    want = compare.call("aggregate", sample, "reference")
    assert_agrees("aggregate", sample, compare.call("aggregate", sample, "triton"), want)
    assert not machine.races


IN_ROWS = (
    *("special-x4-16-classes-float32", "special-x4-7-classes-float16", "special-x4-40-classes"),
    *("special-x4-16-classes-bfloat16", "blobs-wide", "blobs-x2-wide", "noise-ratio-3.7"),
    *("special-x4-channels_last-float16", "channels_last-of-8-x2", "channels_last-odd-0-x2"),
)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("name", samples.of("count_windows") if ALL else IN_ROWS, ids=str)
def test_cells_row_by_row(machine: Executed, name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _rows_of(480, monkeypatch)
    sample = name if isinstance(name, Sample) else samples.get("count_windows", name)
    want = compare.call("count_windows", sample, "reference")
    assert_agrees("count_windows", sample, compare.call("count_windows", sample, "triton"), want)
    assert not machine.races


def _fma(x: Any, y: Any, z: Any) -> Any:
    exact = x.astype(np.longdouble) * y.astype(np.longdouble) + z.astype(np.longdouble)
    return exact.astype(np.float32)


def test_classes_left_out_of_mixed_cells_lose_by_rounding_too(machine: Executed) -> None:
    """All logits of a place are within two units of their last digit: every class counts."""
    generator = torch.Generator().manual_seed(0)
    rise = 1000 + 500 * torch.rand(1, 1, 24, 32, generator=generator)
    steps = torch.randint(-1, 2, (1, 5, 24, 32), generator=generator, dtype=torch.int32)
    seg = (rise.view(torch.int32) + steps).view(torch.float32)
    options: dict[str, Any] = {"size": (96, 128), "window": 8, "stride": 8, "n": 4}
    _, labels = ops.select_windows(seg, (0,), backend="triton", _return_labels=True, **options)
    # Every class evaluated, with the kernels' own rounding.
    at = np.maximum((np.arange(128, dtype=np.float32) + 0.5) / 4 - 0.5, 0).astype(np.float32)
    first, weight = at.astype(int), (at - at.astype(int)).astype(np.float32)
    y, x = first[:96], first
    below, beside = np.minimum(y + 1, 23), np.minimum(x + 1, 31)
    wy, wx, p = weight[:96, None], weight, seg[0].numpy()
    top = _fma(p[:, y][:, :, beside], wx, p[:, y][:, :, x] * (1 - wx))
    bottom = _fma(p[:, below][:, :, beside], wx, p[:, below][:, :, x] * (1 - wx))
    want = _fma(bottom, wy, top * (1 - wy)).argmax(0)
    best = p.argmax(0)
    corners = [best[rows][:, columns] for rows in (y, below) for columns in (x, beside)]
    mixed = np.stack(corners).min(0) != np.stack(corners).max(0)
    assert mixed.mean() > 0.5
    assert (labels[0].numpy() == want)[mixed].all()


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("rule", ["paper", "official"])
def test_scores_of_classes_in_blocks(machine: Executed, rule: str) -> None:
    generator = torch.Generator().manual_seed(1)
    coarse = 2 * torch.randn(1, 40, 5, 6, generator=generator)
    fine = 2 * torch.randn(2, 2, 4, 4, generator=generator)
    origins = torch.tensor([[(0, 0), (7, 9)]], dtype=torch.int32)
    windows = Windows(origins, torch.ones(1, 2).int(), torch.tensor([2], dtype=torch.int32), 8)
    options: dict[str, Any] = {"size": (17, 21), "rule": rule, "output": "probs"}
    want, got = (
        ops.aggregate(coarse, fine, windows, (3, 38), **options, backend=backend)
        for backend in ("reference", "triton")
    )
    assert_rare(((got - want).abs() > 1e-5).any(1))
    assert not machine.races


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_backward(machine: Executed, mode: str) -> None:
    image = torch.randn(1, 3, 40, 44, generator=torch.Generator().manual_seed(0))
    origins = torch.tensor([[(0, 0), (5, 9), (24, 28)]], dtype=torch.int32)
    windows = Windows(origins, torch.ones(1, 3).int(), torch.tensor([3], dtype=torch.int32), 16)
    found = []
    for backend in ("reference", "triton"):
        leaf = image.clone().requires_grad_()
        patches = ops.extract_patches(leaf, windows, zoom=1.5, mode=mode, backend=backend)
        patches.backward(torch.linspace(-1, 1, patches.numel()).view_as(patches))
        found.append(leaf.grad)
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)
    assert not machine.races


def _probe(executed: Executed, kernel: Any, *arguments: Any, **constants: int) -> None:
    from c2fcore.kernels.triton._launch import Launch

    names = [p.name for p in kernel.params if not p.is_constexpr]
    executed.run(Launch(kernel, 1, dict(zip(names, arguments, strict=True)), constants, 4))


@pytest.mark.parametrize("check", CHECKS)
def test_instructions(executed: Executed, check: Any) -> None:
    check(lambda *args, **constants: _probe(executed, *args, **constants))


def test_a_missing_barrier_is_seen(executed: Executed) -> None:
    from triton_probes import reversed_kernel

    for barrier in (True, False):
        executed.races.clear()
        scratch, out = torch.zeros(2, 512, dtype=torch.int32).unbind()
        _probe(executed, reversed_kernel, scratch, out, BLOCK=512, BARRIER=barrier)
        assert bool(executed.races) is not barrier
        assert out.tolist() == list(range(511, -1, -1)) or not barrier


def test_memory_of_others_is_not_touched(executed: Executed) -> None:
    from triton_probes import reversed_kernel

    scratch, out = torch.zeros(512, dtype=torch.int32), torch.zeros(511, dtype=torch.int32)
    with pytest.raises(Fault, match=r"global address 0x.* is outside, thread \d+ of block 0"):
        _probe(executed, reversed_kernel, scratch, out, BLOCK=512, BARRIER=True)
