"""Input that no rule of a single op names: it is refused by name, and never crashes or misleads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import c2fcore
from c2fcore import C2FConfig, C2FNet, Windows, models, ops
from c2fcore.bench import foreign
from c2fcore.data.masks import read_mask

BACKENDS = pytest.mark.parametrize("place", ["auto", "reference"])
LOGITS = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)
IMAGE = LOGITS.abs()
FINE = torch.ones(1, 1, 4, 4)
INT = torch.int32
WINDOWS = Windows(
    torch.zeros(1, 1, 2, dtype=INT), torch.ones(1, 1, dtype=INT), torch.ones(1, dtype=INT), 4
)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(3, 4, 4)])
    with pytest.raises(TypeError, match=r"^count_windows: seg must be a dense tensor, got nested"):
        ops.count_windows(nested, (1,), window=4, stride=2)
    with pytest.raises(TypeError, match=r"^aggregate: fine must be a dense tensor, got nested"):
        ops.aggregate(LOGITS, nested, WINDOWS, (1,))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", ["sparse", "nested"])
def test_windows_are_dense(layout: str) -> None:
    zeros = torch.zeros(1, 2, dtype=INT)
    given = zeros[None].to_sparse() if layout == "sparse" else torch.nested.nested_tensor([zeros])
    with pytest.raises(TypeError, match=rf"windows.origins must be a dense tensor, got .*{layout}"):
        ops.extract_patches(IMAGE, WINDOWS._replace(origins=given))


@BACKENDS
@pytest.mark.parametrize("fine", [None, 1, "fine", [1, 2]], ids=repr)
def test_fine_logits_that_are_none(place: str, fine: Any) -> None:
    with pytest.raises(TypeError, match=r"^aggregate: fine must be a torch\.Tensor, .* got "):
        ops.aggregate(LOGITS, fine, WINDOWS, (1,), backend=place)


@BACKENDS
def test_tensors_without_memory(place: str) -> None:
    """Zeros as automatic differentiation makes them hold no memory that a kernel could read."""
    zeros = torch._efficientzerotensor((1, 3, 8, 8))  # type: ignore[attr-defined]
    plain = torch.zeros(1, 3, 8, 8)
    for op, args, options in (
        (ops.count_windows, ((0,),), {"window": 4, "stride": 2}),
        (ops.extract_patches, (WINDOWS,), {}),
        (ops.aggregate, (FINE, WINDOWS, (1,)), {}),
    ):
        call: Any = op
        got = call(zeros, *args, **options, backend=place)
        assert torch.equal(got, call(plain, *args, **options, backend=place))


@pytest.mark.parametrize("zoom", [2.0**30, 1e30])
@BACKENDS
def test_patches_too_large_to_number(place: str, zoom: float) -> None:
    with pytest.raises(ValueError, match=r"window \* zoom must be at most 2147483647, got 4 \* "):
        ops.extract_patches(IMAGE, WINDOWS, zoom=zoom, backend=place)


@BACKENDS
def test_sizes_too_large_to_number(place: str) -> None:
    with pytest.raises(ValueError, match=r"size must be in 1..2147483647, got 1180591620717411303"):
        ops.count_windows(LOGITS, (1,), window=4, stride=2, size=(2**70, 8), backend=place)


@BACKENDS
def test_a_number_may_be_a_tensor(place: str) -> None:
    half = torch.tensor(0.5)
    got = ops.extract_patches(IMAGE, WINDOWS, mean=half, std=half, backend=place)  # type: ignore[arg-type]
    want = ops.extract_patches(IMAGE, WINDOWS, mean=0.5, std=0.5, backend=place)
    assert torch.equal(got, want)


@BACKENDS
@pytest.mark.parametrize(
    "ids", [(True,), (1.0,), (np.True_,), ([1],), np.array(1), torch.tensor(1)]
)
def test_what_equals_a_class_id_is_none(place: str, ids: Any) -> None:
    """Whatever was asked before: ids that passed are remembered, and True == 1.0 == 1."""
    ops.count_windows(LOGITS, (1,), window=4, stride=2, backend=place)
    with pytest.raises(TypeError, match=r"small_classes must be (an integer|class)"):
        ops.count_windows(LOGITS, ids, window=4, stride=2, backend=place)


@BACKENDS
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"zoom": 10**400}, ValueError, "zoom must be finite, got inf"),
        ({"zoom": np.True_}, TypeError, r"zoom must be a number, got np.True_"),
        ({"zoom": torch.ones(2)}, TypeError, r"zoom must be a number, got tensor"),
        ({"scale": np.ones(2)}, TypeError, r"scale must be a number, got array"),
        ({"scale": 1e39}, ValueError, r"scale must be finite, got 1e\+39"),
        ({"mean": (0, 0, -1e39)}, ValueError, r"mean must be finite, got -1e\+39"),
        ({"mean": {0.5}}, TypeError, r"mean must be a sequence of numbers, got \{"),
        ({"mean": {0: 1, 1: 2, 2: 3}}, TypeError, "mean must be a sequence of numbers, got {0"),
        ({"std": b"abc"}, TypeError, "std must be a sequence of numbers, got b'abc'"),
        ({"std": (1, 1, 1e-46)}, ValueError, r"std must not be 0, got \(1, 1, 1e-46\)"),
        ({"channels_last": "no"}, TypeError, "channels_last must be a bool, got 'no'"),
    ],
    ids=str,
)
def test_numbers_that_are_none(
    place: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^extract_patches: {message}"):
        ops.extract_patches(IMAGE, WINDOWS, **options, backend=place)


@pytest.mark.parametrize("name", [None, ["cpu"], np.array(["cpu"]), b"cpu"], ids=repr)
def test_backends_that_are_no_name(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^count_windows: backend must be one of 'auto', .* got"):
        ops.count_windows(LOGITS, (1,), window=4, stride=2, backend=name)
    with (
        pytest.raises(ValueError, match=r"^use_backend: backend must be one of"),
        c2fcore.use_backend(name),
    ):
        pass


@pytest.mark.parametrize("place", ["auto", "reference", "cpu"])
def test_float64_patches_of_other_images(place: str) -> None:
    pixels = (IMAGE * 255).to(torch.uint8)
    got = ops.extract_patches(pixels, WINDOWS, zoom=2, dtype=torch.float64, backend=place)
    want = ops.extract_patches(pixels, WINDOWS, zoom=2, backend=place)
    assert got.dtype == torch.float64
    assert torch.equal(got, want.double())


@BACKENDS
def test_no_images_with_windows_of_any_strides(place: str) -> None:
    origins = torch.zeros(2, 3, 0, dtype=INT).permute(2, 1, 0)
    none = Windows(origins, torch.zeros(0, 3, dtype=INT), torch.zeros(0, dtype=INT), 4)
    assert ops.extract_patches(IMAGE[:0], none, backend=place).shape == (0, 3, 4, 4)
    assert ops.aggregate(LOGITS[:0], FINE[:0], none, (1,), backend=place).shape == (0, 8, 8)


def test_networks_that_answer_without_pixels() -> None:
    with pytest.raises(ValueError, match=r"^fine network: logits must have pixels, got shape"):
        models.logits_of(torch.zeros(2, 1, 0, 4), "fine network")


def test_a_mask_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    noise = torch.randint(0, 256, (64, 64), dtype=torch.uint8, generator=torch.Generator())
    Image.fromarray(noise.numpy()).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"mask must be readable, got .*mask\.png: "):
        read_mask(path)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_mask(tmp_path / "none.png")


def test_integer_weights_are_not_those_of_a_network(tmp_path: Path) -> None:
    coarse, fine = models.build("tiny_fcn", 2, width=4), models.build("tiny_fcn", 1, width=4)
    config = C2FConfig(num_classes=2, small_classes=(1,))
    C2FNet(coarse, fine, config).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(str(path))
    save_file({key: value.int() for key, value in weights.items()}, str(path))
    with pytest.raises(ValueError, match=r"is torch\.int32 instead of torch\.float32"):
        C2FNet.from_pretrained(tmp_path)
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, str(path))
    assert C2FNet.from_pretrained(tmp_path).config == config


@pytest.mark.parametrize("text", ["1 / 0", "def (", "import sys; sys.exit(5)"])
def test_kernels_of_modules_that_do_not_import(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strange_kernel.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strange_kernel", raising=False)
    with pytest.raises(ValueError, match=r"^--impl strange_kernel:fn: must be importable, got "):
        foreign.load("strange_kernel:fn")
    for name in (":", "strange_kernel:", ":fn"):
        with pytest.raises(ValueError, match=r"^--impl must be module:function, got "):
            foreign.load(name)


def test_a_kernel_that_ends_the_process_fails_its_samples() -> None:
    def leave(*args: Any, **options: Any) -> None:
        sys.exit(3)

    assert all("SystemExit" in v.error for v in foreign.check("extract_targets", leave))
