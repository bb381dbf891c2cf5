"""Gradients of aggregate's scores: the reference's own by autograd, in float64 and in float32."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
from compare import assert_same_bits, to_device
from torch import Tensor

from c2fcore import Windows, ops, reference
from c2fcore.reference.aggregate import aggregate_backward
from c2fcore.testing import tolerances
from c2fcore.testing.agree import assert_close
from c2fcore.testing.samples.inputs import laid_out, noise_logits, windows_of

OP = "aggregate"
pytestmark = pytest.mark.usefixtures("poison")

RULES = ("paper", "normalized", "official")
SIZE = (21, 27)
# Overlapping ones, one that touches the border, and an image without any.
WINDOWS = windows_of([[(0, 0), (3, 5), (4, 6)], [(13, 19)], []], 8, 4)
COARSE, FINE = noise_logits((3, 5, 7, 9), 1), noise_logits((12, 2, 3, 5), 2)
GRAD = noise_logits((3, 5, *SIZE), 3)
_Leaves = list[Tensor]


def _leaves(*tensors: Tensor) -> _Leaves:
    return [t.detach().clone().requires_grad_() for t in tensors]


def _by_autograd(
    grad: Tensor, coarse: Tensor, fine: Tensor, windows: Windows, **kw: Any
) -> _Leaves:
    """What autograd makes of the reference."""
    leaves = _leaves(coarse, fine)
    classes = kw.pop("classes", (1, 3))
    scores = reference.aggregate(*leaves, windows, classes, size=SIZE, output="probs", **kw)
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    return list(torch.autograd.grad(scores, leaves, grad, **options))


def _by_op(grad: Tensor, coarse: Tensor, fine: Tensor, windows: Windows, **kw: Any) -> _Leaves:
    leaves = _leaves(coarse, fine)
    classes = kw.pop("classes", (1, 3))
    scores = ops.aggregate(*leaves, windows, classes, size=SIZE, output="probs", **kw)
    return list(torch.autograd.grad(scores, leaves, grad))


def _error(want: Tensor) -> float:
    """Sums of some dozen products in float32, in another order than autograd's."""
    largest = want.abs().max().item() if want.numel() else 0.0
    return tolerances.GRADIENT_ULPS * tolerances.EPS32 * max(largest, 1e-3)


def _shapes() -> Iterator[tuple[Any, ...]]:
    """Classes, and sides of both logits: enlarged, of their own size, reduced, a single pixel."""
    yield from product(
        ((1, 3), (0, 1, 2, 3, 4), (2,)), ((7, 9), SIZE, (1, 1)), ((3, 5), (8, 8), (16, 13), (1, 1))
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("channels", [1, 2])
def test_formulas_in_float64(rule: str, channels: int) -> None:
    for classes, low, patch in _shapes():
        coarse = noise_logits((3, 5, *low), 4).double()
        fine = noise_logits((12, channels, *patch), 5).double()
        given = (GRAD.double(), coarse, fine, WINDOWS)
        found = aggregate_backward(*given, classes, rule=rule)
        for got, want in zip(found, _by_autograd(*given, classes=classes, rule=rule), strict=True):
            assert got is not None
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
        for wanted in ((True, False), (False, True)):
            flags = dict(zip(("of_coarse", "of_fine"), wanted, strict=True))
            alone = aggregate_backward(*given, classes, rule=rule, **flags)
            for one, both, asked in zip(alone, found, wanted, strict=True):
                assert (one is None) != asked
                assert one is None or torch.equal(one, both)


@pytest.mark.parametrize("rule", RULES)
def test_autograd_of_the_op(backend: str, device: str, rule: str) -> None:
    """Of every dtype and layout; the forward pass by any backend, the gradient by PyTorch."""
    for coarse, fine in (
        (COARSE, FINE),
        (COARSE.half(), FINE.bfloat16()),
        (laid_out(COARSE, "channels_last"), laid_out(FINE, "channels_last")),
        (COARSE.bfloat16(), FINE[:, :1].half()),
    ):
        want = _by_autograd(GRAD, coarse, fine, WINDOWS, rule=rule)
        places = (GRAD.to(device), coarse.to(device), fine.to(device), to_device(WINDOWS, device))
        found = _by_op(*places, rule=rule, backend=backend)
        for got, w in zip(found, want, strict=True):
            assert got.dtype == w.dtype
            assert got.is_contiguous()
            step = tolerances.eps(w.dtype) * w.abs().max().item() if w.element_size() < 4 else 0.0
            assert_close(got.cpu().float(), w.float(), _error(w) + step)


@pytest.mark.parametrize("rule", RULES)
def test_without_windows_and_without_images(rule: str) -> None:
    """No window in use: the softmax alone passes gradients. No image: empty ones."""
    none = windows_of([[], [], []], 8, 4)
    found = _by_op(GRAD, COARSE, FINE, none, rule=rule)
    for got, want in zip(found, _by_autograd(GRAD, COARSE, FINE, none, rule=rule), strict=True):
        assert_close(got, want, _error(want))
    assert not found[1].any()
    empty = Windows(*(t[:0] for t in WINDOWS[:3]), 8)
    found = _by_op(GRAD[:0], COARSE[:0], FINE[:0], empty, rule=rule)
    assert [tuple(t.shape) for t in found] == [(0, 5, 7, 9), (0, 2, 3, 5)]


def test_the_same_bits_every_time() -> None:
    first, second = (_by_op(GRAD, COARSE, FINE, WINDOWS) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("rule", RULES)
def test_nan_and_infinity(rule: str) -> None:
    """Autograd's gradients wherever these are numbers, and 0 where not, or what is left of them."""
    coarse, fine = COARSE.clone(), FINE.clone()
    coarse[0, 2, 1, 1] = coarse[2, :, 3, 3] = torch.nan
    coarse[1, 1, 2, 2], coarse[1, 2, 5, 5] = torch.inf, -torch.inf
    fine[0, 0, 1, 1], fine[1, 1, 0, 0] = torch.nan, torch.inf
    found = _by_op(GRAD, coarse, fine, WINDOWS, rule=rule)
    for got, want in zip(found, _by_autograd(GRAD, coarse, fine, WINDOWS, rule=rule), strict=True):
        numbers = ~want.isnan()
        assert numbers.float().mean() > 0.9
        assert_close(got[numbers], want[numbers], _error(want[numbers]))
        assert got.isfinite().all()
    assert found[0][0, 2, 1, 1] == 0, "the whole reach of a NaN counts as -inf"
    assert not found[0][2, :, 3, 3].any()
    assert found[1][0, 0, 1, 1] == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("wanted", [(0, 1), (0,), (1,)])
def test_higher_derivatives(rule: str, wanted: tuple[int, ...]) -> None:
    """The second and the third, in all that the first one depends on."""
    found = []
    for run in (reference.aggregate, ops.aggregate):
        both = [COARSE / 4, FINE / 4]
        leaves = [both[i].requires_grad_() for i in wanted]
        scores = run(*both, WINDOWS, (1, 3), size=SIZE, rule=rule, output="probs")
        derivatives, total = [], scores.pow(3).sum()
        for _ in range(3):
            given = torch.autograd.grad(total, leaves, create_graph=True)
            derivatives += given
            total = torch.stack([(g / g.detach().abs().max()).square().sum() for g in given]).sum()
        found.append(derivatives)
    for got, want in zip(found[1], found[0], strict=True):
        assert want.abs().max() > 0
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())


def test_second_derivative_of_what_is_linear() -> None:
    leaf = COARSE.clone().requires_grad_()
    scores = ops.aggregate(leaf, FINE, WINDOWS, (1, 3), size=SIZE, rule="official", output="probs")
    (first,) = torch.autograd.grad(scores.sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf, allow_unused=True)
    assert second is None or not second.any()


def test_a_frozen_network_gets_no_gradient() -> None:
    for frozen in (0, 1):
        leaves = _leaves(COARSE, FINE)
        leaves[frozen].requires_grad_(False)
        scores = ops.aggregate(*leaves, WINDOWS, (1, 3), size=SIZE, output="probs")
        scores.backward(GRAD)
        assert leaves[frozen].grad is None
        other = leaves[1 - frozen].grad
        assert other is not None
        want = _by_autograd(GRAD, COARSE, FINE, WINDOWS)[1 - frozen]
        assert_close(other, want, _error(want))


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast(compiled: bool) -> None:
    """bfloat16 logits of networks in autocast; gradients as of these logits."""
    head = torch.nn.Conv2d(5, 5, 1)

    def loss(x: Tensor, fine: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(x)
            assert logits.dtype == torch.bfloat16
            scores = ops.aggregate(logits, fine, WINDOWS, (1, 3), size=SIZE, output="probs")
        total: Tensor = (scores * GRAD).sum()
        return total

    torch._dynamo.reset()
    run = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
    leaves = _leaves(COARSE, FINE)
    run(*leaves).backward()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(COARSE)
    of_logits, of_fine = _by_autograd(GRAD, logits, FINE, WINDOWS)
    assert leaves[1].grad is not None
    assert_close(leaves[1].grad, of_fine, _error(of_fine))
    assert head.bias.grad is not None
    want = of_logits.float().sum((0, 2, 3))
    assert_close(head.bias.grad, want, 2**-7 * of_logits.float().abs().sum((0, 2, 3)).max().item())


def test_scores_without_gradients_need_none() -> None:
    leaf = COARSE.clone().requires_grad_()
    with torch.no_grad():
        scores = ops.aggregate(leaf, FINE, WINDOWS, (1, 3), size=SIZE, output="probs")
    assert not scores.requires_grad
    labels = ops.aggregate(leaf, FINE, WINDOWS, (1, 3), size=SIZE)
    assert not labels.requires_grad


def test_gradient_of_scores() -> None:
    """output="probs" on the reference is differentiable in both networks' logits."""
    coarse = noise_logits((1, 4, 3, 3), 1).double().requires_grad_(False)
    fine = noise_logits((2, 2, 2, 2), 2)
    windows = windows_of([[(0, 0), (2, 2)]], 4)
    for rule in ("paper", "normalized", "official"):
        c = coarse.float().requires_grad_()
        f = fine.clone().requires_grad_()
        scores = ops.aggregate(c, f, windows, (1, 3), size=(6, 6), rule=rule, output="probs")
        scores[0, 1].square().sum().backward()
        for leaf in (c, f):
            assert leaf.grad.isfinite().all()
            assert leaf.grad.abs().sum() > 0
        # One coordinate of each by central differences.
        for leaf, where in ((c, (0, 1, 1, 1)), (f, (0, 1, 1, 1))):
            step, sums = 1e-2, []
            for sign in (1, -1):
                moved = {id(c): c.detach().clone(), id(f): f.detach().clone()}
                moved[id(leaf)][where] += sign * step
                scores = ops.aggregate(
                    moved[id(c)], moved[id(f)], windows, (1, 3), size=(6, 6), rule=rule,
                    output="probs", backend="reference",
                )  # fmt: skip
                sums.append(scores[0, 1].double().square().sum().item())
            slope = (sums[0] - sums[1]) / (2 * step)
            assert leaf.grad[where].item() == pytest.approx(slope, rel=0.02, abs=2e-3)
