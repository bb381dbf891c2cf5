"""The set of small classes, as eight 32-bit words passed by value.

Words instead of a table in memory: nothing to upload, so the first call with a set may be captured
in a CUDA graph.
"""

from __future__ import annotations

from functools import lru_cache

import triton
import triton.language as tl

# Never specialised: a set whose word happens to be 1 or a multiple of 16 is no other kernel.
WORDS = tuple(f"word{i}" for i in range(8))


@lru_cache(maxsize=256)
def class_words(table: bytes) -> dict[str, int]:
    """Arguments word0..word7 from a table of 256 bytes, 1 where the class is small.

    Bit c % 32 of word c // 32, as a signed number: Triton takes those as int32.
    """
    words = {}
    for i, name in enumerate(WORDS):
        word = sum(1 << bit for bit in range(32) if table[32 * i + bit])
        words[name] = word - (1 << 32) if word >= 1 << 31 else word
    return words


@lru_cache(maxsize=256)
def words_in_use(table: bytes) -> int:
    """How many leading words hold all small classes: the constexpr NUM_WORDS."""
    return max(c for c in range(256) if table[c]) // 32 + 1


@triton.jit
def is_small(
    label, word0, word1, word2, word3, word4, word5, word6, word7, NUM_WORDS: tl.constexpr,
    N: tl.constexpr = 256,
):  # fmt: skip
    """Whether each label is in the set; labels of any integer type, none outside 0..N-1 is."""
    if N < 32 and NUM_WORDS == 1:  # nor is bit 31, which -1 asks for
        return ((word0 >> (label & 31)) & 1) != 0
    if label.dtype.primitive_bitwidth < 32:
        label = label.to(tl.int32)
    inside = (label >= 0) & (label < 32 * NUM_WORDS)
    label = tl.where(inside, label, 0).to(tl.int32)
    index = label >> 5
    word = tl.zeros_like(label) + word0
    if NUM_WORDS > 1:
        word = tl.where(index == 1, word1, word)
    if NUM_WORDS > 2:
        word = tl.where(index == 2, word2, word)
    if NUM_WORDS > 3:
        word = tl.where(index == 3, word3, word)
    if NUM_WORDS > 4:
        word = tl.where(index == 4, word4, word)
    if NUM_WORDS > 5:
        word = tl.where(index == 5, word5, word)
    if NUM_WORDS > 6:
        word = tl.where(index == 6, word6, word)
    if NUM_WORDS > 7:
        word = tl.where(index == 7, word7, word)
    return inside & (((word >> (label & 31)) & 1) != 0)
