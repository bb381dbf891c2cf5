"""The gate before every timing: a way that gives another answer is not timed.

The tests decide whether a backend is right, value by value. Here it is enough to know that it does
the same job, so answers may differ where rounding decides: at the share of pixels below, in floats
by the error below.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..windows import Windows

# Bilinear sums in another order move two classes apart by a few ulp (1e-6 of logits near 10). About
# one pixel in 1e5 of random logits has a margin that small; each lies in (k/s)^2 = 16 windows.
TIE_SHARE = 1e-4
TIE_FLOOR = 4
# float32: some ulp of values up to about 3 after normalisation, or of probabilities up to 2.
FLOAT_ERROR = 2e-5
# Other libraries compute source positions in float32 (1e-5 of a pixel at 256), which steep edges of
# an image turn into errors of 1e-4. Their error stands in the row.
PEER_ERROR = 1e-3


class Disagreement(Exception):
    """A way's answer differs from the reference's by more than rounding explains."""


def max_error(
    job: str,
    got: Any,
    wanted: Any,
    pixels: int,
    *,
    rim: int = 0,
    float_error: float = FLOAT_ERROR,
) -> float:
    """Largest difference of two answers to the same job.

    For labels and counts it is the share of pixels that differ, for floats the largest absolute
    difference (in units of 1 for probabilities and normalised patches).

    Args:
        job: op name, or "glue".
        got: the way's answer.
        wanted: the reference's.
        pixels: of the full-size image, of which ties may take a share.
        rim: outermost pixels of each patch that are not compared.
        float_error: of float32 answers.

    Raises:
        Disagreement: the answers differ by more than rounding explains.
    """
    if job == "extract_patches" and len(got) < len(wanted):
        wanted = wanted[: len(got)]  # peers leave unused slots out
    if rim:
        got, wanted = (t[..., rim:-rim, rim:-rim] for t in (got, wanted))
    allowed = max(TIE_FLOOR, TIE_SHARE * pixels)
    if job == "count_windows":
        return _few(job, int((got.long() - wanted.long()).abs().sum()), 16 * allowed, pixels)
    if job == "select_windows":
        return _selected(got, wanted, allowed, pixels)
    if job == "glue" and not isinstance(got, tuple):
        return _labels(got, wanted[2], allowed, pixels)  # a peer that gives labels only
    if job == "glue":
        _selected(got[0], wanted[0], allowed, pixels)
        if torch.equal(got[0].origins, wanted[0].origins):
            _close("extract_patches", got[1], wanted[1], 0.0, float_error)
            return _labels(got[2], wanted[2], allowed, pixels)
        return 0.0  # a tie among windows: what follows is not comparable
    if got.dtype == torch.uint8:
        return _labels(got, wanted, allowed, pixels)
    return _close(job, got, wanted, allowed, float_error)


def _selected(got: Windows, wanted: Windows, allowed: float, pixels: int) -> float:
    """Counts may move by the pixels at ties; origins may then swap places among equals."""
    _same_shape("select_windows", got.origins, wanted.origins)
    difference = (got.counts.long().sum() - wanted.counts.long().sum()).abs()
    return _few("select_windows", int(difference), 16 * allowed, pixels)


def _labels(got: Tensor, wanted: Tensor, allowed: float, pixels: int) -> float:
    _same_shape("labels", got, wanted)
    return _few("labels", int((got != wanted).sum()), allowed, pixels)


def _few(job: str, differing: int, allowed: float, pixels: int) -> float:
    if differing > allowed:
        raise Disagreement(f"{job}: {differing} pixels differ, ties explain {allowed:.0f}")
    return differing / pixels


def _same_shape(job: str, got: Tensor, wanted: Tensor) -> None:
    if got.shape != wanted.shape:
        raise Disagreement(f"{job}: shape {tuple(got.shape)}, not {tuple(wanted.shape)}")


def _close(job: str, got: Tensor, wanted: Tensor, outliers: float, bound: float) -> float:
    """Largest difference, of all but `outliers` pixels (a decision that fell the other way)."""
    _same_shape(job, got, wanted)
    if got.dtype in (torch.float16, torch.bfloat16):
        bound = 4 * torch.finfo(got.dtype).eps * float(wanted.abs().max())
    errors = (got.float() - wanted.float()).abs().amax(1)  # [B, H, W]
    if errors.isnan().any():
        raise Disagreement(f"{job}: NaN")
    wrong = errors > bound
    if int(wrong.sum()) > outliers:
        raise Disagreement(
            f"{job}: {int(wrong.sum())} pixels are off by up to {float(errors.max()):.3g}"
        )
    return float(errors.masked_fill(wrong, 0).max())
