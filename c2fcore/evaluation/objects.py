"""IoU by size of object: what a class's IoU is made of.

An object is an 8-connected component of a class in the truth. Its size is its side, the square root
of its area in pixels, as the data sets of tiny objects count it (AI-TOD: very tiny below 8 px, tiny
below 16, small below 32, medium below 64; COCO: small below 32, large above 96). A tile shows only
the part of an object that lies in it.

Every pixel of a class's union (truth or answer) belongs to one bin of sizes:

- a pixel of the truth, found or missed: that of its object;
- a false pixel: that of the object which its 8-connected component of the answer overlaps most
  (ties: the first in raster order); a component without any object: that of its own size.

So the bins split a class's union, and the class's IoU is the mean of its bins' IoU weighted by
their unions.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..data.catalogue import IGNORED
from ..images import Pixels

EDGES: Final = (8.0, 16.0, 32.0, 64.0)
FIELDS: Final = ("objects", "hits", "missed", "false")

_NEIGHBOURS: Final = np.ones((3, 3), dtype=np.int8)

Counts = npt.NDArray[np.int64]


class TruthObjects:
    """The objects of a truth, to be compared with any number of answers.

    Args:
        truth: ids uint8 [H, W]; 255 is not scored, and cuts objects and answers apart.
        classes: whose objects.
        edges: ascending sides in pixels; bin i holds sides in [edges[i-1], edges[i]).

    Raises:
        ValueError: edges are not ascending and above 0.
        ImportError: scipy is not installed.
    """

    def __init__(
        self,
        truth: Pixels,
        classes: Sequence[int],
        edges: Sequence[float] = EDGES,
    ) -> None:
        check_edges(edges)
        self._label = _scipy_label()
        self._classes = tuple(classes)
        self._areas = np.array([edge * edge for edge in edges])
        self._ignored = truth == IGNORED
        self._objects = [self._components(truth == c) for c in self._classes]

    def counts(self, predicted: Pixels) -> Counts:
        """Objects and pixels by size: int64 [S, bins, 4] in the order of FIELDS.

        Args:
            predicted: ids uint8 [H, W].

        Raises:
            ValueError: another shape than the truth's.
        """
        if predicted.shape != self._ignored.shape:
            raise ValueError(
                f"objects: predicted and truth must have one shape, got {predicted.shape} and "
                f"{self._ignored.shape}"
            )
        found = np.zeros((len(self._classes), len(self._areas) + 1, len(FIELDS)), np.int64)
        for row, c, (objects, count) in zip(found, self._classes, self._objects):
            answer = (predicted == c) & ~self._ignored
            # Most classes fill a small part of the image: the rest is not looked at.
            box = _bounding_box(answer | (objects > 0) if count else answer)
            if box is not None:
                self._count(row, answer[box], objects[box], count)
        return found

    def _count(
        self, row: Counts, answer: npt.NDArray[np.bool_], objects: npt.NDArray[Any], count: int
    ) -> None:
        bins, hit = len(row), answer & (objects > 0)
        bin_of = self._bins(objects, count)
        row[:, 0] = np.bincount(bin_of, minlength=bins)
        hits = np.bincount(objects[hit], minlength=count + 1)[1:]
        areas = np.bincount(objects.ravel(), minlength=count + 1)[1:]
        np.add.at(row[:, 1], bin_of, hits)
        np.add.at(row[:, 2], bin_of, areas - hits)
        false = answer & (objects == 0)
        if not false.any():
            return
        parts, parts_count = self._components(answer)
        part_bin = self._bins(parts, parts_count)
        part, target = _largest_overlap(parts[hit].astype(np.int64), objects[hit], count)
        part_bin[part - 1] = bin_of[target - 1]
        pixels = np.bincount(parts[false], minlength=parts_count + 1)[1:]
        np.add.at(row[:, 3], part_bin, pixels)

    def _components(self, mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[Any], int]:
        """Components numbered from 1 in raster order, [H, W], and how many there are."""
        if not mask.any():
            return np.zeros(mask.shape, np.int32), 0
        components, count = self._label(mask, _NEIGHBOURS)
        return components, int(count)

    def _bins(self, components: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
        areas = np.bincount(components.ravel(), minlength=count + 1)[1:]
        return np.searchsorted(self._areas, areas, side="right").astype(np.int64)


def check_edges(edges: Sequence[float]) -> None:
    """Edges of size bins are numbers, ascending and above 0.

    Raises:
        ValueError: they are not.
    """
    if not all(a < b < math.inf for a, b in zip((0.0, *edges), edges)):
        raise ValueError(f"size edges must be ascending and above 0 px, got {tuple(edges)}")


def bin_names(edges: Sequence[float]) -> list[str]:
    """Bins in words, such as "< 8 px", "8-16 px" and ">= 16 px"."""
    if not edges:
        return ["all"]
    text = [f"{edge:g}" for edge in edges]
    inner = [f"{a}-{b} px" for a, b in zip(text, text[1:])]
    return [f"< {text[0]} px", *inner, f">= {text[-1]} px"]


def iou(found: Any) -> Any:
    """IoU, float64 [.., bins], of what `counts` gave; NaN where a bin has no pixel."""
    with np.errstate(invalid="ignore"):
        return found[..., 1] / found[..., 1:].sum(-1)


def recall(found: Any) -> Any:
    """Share of the objects' pixels that were found; NaN where a bin has no object."""
    with np.errstate(invalid="ignore"):
        return found[..., 1] / (found[..., 1] + found[..., 2])


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice] | None:
    """Rows and columns that hold all of a mask; None for an empty one."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _largest_overlap(
    parts: npt.NDArray[np.int64], objects: npt.NDArray[Any], count: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """For each part that meets an object: the part, and the object it shares most pixels with."""
    pairs, pixels = np.unique(parts * (count + 1) + objects, return_counts=True)
    part, target = pairs // (count + 1), pairs % (count + 1)
    order = np.lexsort((target, -pixels, part))
    part, target = part[order], target[order]
    first = np.ones(len(part), np.bool_)
    first[1:] = part[1:] != part[:-1]
    return part[first], target[first]


def _scipy_label() -> Any:
    try:
        return importlib.import_module("scipy.ndimage").label
    except ImportError as error:
        raise ImportError(
            f"IoU by object size needs scipy ({error}); pip install 'c2fcore[train]', or leave it "
            f"out with --no-sizes"
        ) from error
