"""Input that no rule of a single op names: it is refused by name, and never crashes or misleads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from c2fcore import C2FConfig, C2FNet, Windows, models, ops
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
