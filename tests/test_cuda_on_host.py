"""The CUDA kernels on the CPU: an op's own tests, where backend "cuda" is an emulator.

tests/cuda_on_host compiles kernels/cuda with a C++ compiler; its emulator runs the threads of a
block as fibers, in varying order, and fails where threads meet in different barriers or not at all.
All tests of one op:

    C2F_CUDA_ON_HOST=build/cuda_on_host/<module> pytest tests/test_count_windows.py --backend cuda
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import emulator_build
import pytest
import torch
from cuda_launches import Launches, call
from window_axes import AXES

from c2fcore import Windows, _cuda, ops
from c2fcore._classes import class_set
from c2fcore.testing import samples
from c2fcore.testing.samples.inputs import (
    ALMOST_ALIGNED,
    almost_aligned_shape,
    grid_logits,
    label_map,
    laid_out,
    random_windows,
)
from c2fcore.windows import grid_origins

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_cuda.on_host()), reason="runs in that process"),
]


@pytest.fixture(scope="module")
def module() -> str:
    """Path of the emulator's module."""
    return emulator_build.path_of("_cuda_on_host")


def _pytest(*arguments: str, **environment: str) -> None:
    common = ["-q", "-x", "-p", "no:cacheprovider", "--backend", "cuda"]
    emulator_build.run(
        [sys.executable, "-m", "pytest", *common, *arguments], C2F_REQUIRE="cuda", **environment
    )


def test_samples(module: str) -> None:
    """All that is tested of the ops, but for the loops: the reference agrees with those."""
    files = [str(HERE / f"test_{name}.py") for name in (*samples.OPS, "drawn")]
    _pytest(*files, "-k", "not test_loops or test_extract_targets", C2F_CUDA_ON_HOST=module)


# What the emulator itself finds (tests/cuda_on_host/faults.cu), and what it leaves alone.

FAULTS = [  # number of the kernel, blocks, error
    (0, 3, ""),
    (1, 1, "a read races with a write|a write races with a read"),
    (1, 2, "a read races with a write|a write races with a read"),
    (1, 3, "a read races with a write|a write races with a read"),
    (2, 2, ""),
    (3, 1, "a read races with a write|a write races with a read"),
    (4, 5, ""),
    (5, 5, "a read races with a write"),
    (13, 5, "a write races with an atomic"),
    (6, 1, "outside every tensor of the call"),
    (7, 1, "outside every tensor of the call"),
    (8, 1, "outside the dynamic shared memory"),
    (9, 1, "outside a variable in shared memory"),
    (10, 2, ""),
]


@pytest.mark.parametrize(("kernel", "blocks", "error"), FAULTS)
def test_the_emulator_finds(kernel: int, blocks: int, error: str, module: str) -> None:
    loaded = _cuda.from_file(module)
    out = torch.zeros(blocks, 64, dtype=torch.int32)
    ticket = torch.zeros(1, dtype=torch.int32)
    if not error:
        for _ in range(2):  # blocks in either order
            loaded.faults(out, ticket, kernel)
        return
    with pytest.raises(RuntimeError, match=error):
        loaded.faults(out, ticket, kernel)


@pytest.mark.parametrize("kernel", [11, 12], ids=["store", "load"])
def test_the_emulator_finds_misaligned_vectors(kernel: int, module: str) -> None:
    """In a process of its own: at its second finding the sanitizer ends a process."""
    code = (
        "import re, torch; from c2fcore import _cuda\n"
        "out, ticket = (torch.zeros(*s, dtype=torch.int32) for s in ((2, 64), (1,)))\n"
        f"try: _cuda.from_file({module!r}).faults(out, ticket, {kernel}); found = ''\n"
        "except RuntimeError as error: found = str(error)\n"
        "assert re.search('misaligned address .* 16 byte alignment: .*faults.cu:', found), found"
    )
    emulator_build.run([sys.executable, "-c", code], PYTHONSAFEPATH="1")


def test_kernels_launched_by_name(module: str, tmp_path: Path) -> None:
    """The glue of _cuda_jit plans, its launcher in Python starts, the emulator runs the kernels.

    Each of them is started and gives the reference's answer, so every launch reaches the kernel it
    means, with the struct, the blocks and the shared memory it means; that of a type or a number of
    classes, too, that no sample has.
    """
    jit = emulator_build.path_of("_cuda_jit_on_host")
    _pytest(
        *("-p", "jit_on_host", "-k", "test_every_kernel or test_same_as_reference"),
        *(str(HERE / f"test_{name}.py") for name in ("every_kernel", "select_windows")),
        PYTHONPATH=str(HERE),
        C2F_CUDA_ON_HOST=jit,
        C2F_EMULATOR=module,
        C2F_KERNELS_RUN=str(tmp_path / "started"),
    )
    names = {name for _, name, _ in _cuda.from_file(jit).kernels()}
    assert len(names) > 100
    assert set((tmp_path / "started").read_text().splitlines()) == names


def test_auto_would_take_the_kernels(module: str) -> None:
    """They agree on the samples by which "auto" decides."""
    code = (
        "from c2fcore import _self_check as s\n"
        "found = {op: s.compare(op, 'cuda', 'cpu') for op in s.SAMPLES}\n"
        "assert not any(found.values()), found"
    )
    emulator_build.run([sys.executable, "-c", code], C2F_CUDA_ON_HOST=module, PYTHONSAFEPATH="1")


# Outputs of the public ops are allocated, and so aligned; the modules take any.


@pytest.mark.parametrize("layout", [*ALMOST_ALIGNED, "strided"])
def test_patches_lie_anywhere(layout: str, module: str) -> None:
    channels = almost_aligned_shape(layout)[1]
    image = grid_logits((1, channels, 20, 20), seed=1)
    windows = random_windows(1, 20, 20, 8, 2, seed=2)
    how: dict[str, Any] = {"zoom": (15 if layout == "planar-of-8" else 16) / 8, "mode": "nearest"}
    for dtype in (torch.float16, torch.float32):
        want = ops.extract_patches(image, windows, **how, dtype=dtype, backend="reference")
        out = laid_out(torch.zeros_like(want), layout)
        options = ("nearest", 1.0, None, None, None)
        patches = _cuda.from_file(module).extract_patches
        patches(image, windows.origins, windows.num, 8, out, *options)
        assert torch.equal(out, want)


def test_labels_and_targets_lie_anywhere(module: str) -> None:
    loaded, table = _cuda.from_file(module), class_set((1,)).table
    logits = grid_logits((1, 4, 32, 32), seed=3)
    ids = logits.argmax(1).to(torch.uint8)
    labels = torch.zeros(32 * 32 + 1, dtype=torch.uint8)[1:].view(1, 32, 32)
    for seg in (logits, logits[..., ::4, ::4], ids):
        grid: dict[str, int] = {"window": 8, "stride": 8}
        want, found = ops.select_windows(
            seg, (1,), **grid, n=1, size=(32, 32), _return_labels=True, backend="reference"
        )
        counts, workspace = torch.zeros(1, 4, 4, dtype=torch.int32), _cuda.Workspace(seg.device)
        loaded.count_windows(seg, table, 32, 32, 8, 8, True, counts, labels, workspace)
        assert torch.equal(labels, found)
    targets = torch.zeros(8 * 8 + 1, dtype=torch.uint8)[1:].view(1, 8, 8)
    loaded.extract_targets(ids, want.origins, want.num, 8, table, 255, targets, None)
    where = (ids, want, (1,))
    assert torch.equal(targets, ops.extract_targets(*where, backend="reference"))


class Emulated(Launches):
    """Has the emulator run what a GPU would be given."""

    def __init__(self, module: str) -> None:
        self.run = _cuda.from_file(module).launch

    def __call__(self, *launch: Any) -> None:
        self.run(*launch[:6])


@pytest.mark.parametrize("outside", [(-1, 0), (0, -1), (5, 0), (0, 3)])
def test_windows_that_leave_the_image_are_unused(outside: tuple[int, int], module: str) -> None:
    """By one pixel: the host does not read the origins of a GPU's windows, kernels do."""
    launcher, table = Emulated(module), class_set((1,)).table
    image, fine = grid_logits((1, 4, 12, 10), seed=1), grid_logits((2, 1, 8, 8), seed=2)
    ids = image.argmax(1).to(torch.uint8)
    origins, num = torch.tensor([[[4, 2], outside]]).int(), torch.tensor([2]).int()
    both, inside = (origins, num, 8), Windows(origins[:, :1], num.view(1, 1), num // 2, 8)
    want = ops.extract_patches(image, inside, dtype=torch.float32, backend="reference")
    patches = torch.full((2, 4, 8, 8), 7.0)
    call(launcher, "extract_patches", image, *both, patches, "bilinear", 1.0, None, None, None)
    assert torch.equal(patches, torch.cat([want, torch.zeros_like(want)]))
    targets = torch.full((2, 8, 8), 7, dtype=torch.uint8)
    call(launcher, "extract_targets", ids, *both, table, 255, targets, None)
    assert torch.equal(targets[:1], ops.extract_targets(ids, inside, (1,), backend="reference"))
    assert (targets[1] == 255).all()
    gradient, ones = torch.zeros_like(image), torch.ones_like(patches)
    options = ("bilinear", 1.0, None, None)
    call(launcher, "extract_patches_backward", ones, *both, gradient, *options)
    assert gradient.sum() == ones[0].sum()
    merged = ops.aggregate(image, fine[:1], inside, (1,), backend="reference")
    for labels, given in ((torch.full_like(ids, 7), False), (ids.clone(), True)):
        options = (*both, table, 12, 10, "paper", labels, given, None)
        call(launcher, "aggregate", image, fine, *options)
        assert torch.equal(labels, merged)


class _Kept(_cuda.Workspace):
    """Remembers the tickets that it gave."""

    given: torch.Tensor

    def tickets(self, count: int) -> torch.Tensor:
        self.given = super().tickets(count)
        return self.given


@pytest.mark.parametrize(("shape", "window", "stride"), [((2, 24, 24), 8, 4), ((2, 300, 6), 6, 20)])
def test_tickets_are_put_back(
    shape: tuple[int, int, int], window: int, stride: int, module: str
) -> None:
    """Where windows are added up by one block, and by bands: nobody zeroes what is drawn from."""
    loaded, ids = _cuda.from_file(module), label_map(*shape, seed=4).to(torch.uint8)
    grid = (class_set((1,)).table, *shape[1:], window, stride, True)
    workspace = _Kept(ids.device)
    counts = ops.count_windows(ids, (1,), window=window, stride=stride, backend="reference")
    loaded.count_windows(ids, *grid, counts, None, workspace)
    assert not workspace.given.any()
    bands = len(workspace.given) // len(ids) - counts.shape[1] - 1
    assert (bands > 1) == (shape[1] == 300)
    for strategy in ("cover", "top", "all"):
        origins, pixels, num, _ = ops.select_windows(
            ids, (1,), window=window, stride=stride, n=3, strategy=strategy, backend="reference"
        )
        loaded.select_windows(ids, *grid, 3, strategy, 1, origins, pixels, num, None, workspace)
        assert not workspace.given.any()


# Bins: where windows start and end, and where 32-bit indices come to their end.


@pytest.mark.parametrize(("size", "window", "stride", "flush", "tile"), AXES)
def test_bins_cut_where_windows_start_and_end(
    size: int, window: int, stride: int, flush: bool, tile: int, module: str
) -> None:
    axis = _cuda.from_file(module).BinAxis(size, window, stride, flush, tile)
    edges = [axis.bin_start(e) for e in range(axis.bins + 1)]
    assert edges[0] == 0
    assert edges[-1] == size
    assert edges == sorted(edges)
    bins = [axis.bin_of(px) for px in range(size)]
    assert all(edges[e] <= px < edges[e + 1] for px, e in enumerate(bins))
    origins = grid_origins(size, window, stride, "flush" if flush else "drop")
    assert [axis.origin(i) for i in range(axis.windows)] == list(origins)
    for i, origin in enumerate(origins):
        first, last = axis.window_bins(i)
        assert (edges[first], edges[last]) == (origin, origin + window)
        shared = [j for j, other in enumerate(origins) if abs(other - origin) < window]
        assert axis.overlapping(i) == (shared[0], shared[-1] + 1)
    for first in range(0, axis.bins, axis.tile_bins):
        span = edges[min(first + axis.tile_bins, axis.bins)] - edges[first]
        assert span <= axis.tile_px <= tile


LONGEST = 2**31 - 1


def test_division_by_multiplication(module: str) -> None:
    """Exact for every dividend that matters: those next to a multiple, up to the last ones."""
    quotient = _cuda.from_file(module).quotient
    divisors = {1, 2, 3, 5, 7, 32, 127, 641, 46340, 65535, 65536, 65537, LONGEST - 1, LONGEST}
    divisors |= {2**power + step for power in range(2, 31) for step in (-1, 0, 1)}
    for d in sorted(divisors):
        last = LONGEST // d
        for q in {0, 1, 2, 3, last // 3, last // 2, last - 1, last}:
            for n in (q * d - 1, q * d, q * d + 1, q * d + d - 1):
                if 0 <= n <= LONGEST:
                    assert quotient(n, d) == n // d, (n, d)
        assert quotient(LONGEST, d) == last


@pytest.mark.parametrize("window", [1, 2, 127, 46340])
@pytest.mark.parametrize("stride", [1, 2, 3, 31, 127, 65536, LONGEST])
def test_bins_of_the_longest_axis(window: int, stride: int, module: str) -> None:
    """No index of an axis just below 2^31 pixels wraps; the sanitizer would say so, too."""
    for size in (LONGEST, LONGEST - 1):
        axis = _cuda.from_file(module).BinAxis(size, window, stride, True, 128)
        assert 0 < axis.bins <= min(size + 1, LONGEST)  # a flush window adds one
        assert axis.bin_start(axis.bins) == size
        assert axis.bin_of(size - 1) == axis.bins - 1
        assert axis.origin(axis.windows - 1) == size - window
        first, last = axis.window_bins(axis.windows - 1)
        assert axis.bin_start(first) == size - window
        assert last == axis.bins
        assert axis.overlapping(axis.windows - 1)[1] == axis.windows
        assert axis.tiles == -(-axis.bins // axis.tile_bins)


def test_too_many_windows_or_tiles_are_refused(module: str) -> None:
    """What kernels number in 32 bits: checked before anything is allocated or read."""
    loaded = _cuda.from_file(module)
    # 2^16 x 2^16 pixels that share one address; windows of one pixel.
    seg = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(1, 1 << 16, 1 << 16)
    counts = torch.zeros(1, 1, 1, dtype=torch.int32).expand(1, 1 << 16, 1 << 16)
    origins, few, num = (torch.zeros(*s, dtype=torch.int32) for s in ((1, 1, 2), (1, 1), (1,)))
    grid = (class_set((1,)).table, 1 << 16, 1 << 16, 1, 1, True)
    with pytest.raises(ValueError, match=r"count_windows: counts must be contiguous"):
        loaded.count_windows(seg, *grid, counts, None, None)
    with pytest.raises(NotImplementedError, match=r"most 2147479552 windows .*got 4294967296"):
        loaded.select_windows(seg, *grid, 1, "top", 1, origins, few, num, None, None)


def test_loops_that_would_pass_2_31_are_refused(module: str) -> None:
    """Loops step past their end by up to a block of threads, or to the end of a band of bins."""
    loaded = _cuda.from_file(module)
    table = class_set((1,)).table
    origins, few, num = (torch.zeros(*s, dtype=torch.int32) for s in ((1, 1, 2), (1, 1), (1,)))

    def select(height: int, width: int, window: int, strategy: str) -> None:
        seg = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(1, height, width)
        grid = (table, height, width, window, 1, True)
        loaded.select_windows(seg, *grid, 1, strategy, 1, origins, few, num, None, None)

    for height in (LONGEST, LONGEST - 4094):
        with pytest.raises(NotImplementedError, match=rf"windows per image, got {height}"):
            select(height, 1, 1, "top")
    with pytest.raises(NotImplementedError, match=r"2147479552 bins .* per axis, got 2147483647"):
        select(LONGEST, 46340, 46340, "top")
    # The greatest that are taken: memory is asked for next, and there is none in this test.
    greatest = ((LONGEST - 4095, 1, 1, "top"), (46341, 139020, 46340, "cover"))
    for size in (*greatest, (46341, 139020, 46340, "top")):
        with pytest.raises(AttributeError, match="scratch"):
            select(*size)


def test_more_tiles_than_a_launch_has_are_refused(module: str) -> None:
    """Of 100,000 images of 40,000 x 40,000 pixels that share one address."""
    loaded = _cuda.from_file(module)
    many, side = 100_000, 40_000
    seg = torch.zeros(1, 1, 1, dtype=torch.uint8).expand(many, side, side)
    counts = torch.zeros(many, 1, 1, dtype=torch.int32)
    grid = (class_set((1,)).table, side, side, side, side, True)
    with pytest.raises(NotImplementedError, match=r"^count_windows: .* fewer than 2\^31 tiles"):
        loaded.count_windows(seg, *grid, counts, None, None)
    # As many as fit: memory is asked for next, and there is none in this test.
    with pytest.raises(AttributeError, match="scratch"):
        loaded.count_windows(seg[:1000], *grid, counts[:1000], None, None)


def test_more_blocks_than_a_launch_has_are_refused(module: str) -> None:
    """64 channels of a patch of 2^20 x 2^20 pixels that share one address."""
    loaded = _cuda.from_file(module)
    image = torch.zeros(1, 1, 1, 1).expand(1, 64, 4, 4)
    out = torch.zeros(1, 1, 1, 1, dtype=torch.float16).expand(1, 64, 1 << 20, 1 << 20)
    origins, num = torch.zeros(1, 1, 2, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    options = ("bilinear", 1.0, None, None, None)
    with pytest.raises(NotImplementedError, match=r"extract_patches: .* fewer than 2\^31 blocks"):
        loaded.extract_patches(image, origins, num, 4, out, *options)


def test_aggregate_of_more_than_32_bits_is_refused(module: str) -> None:
    """Rows of an image, and tiles of 2^11 windows of 2^20; labels that nobody touches."""
    aggregate = _cuda.from_file(module).aggregate
    logit, used = torch.zeros(1, 1, 1, 1), torch.ones(1, dtype=torch.int32)
    for height, width, n, window, refused in (
        (1 << 31, 1, 1, 1, r"^aggregate: .* sizes below 2\^31, got 2147483648 x 1"),
        (
            1 << 15,
            1 << 15,
            1 << 11,
            1 << 15,
            r"^aggregate: .* fewer than 2\^31 tiles, got 2147483648",
        ),
    ):
        coarse, fine = logit.expand(1, 1, height, width), logit.expand(n, 1, 1, 1)
        labels = torch.empty(1, height, width, dtype=torch.uint8)
        slots = torch.zeros(1, n, 2, dtype=torch.int32), used, window
        options = (class_set((0,)).table, height, width, "paper", labels, True, None)
        with pytest.raises(NotImplementedError, match=refused):
            aggregate(coarse, fine, *slots, *options)


def test_rows_of_a_tile_fit_their_slots(module: str) -> None:
    """The plan's bound on source rows, against the positions themselves in float32."""
    plan = _cuda.from_file(module).source_rows
    for window in (*range(1, 40), 127, 128, 129, 1000, 1 << 18):
        for side in {window + 1, window + 2, window * 3 // 2 + 1, 2 * window, 4 * window + 1}:
            for taps in (1, 2, 4):
                assert plan(window, side, taps) <= 32, (window, side, taps)
