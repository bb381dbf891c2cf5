"""The merge rule for pixels side by side: Eq. (1), read so that either network can overrule.

`GroupBest` of kernels/common/merge_rule.h stands here as loose values, since a jit function carries
those through its loops: of classes outside C (0) and in C (1) the largest logit and the first class
that has it, -1 before there is one.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def offer(value, c, member, best0, class0, best1, class1):
    """Group bests after class `c`; classes come in ascending order, NaN as -inf."""
    better = (class0 < 0) | (value > best0)
    better = better & ~member
    best0 = tl.where(better, value, best0)
    class0 = tl.where(better, c, class0)
    better = (class1 < 0) | (value > best1)
    better = better & member
    best1 = tl.where(better, value, best1)
    class1 = tl.where(better, c, class1)
    return best0, class0, best1, class1


@triton.jit
def add_exp(value, top, total):
    """Running maximum of logits, and sum of exp(logit - maximum)."""
    d = value - top
    e = tl.exp(-tl.abs(d))
    e = tl.where(value > float("-inf"), e, 0.0)
    total = tl.where(d > 0, tl.fma(total, e, 1.0), total + e)
    return tl.maximum(top, value), total


@triton.jit
def probability(value, top, total):
    """Softmax of a logit; where the largest is infinite its class takes everything."""
    p = tl.exp(value - top) / total
    return tl.where(tl.abs(top) < float("inf"), p, 0.0)
