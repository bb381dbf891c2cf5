"""The Triton kernels in Triton's interpreter, on CPU tensors, in a process of its own.

The interpreter replaces parts of triton when that is first imported, so the ops' own test files are
run again in a new process with TRITON_INTERPRET=1; slow samples are left out. All of one op:

    TRITON_INTERPRET=1 pytest tests/test_count_windows.py --backend triton

Below that, tests of what only these kernels have; they run in the interpreter's process too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import call
from triton_cases import take_route
from triton_instructions import CHECKS
from window_axes import AXES

from c2fcore import Windows, _triton, ops, reference
from c2fcore.testing.samples import get
from c2fcore.testing.samples.inputs import blob_logits, grid_logits, laid_out
from c2fcore.windows import grid_origins

HERE = Path(__file__).parent
INTERPRETED = _triton.interpreted()

# What of an op's test file is run: something of everything. The rest of counting and of patches is
# executed as compiled, by test_triton_ptx.py, which is quicker and sees memory and races.
_QUICK = "(test_table or test_same_as_reference)"
SELECTION = {
    "count_windows": (
        "test_table or (test_same_as_reference and (nan-inf or x4-ties or flush-on or labels-int64 "
        "or f16-channels_last or own-size-36 or stride-1 or odd-ratio or wider-5 or 19-classes))"
    ),
    "select_windows": f"{_QUICK} and not (logits or large or mixed-batch or odd-grid or 300 or 36)",
    "extract_patches": (
        "(test_same_as_reference and (bicubic-zoom-1.5 or strided-zoom-2 or uint8-zoom-2 or primes "
        "or channels_last-f16 or num-0 or shrink)) or test_table or outside or num_beyond "
        "or (test_nan and not (0.5 or nearest or bicubic)) "
        "or (test_backward and dtype0 and (1.0 or nearest or 1.5-bilinear))"
    ),
    "extract_targets": "test_table or test_loops",
    "aggregate": (
        "test_merge_rule or half_is or averaged or outside or (test_same_as_reference and ("
        "paper-labels-two or paper-probs-one or normalized-probs-overlaps or official-labels-one "
        "or official-probs-fine or paper-labels-own or normalized-probs-own or paper-labels-num-0 "
        "or nan-inf-coarse or paper-labels-nan-inf-wider or paper-probs-nan-inf-taller "
        "or bfloat16-labels or channels_last-labels or empty-batch or fine-1x1)) "
        "or (test_labels_given and (same-window or paper-labels-nan-inf-fine or window-is-image))"
    ),
}

outside = pytest.mark.skipif(INTERPRETED, reason="starts the interpreter's process")
inside = pytest.mark.skipif(not INTERPRETED, reason="runs in the interpreter's process")


@outside
@pytest.mark.slow
def test_samples_and_this_file() -> None:
    """In one process: importing takes seconds."""
    triton = pytest.importorskip("triton")
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if reason := _triton.interpreter_broken(version):
        pytest.skip(reason)
    chosen = [f"(test_{op}.py and ({some}))" for op, some in SELECTION.items()]
    files = [__file__, *(str(HERE / f"test_{op}.py") for op in SELECTION)]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    command += ["--backend", "triton", "-k", " or ".join([Path(__file__).name, *chosen])]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "C2F_REQUIRE": "triton"}
    done = subprocess.run(
        command, cwd=HERE, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@outside
def test_kernels_are_not_imported_before_they_are_needed() -> None:
    code = (
        "import sys, c2fcore; c2fcore.backends(); "
        "assert 'c2fcore.kernels.triton' not in sys.modules or c2fcore._triton.missing() == ''"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=HERE)


@outside
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_reason_without_a_gpu() -> None:
    assert "no CUDA device" in _triton.missing() or "not installed" in _triton.missing()
    with pytest.raises(RuntimeError, match="backend 'triton' cannot run here"):
        ops.count_windows(
            torch.zeros(1, 4, 4, dtype=torch.uint8), (1,), window=2, stride=1, backend="triton"
        )


# Device functions.


@inside
@pytest.mark.parametrize(("size", "window", "stride", "flush", "tile"), AXES)
def test_bins_cut_where_windows_start_and_end(
    size: int, window: int, stride: int, flush: bool, tile: int
) -> None:
    from triton_probes import bins_kernel

    from c2fcore.kernels.triton._window_grid import make_axis

    axis = make_axis(size, window, stride, flush, tile)
    starts = torch.full((axis.bins + 1,), -1, dtype=torch.int32)
    of_pixel = torch.full((size,), -1, dtype=torch.int32)
    bins_kernel[(1,)](starts, of_pixel, axis, BLOCK=1 << (size + 1).bit_length())
    edges = axis.edges()
    assert starts.tolist() == edges
    assert edges[0] == 0
    assert edges == sorted(edges)
    pixels = torch.arange(size)
    assert torch.equal(of_pixel.long(), torch.searchsorted(starts[1:].long(), pixels, right=True))
    origins = grid_origins(size, window, stride, "flush" if flush else "drop")
    assert axis.windows == len(origins)
    for origin in origins:
        assert origin in edges
        assert origin + window in edges
        assert of_pixel[origin + window - 1] - of_pixel[origin] < axis.window_bins
    for first in range(0, axis.bins, axis.tile_bins):
        assert edges[min(first + axis.tile_bins, axis.bins)] - edges[first] <= axis.tile_px <= tile


@inside
@pytest.mark.parametrize("window", [1, 2, 127, 46340])
@pytest.mark.parametrize("stride", [1, 2, 3, 31, 127, 65536, 2**30 - 1])
def test_bins_of_the_longest_axis(window: int, stride: int) -> None:
    """No number of the last window wraps, nor one that comes up on the way to it."""
    from triton_probes import last_kernel

    from c2fcore.kernels.triton._launch import MOST_ALONG
    from c2fcore.kernels.triton._window_grid import make_axis

    for tile in (32, 480):
        axis = make_axis(MOST_ALONG, window, stride, True, tile)
        found = torch.empty(5, dtype=torch.int32)
        last_kernel[(1,)](found, window, axis)
        start, first, last, first_px, end_px = found.tolist()
        assert start == first_px == MOST_ALONG - window
        assert (last, end_px) == (axis.bins, MOST_ALONG)
        assert 0 <= first < last


@inside
@pytest.mark.parametrize("window", [5, 64, 193])
@pytest.mark.parametrize("flush", [True, False])
def test_bins_beside_the_first_of_a_tile(window: int, flush: bool) -> None:
    from triton_probes import beside_kernel

    from c2fcore.kernels.triton._window_grid import make_axis

    size, tile = 2999, 384
    for stride in (*range(1, 40), 63, 64, 96, 97, 127, 128, 191, 192):
        axis = make_axis(size, window, stride, flush, tile)
        assert axis.tile_bins > 1
        edges = torch.tensor(axis.edges())
        for tile_first in (0, axis.tile_bins, (axis.tiles.number - 1) * axis.tile_bins):
            first = int(edges[tile_first])
            found = torch.empty(512, dtype=torch.int32)
            beside_kernel[(1,)](found, first, axis, BLOCK=512)
            pixels = torch.arange(first, min(first + axis.tile_px, size))
            wanted = torch.searchsorted(edges[1:], pixels, right=True)
            assert torch.equal(found[: len(pixels)].long(), wanted), (stride, tile_first)


@inside
@pytest.mark.parametrize(
    ("small", "full"),
    [
        (128, 512),
        (1500, 6000),
        (1, 9),
        (7, 7),
        (12, 13),
        (480, 500),
        (7, 23),
        (1000, 3001),
        (3, 96),
        (5, 10),
        (6, 6),
        (9, 27),
    ],
)
def test_first_output_inverts_first_tap(small: int, full: int) -> None:
    from triton_probes import taps_kernel

    from c2fcore.kernels.triton._cells import cells_over
    from c2fcore.kernels.triton._upsample import resize

    cells = cells_over(small, small, full, full, 1, 1)
    assert cells.dyadic == (full / small in (1, 2, 4, 8, 16, 32))
    for dyadic in {False, cells.dyadic}:
        taps = torch.full((full,), -1, dtype=torch.int32)
        firsts = torch.full((small + 1,), -1, dtype=torch.int32)
        taps_kernel[(1,)](
            taps, firsts, resize(small, full), BLOCK=1 << full.bit_length(), DYADIC=dyadic
        )
        assert torch.equal(
            firsts.long(), torch.searchsorted(taps.long(), torch.arange(small + 1), right=False)
        )
    sides = torch.bincount(taps, minlength=small).tolist()
    assert cells.first_y == max(sides)
    assert cells.most_y == max(sides[1:] or sides)
    assert int(taps.min()) >= 0
    assert int(taps.max()) < small
    for block in (1, 2, 31, 32, 64, 100, 384):
        if block <= full:
            most = cells_over(small, 1, full, 1, block, 1).points_y
            assert int((taps[block - 1 :] - taps[: full - block + 1]).max()) + 2 <= most


@inside
@pytest.mark.parametrize("check", CHECKS)
def test_instructions(check: Any) -> None:
    check(lambda kernel, *arguments, BLOCK: kernel[(1,)](*arguments, BLOCK=BLOCK))


# Paths that the sample lists are too small to take.


@inside
@pytest.mark.parametrize(
    "name",
    [
        *(f"cover-{s}" for s in ("flush-overlap", "primes-drop", "stride-1", "min-pixels")),
        *("cover-stride-over-window", "cover-n-over-windows"),
        *(f"top-{s}" for s in ("clusters", "primes-drop", "min-pixels", "n-over-windows")),
    ],
)
@pytest.mark.parametrize("route", ["many", "few-wide-keys", "many-wide-keys"])
def test_other_routes_of_selection(name: str, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_route(route, monkeypatch)
    sample = get("select_windows", name)
    for got, want in zip(
        call("select_windows", sample, "triton")[:3],
        call("select_windows", sample, "reference")[:3],
        strict=True,
    ):
        assert torch.equal(got, want)


@inside
@pytest.mark.parametrize(
    ("width", "stride"), [(64, 12), (128, 32), (192, 5), (192, 12), (384, 9), (384, 32)]
)
def test_wide_tiles(width: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from c2fcore.kernels.triton import _cell_counts

    monkeypatch.setattr(_cell_counts, "tile_width", lambda *_: width)
    seg = blob_logits(1, 3, 10, 104, seed=1)
    _same_counts(seg, (1,), window=40, stride=stride, size=(40, 416))
    seg = seg[:, :, :4]
    _same_counts(seg, (1, 2), window=12, stride=stride, size=(15, 411))
    _same_windows_and_labels(seg, (1, 2), window=12, stride=stride, size=(15, 411))


@inside
@pytest.mark.parametrize(
    ("stride", "dtype", "size"), [(32, torch.float32, (16, 416)), (9, torch.float16, (15, 411))]
)
def test_cells_row_by_row(
    stride: int, dtype: torch.dtype, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from c2fcore.kernels.triton import _cell_counts

    monkeypatch.setattr(_cell_counts, "ROW_PX", 1)
    monkeypatch.setattr(_cell_counts, "row_width", lambda *_: 480)
    seg = blob_logits(1, 3, 4, 104, seed=1).to(dtype)
    grid: dict[str, Any] = {"window": 10, "stride": stride, "size": size}
    _same_counts(seg, (1, 2), **grid)
    _same_windows_and_labels(seg, (1, 2), **grid)
    # Infinite corners that agree prove nothing: at the border their weight is 0, which is NaN.
    seg[:, 1, :2] = float("inf")
    _same_counts(seg, (1,), **grid)


@inside
def test_windows_as_wide_as_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """One place along x: bins are as wide as a stride of 1 makes them, tiles one row of them."""
    from c2fcore.kernels.triton import _cell_counts

    monkeypatch.setattr(_cell_counts, "tile_width", lambda *_: 384)
    seg = blob_logits(1, 3, 30, 12, seed=2)
    _same_counts(seg, (1,), window=48, stride=32, size=(120, 48))
    _same_windows_and_labels(seg, (1,), window=48, stride=32, size=(120, 48))


@inside
@pytest.mark.parametrize(
    ("classes", "dtype", "layout"),
    [
        (2, torch.float32, "planar"),
        (7, torch.float16, "channels_last"),
        (16, torch.bfloat16, "channels_last"),
        (16, torch.float32, "channels_last"),
        (17, torch.float32, "planar"),
        (65, torch.float32, "planar"),
        (256, torch.float16, "channels_last"),
    ],
)
def test_numbers_of_classes(classes: int, dtype: torch.dtype, layout: str) -> None:
    seg = laid_out(grid_logits((1, classes, 4, 5), seed=classes).to(dtype), layout)
    small = (0, classes - 1)
    _same_counts(seg, small, window=3, stride=2)
    _same_windows_and_labels(seg, small, window=3, stride=2)
    _same_windows_and_labels(seg, small, window=8, stride=8, size=(8, 10))  # and no more windows


def _same_counts(seg: torch.Tensor, small: tuple[int, ...], **options: Any) -> None:
    got = ops.count_windows(seg, small, **options, backend="triton")
    assert torch.equal(got, reference.count_windows(seg, small, **options))


def _same_windows_and_labels(seg: torch.Tensor, small: tuple[int, ...], **options: Any) -> None:
    (got, labels), (want, want_labels) = (
        ops.select_windows(seg, small, **options, n=2, backend=backend, _return_labels=True)
        for backend in ("triton", "reference")
    )
    assert torch.equal(labels, want_labels)
    assert torch.equal(got.origins, want.origins)
    assert torch.equal(got.counts, want.counts)


@inside
def test_an_image_whose_memory_was_freed() -> None:
    image, num = torch.zeros(1, 3, 8, 8), torch.ones(1, dtype=torch.int32)
    windows = Windows(torch.zeros(1, 1, 2, dtype=torch.int32), num[:, None], num, 4)
    image.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"^extract_patches: tensors must hold their numbers"):
        ops.extract_patches(image, windows, backend="triton")
