"""Scores of a segmentation: confusion matrix, IoU and F1 per class, coverage by windows."""

from __future__ import annotations

import torch
from torch import Tensor

from .windows import Windows


def confusion_matrix(
    predicted: Tensor, truth: Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Pixel counts, int64 [num_classes, num_classes]: rows are the truth, columns the prediction.

    Args:
        predicted: integer labels of any shape.
        truth: integer labels of the same shape; `ignore_index` is left out.
        num_classes: ids are 0..num_classes-1.
        ignore_index: label of pixels that are not scored.

    Raises:
        ValueError: shapes differ, or an id is out of range.
    """
    if predicted.shape != truth.shape:
        raise ValueError(
            f"confusion_matrix: predicted and truth must have one shape, "
            f"got {tuple(predicted.shape)} and {tuple(truth.shape)}"
        )
    scored = truth != ignore_index
    rows, columns = truth[scored].long(), predicted[scored].long()
    for name, ids in (("truth", rows), ("predicted", columns)):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < num_classes:
            raise ValueError(
                f"confusion_matrix: {name} must be in 0..{num_classes - 1}, "
                f"got {int(ids.min())}..{int(ids.max())}"
            )
    cells = torch.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def iou(matrix: Tensor) -> Tensor:
    """Intersection over union per class, float64 [N]; NaN for a class in neither map."""
    hits = matrix.diag().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - matrix.diag())


def f1(matrix: Tensor) -> Tensor:
    """F1 score per class, float64 [N] (2 IoU / (1 + IoU)); NaN for a class in neither map."""
    return 2 * matrix.diag().double() / (matrix.sum(0) + matrix.sum(1))


def covered_mask(windows: Windows, height: int, width: int) -> Tensor:
    """Bool [B, H, W], True where a window in use covers the pixel."""
    covered = torch.zeros((len(windows.num), height, width), dtype=torch.bool)
    k = windows.window
    rows, used = windows.origins.tolist(), windows.num.tolist()
    for b, origins in enumerate(rows):
        for y, x in origins[: used[b]]:
            covered[b, y : y + k, x : x + k] = True
    return covered
