"""Small kernels that show what shared device functions answer; imported with the interpreter on."""

from __future__ import annotations

import triton
import triton.language as tl

from c2fcore.kernels.triton._upsample import first_output, first_tap
from c2fcore.kernels.triton._window_grid import bin_beside, bin_of, bin_start


@triton.jit
def bins_kernel(starts_ptr, of_pixel_ptr, num_starts, size, step_y, rest_y, flush_px_y, flush_bin_y,
                rest_bins_y, period_bins_y, unit_y, BLOCK: tl.constexpr):  # fmt: skip
    i = tl.arange(0, BLOCK)
    start = bin_start(
        i, size, step_y, rest_y, flush_px_y, flush_bin_y, rest_bins_y, period_bins_y, unit_y
    )
    tl.store(starts_ptr + i, start, mask=i < num_starts)
    found = bin_of(i, step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y, unit_y)
    tl.store(of_pixel_ptr + i, found, mask=i < size)


@triton.jit
def beside_kernel(of_pixel_ptr, first, step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y,
                  BLOCK: tl.constexpr):  # fmt: skip
    px = first + tl.arange(0, BLOCK)
    found = bin_beside(px, first, step_y, rest_y, flush_px_y, rest_bins_y, period_bins_y)
    tl.store(of_pixel_ptr + tl.arange(0, BLOCK), found)


@triton.jit
def taps_kernel(taps_ptr, firsts_ptr, scale, ratio, in_size, out_size, BLOCK: tl.constexpr,
                DYADIC: tl.constexpr):  # fmt: skip
    i = tl.arange(0, BLOCK)
    tl.store(taps_ptr + i, first_tap(i, scale, in_size), mask=i < out_size)
    first = first_output(i, scale, ratio, in_size, out_size, DYADIC)
    tl.store(firsts_ptr + i, first, mask=i <= in_size)


@triton.jit
def reversed_kernel(scratch_ptr, out_ptr, BLOCK: tl.constexpr, BARRIER: tl.constexpr):
    """0 to BLOCK - 1 backwards, through global memory."""
    at = tl.arange(0, BLOCK)
    tl.store(scratch_ptr + at, at)
    if BARRIER:
        tl.debug_barrier()
    tl.store(out_ptr + at, tl.load(scratch_ptr + BLOCK - 1 - at))
