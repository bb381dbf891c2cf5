"""Whether two answers to a sample agree: exactly, except where a decision is a toss."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..reference.aggregate import fine_foreground
from ..reference.upsample import as_class_set, probabilities, upsample_logits
from ..windows import Windows
from . import tolerances
from .samples import Sample


class Differs(AssertionError):
    """An answer is not the reference's."""


class Undecided(Differs):
    """Rounding decides too much in this sample: it needs another seed."""


def assert_agrees(op: str, sample: Sample, got: Any, want: Any) -> None:
    """Compares an answer on the CPU with the reference's.

    Args:
        op: name of the op.
        sample: what both were asked.
        got: the answer, Tensor or Windows.
        want: the reference's.

    Raises:
        Differs: by more than rounding explains; says where.
    """
    if op == "select_windows":
        _same_windows(sample, got, want)
        return
    _require(isinstance(got, Tensor), f"must be a Tensor, got {type(got).__name__}")
    _require(got.dtype == want.dtype, f"dtype {got.dtype}, not {want.dtype}")
    _require(got.shape == want.shape, f"shape {tuple(got.shape)}, not {tuple(want.shape)}")
    if op == "count_windows":
        _same_counts(sample, got, want)
    elif op == "extract_patches":
        assert_close(got, want, patch_error(sample))
        if sample.options.get("mode") == "nearest" and not {"mean", "std"} & set(sample.options):
            # Nothing is interpolated or subtracted: at most the fold of scale.
            exact = 2 * tolerances.EPS32 * max(want.abs().max().item(), 1e-30)
            assert_close(got, want, exact)
    elif op == "extract_targets":
        wrong = got != want
        _require(not wrong.any(), f"{int(wrong.sum())} targets differ{_first(wrong, got, want)}")
    elif got.dtype == torch.uint8:
        _only_tosses(sample, got != want, _first(got != want, got, want))
    else:
        # A toss changes which class gets the addition: whole pixels, and rarely.
        _require(torch.equal(got.isnan(), want.isnan()), "NaN elsewhere")
        off = (got - want).abs() > merge_error(sample)  # equal infinities have no difference
        _only_tosses(sample, off.any(1), _first(off, got, want))


class PatchTerms(NamedTuple):
    """What a sample of extract_patches asks for.

    Attributes:
        image: of the sample.
        windows: of the sample.
        normalisation: scale, and mean and std per channel.
        largest: term before cancellation.
        dtype: of the patches.
    """

    image: Tensor
    windows: Windows
    normalisation: dict[str, Any]
    largest: float
    dtype: torch.dtype


def patch_terms(sample: Sample) -> PatchTerms:
    """A sample of extract_patches with its defaults filled in."""
    image, windows = sample.args()
    options = dict(sample.options)
    channels = image.shape[1]
    scale = options.get("scale", 1 / 255 if image.dtype is torch.uint8 else 1.0)
    mean = np.broadcast_to(options.get("mean", 0.0), channels).tolist()
    std = np.broadcast_to(options.get("std", 1.0), channels).tolist()
    dtype = options.get("dtype") or (image.dtype if image.is_floating_point() else torch.float32)
    overshoot = 1.6**2 if options.get("mode") == "bicubic" else 1.0
    peak = image.float().abs().max().item() if image.numel() else 0.0
    largest = max(
        (overshoot * abs(scale) * peak + abs(m)) / abs(s) for m, s in zip(mean, std, strict=True)
    )
    normalisation = {"scale": scale, "mean": mean, "std": std}
    return PatchTerms(image, windows, normalisation, largest, dtype)


def patch_error(sample: Sample) -> float:
    """Allowed error of patches."""
    terms = patch_terms(sample)
    mode = sample.options.get("mode", "bilinear")
    return tolerances.patch_error(terms.largest, terms.dtype, mode)


def merge_error(sample: Sample) -> float:
    """Error of the scores; of probabilities and of p_f alike, so also of every decision on them."""
    coarse, fine, _, _ = sample.args()
    return tolerances.prob_error(coarse) + tolerances.logit_margin(fine)


def merge_tosses(sample: Sample) -> Tensor:
    """Bool [B, H, W]: a decision of `aggregate` is within the error, so either answer is right.

    In float64, by the reference's rules. A sample that is exact has ties, which order decides.
    """
    coarse, fine, windows, small_classes = sample.args()
    size = sample.options.get("size") or (coarse.shape[2], coarse.shape[3])
    logits = upsample_logits(coarse.double(), size)
    p_f, covered = fine_foreground(fine.double(), windows, size)
    classes, error = as_class_set(small_classes), merge_error(sample)
    is_small = classes.mask(logits.shape[1], logits.device)

    def close(gap: Tensor) -> Tensor:
        return (gap.abs() <= error) & ~((gap == 0) & sample.exact)

    if sample.options.get("rule", "paper") == "official":
        sums = torch.where(is_small[:, None, None], logits + p_f[:, None], logits)
        return close(_gap_of_top(sums))
    p = probabilities(logits)
    small, other = (_best(p[:, group]) for group in (is_small, ~is_small))
    # What the class that is added to leads by: of C where it had lost, of the others where C had.
    lead = torch.where(small < other, small + p_f - other, other + 1 - p_f - small)
    toss = close(p_f - 0.5) | close(lead)
    for group in (is_small, ~is_small):
        toss |= close(_gap_of_top(logits[:, group]))
    return close(_gap_of_top(logits)) | (covered & toss)


def _gap_of_top(values: Tensor) -> Tensor:
    """Between the largest and the second of dim 1; infinite if there is none."""
    padded = F.pad(values, (0, 0, 0, 0, 0, 2), value=-torch.inf)
    top = padded.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def _best(values: Tensor) -> Tensor:
    return F.pad(values, (0, 0, 0, 0, 0, 1), value=-torch.inf).amax(1)


def _only_tosses(sample: Sample, off: Tensor, first: str) -> None:
    """Pixels [B, H, W] that differ are few, and none is where no decision is close."""
    assert_rare(off, first)
    if off.any():
        wrong = int((off & ~merge_tosses(sample)).sum())
        _require(not wrong, f"{wrong} pixels differ where no decision is close{first}")


def close_calls(logits: Tensor, size: Any) -> Tensor:
    """Bool [B, H, W]: the top two interpolated logits are too close to be ordered."""
    x = logits.double().cpu()
    size = tuple(size or x.shape[2:])
    if tuple(x.shape[2:]) != size:
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    if x.shape[1] < 2 or x.numel() == 0:
        return torch.zeros((x.shape[0], *size), dtype=torch.bool)
    x = torch.where(x.isnan(), float("-inf"), x)
    top = x.topk(2, dim=1).values
    gap = top[:, 0] - top[:, 1]
    return gap <= tolerances.logit_margin(logits)


def assert_rare(excused: Tensor, first: str = "") -> None:
    """Too many excuses would hide a broken kernel; `first` is added to what is said of them."""
    if excused.numel():
        allowed = 2 + tolerances.EXCUSED_SHARE * excused.numel()
        differ = int(excused.sum())
        _require(
            differ <= allowed, f"{differ} of {excused.numel()} pixels differ or are excused{first}"
        )


def assert_close(got: Tensor, want: Tensor, error: float) -> None:
    """Same finite values within `error`; NaN and infinities at the same places."""
    _require(got.shape == want.shape, f"shape {tuple(got.shape)}, not {tuple(want.shape)}")
    got, want = got.double(), want.double()
    _require(torch.equal(got.isnan(), want.isnan()), "NaN elsewhere")
    infinite = want.isinf() | got.isinf()
    _require(torch.equal(got[infinite], want[infinite]), "infinities elsewhere")
    finite = want.isfinite()
    if finite.any():
        off = torch.where(finite, (got - want).abs(), 0)
        worst = off.max().item()
        found = _first(off > error, got, want)
        _require(worst <= error, f"differs by {worst:.3g}, allowed {error:.3g}{found}")


def _same_windows(sample: Sample, got: Any, want: Windows) -> None:
    if not sample.exact:  # one label too close to call may change every later choice
        seg, _ = sample.args()
        close = close_calls(seg, sample.options.get("size"))
        if close.any():
            raise Undecided("sample needs another seed")
    _require(isinstance(got, tuple), f"must be Windows, got {type(got).__name__}")
    _require(len(got) == 4, f"must have the four fields of Windows, got {len(got)}")
    for name, g, w in zip(Windows._fields, got[:3], want[:3]):
        _require(g.dtype == w.dtype, f"{name}: dtype {g.dtype}, not {w.dtype}")
        _require(torch.equal(g, w), f"{name} differ")
    _require(got[3] == want.window, f"window {got[3]}, not {want.window}")


def _same_counts(sample: Sample, got: Tensor, want: Tensor) -> None:
    if sample.exact:
        _require_counts(got != want, got, want)
        return
    seg, _ = sample.args()
    close = close_calls(seg, sample.options.get("size")).to(torch.uint8)
    grid = {k: v for k, v in sample.options.items() if k != "size"}
    # A window's count may be off by at most the pixels in it that are too close to call.
    slack = ops.count_windows(close, (1,), **grid, backend="reference")
    _require_counts((got - want).abs() > slack, got, want)
    if close.float().mean() > tolerances.EXCUSED_SHARE:
        raise Undecided("sample needs another seed")


def _require_counts(wrong: Tensor, got: Tensor, want: Tensor) -> None:
    said = f"{int(wrong.sum())} of {want.numel()} counts differ{_first(wrong, got, want)}"
    _require(not wrong.any(), said)


def _first(wrong: Tensor, got: Tensor, want: Tensor) -> str:
    """Where the first difference is, and what stands there."""
    places = wrong.nonzero()
    if not len(places):
        return ""
    at = tuple(places[0].tolist())
    return f", first at {list(at)}: got {got[at].item():.9g}, expected {want[at].item():.9g}"


def _require(holds: Any, message: str) -> None:
    if not holds:
        raise Differs(message)
