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
    n = num_classes
    rows, columns = truth.flatten().long(), predicted.flatten().long()
    scored = rows != ignore_index
    bad_truth, bad_predicted = ((v < 0) | (v >= n) for v in (rows, columns))
    cells = torch.where(bad_truth | bad_predicted, n * n, rows * n + columns)
    cells = torch.where(scored, cells, n * n + 1)
    # One count and one wait for the device, with cells of their own for what is left out.
    found = torch.bincount(cells, minlength=n * n + 2)
    if int(found[n * n]):
        for name, ids, bad in (("truth", rows, bad_truth), ("predicted", columns, bad_predicted)):
            if bool((bad & scored).any()):
                known = ids[scored]
                raise ValueError(
                    f"confusion_matrix: {name} must be in 0..{n - 1}, "
                    f"got {int(known.min())}..{int(known.max())}"
                )
    return found[: n * n].reshape(n, n)


def iou(matrix: Tensor) -> Tensor:
    """Intersection over union per class, float64 [N]; NaN for a class in neither map."""
    hits = matrix.diag().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - matrix.diag())


def f1(matrix: Tensor) -> Tensor:
    """F1 score per class, float64 [N] (2 IoU / (1 + IoU)); NaN for a class in neither map."""
    return 2 * matrix.diag().double() / (matrix.sum(0) + matrix.sum(1))


def covered_mask(windows: Windows, height: int, width: int) -> Tensor:
    """Bool [B, H, W] on the CPU, True where a window in use covers the pixel."""
    covered = torch.zeros((len(windows.num), height, width), dtype=torch.bool, device="cpu")
    k = windows.window
    rows, used = windows.origins.tolist(), windows.num.tolist()
    for b, origins in enumerate(rows):
        for y, x in origins[: used[b]]:
            covered[b, y : y + k, x : x + k] = True
    return covered
