"""Counts of one answer over a data set: everything that scores are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import metrics
from . import boundary
from .objects import EDGES, FIELDS, TruthObjects, check_edges

_STRIP_PX = 1 << 24  # pixels counted at once: the counting takes some 50 bytes for each


@dataclass(frozen=True)
class Measures:
    """What is counted besides the confusion matrix.

    Attributes:
        boundary: width d of boundary IoU: pixels if at least 1, a share of the image's diagonal if
            below; 0 for none. A band of 2 px is narrower than the vehicles of aerial images; the
            authors' 0.02 (25 px in a tile of 896) would make boundary IoU their plain IoU.
        sizes: edges of the size bins in pixels; None for none.

    Raises:
        ValueError: values out of range.
    """

    boundary: float = 2.0
    sizes: tuple[float, ...] | None = EDGES

    def __post_init__(self) -> None:
        """Checks the values."""
        if not (0 <= self.boundary < 1 or float(self.boundary).is_integer()) or self.boundary < 0:
            raise ValueError(
                f"boundary must be whole pixels, a share of the diagonal below 1, or 0, got "
                f"{self.boundary}"
            )
        if self.sizes is not None:
            check_edges(self.sizes)

    def width(self, height: int, width: int) -> int:
        """Width d in pixels for an image."""
        if self.boundary >= 1:
            return int(self.boundary)
        return boundary.width_of(self.boundary, height, width)


@dataclass
class Tally:
    """Counts, int64 on the CPU; those of several images or processes may be added.

    Attributes:
        confusion: [N, N], rows are the truth.
        boundary: [N, 3], see `boundary.counts`.
        sizes: [S, bins, 4], see `TruthObjects.counts`; S = 0 where none were wanted.
    """

    num_classes: int
    small_classes: Sequence[int]
    measures: Measures
    confusion: Tensor = field(init=False)
    boundary: Tensor = field(init=False)
    sizes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Starts at zero."""
        n, edges = self.num_classes, self.measures.sizes
        rows = 0 if edges is None else len(self.small_classes)
        self.confusion = torch.zeros((n, n), dtype=torch.int64)
        self.boundary = torch.zeros((n, 3), dtype=torch.int64)
        self.sizes = torch.zeros((rows, len(edges or ()) + 1, len(FIELDS)), dtype=torch.int64)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All counts."""
        return self.confusion, self.boundary, self.sizes

    def add(self, predicted: Tensor, truth: Tensor, objects: TruthObjects | None) -> Tensor:
        """Counts one image.

        Args:
            predicted: uint8 [H, W], on any device.
            truth: uint8 [H, W], likewise; 255 is not scored.
            objects: the truth's, if sizes are wanted.

        Returns:
            The image's own confusion matrix.
        """
        own = torch.zeros_like(self.confusion)
        pairs = zip(predicted.flatten().split(_STRIP_PX), truth.flatten().split(_STRIP_PX))
        for part, true_part in pairs:
            own += metrics.confusion_matrix(part, true_part, self.num_classes).cpu()
        self.confusion += own
        if self.measures.boundary:
            width = self.measures.width(*truth.shape)
            self.boundary += boundary.counts(predicted, truth, self.num_classes, width).cpu()
        if objects is not None:
            self.sizes += torch.from_numpy(objects.counts(predicted.cpu().numpy()))
        return own


def pooled_iou(matrix: Tensor, classes: Sequence[int]) -> float:
    """IoU of several classes taken together: all their hits over all their unions; may be NaN."""
    ids = list(classes)
    hits = matrix.diag()[ids].sum()
    union = (matrix.sum(0) + matrix.sum(1) - matrix.diag())[ids].sum()
    return float(hits.double() / union)
