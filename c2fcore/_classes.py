"""The set of small classes, in the forms that backends read it."""

from __future__ import annotations

import functools
from typing import Final

import torch
from torch import Tensor

MAX_CLASSES: Final = 256


class ClassSet:
    """A set C of class ids out of 0..255.

    Attributes:
        table: 256 bytes, 1 where the id is in C: the form native kernels read.
    """

    def __init__(self, ids: tuple[int, ...]) -> None:
        """Builds the set; `ids` have been checked."""
        self._members = frozenset(ids)

    @functools.cached_property
    def table(self) -> bytes:
        """See above. Made when asked for: torch.compile traces the reference, but no `bytes`."""
        return bytes(1 if c in self._members else 0 for c in range(MAX_CLASSES))

    def mask(self, num_classes: int, device: torch.device) -> Tensor:
        """Bool [num_classes], True where the id is in C."""
        return torch.tensor([c in self._members for c in range(num_classes)], device=device)

    def indices(self, num_classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Int64 ids in C and ids outside C, each ascending."""
        inside = [c for c in range(num_classes) if c in self._members]
        outside = [c for c in range(num_classes) if c not in self._members]
        return (
            torch.tensor(inside, dtype=torch.int64, device=device),
            torch.tensor(outside, dtype=torch.int64, device=device),
        )


@functools.lru_cache(maxsize=256)
def class_set(ids: tuple[int, ...]) -> ClassSet:
    """The set of `ids`; the same object for the same ids."""
    return ClassSet(ids)
