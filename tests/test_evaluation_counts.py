"""Boundary IoU and IoU by object size, against loops that follow their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from availability import NEEDS_SCIPY
from torch import Tensor

from c2fcore import metrics
from c2fcore.evaluation import boundary, objects

IGNORED = 255


def maps(seed: int, height: int, width: int, blocks: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A truth of overlapping rectangles with ignored ones, and an answer shifted and torn."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((height, width), np.uint8)
    for i in range(blocks):
        y, x = rng.integers(0, height), rng.integers(0, width)
        a, b = rng.integers(1, 9, 2)
        truth[y : y + a, x : x + b] = IGNORED if i == 5 else rng.integers(0, 4)
    answer = np.roll(np.where(truth == IGNORED, 1, truth), (1, int(rng.integers(0, 3))), (0, 1))
    torn = rng.random(truth.shape) < 0.08
    return truth, np.where(torn, rng.integers(0, 4, truth.shape), answer).astype(np.uint8)


SIZES = [(23, 31), (17, 17), (1, 9), (5, 40), (8, 8)]


# Boundary IoU


def slow_band(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of a mask with one that is not in it, or not in the image, in the square around."""
    height, length = mask.shape
    out = np.zeros_like(mask)
    for y in range(height):
        for x in range(length):
            if mask[y, x]:
                out[y, x] = any(
                    not (0 <= v < height and 0 <= u < length and mask[v, u])
                    for v in range(y - width, y + width + 1)
                    for u in range(x - width, x + width + 1)
                )
    return out


@pytest.mark.parametrize("width", [1, 2, 3, 6])
@pytest.mark.parametrize("size", SIZES)
def test_boundary_counts_match_loops(size: tuple[int, int], width: int) -> None:
    truth, answer = maps(width, *size)
    got = boundary.counts(torch.from_numpy(answer), torch.from_numpy(truth), 4, width)
    scored = truth != IGNORED
    for c in range(4):
        of_truth = slow_band((truth == c) & scored, width)
        of_answer = slow_band((answer == c) & scored, width)
        want = [int(m.sum()) for m in (of_truth & of_answer, of_truth, of_answer)]
        assert got[c].tolist() == want


def test_a_band_wider_than_the_image_makes_it_the_iou() -> None:
    truth, answer = (torch.from_numpy(m) for m in maps(3, 20, 30))
    wide = boundary.iou(boundary.counts(answer, truth, 4, 15))
    plain = metrics.iou(metrics.confusion_matrix(answer, truth, 4))
    torch.testing.assert_close(wide, plain, equal_nan=True)


def test_boundary_iou_by_hand() -> None:
    """Two 5 x 5 squares one column apart, d = 1: rings of 16 that share 4 + 4 pixels."""
    truth, answer = torch.zeros(11, 11).int(), torch.zeros(11, 11).int()
    truth[3:8, 3:8] = 1
    answer[3:8, 4:9] = 1
    both, of_truth, of_answer = boundary.counts(answer, truth, 2, 1)[1].tolist()
    assert (both, of_truth, of_answer) == (8, 16, 16)
    assert boundary.iou(torch.tensor([[both, of_truth, of_answer]])).item() == 8 / 24
    empty = boundary.iou(torch.zeros((1, 3), dtype=torch.int64))
    assert math.isnan(empty.item())


def test_width_follows_the_diagonal() -> None:
    assert boundary.width_of(0.02, 300, 400) == 10
    assert boundary.width_of(0.005, 20, 20) == 1


def test_boundary_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match=r"width must be at least 1, got 0"):
        boundary.band(torch.zeros(3, 3).int(), 0)
    with pytest.raises(ValueError, match=r"labels must be \[H, W\], got shape \(1, 3, 3\)"):
        boundary.band(torch.zeros(1, 3, 3).int(), 1)
    with pytest.raises(ValueError, match=r"one shape, got \(3,\) and \(2,\)"):
        boundary.counts(torch.zeros(3).int(), torch.zeros(2).int(), 2, 1)


# IoU by object size


def flood(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """8-connected components in raster order."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask))}
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        left.discard(start)
        component, todo = {start}, [start]
        while todo:
            y, x = todo.pop()
            for near in [(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)]:
                if near in left:
                    left.discard(near)
                    component.add(near)
                    todo.append(near)
        found.append(component)
    return found


def slow_sizes(
    answer: np.ndarray, truth: np.ndarray, classes: tuple[int, ...], edges: tuple[float, ...]
) -> list[list[list[int]]]:
    """Pixel by pixel, as the module's text says it."""

    def bin_of(component: set[tuple[int, int]]) -> int:
        return sum(math.sqrt(len(component)) >= edge for edge in edges)

    rows = []
    for c in classes:
        row = [[0, 0, 0, 0] for _ in range(len(edges) + 1)]
        things = flood(truth == c)
        for thing in things:
            row[bin_of(thing)][0] += 1
            for y, x in thing:
                row[bin_of(thing)][1 if answer[y, x] == c else 2] += 1
        for part in flood((answer == c) & (truth != IGNORED)):
            overlaps = [len(part & thing) for thing in things]
            most = max(overlaps, default=0)
            target = bin_of(things[overlaps.index(most)] if most else part)
            row[target][3] += sum(truth[y, x] != c for y, x in part)
        rows.append(row)
    return rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", SIZES)
@NEEDS_SCIPY
def test_sizes_match_flood_fill(size: tuple[int, int], seed: int) -> None:
    truth, answer = maps(seed, *size)
    classes, edges = (1, 3), (2.0, 3.5, 6.0)
    got = objects.TruthObjects(truth, classes, edges).counts(answer)
    assert got.tolist() == slow_sizes(answer, truth, classes, edges)


@NEEDS_SCIPY
def test_bins_split_the_union_of_a_class() -> None:
    truth, answer = maps(1, 60, 70, blocks=40)
    found = objects.TruthObjects(truth, (1, 2, 3), (3.0, 5.0)).counts(answer)
    matrix = metrics.confusion_matrix(torch.from_numpy(answer), torch.from_numpy(truth), 4)
    per_class = objects.iou(found.sum(1))
    np.testing.assert_allclose(per_class, metrics.iou(matrix)[1:].numpy())
    assert found[..., 3].sum() > 0
    union = found[..., 1:].sum(-1)
    weighted = np.nansum(objects.iou(found) * union, 1) / union.sum(1)
    np.testing.assert_allclose(weighted, per_class)


@NEEDS_SCIPY
def test_sizes_by_hand() -> None:
    """A 2 x 2 and a 4 x 4 object; the answer joins them, and invents a third of 3 pixels."""
    truth = np.zeros((8, 20), np.uint8)
    truth[0:2, 0:2] = 1
    truth[0:4, 4:8] = 1
    answer = truth.copy()
    answer[0, 2:4] = 1  # two false pixels, joined to both: most overlap with the larger
    answer[0:2, 0] = 0  # half of the small one missed
    answer[6, 15:18] = 1  # meets nothing: side sqrt(3), the lower bin
    truth[7, 17] = IGNORED
    answer[7, 17] = 1
    found = objects.TruthObjects(truth, (1,), (3.0,)).counts(answer)[0]
    assert found.tolist() == [[1, 2, 2, 3], [1, 16, 0, 2]]
    np.testing.assert_allclose(objects.recall(found), [0.5, 1.0])
    np.testing.assert_allclose(objects.iou(found), [2 / 7, 16 / 18])


@NEEDS_SCIPY
def test_an_edge_belongs_to_the_bin_above() -> None:
    truth = np.zeros((9, 9), np.uint8)
    truth[:3, :3] = 1
    found = objects.TruthObjects(truth, (1,), (2.0, 3.0, 4.0)).counts(truth)
    assert found[0, :, 0].tolist() == [0, 0, 1, 0]
    assert objects.bin_names((2.0, 3.5)) == ["< 2 px", "2-3.5 px", ">= 3.5 px"]
    assert objects.bin_names(()) == ["all"]


@NEEDS_SCIPY
def test_no_object_and_no_answer() -> None:
    found = objects.TruthObjects(np.zeros((4, 4), np.uint8), (1, 2)).counts(
        np.zeros((4, 4), np.uint8)
    )
    assert found.shape == (2, 5, 4)
    assert not found.any()
    assert np.isnan(objects.iou(found)).all()


@NEEDS_SCIPY
def test_sizes_refuse_bad_input() -> None:
    zeros = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"ascending and above 0 px, got \(8.0, 8.0\)"):
        objects.TruthObjects(zeros, (1,), (8.0, 8.0))
    with pytest.raises(ValueError, match=r"ascending and above 0 px, got \(0.0,\)"):
        objects.TruthObjects(zeros, (1,), (0.0,))
    with pytest.raises(ValueError, match=r"one shape, got \(4, 5\) and \(4, 4\)"):
        objects.TruthObjects(zeros, (1,)).counts(np.zeros((4, 5), np.uint8))


# Confusion matrix, against torchmetrics


def random_pair(seed: int) -> tuple[Tensor, Tensor]:
    truth, answer = maps(seed, 40, 50, blocks=30)
    return torch.from_numpy(answer), torch.from_numpy(truth)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_torchmetrics(seed: int) -> None:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    answer, truth = random_pair(seed)
    options = {"num_classes": 4, "ignore_index": IGNORED}
    got = metrics.confusion_matrix(answer, truth, 4)
    wanted = classification.multiclass_confusion_matrix(answer.int(), truth.int(), **options)
    assert torch.equal(got, wanted)
    for ours, theirs in (
        (metrics.iou, classification.multiclass_jaccard_index),
        (metrics.f1, classification.multiclass_f1_score),
    ):
        want = theirs(answer.int(), truth.int(), average="none", **options)
        torch.testing.assert_close(ours(got).float(), want)
