"""Labels of two source pixels beside each other as the halves of a word, as device functions."""

from __future__ import annotations

import triton
import triton.language as tl

from ._ptx import equal_halves, larger_halves
from ._upsample import NOT_FINITE, first_argmax, marked


@triton.jit
def pair_labels(
    row_ptr, offsets, stride_n, N: tl.constexpr, CLASS_BLOCK: tl.constexpr, UNROLL: tl.constexpr,
    TOGETHER: tl.constexpr, MARK: tl.constexpr = NOT_FINITE,
):  # fmt: skip
    """Labels of pairs of source pixels `offsets` [P, 2], as in `first_argmax`, int32 [P].

    TOGETHER: float16, and every pair is one word at an address that is a multiple of its size, so
    both are compared at once. With a CLASS_BLOCK offsets are [2 * P]: lanes beside each other read
    source pixels beside each other.
    """
    if TOGETHER:
        even, _ = tl.split(offsets)
        ptrs = (row_ptr + even).to(tl.pointer_type(tl.int32), bitcast=True)
        best = tl.full(even.shape, 0xFC00FC00 - (1 << 32), tl.int32)  # -inf
        label = tl.zeros(even.shape, tl.int32)
        for c in tl.range(0, N, loop_unroll_factor=UNROLL):
            number = tl.zeros(even.shape, tl.int32) + c * 0x10001
            best, label = larger_halves(best, label, tl.load(ptrs), number)
            ptrs += stride_n // 2
        infinite = equal_halves(best & 0x7FFF7FFF, tl.full(even.shape, 0x7C007C00, tl.int32))
        return label | (infinite & (MARK * 0x10001))
    best, label = first_argmax(row_ptr, offsets, None, stride_n, N, CLASS_BLOCK, UNROLL)
    label = marked(best, label)
    if CLASS_BLOCK > 0:
        label = tl.reshape(label, [label.shape[0] // 2, 2])
    low, high = tl.split(label)
    return low | (high << 16)


@triton.jit
def halves(pairs):
    """The halves of words [P], all in their order, [2 * P]."""
    return tl.reshape(tl.join(pairs & 0xFFFF, (pairs >> 16) & 0xFFFF), [2 * pairs.shape[0]])
