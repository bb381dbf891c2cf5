"""Scores, against tables worked out by hand and against loops."""

from __future__ import annotations

import math

import pytest
import torch

from c2fcore import Windows, metrics


def test_confusion_matrix_counts_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1], [1, 2, 255]])
    predicted = torch.tensor([[0, 1, 1], [1, 0, 2]])
    matrix = metrics.confusion_matrix(predicted, truth, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert metrics.iou(matrix).tolist() == [1 / 3, 2 / 3, 0.0]
    assert metrics.f1(matrix).tolist() == [1 / 2, 4 / 5, 0.0]


def test_f1_follows_from_iou() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (64, 64), generator=generator)
    predicted = torch.where(torch.rand(64, 64, generator=generator) < 0.7, truth, 0)
    matrix = metrics.confusion_matrix(predicted, truth, 5)
    iou = metrics.iou(matrix)
    torch.testing.assert_close(metrics.f1(matrix), 2 * iou / (1 + iou))


def test_a_class_in_neither_map_is_nan() -> None:
    matrix = metrics.confusion_matrix(torch.zeros(4).int(), torch.zeros(4).int(), 2)
    assert metrics.iou(matrix)[0] == 1
    assert math.isnan(metrics.iou(matrix)[1])
    assert math.isnan(metrics.f1(matrix)[1])


def test_everything_ignored_gives_zeros() -> None:
    matrix = metrics.confusion_matrix(torch.zeros(4).int(), torch.full((4,), 255), 3)
    assert matrix.sum() == 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        metrics.confusion_matrix(torch.zeros(2).int(), torch.zeros(3).int(), 2)
    with pytest.raises(ValueError, match=r"truth must be in 0..1, got 0..2"):
        metrics.confusion_matrix(torch.zeros(2).int(), torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match=r"predicted must be in 0..1, got -1..0"):
        metrics.confusion_matrix(torch.tensor([0, -1]), torch.zeros(2).int(), 2)


def test_covered_mask_unites_windows_in_use() -> None:
    origins = torch.tensor([[[0, 0], [1, 1], [4, 4]], [[2, 3], [0, 0], [0, 0]]]).int()
    windows = Windows(origins, torch.zeros(2, 3).int(), torch.tensor([2, 1]).int(), 2)
    covered = metrics.covered_mask(windows, 6, 6)
    expected = torch.zeros(2, 6, 6, dtype=torch.bool)
    for b, y, x in [(0, 0, 0), (0, 1, 1), (1, 2, 3)]:
        expected[b, y : y + 2, x : x + 2] = True
    assert torch.equal(covered, expected)
