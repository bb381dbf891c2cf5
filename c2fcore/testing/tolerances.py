"""Every tolerance of the tests, each with its reason. Never looser in CI than on a desk."""

from __future__ import annotations

import torch

EPS32 = 2.0**-23

# Bilinear sums of four products may be grouped in any order; PyTorch itself differs between its
# planar and channels_last paths by 4 ulp of the largest corner (measured). Two classes can move
# apart by twice that, so labels may differ where the top two are within 8 ulp of the largest logit.
LOGIT_ULPS = 8

# How many pixels may be excused as too close to call. Random logits of spread 1.5 have a margin
# below 1e-5 at about one pixel in 1e5 per decision; more than this would hide something.
EXCUSED_SHARE = 0.002

# exp of the softmax: 2 ulp relative (vectorised exp, 1.06e-7 measured) on top of the error of its
# argument, which is the error of the logits; sums of 16 classes add 1 ulp more.
PROB_ULPS = 16

# float32 patches: two lerps in any order, the normalisation as one multiply-add or in three steps.
PATCH_ULPS = 6
# Bicubic: 16 taps with weights up to 1.57 in absolute sum per axis.
BICUBIC_ULPS = 24

# An error at most this many times PyTorch's own in the same dtype (against float64) ...
TIMES_PYTORCH = 2.0
# ... plus this floor in ulp of the output dtype, for inputs where PyTorch happens to be exact.
FLOOR_ULPS = 2.0

# The portable and the AVX2 build of one source: a multiply-add rounds once or twice.
BUILD_ULPS = 8

# Sums of many patches' gradients in float32, in another order than the reference's.
GRADIENT_ULPS = 32

# Against outputs of the authors' code a right implementation is within 3 ulp in the foreground
# probability and 1e-6 in the scores (sums of a logit of up to about 8 and a probability).
GOLDEN_FG_ULPS = 3
GOLDEN_SCORE = 1e-6
# Mean of thousands of float32 cross entropies, summed in another order.
GOLDEN_LOSS = 1e-5


def eps(dtype: torch.dtype) -> float:
    """Distance of 1 from the next larger number."""
    return torch.finfo(dtype).eps


def logit_margin(logits: torch.Tensor) -> float:
    """Top-two distance of interpolated logits below which their order is not defined."""
    finite = logits.float()[torch.isfinite(logits)]
    largest = finite.abs().max().item() if finite.numel() else 0.0
    return LOGIT_ULPS * EPS32 * max(largest, 1.0)


def prob_error(logits: torch.Tensor) -> float:
    """Absolute error of a softmax over interpolated logits.

    exp turns their error into a relative one, and no probability exceeds 1; merged scores reach 2.
    """
    return 2 * (logit_margin(logits) + PROB_ULPS * EPS32)


def patch_error(largest: float, dtype: torch.dtype, mode: str) -> float:
    """Absolute error of a patch whose terms (before cancellation) are at most `largest`."""
    ulps = BICUBIC_ULPS if mode == "bicubic" else PATCH_ULPS
    error = ulps * EPS32 * largest
    if dtype in (torch.float16, torch.bfloat16):
        # Two float32 values on either side of a rounding tie end one step of the output type apart.
        error += eps(dtype) * largest
    return error
