"""A result in numbers (JSON, CSV) and as tables to read (Markdown).

Scores are fractions in JSON and CSV, percent in Markdown. A score that does not exist (a class that
is in neither map, say) is null, an empty cell, and "-".
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from .. import _files, metrics
from .._progress import counted
from . import boundary, objects
from .runner import Result
from .tally import Tally

FORMAT: Final = "c2fcore-eval"
FORMAT_VERSION: Final = 1
FILES: Final = ("scores.json", "scores.csv", "sizes.csv", "images.csv", "scores.md")
ABSENT: Final = {"nan": math.nan, "1": 1.0, "0": 0.0}
STAGES: Final = ("coarse", "refined")
_ANY_BYTES: Final = "surrogateescape"  # names of images are no UTF-8 now and then

Row = dict[str, Any]


def summarise(
    result: Result,
    class_names: Sequence[str],
    absent: str = "nan",
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything of a result as values that JSON can hold.

    A class in neither the truth nor an answer has no IoU. `absent` says what stands for it: "nan"
    nothing (mmsegmentation), 1 counts it as right, 0 as wrong (Paddle, torchmetrics). Means are
    over all classes, with "nan" over those that occur in the truth: both answers' over the same
    ones, even if one invents a class that is nowhere. (mmsegmentation would count that class as 0
    in the mean of this answer, which on small data outweighs everything else.)

    Args:
        result: what was counted.
        class_names: one per class.
        absent: a key of ABSENT.
        about: what else to write down: checkpoint, data, options.

    Raises:
        ValueError: no such policy.
    """
    if absent not in ABSENT:
        raise ValueError(f"absent must be one of {', '.join(ABSENT)}, got {absent}")
    tallies = {"coarse": result.coarse}
    if result.refined is not None:
        tallies["refined"] = result.refined
    small = list(result.coarse.small_classes)
    scores = {stage: _scores(tally, ABSENT[absent]) for stage, tally in tallies.items()}
    pixels = result.coarse.confusion.sum(1)
    classes = []
    for c, name in enumerate(class_names):
        found = {stage: {k: float(v[c]) for k, v in s.items()} for stage, s in scores.items()}
        row = {"id": c, "name": name, "small": c in small, "truth_px": int(pixels[c])}
        classes.append({**row, **_with_gain(found)})
    means = {}
    counted = [c for c in range(len(class_names)) if absent != "nan" or pixels[c]]
    for group, ids in (("all", counted), ("small", [c for c in small if c in counted])):
        found = {
            stage: {k: float(v[ids].nanmean()) if ids else math.nan for k, v in s.items()}
            for stage, s in scores.items()
        }
        means[group] = _with_gain(found)
    right = {s: t.confusion.diag().sum().double() / t.confusion.sum() for s, t in tallies.items()}
    summary: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **(about or {}),
        "absent": absent,
        "images": len(result.units),
        "classes": classes,
        "absent_classes": [name for c, name in enumerate(class_names) if not pixels[c]],
        "means": means,
        "pixel_accuracy": {stage: float(value) for stage, value in right.items()},
        "sizes": _sizes(tallies, class_names),
        "windows": {
            "count": result.windows,
            "per_tile": result.windows / max(1, result.tiles),
            "covered": result.covered_px / result.small_px if result.small_px else math.nan,
        },
        "speed": _speed(result),
        "confusion": {stage: tally.confusion.tolist() for stage, tally in tallies.items()},
    }
    plain: dict[str, Any] = _nullable(summary)
    return plain


def _scores(tally: Tally, absent: float) -> dict[str, Tensor]:
    matrix = tally.confusion
    found = {"iou": metrics.iou(matrix), "f1": metrics.f1(matrix)}
    if tally.measures.boundary:
        found["boundary_iou"] = boundary.iou(tally.boundary)
    if math.isnan(absent):
        return found
    return {name: values.nan_to_num(nan=absent) for name, values in found.items()}


def _with_gain(stages: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    if len(stages) < 2:
        return stages
    before, after = (stages[stage] for stage in STAGES)
    return {**stages, "gain": {key: after[key] - before[key] for key in before}}


def _sizes(tallies: Mapping[str, Tally], class_names: Sequence[str]) -> list[Row]:
    """One row per small class and bin, then all small classes together."""
    first = tallies["coarse"]
    edges = first.measures.sizes
    if edges is None or not len(first.sizes):
        return []
    bounds = [0.0, *edges, None]
    names = [class_names[c] for c in first.small_classes]
    counts = {s: torch.cat([t.sizes, t.sizes.sum(0, keepdim=True)]) for s, t in tallies.items()}
    rows = []
    for i, name in enumerate([*names, "all small"]):
        for b, text in enumerate(objects.bin_names(edges)):
            cells = {stage: found[i, b].numpy() for stage, found in counts.items()}
            found = {
                stage: {"iou": float(objects.iou(cell)), "recall": float(objects.recall(cell))}
                for stage, cell in cells.items()
            }
            row = {"class": name, "bin": text, "from_px": bounds[b], "to_px": bounds[b + 1]}
            rows.append({**row, "objects": int(cells["coarse"][0]), **_with_gain(found)})
    return rows


def _speed(result: Result) -> Row:
    """Of one process, in images (tiles) and pixels a second."""
    images = sum(t.images for t in result.timings)
    pixels = sum(t.pixels for t in result.timings)
    coarse = sum(t.seconds["coarse"] for t in result.timings)
    total = sum(sum(t.seconds.values()) for t in result.timings)
    return {
        "fps": images / total if total else math.nan,
        "coarse_fps": images / coarse if coarse else math.nan,
        "ratio": coarse / total if total else math.nan,
        "megapixels_per_second": pixels / total / 1e6 if total else math.nan,
        "timed_images": images,
        "processes": result.processes,
    }


def _nullable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nullable(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nullable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(folder: Path, result: Result, summary: Mapping[str, Any]) -> list[Path]:
    """Writes FILES into a folder, which is made if needed; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    _files.write_text(folder / "scores.json", json.dumps(summary, indent=1) + "\n")
    _files.write_text(folder / "scores.md", markdown(summary), _ANY_BYTES)
    _write_csv(folder / "scores.csv", [_flat(row) for row in _class_rows(summary)])
    _write_csv(folder / "sizes.csv", [_flat(row) for row in summary["sizes"]])
    units = [
        {"name": u.name, "coarse": u.coarse, "refined": u.refined, "gain": u.refined - u.coarse}
        for u in result.units
    ]
    _write_csv(folder / "images.csv", [_nullable(unit) for unit in units])
    return [folder / name for name in FILES]


def _class_rows(summary: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = list(summary["classes"])
    for group, name in (("small", "mean of small"), ("all", "mean")):
        rows.append({"id": None, "name": name, **summary["means"][group]})
    return rows


def _flat(row: Mapping[str, Any]) -> Row:
    found: Row = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found.update({f"{key}_{name}": score for name, score in value.items()})
        else:
            found[key] = value
    return found


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (
        _files.whole(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors=_ANY_BYTES) as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


# Markdown


def markdown(summary: Mapping[str, Any]) -> str:
    """The tables to read: classes, sizes, and a line on windows and speed."""
    stages = [s for s in STAGES if s in summary["means"]["all"]]
    rows = [[_marked(row), *_score_cells(row, stages)] for row in summary["classes"]]
    for group, name in (("small", "mean of small *"), ("all", "mean")):
        rows.append([name, *_score_cells(summary["means"][group], stages)])
    kinds = _kinds(summary["means"]["all"])
    head = ["class", *(name for kind in kinds for name in _heads(kind, stages))]
    text = [_title(summary), "", table(head, rows), "", _notes(summary)]
    if any(row["objects"] for row in summary["sizes"]):
        heads = [name for kind in ("IoU", "found") for name in _heads(kind, stages)]
        head = ["class", "size", "objects", *heads]
        sizes = [
            [row["class"], row["bin"], str(row["objects"]),
             *(cell for key in ("iou", "recall") for cell in _three(row, stages, key))]
            for row in summary["sizes"] if row["objects"]
        ]  # fmt: skip
        text += ["", "IoU by size of object (side: square root of the area), and the share of the "
                 "objects' pixels found:", "", table(head, sizes)]  # fmt: skip
    return "\n".join(text) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well as plain text; numbers on the right."""
    head, *rows = ([cell.replace("|", "\\|") for cell in row] for row in (head, *rows))
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    right = [i > 0 and all(_numeric(row[i]) for row in rows) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right))
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right))
    return "\n".join([line(head), f"|{rule}|", *map(line, rows)])


def percent(value: float | None, signed: bool = False) -> str:
    """A fraction in percent with two decimals, "-" for none."""
    if value is None:
        return "-"
    return f"{round(100 * value, 2) + 0.0:+.2f}" if signed else f"{100 * value:.2f}"


def _numeric(cell: str) -> bool:
    return not cell.strip("+-.0123456789¹²³")


def _marked(row: Mapping[str, Any]) -> str:
    return f"{row['name']} *" if row["small"] else str(row["name"])


def _kinds(scores: Mapping[str, Any]) -> list[str]:
    names = {"iou": "IoU", "f1": "F1", "boundary_iou": "boundary"}
    return [names[key] for key in scores["coarse"]]


def _parts(stages: Sequence[str]) -> list[str]:
    return [*stages, "gain"] if len(stages) == 2 else list(stages)


def _heads(kind: str, stages: Sequence[str]) -> list[str]:
    first, *others = _parts(stages)
    return [f"{kind} {first}", *others]


def _score_cells(row: Mapping[str, Any], stages: Sequence[str]) -> list[str]:
    return [cell for key in row["coarse"] for cell in _three(row, stages, key)]


def _three(row: Mapping[str, Any], stages: Sequence[str], key: str) -> list[str]:
    return [percent(row[part][key], signed=part == "gain") for part in _parts(stages)]


def _title(summary: Mapping[str, Any]) -> str:
    what = f"{summary['checkpoint']} on {summary['data']}" if "checkpoint" in summary else "scores"
    unit = "scene" if summary.get("protocol") == "whole" else "tile"
    return f"{what}: {counted(summary['images'], unit)}, in percent"


def absent_note(summary: Mapping[str, Any]) -> str:
    """Which classes the truth lacks and what becomes of them in the means; "" if it lacks none."""
    if not summary["absent_classes"]:
        return ""
    rule = {
        "nan": "left out of the means",
        "1": "counted as 1 where the answer does not hold it either",
        "0": "counted as 0",
    }
    return f"Not in the truth, {rule[summary['absent']]}: {', '.join(summary['absent_classes'])}."


def _notes(summary: Mapping[str, Any]) -> str:
    windows, speed = summary["windows"], summary["speed"]
    lines = [
        f"\\* small classes. {windows['count']} windows ({windows['per_tile']:.1f} a tile) cover "
        f"{percent(windows['covered'])} % of the small-object pixels."
    ]
    if absent := absent_note(summary):
        lines.append(absent)
    if speed["fps"] is not None:
        alone = ""
        if "refined" in summary["means"]["all"]:
            alone = f"; the coarse network alone {speed['coarse_fps']:.2f}, ratio "
            alone += f"{speed['ratio']:.2f}"
        lines.append(
            f"{speed['fps']:.2f} tiles a second{alone} "
            f"({speed['megapixels_per_second']:.2f} Mpx/s, reading not counted)."
        )
    return "\n".join(lines)
