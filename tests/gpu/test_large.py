"""Tensors of more than 2^31 elements: what 32-bit offsets would get wrong, at the far end of each.

Expected values come from small tensors or from arithmetic, not from a reference on as much memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from availability import need
from compare import assert_same_bits

from c2fcore import Windows, ops

BEYOND = 2**31


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """Each test begins and ends with what it needs of the GPU's memory given back."""
    torch.cuda.empty_cache()
    yield
    torch.cuda.empty_cache()


def _need_memory(gib: float) -> None:
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < gib:
        pytest.skip(f"needs {gib:g} GiB of free GPU memory, found {free:.1f}")


def _windows(spots: list[tuple[int, int]], window: int) -> Windows:
    origins = torch.tensor([spots], dtype=torch.int32, device="cuda")
    counts = torch.ones((1, len(spots)), dtype=torch.int32, device="cuda")
    num = torch.tensor([len(spots)], dtype=torch.int32, device="cuda")
    return Windows(origins, counts, num, window)


@pytest.mark.parametrize("layout", ["planar", "channels_last"])
def test_logits_at_their_own_size(fused: str, layout: str) -> None:
    """16 classes of 12000 x 12000: class 3 in the last corner, class 0 everywhere else."""
    need(fused, "count_windows", "select_windows")
    _need_memory(12)
    side, classes = 12_000, 16
    assert side * side * classes > BEYOND
    if layout == "planar":
        logits = torch.zeros((1, classes, side, side), dtype=torch.float16, device="cuda")
    else:
        logits = torch.zeros((1, side, side, classes), dtype=torch.float16, device="cuda")
        logits = logits.movedim(-1, 1)
    logits[0, 3, -70:, -50:] = 1
    logits[0, 15, :30, :40] = 1
    grid = {"window": 1000, "stride": 1000}
    counts = ops.count_windows(logits, (3, 15), **grid, backend=fused)
    assert counts.shape == (1, 12, 12)
    assert int(counts[0, -1, -1]) == 70 * 50
    assert int(counts[0, 0, 0]) == 30 * 40
    assert int(counts.sum()) == 70 * 50 + 30 * 40
    windows, labels = ops.select_windows(
        logits, (3, 15), **grid, n=4, backend=fused, _return_labels=True
    )
    assert windows.origins[0].tolist() == [[11_000, 11_000], [0, 0], [0, 0], [0, 0]]
    assert windows.counts[0].tolist() == [3500, 1200, 0, 0]
    assert int(windows.num) == 2
    assert int(labels[0, -1, -1]) == 3
    assert int((labels != 0).sum()) == 4700


def test_label_maps(fused: str) -> None:
    """A batch of label maps, together beyond 2^31: the last image has the only object."""
    need(fused, "count_windows", "select_windows")
    _need_memory(6)
    seg = torch.zeros((3, 30_000, 30_000), dtype=torch.uint8, device="cuda")
    assert seg.numel() > BEYOND
    seg[2, -9:, -11:] = 1
    counts = ops.count_windows(seg, (1,), window=3000, stride=3000, backend=fused)
    assert int(counts[2, -1, -1]) == 99
    assert int(counts.sum()) == 99
    windows = ops.select_windows(seg, (1,), window=3000, stride=3000, n=2, backend=fused)
    assert windows.num.tolist() == [0, 0, 1]
    assert windows.origins[2].tolist() == [[27_000, 27_000], [0, 0]]


@pytest.mark.parametrize("layout", ["planar", "channels_last"])
def test_images(fused: str, layout: str) -> None:
    """Windows at the far end of a large image, against the same pixels in a small one."""
    need(fused, "extract_patches", "extract_targets")
    _need_memory(6)
    side, k = 27_000, 64
    shape = (1, 3, side, side) if layout == "planar" else (1, side, side, 3)
    image = torch.zeros(shape, dtype=torch.uint8, device="cuda")
    image = image if layout == "planar" else image.movedim(-1, 1)
    assert image.numel() > BEYOND
    corner = torch.arange(3 * 200 * 200, device="cuda").remainder(251).view(1, 3, 200, 200)
    corner = corner.to(torch.uint8)
    image[:, :, -200:, -200:] = corner
    spots = [(200 - k, 200 - k), (0, 0), (17, 91)]
    far = [(y + side - 200, x + side - 200) for y, x in spots]
    for zoom, mode in ((1.0, "nearest"), (2.0, "bilinear"), (1.5, "bicubic")):
        options = {"zoom": zoom, "mode": mode, "backend": fused}
        want = ops.extract_patches(corner, _windows(spots, k), **options)
        got = ops.extract_patches(image, _windows(far, k), **options)
        assert_same_bits(got, want)
    want = ops.extract_targets(corner[:, 0], _windows(spots, k), (5, 7), backend=fused)
    got = ops.extract_targets(image[:, 0], _windows(far, k), (5, 7), backend=fused)
    assert_same_bits(got, want)


def test_patches_beyond_what_32_bits_address(fused: str) -> None:
    """So many patches that the last ones lie beyond 2^31 elements of the output."""
    need(fused, "extract_patches")
    _need_memory(8)
    k, p, n = 128, 512, 2800
    assert n * 3 * p * p > BEYOND
    image = torch.arange(3 * 256 * 256, device="cuda").remainder(255).view(1, 3, 256, 256)
    image = image.to(torch.uint8)
    spots = [(j % 128, j * 7 % 128) for j in range(n)]
    options = {"zoom": 4.0, "dtype": torch.float16, "backend": fused}
    got = ops.extract_patches(image, _windows(spots, k), **options)
    assert got.shape == (n, 3, p, p)
    want = ops.extract_patches(image, _windows(spots[-3:], k), **options)
    assert_same_bits(got[-3:], want)


@pytest.mark.parametrize("output", ["labels", "probs"])
def test_merging(fused: str, output: str) -> None:
    """Scores of 16 x 12000 x 12000: the far corner as in a small image, the rest untouched."""
    need(fused, "aggregate")
    _need_memory(12 if output == "probs" else 4)
    side, classes, k = 12_000, 16, 64
    assert classes * side * side > BEYOND
    logits = torch.zeros((1, classes, side // 4, side // 4), device="cuda")
    logits[:, 0] = 1
    logits[:, 1, -100:, -100:] = 1.5
    fine = torch.full((2, 1, 8, 8), 4.0, device="cuda")
    fine[1] = -4.0
    near = [(400 - k, 400 - k), (100, 120)]
    far = [(y + side - 400, x + side - 400) for y, x in near]
    small = logits[:, :, -100:, -100:].contiguous()
    options = {"rule": "normalized", "output": output, "backend": fused}
    got = ops.aggregate(logits, fine, _windows(far, k), (1, 2), size=(side, side), **options)
    want = ops.aggregate(small, fine, _windows(near, k), (1, 2), size=(400, 400), **options)
    # Four pixels at the seam are interpolated with what lies beyond it.
    assert_same_bits(got[..., -396:, -396:].contiguous(), want[..., -396:, -396:].contiguous())
    if output == "labels":
        assert int(got[0, : side - 400].sum()) == 0
        return
    edge = got[0, :, 0, 0]
    assert torch.equal(got[0, :, side // 2, 17], edge)
    assert float(edge.sum()) == pytest.approx(1, abs=1e-5)


def test_many_classes_on_a_fine_grid(fused: str) -> None:
    """256 classes of 3000 x 3000 pixels, channels_last: beyond 2^31 inside one image's plane."""
    need(fused, "count_windows")
    _need_memory(8)
    side, classes = 3000, 256
    assert side * side * classes > BEYOND
    logits = torch.zeros((1, side, side, classes), dtype=torch.float16, device="cuda")
    logits[0, -5:, -6:, 255] = 1
    logits = logits.movedim(-1, 1)
    counts = ops.count_windows(logits, (255,), window=100, stride=100, backend=fused)
    assert int(counts[0, -1, -1]) == 30
    assert int(counts.sum()) == 30
