"""aggregate: the merge rules pixel by pixel, the loop oracle, every backend and the reference."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import oracles_merge
import pytest
import torch
import torch.nn.functional as F
from compare import assert_labels, assert_repeatable, call, to_device
from oracles_merge import Merged
from properties import for_any_data, st

import c2fcore
from c2fcore import _native, ops
from c2fcore.testing import samples, tolerances
from c2fcore.testing.agree import (
    Differs,
    assert_agrees,
    assert_close,
    assert_rare,
    merge_error,
    merge_tosses,
)
from c2fcore.testing.samples import Sample
from c2fcore.testing.samples.inputs import noise_logits, random_windows, windows_of

OP = "aggregate"
pytestmark = pytest.mark.usefixtures("poison")

# One pixel, four classes, C = {2, 3}; p are the coarse probabilities, p_f the fine network's.
# fmt: off
PIXELS = [  # name, p, p_f (None: not covered), label, what is added to which class under "paper"
    ("not covered",                         [.10, .25, .60, .05], None, 2, None),
    ("covered, both say small",             [.10, .25, .60, .05], .75,  2, None),
    ("covered, both say not small",         [.50, .10, .30, .10], .25,  0, None),
    ("case 1: overruled to not small",      [.30, .25, .40, .05], .25,  0, (0, .75)),
    ("case 1: to the most probable other",  [.20, .25, .50, .05], .25,  1, (1, .75)),
    ("case 1: too weak to win",             [.04, .02, .90, .04], .40,  2, (0, .60)),
    ("case 1: others tie, lowest id",       [.20, .20, .55, .05], .25,  0, (0, .75)),
    ("case 2: overruled to small",          [.50, .10, .30, .10], .75,  2, (2, .75)),
    ("case 2: to the most probable small",  [.50, .10, .15, .25], .75,  3, (3, .75)),
    ("case 2: too weak to win",             [.96, .02, .01, .01], .60,  0, (2, .60)),
    ("case 2: small ones tie, lowest id",   [.50, .20, .15, .15], .75,  2, (2, .75)),
    ("p_f = 1/2 is foreground: case 2",     [.40, .20, .30, .10], .50,  2, (2, .50)),
    ("p_f = 1/2 is foreground: no case 1",  [.20, .20, .35, .25], .50,  2, None),
    ("c* by the lowest id: not small",      [.05, .40, .40, .15], .25,  1, None),
]
# fmt: on


def _logit(p_f: float) -> float:
    return math.log(p_f / (1 - p_f))


def _softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("name", "p", "p_f", "label", "added"), PIXELS, ids=[c[0] for c in PIXELS])
def test_merge_rule(
    backend: str, device: str, channels: int, name: str, p: list[float], p_f: Any, label: int,
    added: Any,
) -> None:  # fmt: skip
    coarse = torch.tensor(p, dtype=torch.float64).log().float().view(1, 4, 1, 1).to(device)
    logit = 0.0 if p_f is None else _logit(p_f)
    fine = torch.tensor([[logit], [logit]] if channels == 1 else [[1.0, 1.0 + logit]] * 2)
    fine = fine.view(2, channels, 1, 1).to(device)
    windows = windows_of([[] if p_f is None else [(0, 0)]], 1, 2, device)

    def merge(rule: str, output: str) -> Any:
        answer = ops.aggregate(
            coarse, fine, windows, (2, 3), rule=rule, output=output, backend=backend
        )
        return answer.flatten().tolist()

    summed = [v + (added[1] if added and added[0] == c else 0) for c, v in enumerate(p)]
    assert merge("paper", "labels") == [label]
    assert merge("normalized", "labels") == [label]
    # "paper": covered pixels go through softmax once more; "normalized": through their sum.
    paper = _softmax(summed) if p_f is not None else p
    assert merge("paper", "probs") == pytest.approx(paper, abs=2e-6)
    normalized = [v / sum(summed) for v in summed]
    assert merge("normalized", "probs") == pytest.approx(normalized, abs=2e-6)
    # "official": p_f on the logits of every small class, no cases.
    logits = [math.log(v) + (p_f if p_f and c in (2, 3) else 0) for c, v in enumerate(p)]
    assert merge("official", "probs") == pytest.approx(logits, abs=2e-6)
    assert merge("official", "labels") == [max(range(4), key=lambda c: (logits[c], -c))]


@pytest.mark.parametrize("rule", ["paper", "normalized"])
def test_half_is_decided_by_the_sign(backend: str, device: str, rule: str) -> None:
    """p_f >= 1/2 at a logit of 0 and -0, not one ulp below; the flip needs no large margin."""
    coarse = torch.tensor([1.0, 0.999]).view(1, 2, 1, 1).to(device)
    windows = windows_of([[(0, 0)]], 1, 1, device)
    below = -6.0e-7  # sigmoid is 0.49999985: far enough to be below 1/2 in float32
    for logit, label in ((0.0, 1), (-0.0, 1), (below, 0), (1e-30, 1)):
        fine = torch.full((1, 1, 1, 1), logit, device=device)
        got = ops.aggregate(coarse, fine, windows, (1,), rule=rule, backend=backend)
        assert got.item() == label, logit


def test_no_foreground_at_all_adds_nothing(backend: str, device: str) -> None:
    """A p_f of 0 leaves a tie at logits of 0 to the lowest class."""
    coarse = torch.zeros(1, 2, 1, 1, device=device)
    windows = windows_of([[(0, 0)]], 1, 1, device)
    for logit, label in ((-math.inf, 0), (-1e4, 0), (-80.0, 1)):
        fine = torch.full((1, 1, 1, 1), logit, device=device)
        got = ops.aggregate(coarse, fine, windows, (1,), rule="official", backend=backend)
        assert got.item() == label, logit


@pytest.mark.skipif(_native.cpu().module is None, reason=_native.cpu().reason)
def test_one_window_decides_as_two_equal_ones_do() -> None:
    """Where a window is alone the sign of its logit decides, of several the mean of sigmoids."""
    edge = torch.tensor(-1.5 * 2**-23).view(torch.int32)
    near = torch.arange(-1024, 1024, dtype=torch.int32).add(edge).view(torch.float32)
    fine = torch.cat((near, torch.linspace(-4e-7, 4e-7, 2048))).view(1, 1, 64, 64)
    coarse = torch.tensor([1.0, 0.999]).view(1, 2, 1, 1).expand(1, 2, 64, 64)
    once, twice = (windows_of([[(0, 0)] * n], 64, n) for n in (1, 2))
    got = ops.aggregate(coarse, fine, once, (1,), backend="cpu")
    want = ops.aggregate(coarse, fine.repeat(2, 1, 1, 1), twice, (1,), backend="cpu")
    assert torch.equal(got, want)
    assert 0 < got.sum() < got.numel()


def test_overlaps_are_averaged_in_slot_order(backend: str, device: str) -> None:
    """(.9 + .05) / 2 < 1/2: not foreground, though one patch is sure. Unused slots do not count."""
    coarse = torch.tensor([0.5, 0.4]).view(1, 2, 1, 1).repeat(1, 1, 1, 3).to(device)
    fine = torch.tensor([_logit(0.9), _logit(0.05), 40.0]).view(3, 1, 1, 1).to(device)
    windows = windows_of([[(0, 0), (0, 0)]], 1, 3, device)
    got = ops.aggregate(
        coarse, fine, windows, (1,), rule="official", output="probs", backend=backend
    )
    assert got[0, 1, 0].tolist() == pytest.approx([0.4 + 0.475, 0.4, 0.4], abs=1e-6)
    got = ops.aggregate(coarse, fine, windows, (1,), backend=backend)
    assert got[0, 0].tolist() == [0, 0, 0]
    # float32 sums depend on their order: slot order is part of the meaning.
    values = torch.randn(7, generator=torch.Generator().manual_seed(0)) * 3
    windows = windows_of([[(0, 0)] * 7], 1, 7, device)
    fine = values.view(7, 1, 1, 1).to(device)
    got = ops.aggregate(
        coarse, fine, windows, (1,), rule="official", output="probs", backend=backend
    )
    assert got[0, 1, 0, 0].item() == pytest.approx(0.4 + values.sigmoid().mean().item(), abs=3e-7)


def test_every_class_small_adds_nothing_in_case_1(backend: str, device: str) -> None:
    coarse = torch.tensor([0.2, 0.7, -0.3]).view(1, 3, 1, 1).to(device)
    windows = windows_of([[(0, 0)]], 1, 1, device)
    fine = torch.full((1, 1, 1, 1), -3.0, device=device)
    p = coarse.flatten().softmax(0).tolist()
    for rule, want in (("paper", _softmax(p)), ("normalized", p)):
        got = ops.aggregate(
            coarse, fine, windows, (0, 1, 2), rule=rule, output="probs", backend=backend
        )
        assert got.flatten().tolist() == pytest.approx(want, abs=1e-6)
    assert ops.aggregate(coarse, fine, windows, (2, 0, 1), backend=backend).item() == 1


@cache
def _expected(name: str) -> Merged:
    sample = samples.get(OP, name)
    coarse, fine, windows, classes = sample.args()
    return oracles_merge.aggregate(
        coarse.float().numpy(), fine.float().numpy(), windows.origins.numpy(), windows.num.numpy(),
        windows.window, classes, size=sample.options.get("size"),
        rule=sample.options.get("rule", "paper"),
    )  # fmt: skip


def _tosses(sample: Sample) -> torch.Tensor:
    """Pixels whose decision lies within the error. Exact ties are decided: by their order."""
    margin = torch.from_numpy(_expected(sample.name).margin)
    return (margin <= merge_error(sample)) & ~((margin == 0) & sample.exact)


@pytest.mark.parametrize("sample", [s for s in samples.of(OP) if s.loops], ids=str)
def test_loops(backend: str, device: str, sample: Sample) -> None:
    want = _expected(sample.name)
    got = call(OP, sample, backend, device)
    excused = _tosses(sample)
    assert_rare(excused)
    if sample.options.get("output", "labels") == "labels":
        assert_labels(got, torch.from_numpy(want.labels), excused)
    else:
        assert got.dtype == torch.float32
        keep = ~excused[:, None].expand_as(got)
        assert_close(
            torch.where(keep, got.double(), 0.0),
            torch.where(keep, torch.from_numpy(want.scores), 0.0),
            merge_error(sample),
        )


@pytest.mark.parametrize("sample", samples.of(OP), ids=str)
def test_same_as_reference(backend: str, device: str, sample: Sample) -> None:
    want = call(OP, sample, "reference")
    got = call(OP, sample, backend, device)
    assert_agrees(OP, sample, got, want)
    if got.dtype == torch.uint8 and sample.loops:
        # Where they differ, the oracle has to call it a toss.
        assert not ((got != want) & ~_tosses(sample)).any()


@pytest.mark.parametrize("sample", samples.of(OP), ids=str)
def test_one_wrong_pixel_is_seen(sample: Sample) -> None:
    """Tosses are excused where a decision is close, not a pixel or two of whatever place."""
    want = call(OP, sample, "reference")
    firm = (~merge_tosses(sample)).nonzero()
    assert len(firm) or not want.numel()
    for b, y, x in firm[:: max(1, len(firm) - 1)].tolist():  # the first and the last
        wrong = want.clone()
        if want.dtype == torch.uint8:
            wrong[b, y, x] += 1
        elif wrong[b, 0, y, x].isfinite():
            wrong[b, 0, y, x] += 0.25
        if not torch.equal(wrong.nan_to_num(), want.nan_to_num()):
            with pytest.raises(Differs, match="where no decision is close"):
                assert_agrees(OP, sample, wrong, want)


def test_scores_of_a_larger_image(backend: str, device: str) -> None:
    """Large enough that the cuda backend takes larger tiles; sides are no multiples of theirs."""
    if backend == "triton" and device == "cpu":
        pytest.skip("takes minutes in Triton's interpreter")
    coarse, fine = noise_logits((1, 2, 137, 133), seed=5), noise_logits((3, 1, 16, 16), seed=6)
    windows = random_windows(1, 548, 532, 64, 3, seed=7, device=device)
    args = (coarse.to(device), fine.to(device), windows, (1,))
    options: dict[str, Any] = {"size": (548, 532), "rule": "normalized", "output": "probs"}
    got = ops.aggregate(*args, **options, backend=backend)
    want = ops.aggregate(*args, **options, backend="reference")
    off = (got - want).abs().amax(1) > tolerances.prob_error(coarse) + tolerances.logit_margin(fine)
    assert_rare(off)


def test_sizes_beyond_32_bits_are_refused(backend: str, device: str) -> None:
    """The cuda kernels number pixels along an axis in 32 bits: longer ones must not reach them."""
    if backend != "cuda":
        pytest.skip("a limit of the cuda backend")
    windows = windows_of([[(0, 0)]], 1, 1, device)
    coarse = torch.zeros(1, 2, 1, 1, device=device)
    fine = torch.zeros(1, 1, 1, 1, device=device)
    for size in (((1 << 22) + 1, 1), (1, (1 << 22) + 1)):
        with pytest.raises(NotImplementedError, match=r"at most 4194304 pixels per interpolated"):
            ops.aggregate(coarse, fine, windows, (1,), size=size, backend=backend)
    side = (1 << 22) + 1
    long = torch.zeros(1, 1, 1, 1, device=device).expand(1, 1, side, 1)
    with pytest.raises(NotImplementedError, match=r"at most 4194304 pixels a side, got 4194305"):
        ops.aggregate(coarse, long, windows, (1,), backend=backend)


def test_axes_on_which_float32_skips_columns_are_refused(backend: str, device: str) -> None:
    if backend != "cpu":
        pytest.skip("a limit of the cpu backend; the cuda backend's is above")
    windows, fine = windows_of([[(0, 0)]], 1, 1), torch.zeros(1, 1, 1, 1)
    for size in (((1 << 22) + 1, 1), (1, (1 << 22) + 1)):
        with pytest.raises(ValueError, match=r"at most 4194304 per interpolated axis.*reference"):
            ops.aggregate(torch.zeros(1, 2, 1, 1), fine, windows, (1,), size=size, backend=backend)
    ops.aggregate(torch.zeros(1, 2, *size), fine, windows, (1,), backend=backend)  # not resized


REPEATED = [
    f"{rule}-{output}-blobs"
    for rule in ("paper", "normalized", "official")
    for output in ("labels", "probs")
] + ["same-window-three-times", "paper-probs-overlaps"]


@pytest.mark.parametrize("name", REPEATED)
def test_repeatable(backend: str, device: str, name: str, threads: Any) -> None:
    assert_repeatable(OP, samples.get(OP, name), backend, device, threads)


@pytest.mark.parametrize(
    "sample", [s for s in samples.of(OP) if s.options.get("output", "labels") == "labels"], ids=str
)
def test_labels_given(backend: str, device: str, sample: Sample) -> None:
    """The private argument: with op 1's labels at hand the answer is the same, bit for bit."""
    coarse, fine, windows, classes = sample.args(device)
    if coarse.shape[0] == 0:
        return
    ok, reason = c2fcore.backends()["select_windows"][backend]
    if not ok:
        pytest.skip(f"select_windows: {reason}")
    size = sample.options.get("size", coarse.shape[2:])
    grid = {"size": size, "window": min(size), "stride": min(size), "n": 1}
    _, labels = ops.select_windows(coarse, classes, **grid, _return_labels=True, backend=backend)
    want = ops.aggregate(coarse, fine, windows, classes, **sample.options, backend=backend)
    got = ops.aggregate(
        coarse, fine, windows, classes, **sample.options, _labels=labels, backend=backend
    )
    assert torch.equal(got, want)


@for_any_data(20)
def test_what_holds_for_any_input(backend: str, device: str, data: st.DataObject) -> None:
    """Nothing changes outside the windows; labels are the argmax of scores; scores sum to one."""
    batch, classes = data.draw(st.integers(1, 2)), data.draw(st.integers(2, 7))
    h, w = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    height, width = h * data.draw(st.integers(1, 4)), w * data.draw(st.integers(1, 4))
    k = data.draw(st.integers(1, min(height, width)))
    n = data.draw(st.integers(1, 4))
    small = tuple(data.draw(st.sets(st.integers(0, classes - 1), min_size=1)))
    seed = data.draw(st.integers(0, 1000))
    rule = data.draw(st.sampled_from(("paper", "normalized", "official")))
    side = data.draw(st.integers(1, 9))
    coarse = noise_logits((batch, classes, h, w), seed, spread=2)
    fine = noise_logits((batch * n, data.draw(st.integers(1, 2)), side, side), seed + 1, spread=2)
    windows = random_windows(batch, height, width, k, n, seed)
    full = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    outside = torch.ones(batch, height, width, dtype=torch.bool)
    for b in range(batch):
        for y, x in windows.origins[b, : windows.num[b]].tolist():
            outside[b, y : y + k, x : x + k] = False
    merged = [
        ops.aggregate(
            coarse.to(device), fine.to(device), to_device(windows, device), small,
            size=(height, width), rule=rule, output=output, backend=backend,
        ).cpu()
        for output in ("labels", "probs")
    ]  # fmt: skip
    labels, scores = merged
    top = scores.topk(2, dim=1).values
    close = top[:, 0] - top[:, 1] <= tolerances.prob_error(coarse)
    assert_labels(labels, scores.argmax(1).to(torch.uint8), close)
    before = full if rule == "official" else full.softmax(1)
    kept = outside[:, None].expand_as(scores)
    assert_close(scores[kept], before[kept], tolerances.prob_error(coarse))
    if rule != "official":
        assert_close(scores.sum(1), torch.ones(()).expand_as(outside), 4e-6)


COARSE = torch.zeros(2, 4, 4, 5)
FINE = torch.zeros(4, 2, 3, 3)
GOOD = windows_of([[(0, 0)], [(1, 1), (2, 2)]], 3)
V, T = ValueError, TypeError
# fmt: off
BAD = [ # coarse, fine, windows, options, exception, message
    (COARSE.argmax(1), FINE, GOOD, {}, (T, V), r"coarse must be .*pass logits"),
    (COARSE.argmax(1).byte(), FINE, GOOD, {}, (T, V), r"coarse must be .*pass logits"),
    (COARSE[0], FINE, GOOD, {}, V, r"coarse .*must be \[B, N, h, w\], got .*\(4, 4, 5\)"),
    (COARSE.double(), FINE, GOOD, {}, T, r"coarse must be .*got .*float64"),
    (COARSE, FINE.int(), GOOD, {}, T, r"fine must be .*got .*int32"),
    (COARSE, FINE.double(), GOOD, {}, T, r"fine must be .*got .*float64"),
    (COARSE, FINE[0], GOOD, {}, V, r"fine must be .*got shape \(2, 3, 3\)"),
    (COARSE, FINE[:3], GOOD, {}, V, r"fine must .*B\*n.*got .*3"),
    (COARSE, FINE[:, :0], GOOD, {}, V, r"fine must .*1 or 2.*got .*0"),
    (COARSE, FINE.repeat(1, 2, 1, 1)[:, :3], GOOD, {}, V, r"fine must .*1 or 2.*got .*3"),
    (COARSE, FINE[..., :0], GOOD, {}, V, r"fine must .*got shape \(4, 2, 3, 0\)"),
    (COARSE[:1], FINE, GOOD, {}, V, r"windows must be of as many images.*B=1"),
    (COARSE, FINE, GOOD._replace(window=5), {}, V, r"window must be in 1.*got 5 for H=4.*size="),
    (COARSE, FINE, GOOD[0], {}, T, r"windows must be a c2fcore.Windows, got Tensor"),
    (COARSE, FINE, GOOD, {"size": (3, 5)}, V, r"size must not be below.*got \(3, 5\)"),
    (COARSE, FINE, GOOD, {"rule": "mean"}, V, r"rule must be one of .*got 'mean'"),
    (COARSE, FINE, GOOD, {"output": "scores"}, V, r"output must be one of .*got 'scores'"),
    (COARSE, FINE, GOOD, {"classes": (4,)}, V, r"small_classes must be in 0\.\.3, got 4"),
    (COARSE, FINE, GOOD, {"classes": (1, 1)}, V, r"small_classes must not repeat"),
    (COARSE, FINE.to("meta"), GOOD, {}, V, r"fine must be on the same device.*got meta and cpu"),
    (COARSE, FINE, GOOD, {"backend": "numpy"}, V, r"backend must be one of .*got 'numpy'"),
]
# fmt: on


@pytest.mark.parametrize(
    ("coarse", "fine", "windows", "options", "error", "message"), BAD,
    ids=[f"{i}-{b[5][:24]}" for i, b in enumerate(BAD)],
)  # fmt: skip
def test_bad_input(
    coarse: Any, fine: Any, windows: Any, options: dict[str, Any], error: Any, message: str
) -> None:
    options = dict(options)
    classes = options.pop("classes", (1,))
    with pytest.raises(error, match=rf"^{OP}: {message}"):
        ops.aggregate(coarse, fine, windows, classes, **options)


def test_windows_outside_the_image(backend: str, device: str) -> None:
    if device != "cpu":
        pytest.skip("on a GPU the origins are not read by the host")
    for box in ((2, 0), (0, 3), (-1, 0)):
        windows = windows_of([[(0, 0), box], []], 3)
        with pytest.raises(ValueError, match="inside the image"):
            ops.aggregate(COARSE, FINE, windows, (1,), backend=backend)
