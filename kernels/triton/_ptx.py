"""Instructions and layouts that the language has no word for; in the interpreter, what they do."""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _half(word, i):
    """Half `i` of a word as a float16."""
    return ((word >> (16 * i)) & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _both(low, high):
    """All bits of the halves of a word that are told to be."""
    return tl.where(low, 0xFFFF, 0) | tl.where(high, -65536, 0)


@triton.jit
def larger_halves(best, label, value, c):
    """Of `best` and `value` the larger float16 in each half, and `c` where that is `value`'s.

    A NaN is never larger.
    """
    if INTERPRETED:
        better = _both(_half(value, 0) > _half(best, 0), _half(value, 1) > _half(best, 1))
        return (value & better) | (best & ~better), (c & better) | (label & ~better)
    return tl.inline_asm_elementwise(
        "set.gt.u32.f16x2 $1, $3, $2; lop3.b32 $1, $1, $5, $4, 0xCA; max.f16x2 $0, $2, $3;",
        "=&r,=&r,r,r,r,r",
        [best, value, label, c],
        dtype=(tl.int32, tl.int32),
        is_pure=True,
        pack=1,
    )


@triton.jit
def equal_halves(a, b):
    """All bits of each half where two float16 are equal."""
    if INTERPRETED:
        return _both(_half(a, 0) == _half(b, 0), _half(a, 1) == _half(b, 1))
    return tl.inline_asm_elementwise(
        "set.eq.u32.f16x2 $0, $1, $2;", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def append_below(word, value, bound):
    """`word` with one bit more behind it: whether a float32 is below its bound; no NaN is.

    It is the sign of the difference: -0 is below 0, and a GPU's one NaN is not negative.
    """
    if INTERPRETED:
        difference = value - bound
        sign = (difference.to(tl.int32, bitcast=True) >> 31) & 1
        return (word << 1) | tl.where(difference == difference, sign, 0)
    return tl.inline_asm_elementwise(
        "sub.rn.f32 $0, $2, $3; shf.l.wrap.b32 $0, $0, $1, 1;",
        "=&r,r,r,r",
        [word, value, bound],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def first_bit(word):
    """Number of the first bit that is set, from the highest one on, 0 where none is; the others."""
    if INTERPRETED:
        # The exponent as a float; cleared lower bits cannot round up to the next power of two.
        highest = word & ~((word >> 1) & 0x7FFFFFFF)
        power = highest.to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True) >> 23
        number = tl.where(word == 0, 0, 158 - power)
    else:
        number = tl.inline_asm_elementwise(
            "clz.b32 $0, $1; and.b32 $0, $0, 31;",
            "=r,r",
            [word],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    return number, word & (0x7FFFFFFF >> number)


@triton.jit
def difference_in_unit(a, b):
    """`a` - `b`, float32 and not NaN, moved into [0, 1]."""
    if INTERPRETED:
        return tl.minimum(tl.maximum(a - b, 0.0), 1.0)
    return tl.inline_asm_elementwise(
        "sub.rn.sat.f32 $0, $1, $2;", "=f,f,f", [a, b], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def along_last(offsets, AXES: tl.constexpr = 2):
    """Offsets, int64 of 2 or 3 AXES, of elements to be read or written by lanes along the last.

    Told nothing of what are neighbours, triton 3.6 lets lanes lie along the first axis. So it is
    told that pairs along the last one are, which they need not be; for a wider access it would have
    to know their alignment, too, and of that it sees nothing behind an instruction.
    """
    if INTERPRETED or offsets.shape[AXES - 1] == 1:
        return offsets
    hidden = tl.inline_asm_elementwise(
        "mov.b64 $0, $1;", "=l,l", [offsets], dtype=tl.int64, is_pure=True, pack=1
    )
    if AXES == 2:
        hinted = tl.max_contiguous(hidden, [1, 2])
    else:
        hinted = tl.max_contiguous(hidden, [1, 1, 2])
    return hinted
