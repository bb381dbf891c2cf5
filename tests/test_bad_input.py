"""Input that no rule of a single op names: it is refused by name, and never crashes or misleads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from c2fcore import Windows, models, ops

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
