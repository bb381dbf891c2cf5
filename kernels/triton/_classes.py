"""The set of small classes, as eight 32-bit words passed by value.

Words instead of a table in memory: nothing to upload, so the first call with a set may be captured
in a CUDA graph.
"""

from __future__ import annotations

from functools import lru_cache

import triton
import triton.language as tl

# Never specialised: a word that happens to be 1 or a multiple of 16 must not cause a recompilation.
# do_not_specialize does not reach into tuples, so they become a tuple only inside a kernel.
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
def small_bit(label, words, NUM_WORDS: tl.constexpr, N: tl.constexpr = 256):
    """1 where a label, of any integer type, is in the set `words`; none outside 0..N-1 is."""
    if label.dtype.primitive_bitwidth < 32:
        label = label.to(tl.int32)
    if N < 32 and NUM_WORDS == 1:  # nor is bit 31, which -1 asks for
        return (words[0] >> (label & 31)).to(tl.int32) & 1
    inside = (label >= 0) & (label < 32 * NUM_WORDS)
    label = tl.where(inside, label, 0).to(tl.int32)
    index = label >> 5
    word = tl.zeros_like(label) + words[0]
    for i in tl.static_range(1, NUM_WORDS):
        word = tl.where(index == i, words[i], word)
    return tl.where(inside, (word >> (label & 31)) & 1, 0)


@triton.jit
def is_small(label, words, NUM_WORDS: tl.constexpr, N: tl.constexpr = 256):
    """Whether a label is in the set; see `small_bit`."""
    return small_bit(label, words, NUM_WORDS, N) != 0
