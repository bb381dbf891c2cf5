"""Scores of `c2f eval` from known counts: policies, means, changes, and joined canvases."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from c2fcore import C2FConfig
from c2fcore.data.tiling import Box
from c2fcore.evaluation import gallery, report, runner, tables
from c2fcore.evaluation.predictor import Answer
from c2fcore.evaluation.runner import Result, UnitScore
from c2fcore.evaluation.samples import (
    Canvas,
    Scene,
    Tile,
    Unit,
)
from c2fcore.evaluation.tally import Measures, Tally

NAMES = ("ground", "red", "green", "blue")


def test_a_canvas_takes_every_pixel_from_the_tile_nearest_to_it() -> None:
    boxes = [(0, 0), (0, 4), (5, 0), (5, 4)]
    tiles = tuple(Tile(str(i), Box(y, x, y + 8, x + 8)) for i, (y, x) in enumerate(boxes))
    canvas = Canvas(Unit("s", Scene("s", 11, 12, tiles), tiles, True), torch.device("cpu"))
    for i, tile in enumerate(tiles):
        done = canvas.add(tile, {"m": torch.full((8, 8), i, dtype=torch.uint8)})
        assert done == (i == 3)
    want = np.zeros((11, 12), np.uint8)
    want[:, 6:] += 1  # tiles 0..8 and 4..12 meet in the middle of 4..8
    want[6:] += 2  # 0..8 and 5..13, the second beyond the image: the middle of 5..8, rounded down
    assert np.array_equal(canvas.maps["m"].numpy(), want)


def result_of(matrix: list[list[int]]) -> Result:
    tally = Tally(len(matrix), (1,), Measures(0, None))
    tally.confusion += torch.tensor(matrix)
    return Result(tally, None)


@pytest.mark.parametrize(
    ("absent", "mean"), [("nan", (0.5 + 2 / 3) / 2), ("1", (1.5 + 2 / 3) / 3), ("0", 3.5 / 9)]
)
def test_absent_classes_follow_the_policy(absent: str, mean: float) -> None:
    """IoU 1/2 and 2/3 by hand; the third class is in neither map."""
    summary = report.summarise(result_of([[1, 1, 0], [0, 2, 0], [0, 0, 0]]), NAMES[:3], absent)
    assert summary["means"]["all"]["coarse"]["iou"] == pytest.approx(mean)
    assert summary["absent_classes"] == ["green"]
    assert summary["classes"][2]["coarse"]["iou"] == {"nan": None, "1": 1.0, "0": 0.0}[absent]
    assert "| green |" in report.markdown(summary).replace("  ", "")
    table = tables.markdown(tables.table("table4"), {"PSPNet": summary, "HRNetW48": summary}, {})
    rule = {"nan": "left out of the means", "0": "counted as 0", "1": "counted as 1 where"}[absent]
    assert table.count(f"Not in the truth, {rule}") == 1
    json.dumps(summary, allow_nan=False)


def test_accuracy_counts_every_pixel_of_many() -> None:
    """A whole data set: float32 would round this to 1."""
    summary = report.summarise(result_of([[2**30, 3], [0, 0]]), NAMES[:2])
    assert summary["pixel_accuracy"]["coarse"] == 2**30 / (2**30 + 3)


def test_means_of_both_answers_are_over_the_same_classes() -> None:
    """The refined answer invents the third class: it misses a pixel, and that is all."""
    result = result_of([[2, 0, 0], [0, 2, 0], [0, 0, 0]])
    result.refined = result_of([[2, 0, 0], [0, 1, 1], [0, 0, 0]]).coarse
    summary = report.summarise(result, NAMES[:3])
    assert summary["means"]["all"]["refined"]["iou"] == pytest.approx(0.75)
    assert summary["means"]["all"]["gain"]["iou"] == pytest.approx(-0.25)
    assert summary["classes"][2]["refined"]["iou"] == 0
    assert summary["classes"][2]["coarse"]["iou"] is None


def test_nothing_to_score_is_no_score() -> None:
    summary = report.summarise(result_of([[0, 0], [0, 0]]), NAMES[:2])
    assert summary["means"]["all"]["coarse"]["iou"] is None
    assert summary["windows"]["covered"] is None
    assert "- %" in report.markdown(summary)


def test_changes_are_judged_by_the_truth() -> None:
    truth = np.array([[1, 1, 255, 0]], np.uint8)
    labels = {
        "truth": truth,
        "coarse": np.array([[0, 1, 0, 2]], np.uint8),
        "refined": np.array([[1, 0, 1, 1]], np.uint8),
    }
    shown = gallery.changes(np.zeros((1, 4, 3), np.uint8), labels)[0].tolist()
    assert shown[0] == [40, 170, 80]  # put right
    assert shown[1] == [220, 40, 40]  # put wrong
    assert shown[2] == shown[3] == [128] * 3  # not judged; wrong before and after


def test_best_and_worst_never_share_a_unit() -> None:
    result = result_of([[1, 0], [0, 1]])
    values = [0.2, math.nan, 0.9, 0.5]
    result.units = [UnitScore(i, str(i), v, math.nan) for i, v in enumerate(values)]
    chosen = gallery.choose(result, 2)
    assert [(rank, unit.name) for rank, unit in chosen] == [
        ("best_1", "2"), ("best_2", "3"), ("worst_1", "0"),
    ]  # fmt: skip


class Failing:
    """A predictor whose error has no text."""

    config, device, refines = C2FConfig(2, (1,)), torch.device("cpu"), True

    def __call__(self, image: torch.Tensor) -> Answer:
        raise NotImplementedError


def test_an_error_that_says_nothing_stops_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    tile = Tile("t", Box(0, 0, 4, 4))
    blank = torch.zeros((3, 4, 4), dtype=torch.uint8)
    samples: Any = SimpleNamespace(
        name="s", scenes=(Scene("s", 4, 4, (tile,)),), read=lambda *_: (blank, blank[0])
    )
    monkeypatch.setattr(runner.distributed, "world", lambda: 2)
    monkeypatch.setattr(runner.distributed, "gather", lambda value: [value, ""])
    with pytest.raises(ValueError, match="NotImplementedError"):
        runner.evaluate(Failing(), samples, measures=Measures(0, None), progress=False)
