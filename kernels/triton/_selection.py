"""Keys and edges of windows, and the writes both selection kernels share."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


def key_format(window: int, places: int) -> dict[str, Any]:
    """The constants KEY and PLACE_BITS of the keys of windows in places 0..places - 1.

    32 bits, which a warp reduces in one instruction, where every gain and place fits into 31.
    """
    bits = (places - 1).bit_length()
    fits = (window * window).bit_length() + bits < 32
    return {"KEY": tl.int32 if fits else tl.int64, "PLACE_BITS": bits}


@triton.jit
def make_key(gain, place, KEY: tl.constexpr, PLACE_BITS: tl.constexpr):
    """A window's rank as one integer, unique per window: higher gain first, then lower place."""
    return (gain.to(KEY) << PLACE_BITS) + ((1 << PLACE_BITS) - 1 - place).to(KEY)


@triton.jit
def key_gain(key, PLACE_BITS: tl.constexpr):
    """The gain in a key."""
    return (key >> PLACE_BITS).to(tl.int32)


@triton.jit
def key_place(key, PLACE_BITS: tl.constexpr):
    """The place in a key."""
    lowest: tl.constexpr = (1 << PLACE_BITS) - 1
    return lowest - (key & lowest).to(tl.int32)


@triton.jit
def store_edges(edges_ptr, i, windows, first, last):
    """edges[i] = (first, last): the bins of window i along an axis, without its divisions."""
    tl.store(edges_ptr + 2 * i, first, mask=i < windows)
    tl.store(edges_ptr + 2 * i + 1, last, mask=i < windows)


@triton.jit
def load_edges(edges_ptr, i, mask):
    """(first, last) of edges[i], an empty range where `mask` is false."""
    first = tl.load(edges_ptr + 2 * i, mask=mask, other=0)
    return first, tl.load(edges_ptr + 2 * i + 1, mask=mask, other=0)


@triton.jit
def clear_slots(origins_ptr, counts_ptr, taken, n):
    """Sets the unused slots [taken, n) to origin (0, 0) and count 0."""
    # Triton gives accesses of one shape one layout: of another shape than the windows of 512 x 512.
    for start in range(taken, n, 64):
        slot = start + tl.arange(0, 64)
        tl.store(origins_ptr + slot * 2, 0, mask=slot < n)
        tl.store(origins_ptr + slot * 2 + 1, 0, mask=slot < n)
        tl.store(counts_ptr + slot, 0, mask=slot < n)
