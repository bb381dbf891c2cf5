"""Figures that others published: of the paper, and of its authors' code pages.

paper.json says for every figure where it stands. Nothing in it is estimated; two kinds of figures
follow from others and are computed here: the mean of the small classes, where one source has them
all, and F1, which is 2 IoU / (1 + IoU).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, Final, NamedTuple

MEAN: Final = "mean"
F1: Final = "F1 "  # before the name of a column of IoU
OWN_ROW: Final = (
    "paper"  # the row of the paper's figures; others have it where their runs are theirs
)


class Figure(NamedTuple):
    """A published figure.

    Attributes:
        value: IoU in percent, or FPS.
        source: a key of `paper()["sources"]`.
        note: what is to be said about it; may be empty.
    """

    value: float
    source: str
    note: str = ""


@lru_cache(maxsize=1)
def paper() -> dict[str, Any]:
    """What paper.json holds."""
    text = (resources.files(__package__) / "paper.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _entries(table: str) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in paper()["figures"] if table in entry["tables"])


def lines(table: str) -> tuple[str, ...]:
    """Lines of a table that have a published figure."""
    return tuple(dict.fromkeys(str(entry["line"]) for entry in _entries(table)))


def figures(
    table: str, line: str, among: Sequence[str] | None = None
) -> dict[str, dict[str, Figure]]:
    """Published figures of a line: by row ("paper" first), then by column.

    In a row the first source in the order of paper.json's sources has the word.

    Args:
        table: one of paper.json's.
        line: of that table.
        among: columns of the classes that the mean of the small classes is over; all published
            ones if not given. It is of one source alone, which has them all.
    """
    sources = list(paper()["sources"])
    classes = list(paper()["columns"].values())
    meant = classes if among is None else among
    found: dict[str, dict[str, Figure]] = {OWN_ROW: {}}
    own = [entry for entry in _entries(table) if entry["line"] == line]
    for entry in sorted(own, key=lambda entry: sources.index(entry["source"])):
        source, values = entry["source"], entry["values"]
        row = found.setdefault(paper()["sources"][source]["row"], {})
        for column, value in values.items():
            row.setdefault(column, Figure(value, source, entry.get("notes", {}).get(column, "")))
        scores = {column: values[column] for column in classes if column in values}
        f1 = {F1 + column: 200 * iou / (100 + iou) for column, iou in scores.items()}
        for column, score in f1.items():
            row.setdefault(column, Figure(score, source))
        if meant and all(column in scores for column in meant):
            for name, before in ((MEAN, ""), (F1 + MEAN, F1)):
                mean = sum({**scores, **f1}[before + column] for column in meant) / len(meant)
                row.setdefault(name, Figure(mean, source))
    return found


def mark(source: str) -> str:
    """The sign that stands behind figures of a source; empty for the paper."""
    return str(paper()["sources"][source].get("mark", ""))


def footnotes(used: set[str]) -> list[str]:
    """What the signs of the sources in use mean."""
    return [
        f"{facts['mark']} From the authors' code page, not from the paper: {facts['text']}."
        for source, facts in paper()["sources"].items()
        if source in used and "mark" in facts
    ]
