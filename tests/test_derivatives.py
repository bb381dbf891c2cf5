"""Derivatives by every road of PyTorch's: right, or refused by name; never silently zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from c2fcore import Windows, ops
from c2fcore.reference import upsample
from c2fcore.testing.samples.inputs import noise_logits, windows_of

WINDOWS = windows_of([[(0, 1), (2, 2)], [(1, 0)]], 4)
IMAGE = noise_logits((2, 3, 8, 7), 1)
DIRECTION = noise_logits((2, 3, 8, 7), 2)
COARSE, FINE = noise_logits((2, 4, 4, 4), 3), noise_logits((4, 2, 3, 3), 4)
NEAR: dict[str, float] = {"rtol": 1e-4, "atol": 1e-4}  # sums that cancel, in another order
Function = Callable[[Tensor], Tensor]


def _patches(image: Tensor, backend: str = "auto") -> Tensor:
    patches: Tensor = ops.extract_patches(
        image, WINDOWS, zoom=1.5, mode="bicubic", scale=0.5, mean=0.1, std=(1, 2, 3),
        backend=backend,
    )  # fmt: skip
    return patches


def _scores(coarse: Tensor, backend: str = "auto") -> Tensor:
    scores: Tensor = ops.aggregate(
        coarse, FINE, WINDOWS, (1, 3), size=(8, 7), output="probs", backend=backend
    )
    return scores


def _gradient(f: Function, at: Tensor) -> Tensor:
    leaf = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(leaf).square().sum(), leaf)
    return gradient


@pytest.mark.parametrize(("f", "at"), [(_patches, IMAGE), (_scores, COARSE)])
def test_torch_func_and_forward_mode(f: Function, at: Tensor) -> None:
    want = _gradient(f, at)
    assert want.abs().max() > 0
    torch.testing.assert_close(torch.func.grad(lambda x: f(x).square().sum())(at), want)
    # The directional derivative of the sum of squares, forwards and through the gradient.
    direction = noise_logits(tuple(at.shape), 5)
    along = (want * direction).sum()
    value, tangent = torch.func.jvp(lambda x: f(x).square().sum(), (at,), (direction,))
    torch.testing.assert_close(tangent, along, **NEAR)
    torch.testing.assert_close(value, f(at).square().sum())
    with forward_ad.dual_level():
        dual = f(forward_ad.make_dual(at, direction)).square().sum()
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, along, **NEAR)


@pytest.mark.filterwarnings("ignore:.*lru_cache", "ignore:Dynamo does not know")
@pytest.mark.parametrize(("f", "at"), [(_patches, IMAGE), (_scores, COARSE)])
def test_forward_mode_and_torch_compile(f: Function, at: Tensor) -> None:
    """Compiled functions leave forward mode to the reference, or are refused; no tangent is 0."""
    direction = noise_logits(tuple(at.shape), 5)
    want = (_gradient(f, at) * direction).sum()

    def total(x: Tensor) -> Tensor:
        return f(x).square().sum()

    def forwards(x: Tensor) -> Tensor:
        tangent: Tensor = torch.func.jvp(total, (x,), (direction,))[1]
        return tangent

    torch._dynamo.reset()
    compiled = torch.compile(total, backend="aot_eager")
    torch.testing.assert_close(compiled(at), total(at))
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(compiled(forward_ad.make_dual(at, direction))).tangent
        torch.testing.assert_close(tangent, want, **NEAR)
    torch.testing.assert_close(torch.compile(forwards, backend="aot_eager")(at), want, **NEAR)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(forwards, backend="aot_eager", fullgraph=True)(at)


def test_forward_mode_of_a_direct_call_is_refused() -> None:
    where = (WINDOWS.origins, WINDOWS.num, WINDOWS.window)

    def scores(coarse: Tensor) -> Tensor:
        found: Tensor = torch.ops.c2fcore.aggregate(
            coarse, FINE, *where, [1, 3], 8, 7, "paper", "probs", "auto"
        )
        return found

    def patches(image: Tensor) -> Tensor:
        found: Tensor = torch.ops.c2fcore.extract_patches(
            image, *where, 4, "nearest", 1.0, None, None, torch.float32, False, "auto"
        )
        return found

    for f, at in ((scores, COARSE), (patches, IMAGE)):
        with pytest.raises(
            NotImplementedError, match=r"torch\.ops.* no derivative in forward mode"
        ):
            torch.func.jvp(f, (at,), (at,))
        with (
            forward_ad.dual_level(),
            pytest.raises(NotImplementedError, match=r"no derivative in forward mode"),
        ):
            f(forward_ad.make_dual(at, at))


@pytest.mark.parametrize("place", ["auto", "reference", "cpu"])
def test_second_derivatives_of_patches(place: str) -> None:
    leaf = IMAGE.clone().requires_grad_()
    (first,) = torch.autograd.grad(_patches(leaf, place).square().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * DIRECTION).sum(), leaf)
    # d/dx of <2 A'(Ax + b), v> is 2 A'Av.
    zero = torch.zeros_like(IMAGE)
    along = 2 * (_patches(DIRECTION) - _patches(zero))
    probe = IMAGE.clone().requires_grad_()
    (want,) = torch.autograd.grad((_patches(probe) * along.detach()).sum(), probe)
    torch.testing.assert_close(second, want)


def test_a_backend_that_cannot_says_so() -> None:
    with pytest.raises(
        NotImplementedError, match=r"^extract_patches: backend 'cpu' has no gradient"
    ):
        torch.func.grad(lambda x: _patches(x, "cpu").sum())(IMAGE)
    with pytest.raises(NotImplementedError, match=r"^aggregate: .*cpu.*gradient.*reference"):
        torch.func.grad(lambda x: _scores(x, "cpu").sum())(COARSE)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("own", [(5, 7), (13, 1), (24, 30)])
def test_resampling_backwards_by_matrices(mode: str, own: tuple[int, int]) -> None:
    """What GPUs do where PyTorch is told to be deterministic."""
    grad = noise_logits((2, 3, 11, 17), 6).double()
    torch.testing.assert_close(
        upsample._by_matrices(grad, own, mode), upsample.resampled_backward(grad, own, mode)
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = upsample._by_matrices(grad.float(), own, mode)
    torch.testing.assert_close(found.double(), upsample._by_matrices(grad, own, mode), **NEAR)


def test_windows_and_logits_of_inference_mode() -> None:
    """What a frozen network answers and selects in inference mode may serve in training."""
    with torch.inference_mode():
        windows = WINDOWS._replace(origins=WINDOWS.origins.clone(), num=WINDOWS.num.clone())
        coarse = COARSE.clone()

    def gradients(coarse: Tensor, windows: Windows) -> tuple[Tensor, ...]:
        image, fine = IMAGE.clone().requires_grad_(), FINE.clone().requires_grad_()
        patches = ops.extract_patches(image, windows, zoom=1.5)
        scores = ops.aggregate(coarse, fine, windows, (1, 3), size=(8, 7), output="probs")
        return torch.autograd.grad((patches.square().sum(), scores.square().sum()), (image, fine))

    for got, want in zip(gradients(coarse, windows), gradients(COARSE, WINDOWS), strict=True):
        assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_holds_the_op_and_not_its_answer() -> None:
    def count(logits: Tensor) -> Tensor:
        counts: Tensor = ops.count_windows(logits, (1, 3), window=3, stride=1)
        return counts

    traced = torch.jit.trace(count, (COARSE,))
    assert not torch.equal(count(COARSE), count(-COARSE))
    assert torch.equal(traced(-COARSE), count(-COARSE))
