"""extract_patches: tables, F.interpolate on the crop, the loop oracle, every backend, gradients."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
import torch.nn.functional as F
from availability import need
from compare import assert_repeatable, call, to_device

from c2fcore import Windows, ops
from c2fcore.testing import samples, tolerances
from c2fcore.testing.agree import assert_agrees, assert_close, patch_error, patch_terms
from c2fcore.testing.samples import Sample
from c2fcore.testing.samples.extract_patches import IMAGE_DTYPES, image_of
from c2fcore.testing.samples.inputs import random_windows, windows_of

OP = "extract_patches"
pytestmark = pytest.mark.usefixtures("poison")
RAMP = torch.arange(12.0).view(1, 1, 3, 4)  # rows 0 1 2 3 / 4 5 6 7 / 8 9 10 11

# fmt: off
TABLE = [  # options, patch at y = 1, x = 2 of side 2, which is 6 7 / 10 11
    ({},                                  [[6, 7], [10, 11]]),
    ({"mode": "nearest", "zoom": 2},      [[6, 6, 7, 7], [6, 6, 7, 7],
                                           [10, 10, 11, 11], [10, 10, 11, 11]]),
    # Taps clamp at the patch's border.
    ({"zoom": 2},                         [[6, 6.25, 6.75, 7], [7, 7.25, 7.75, 8],
                                           [9, 9.25, 9.75, 10], [10, 10.25, 10.75, 11]]),
    ({"zoom": 0.5},                       [[8.5]]),
    ({"zoom": 0.5, "mode": "nearest"},    [[6]]),
    ({"scale": 2},                        [[12, 14], [20, 22]]),
    ({"mean": 6},                         [[0, 1], [4, 5]]),
    ({"std": 2},                          [[3, 3.5], [5, 5.5]]),
    ({"scale": 2, "mean": [6], "std": [0.5]}, [[12, 16], [28, 32]]),  # (v * scale - mean) / std
]
# fmt: on


@pytest.mark.parametrize(("options", "patch"), TABLE)
def test_table(backend: str, device: str, options: dict[str, Any], patch: Any) -> None:
    windows = windows_of([[(1, 2)]], 2, 2, device)
    got = ops.extract_patches(RAMP.to(device), windows, **options, backend=backend)
    assert got.shape[:2] == (2, 1)
    assert got[0, 0].tolist() == patch
    assert not got[1].any()  # the unused slot: zeros, whatever mean is


def test_defaults_of_scale_and_dtype(backend: str, device: str) -> None:
    """1/255 for uint8 and 1 otherwise; float32 for integers, a float image's own type."""
    windows = windows_of([[(0, 0)]], 1, 1, device)
    for dtype in IMAGE_DTYPES:
        image = torch.full((1, 1, 1, 1), 51, device=device).to(dtype)
        got = ops.extract_patches(image, windows, backend=backend)
        assert got.dtype == (dtype if dtype.is_floating_point else torch.float32)
        assert got.item() == pytest.approx(0.2 if dtype is torch.uint8 else 51.0, rel=1e-6)


def test_memory_format(backend: str, device: str) -> None:
    image = torch.zeros(1, 3, 8, 8, device=device)
    windows = windows_of([[(0, 0), (4, 4)]], 4, 2, device)
    got = ops.extract_patches(image, windows, channels_last=True, backend=backend)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert ops.extract_patches(image, windows, backend=backend).is_contiguous()


@pytest.mark.parametrize("channels_last", [False, True])
def test_large_patches_ask_for_large_pages(channels_last: bool) -> None:
    need("cpu", OP)
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this system has no pages of 2 MiB to ask for")
    windows = windows_of([[(0, 0)] * 4], 4, 4)
    image = torch.zeros(1, 3, 4, 4)
    got = ops.extract_patches(image, windows, zoom=256, channels_last=channels_last, backend="cpu")
    middle, flags = got.data_ptr() + got.nbytes // 2, ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            holds = int(match[1], 16) <= middle < int(match[2], 16)
        elif holds and line.startswith("VmFlags:"):
            flags = line
    assert "hg" in flags.split()


@cache
def _expected(name: str) -> torch.Tensor:
    sample = samples.get(OP, name)
    image, windows, normalisation, *_ = patch_terms(sample)
    want = oracles.extract_patches(
        image.double().numpy() if image.dtype != torch.uint16 else image.numpy(),
        windows.origins.numpy(),
        windows.num.numpy(),
        windows.window,
        zoom=sample.options.get("zoom", 1.0),
        mode=sample.options.get("mode", "bilinear"),
        **normalisation,
    )
    return torch.from_numpy(want)


@pytest.mark.parametrize("sample", [s for s in samples.of(OP) if s.loops], ids=str)
def test_loops(backend: str, device: str, sample: Sample) -> None:
    assert_close(call(OP, sample, backend, device), _expected(sample.name), patch_error(sample))


@pytest.mark.parametrize("sample", samples.of(OP), ids=str)
def test_same_as_reference(backend: str, device: str, sample: Sample) -> None:
    want = call(OP, sample, "reference")
    assert_agrees(OP, sample, call(OP, sample, backend, device), want)


@pytest.mark.parametrize("sample", samples.of(OP), ids=str)
def test_reference_is_interpolate_of_the_crop(sample: Sample) -> None:
    image, windows, normalisation, _, dtype = patch_terms(sample)
    mode = sample.options.get("mode", "bilinear")
    k, p = windows.window, round(windows.window * sample.options.get("zoom", 1.0))
    corners = {} if mode == "nearest" else {"align_corners": False}
    got = call(OP, sample, "reference")
    n = windows.origins.shape[1]
    mean = torch.tensor(normalisation["mean"]).view(-1, 1, 1)
    std = torch.tensor(normalisation["std"]).view(-1, 1, 1)
    for b in range(image.shape[0]):
        for j in range(int(windows.num[b])):
            y, x = windows.origins[b, j].tolist()
            crop = image[b : b + 1, :, y : y + k, x : x + k].float()
            patch = F.interpolate(crop, size=p, mode=mode, **corners)[0]
            want = ((patch * normalisation["scale"] - mean) / std).to(dtype)
            assert_close(got[b * n + j], want, patch_error(sample))


REPEATED = ("large", "large-128", "out-channels_last", "transposed-zoom-2.0", "bicubic-zoom-1.5")


@pytest.mark.parametrize("name", REPEATED)
def test_repeatable(backend: str, device: str, name: str, threads: Any) -> None:
    assert_repeatable(OP, samples.get(OP, name), backend, device, threads)


def test_nan_and_inf_stay_in_their_patch(backend: str, device: str) -> None:
    """A tap never reads beyond its patch, and NaN passes through as F.interpolate passes it."""
    image = torch.ones(1, 1, 8, 8, device=device)
    image[0, 0, 2, 4] = float("nan")
    windows = windows_of([[(0, 0), (4, 4), (0, 4)]], 4, 3, device)
    got = ops.extract_patches(image, windows, zoom=2, backend=backend).cpu()
    assert (got[:2] == 1).all()
    want = F.interpolate(image[:, :, :4, 4:].cpu(), size=8, mode="bilinear")
    assert torch.equal(got[2].isnan(), want[0].isnan())


@pytest.mark.parametrize("window", [(5, 0), (0, 5), (-1, 0), (0, -1), (2**31 - 1, 0)])
def test_windows_outside_the_image(backend: str, device: str, window: tuple[int, int]) -> None:
    if device != "cpu":
        pytest.skip("on a GPU the origins are not read by the host")
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="inside the image"):
        ops.extract_patches(image, windows_of([[(0, 0), window]], 4), backend=backend)
    with pytest.raises(ValueError, match="inside"):
        ops.extract_targets(image[0].byte(), windows_of([[window]], 4), (1,), backend=backend)
    # The same origin in a slot that is not in use is never looked at.
    unused = windows_of([[(0, 0), window]], 4)._replace(num=torch.tensor([1], dtype=torch.int32))
    assert ops.extract_patches(image, unused, backend=backend).shape == (2, 1, 4, 4)


def test_sides_beyond_float32_positions_are_refused(backend: str, device: str) -> None:
    """The cuda kernels place taps in float32 and number them in 32 bits."""
    if backend != "cuda":
        pytest.skip("a limit of the cuda backend")
    side = (1 << 20) + 1
    image = torch.zeros(1, 1, 1, 1, device=device).expand(1, 1, side, side)
    windows = windows_of([[(0, 0)]], side, 1, device)
    with pytest.raises(NotImplementedError, match=r"at most 1048576 pixels a side, got 1048577"):
        ops.extract_patches(image, windows, zoom=1 / side, backend=backend)


class TestGradient:
    def test_gradcheck(self) -> None:
        windows = windows_of([[(0, 1), (1, 1)]], 3)
        image = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
        for zoom, mode in ((1.0, "bilinear"), (1.5, "bilinear"), (0.5, "bicubic"), (2, "nearest")):
            assert torch.autograd.gradcheck(
                lambda x, zoom=zoom, mode=mode: ops.extract_patches(
                    x, windows, zoom=zoom, mode=mode, scale=0.5, mean=(1, 2), std=(0.5, 2),
                    backend="reference",
                ),
                (image,),
            )  # fmt: skip

    @pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
    @pytest.mark.parametrize("zoom", [0.5, 1.0, 1.5, 2.0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_backward(
        self, backend: str, device: str, mode: str, zoom: float, dtype: torch.dtype, threads: Any
    ) -> None:
        """Against the float64 gradient of F.interpolate on the crops; deterministic."""
        image = image_of((2, 3, 21, 26), dtype, seed=1).to(device)
        windows = windows_of([[(0, 0), (3, 5), (13, 18)], [(4, 4)]], 8, 3, device)
        options: dict[str, Any] = {"zoom": zoom, "mode": mode, "scale": 2.0, "std": (0.5, 1.0, 2.0)}
        p = round(8 * zoom)
        upstream = torch.randn(6, 3, p, p, generator=torch.Generator().manual_seed(2)).to(dtype)
        found = []
        for count in (1, 3):
            threads(count)
            leaf = image.clone().requires_grad_()
            patches = ops.extract_patches(leaf, windows, **options, backend=backend)
            patches.backward(upstream.to(device))
            found.append(leaf.grad.cpu())
        assert found[0].dtype == dtype
        assert torch.equal(found[0], found[1])
        exact = image.cpu().double().requires_grad_()
        want = _interpolated(exact, windows, p, mode, options)
        want.backward(upstream.double())
        scale = max(exact.grad.abs().max().item(), 1.0)
        error = tolerances.GRADIENT_ULPS * tolerances.EPS32 * scale
        if dtype is torch.bfloat16:
            error += tolerances.eps(dtype) * scale
        assert_close(found[0], exact.grad, error)

    @pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
    @pytest.mark.parametrize("zoom", [0.5, 1.5, 2.0])
    def test_nan_and_inf_stay_in_their_reach(
        self, backend: str, device: str, mode: str, zoom: float
    ) -> None:
        """As F.interpolate passes them back."""
        windows = windows_of([[(0, 0), (9, 9)]], 8, 3, device)
        image = image_of((1, 2, 21, 26), torch.float32, seed=1)
        p = round(8 * zoom)
        upstream = torch.ones(3, 2, p, p)
        upstream[0, 1, 0, 0] = upstream[1, 0, p // 2, p - 1] = float("nan")
        upstream[1, 1, p - 1, 1] = float("inf")
        leaf, exact = image.to(device).detach().requires_grad_(), image.clone().requires_grad_()
        patches = ops.extract_patches(leaf, windows, zoom=zoom, mode=mode, backend=backend)
        patches.backward(upstream.to(device))
        options: dict[str, Any] = {"scale": 1, "std": (1, 1)}
        _interpolated(exact, to_device(windows, "cpu"), p, mode, options).backward(upstream)
        assert torch.equal(leaf.grad.cpu().isfinite(), exact.grad.isfinite())

    def test_threads_meet_nowhere(self, threads: Any) -> None:
        """Strips of rows that cut windows, each summed in its thread's own memory."""
        need("cpu", OP)
        image = image_of((2, 3, 128, 100), torch.float32, seed=1).requires_grad_()
        windows, found = random_windows(2, 128, 100, 64, 33, seed=2), []
        for count in (1, *[4] * 8):
            threads(count)
            patches = ops.extract_patches(image, windows, zoom=0.75, backend="cpu")
            found += torch.autograd.grad(patches.square().sum(), image)
        for other in found[1:]:
            assert torch.equal(other, found[0])

    def test_no_gradient_wanted(self, backend: str, device: str) -> None:
        windows = windows_of([[(0, 0)]], 4, 1, device)
        image = torch.rand(1, 3, 8, 8, device=device, requires_grad=True)
        with torch.no_grad():
            assert not ops.extract_patches(image, windows, backend=backend).requires_grad
        assert ops.extract_patches(image, windows, backend=backend).requires_grad


def _interpolated(
    image: torch.Tensor, windows: Windows, p: int, mode: str, options: dict[str, Any]
) -> torch.Tensor:
    k, n = windows.window, windows.origins.shape[1]
    out = torch.zeros(image.shape[0] * n, image.shape[1], p, p, dtype=image.dtype)
    std = torch.tensor(options["std"], dtype=image.dtype).view(-1, 1, 1)
    corners = {} if mode == "nearest" else {"align_corners": False}
    for b in range(image.shape[0]):
        for j in range(int(windows.num[b])):
            y, x = windows.origins[b, j].tolist()
            crop = image[b : b + 1, :, y : y + k, x : x + k]
            patch = F.interpolate(crop, size=p, mode=mode, **corners)[0]
            out[b * n + j] = patch * options["scale"] / std
    return out


IMAGE = torch.zeros(2, 3, 8, 10, dtype=torch.uint8)
GOOD = windows_of([[(0, 0)], [(1, 1)]], 4)
V, T = ValueError, TypeError
# fmt: off
BAD = [ # image, windows, options, exception, message
    (IMAGE, GOOD, {"zoom": 0}, V, r"zoom must be .*got 0"),
    (IMAGE, GOOD, {"zoom": -1.0}, V, r"zoom must be .*got -1\.0"),
    (IMAGE, GOOD, {"zoom": float("nan")}, V, r"zoom must be .*got nan"),
    (IMAGE, GOOD, {"zoom": float("inf")}, V, r"zoom must be .*got inf"),
    (IMAGE, GOOD, {"zoom": 0.1}, V, r"window \* zoom must round to at least 1, got 4 \* 0\.1"),
    (IMAGE, GOOD, {"zoom": "2"}, (T, V), r"zoom must be .*got '2'"),
    (IMAGE, GOOD, {"mode": "area"}, V, r"mode must be one of .*got 'area'"),
    (IMAGE, GOOD, {"scale": float("nan")}, V, r"scale must be .*got nan"),
    (IMAGE, GOOD, {"mean": (1, 2)}, V, r"mean must have one value per channel, got 2 for C=3"),
    (IMAGE, GOOD, {"mean": "abc"}, T, r"mean must be .*got 'abc'"),
    (IMAGE, GOOD, {"mean": float("nan")}, V, r"mean must be finite, got nan"),
    (IMAGE, GOOD, {"std": (1, 1)}, V, r"std must have one value per channel, got 2 for C=3"),
    (IMAGE, GOOD, {"std": (1, 0, 1)}, V, r"std must not be 0, got .*\(1, 0, 1\)"),
    (IMAGE, GOOD, {"scale": 100, "std": 1e-37}, V, r"scale / std must be .*, got 100\.0 / 1e-37"),
    (IMAGE, GOOD, {"mean": -1e9, "std": (1, 1, -1e-30)}, V, r"mean / std must be finite"),
    (IMAGE, GOOD, {"dtype": torch.uint8}, T, r"dtype must be a float type, got .*uint8"),
    (IMAGE, GOOD, {"dtype": "float16"}, T, r"dtype must be a float type, got float16"),
    (IMAGE, GOOD, {"backend": ""}, V, r"backend must be one of .*got ''"),
    (IMAGE[0], GOOD, {}, V, r"image must be \[B, C, H, W\], got .*\(3, 8, 10\)"),
    (IMAGE[:, :0], GOOD, {}, V, r"image must be .*got shape \(2, 0, 8, 10\)"),
    (IMAGE.bool(), GOOD, {}, T, r"image must be .*got .*bool"),
    (IMAGE.to(torch.int64), GOOD, {}, T, r"image must be .*got .*int64"),
    (IMAGE[:1], GOOD, {}, V, r"windows must be of as many images as the batch, .*B=1"),
    (IMAGE[:, :, :3], GOOD, {}, V, r"window must be in 1\.\.H, got 4 for H=3"),
    (IMAGE, GOOD[0], {}, T, r"windows must be a c2fcore.Windows, got Tensor"),
    (IMAGE, GOOD._replace(origins=GOOD.origins.long()), {}, T, r"windows.origins .*int32, .*int64"),
    (IMAGE, GOOD._replace(num=GOOD.num.long()), {}, T, r"windows.*num must be int32"),
    (IMAGE, GOOD._replace(origins=GOOD.origins[..., :1]), {}, V, r"windows.origins must be \[B, n"),
    (IMAGE, GOOD._replace(num=GOOD.num[:1]), {}, V, r"windows must be of as many images"),
    (IMAGE.to("meta"), GOOD, {}, V, r"windows\.origins must be on the same device.*cpu and meta"),
]
# fmt: on


@pytest.mark.parametrize(
    ("image", "windows", "options", "error", "message"), BAD,
    ids=[f"{i}-{b[4][:24]}" for i, b in enumerate(BAD)],
)  # fmt: skip
def test_bad_input(
    image: torch.Tensor, windows: Windows, options: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=rf"^{OP}: {message}"):
        ops.extract_patches(image, windows, **options)


def test_num_beyond_n(backend: str, device: str) -> None:
    """`num` comes from tensors nobody checks on a GPU: no backend may follow it past the slots."""
    if device != "cpu":
        pytest.skip("on a GPU num is not read by the host")
    for num in (3, -1, 2**31 - 1):
        windows = windows_of([[(0, 0), (1, 1)]], 4)._replace(
            num=torch.tensor([num], dtype=torch.int32)
        )
        with pytest.raises(ValueError, match=r"num"):
            ops.extract_patches(IMAGE[:1], windows, backend=backend)
