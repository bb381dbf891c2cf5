"""How many patches a forward of the fine network gets: few sizes, so that few graphs are needed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .. import _checks

SMALLEST = 4


class Chunk(NamedTuple):
    """One forward of the fine network.

    Attributes:
        offset: first packed patch.
        size: patches in the forward; those beyond the last packed one are zeros.
    """

    offset: int
    size: int


class Buckets:
    """The sizes a forward may have: 4, 8, 16, ... up to `limit`, those given, or any.

    Args:
        limit: largest forward.
        sizes: "powers", "exact" (every number up to `limit`), or the sizes, which are cut at
            `limit`; `limit` is always one of them.
    """

    def __init__(self, limit: int, sizes: str | Iterable[int] = "powers") -> None:
        self.limit = limit
        self.exact = sizes == "exact"
        if isinstance(sizes, str):
            powers = (SMALLEST << i for i in range(limit.bit_length()))
            given: Iterable[int] = () if self.exact else powers
        else:
            given = sizes
        self.sizes = (*sorted({size for size in given if size < limit}), limit)

    def size_of(self, count: int) -> int:
        """The smallest size that holds `count` patches, 1 <= count <= limit."""
        if self.exact:
            return count
        return next(size for size in self.sizes if size >= count)

    def chunks(self, total: int) -> list[Chunk]:
        """The forwards for `total` patches: full ones, then one for the rest."""
        return [
            Chunk(start, self.size_of(min(self.limit, total - start)))
            for start in range(0, total, self.limit)
        ]


def check_sizes(sizes: object) -> str | tuple[int, ...]:
    """`sizes` as `Buckets` takes them.

    Raises:
        ValueError: another word, or a size below 1.
        TypeError: neither a word nor integers.
    """
    if isinstance(sizes, str):
        _checks.choice("Engine", "buckets", sizes, ("powers", "exact"))
        return sizes
    if not isinstance(sizes, Iterable):
        raise TypeError(f"Engine: buckets must be 'powers', 'exact' or sizes, got {sizes!r}")
    return tuple(_checks.integer("Engine", "buckets", size, 1) for size in sizes)
