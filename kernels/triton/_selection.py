"""Keys of windows, and the writes both selection kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def make_key(gain, index):
    """Order of windows as one int64, unique per window: higher gain, then lower index."""
    return (gain.to(tl.int64) << 32) | (0x7FFFFFFF - index).to(tl.int64)


@triton.jit
def key_gain(key):
    """The gain in a key."""
    return (key >> 32).to(tl.int32)


@triton.jit
def key_index(key):
    """The index in a key."""
    return 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def clear_bins(bins_ptr, bins_x, t0, t1, u0, u1):
    """Sets the bins [t0, t1) x [u0, u1) to 0."""
    for t in range(t0, t1):
        for start in range(u0, u1, 32):
            u = start + tl.arange(0, 32)
            tl.store(bins_ptr + t * bins_x + u, 0, mask=u < u1)


@triton.jit
def clear_slots(origins_ptr, counts_ptr, taken, n):
    """Sets the unused slots [taken, n) to origin (0, 0) and count 0."""
    for start in range(taken, n, 256):
        slot = start + tl.arange(0, 256)
        tl.store(origins_ptr + slot * 2, 0, mask=slot < n)
        tl.store(origins_ptr + slot * 2 + 1, 0, mask=slot < n)
        tl.store(counts_ptr + slot, 0, mask=slot < n)
