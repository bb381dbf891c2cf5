"""Small kernels that show what shared device functions answer; imported with the interpreter on."""

from __future__ import annotations

import triton
import triton.language as tl

from c2fcore.kernels.triton._upsample import first_output, first_tap
from c2fcore.kernels.triton._window_grid import bin_beside, bin_of, bin_start


@triton.jit
def bins_kernel(starts_ptr, of_pixel_ptr, axis, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(starts_ptr + i, bin_start(i, axis), mask=i <= axis.bins)
    tl.store(of_pixel_ptr + i, bin_of(i, axis), mask=i < axis.size)


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
def reversed_kernel(scratch_ptr, out_ptr, BLOCK: tl.constexpr, BARRIER: tl.constexpr):
    """0 to BLOCK - 1 backwards, through global memory."""
    at = tl.arange(0, BLOCK)
    tl.store(scratch_ptr + at, at)
    if BARRIER:
        tl.debug_barrier()
    tl.store(out_ptr + at, tl.load(scratch_ptr + BLOCK - 1 - at))
