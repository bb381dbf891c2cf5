"""Division of program numbers by what the host knows, on host and device.

A program knows its place only from its number, before it can do anything else, and a GPU has no
instruction that divides integers: one costs 20 to 30, most waiting for the one before. Multiplying
is one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import triton
import triton.language as tl


class Divider(NamedTuple):
    """A number of at least 1, below 2^31; an argument of kernels as it is.

    Triton compiles a kernel anew where an argument becomes 1, a multiple of 16, or of 64 bits, and
    cannot be told not to of what is in a tuple. So both are odd, and of 64 bits.

    Attributes:
        divisor: from bit 32 on the number; then 1.
        factor: from bit 33 on s, such that 2^s is the number or the next power of two; below,
            ceil(2^(31 + s) / number), of 32 bits; then 1.
    """

    divisor: int
    factor: int

    @property
    def number(self) -> int:
        """The number."""
        return self.divisor >> 32


@lru_cache(maxsize=1024)
def divider(number: int) -> Divider:
    """The Divider of a number; of 1 for less."""
    number = max(number, 1)
    shift = (number - 1).bit_length()
    factor = -(-(1 << 31 + shift) // number)
    return Divider(number << 32 | 1, shift << 33 | factor << 1 | 1)


@triton.jit
def divided(value, by):
    """Quotient and remainder of `value`, int32 and not negative, by the number of a Divider.

    The factor is rounded up by less than 1, which is at most 2^s / number, so the product exceeds
    value / number by less than value / 2^31 / number: never as far as to the next whole number.
    """
    factor = tl.zeros([], tl.int64) + by.factor
    product = tl.umulhi(value.to(tl.uint32) << 1, (factor >> 1).to(tl.uint32))
    quotient = (product >> (factor >> 33).to(tl.uint32)).to(tl.int32)
    return quotient, value - quotient * (by.divisor >> 32).to(tl.int32)
