"""Small kernels that show what shared device functions answer; imported with the interpreter on."""

from __future__ import annotations

import triton
import triton.language as tl

from c2fcore.kernels.triton._divider import divided
from c2fcore.kernels.triton._ptx import (
    append_below,
    difference_in_unit,
    equal_halves,
    first_bit,
    larger_halves,
)
from c2fcore.kernels.triton._upsample import first_output, first_tap
from c2fcore.kernels.triton._window_grid import bin_beside, bin_of, bin_start, window_bins


@triton.jit
def bins_kernel(starts_ptr, of_pixel_ptr, axis, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(starts_ptr + i, bin_start(i, axis), mask=i <= axis.bins)
    tl.store(of_pixel_ptr + i, bin_of(i, axis), mask=i < axis.size)


@triton.jit
def last_kernel(found_ptr, window, axis):
    """Of the last window: first pixel, first bin, bin past the last, and where those two start."""
    start, first, last = window_bins(axis.windows - 1, window, axis)
    tl.store(found_ptr, start)
    tl.store(found_ptr + 1, first)
    tl.store(found_ptr + 2, last)
    tl.store(found_ptr + 3, bin_start(first, axis))
    tl.store(found_ptr + 4, bin_start(last, axis))


@triton.jit
def beside_kernel(of_pixel_ptr, first, axis, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(of_pixel_ptr + i, bin_beside(first + i, first, axis))


@triton.jit
def taps_kernel(taps_ptr, firsts_ptr, axis, BLOCK: tl.constexpr, DYADIC: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(taps_ptr + i, first_tap(i, axis), mask=i < axis.full)
    tl.store(firsts_ptr + i, first_output(i, axis, DYADIC), mask=i <= axis.small)


@triton.jit
def halves_kernel(a_ptr, b_ptr, larger_ptr, label_ptr, equal_ptr, BLOCK: tl.constexpr):
    """Pairs of halves: the larger ones; label 3 and 5, or 8 and 9 of b's; all bits where equal."""
    i = tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i)
    b = tl.load(b_ptr + i)
    low = tl.zeros([BLOCK], tl.int32)
    larger, label = larger_halves(a, low + (5 << 16 | 3), b, low + (9 << 16 | 8))
    tl.store(larger_ptr + i, larger)
    tl.store(label_ptr + i, label)
    tl.store(equal_ptr + i, equal_halves(a, b))


@triton.jit
def below_kernel(a_ptr, b_ptr, below_ptr, unit_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i)
    b = tl.load(b_ptr + i)
    tl.store(below_ptr + i, append_below(i, a, b))
    tl.store(unit_ptr + i, difference_in_unit(a, b))


@triton.jit
def bits_kernel(word_ptr, number_ptr, rest_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    number, rest = first_bit(tl.load(word_ptr + i))
    tl.store(number_ptr + i, number)
    tl.store(rest_ptr + i, rest)


@triton.jit
def divided_kernel(value_ptr, quotient_ptr, remainder_ptr, by, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    quotient, remainder = divided(tl.load(value_ptr + i), by)
    tl.store(quotient_ptr + i, quotient)
    tl.store(remainder_ptr + i, remainder)


@triton.jit
def reversed_kernel(scratch_ptr, out_ptr, BLOCK: tl.constexpr, BARRIER: tl.constexpr):
    """0 to BLOCK - 1 backwards, through global memory."""
    at = tl.arange(0, BLOCK)
    tl.store(scratch_ptr + at, at)
    if BARRIER:
        tl.debug_barrier()
    tl.store(out_ptr + at, tl.load(scratch_ptr + BLOCK - 1 - at))
