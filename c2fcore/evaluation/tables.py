"""The paper's tables: their lines, the figures of the paper known here, and ours beside them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any, Final

from . import report

SECOND_LOOK: Final = " + second look"
COARSE_ALONE: Final = "coarse alone"
MEAN: Final = "mean"
SPEED: Final = ("FPS", "ratio")

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What is evaluated once.

    Attributes:
        name: as the user names it in --row.
        changes: of the checkpoint's configuration.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A line of a table: one answer of a setting.

    Attributes:
        label: what it is called.
        setting: name of the setting; None for the first that there is.
        stage: "coarse", "refined", or "last" for the refined where there is one.
    """

    label: str
    setting: str | None
    stage: str


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        name: "table1" and so on.
        title: what it compares.
        settings: what is to be evaluated.
        lines: in the order of printing.
        sweep: names and values of what is varied; empty where checkpoints are compared.
        remark: printed below.
    """

    name: str
    title: str
    settings: tuple[Setting, ...]
    lines: tuple[Line, ...]
    sweep: dict[str, list[Any]]
    remark: str = ""


@lru_cache(maxsize=1)
def paper() -> dict[str, Any]:
    """What paper.json holds."""
    text = (resources.files(__package__) / "paper.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def names() -> tuple[str, ...]:
    """Names of the tables."""
    return tuple(paper()["tables"])


def table(
    name: str, sweep: Mapping[str, Sequence[Any]] | None = None, more: Sequence[str] = ()
) -> Table:
    """A table of the paper.

    Args:
        name: one of `names()`.
        sweep: values to try instead of the table's own, by field of C2FConfig.
        more: lines of the user's, for tables that compare checkpoints.

    Raises:
        ValueError: no such table, a field it does not vary, or a line it does not have.
    """
    facts = paper()["tables"]
    if name not in facts:
        raise ValueError(f"table must be one of {', '.join(facts)}, got {name}")
    found = facts[name]
    if "sweep" not in found:
        if sweep:
            raise ValueError(f"{name} compares checkpoints and sweeps nothing, got {dict(sweep)}")
        labels = list(dict.fromkeys([*found["lines"], *more]))
        settings = tuple(Setting(label) for label in labels)
        if found.get("both"):
            pairs = [(x, Line(x, x, "coarse"), Line(x + SECOND_LOOK, x, "refined")) for x in labels]
            lines = tuple(line for _, *two in pairs for line in two)
        else:
            lines = tuple(Line(x, x, "last") for x in labels)
        return Table(name, found["title"], settings, lines, {}, found.get("remark", ""))
    values = {**found["sweep"], **{key: list(v) for key, v in (sweep or {}).items()}}
    strange = [key for key in values if key not in found["sweep"]]
    if strange:
        raise ValueError(f"{name} varies {', '.join(found['sweep'])}, got {', '.join(strange)}")
    settings = tuple(
        Setting(", ".join(f"{k} {v}" for k, v in zip(values, point)), dict(zip(values, point)))
        for point in itertools.product(*values.values())
    )
    known = [setting.name for setting in settings]
    unknown = [label for label in more if label not in known]
    if unknown:
        raise ValueError(f"{name} has the rows {'; '.join(known)}, got {unknown[0]}")
    lines = (Line(COARSE_ALONE, None, "coarse"), *(Line(x, x, "refined") for x in known))
    return Table(name, found["title"], settings, lines, values, found.get("remark", ""))


def our_figures(line: Line, done: Mapping[str, Summary]) -> dict[str, float]:
    """Our figures of a line by column: IoU in percent, FPS, ratio; empty where there are none.

    Args:
        line: of a table.
        done: summaries (`report.summarise`) by name of the setting.
    """
    name = next(iter(done), None) if line.setting is None else line.setting
    if name is None or name not in done:
        return {}
    summary = done[name]
    refines = "refined" in summary["means"]["all"]
    stage = ("refined" if refines else "coarse") if line.stage == "last" else line.stage
    if stage == "refined" and not refines:
        return {}
    found = {
        _short(row["name"]): 100 * row[stage]["iou"]
        for row in summary["classes"]
        if row["small"] and row[stage]["iou"] is not None
    }
    for group, title in (("small", MEAN), ("all", "mIoU")):
        if (value := summary["means"][group][stage]["iou"]) is not None:
            found[title] = 100 * value
    if stage == "refined" and (covered := summary["windows"]["covered"]) is not None:
        found["covered"] = 100 * covered
    speed = summary["speed"]
    fps = speed["fps"] if stage == "refined" else speed["coarse_fps"]
    ratio = speed["ratio"] if stage == "refined" else 1.0
    speeds = {name: value for name, value in zip(SPEED, (fps, ratio)) if value is not None}
    return {**found, **speeds}


def paper_figures(name: str, label: str) -> dict[str, float]:
    """The paper's figures of a line by column, as far as they are known here."""
    found = {
        f["column"]: float(f["value"])
        for f in paper()["figures"]
        if (f["table"], f["line"]) == (name, label)
    }
    alone = COARSE_ALONE if "sweep" in paper()["tables"][name] else label.split(SECOND_LOOK)[0]
    first = [
        f["value"] for f in paper()["figures"]
        if (f["table"], f["line"], f["column"]) == (name, alone, "FPS")
    ]  # fmt: skip
    if first and "FPS" in found:
        found["ratio"] = found["FPS"] / first[0]
    return found


def rows_of(which: Table, done: Mapping[str, Summary]) -> list[dict[str, Any]]:
    """The table as rows for JSON and CSV: one of ours and one of the paper's per line."""
    rows = []
    for line in which.lines:
        for source, figures in (
            ("ours", our_figures(line, done)),
            ("paper", paper_figures(which.name, line.label)),
        ):
            rows.append({"line": line.label, "figures of": source, **figures})
    return rows


def markdown(which: Table, done: Mapping[str, Summary], missing: Mapping[str, str]) -> str:
    """The table with the paper's figures beside ours.

    Args:
        which: the table.
        done: summaries by name of the setting.
        missing: why a setting has none.
    """
    rows = rows_of(which, done)
    columns = _columns(rows)
    head = ["", "", *columns]
    cells = []
    for row in rows:
        ours = row["figures of"] == "ours"
        figures = [f"{row[c]:.2f}" if c in row else "-" for c in columns]
        cells.append([row["line"] if ours else "", row["figures of"], *figures])
    text = [which.title, "", report.table(head, cells), "", *_notes(which, rows)]
    text += [f"No figures of ours for {name}: {why}." for name, why in missing.items()]
    return "\n".join(text) + "\n"


def _notes(which: Table, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["IoU in percent; mean: of the small classes; mIoU: of all; covered: "
             "small-object pixels within windows. FPS and their ratio to the coarse "
             "network alone; the paper's are of another machine: compare the ratio."]  # fmt: skip
    known = sum(len(row) - 2 for row in rows if row["figures of"] == "paper")
    lines.append("'-' beside \"paper\": " + ("figures that are not known here." if known else
                 "no figure of the paper's is known here for this table."))  # fmt: skip
    if which.remark:
        lines.append(which.remark)
    for figure in paper()["figures"]:
        if figure["table"] == which.name and "note" in figure:
            lines.append(f"{figure['line']}, {figure['column']}: {figure['note']}.")
    return lines


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Columns that any row has, in the paper's order, then other classes, means and speed."""
    there = dict.fromkeys(key for row in rows for key in row if key not in ("line", "figures of"))
    order = [*paper()["columns"].values()]
    last = [MEAN, "mIoU", "covered", *SPEED]
    others = [key for key in there if key not in order and key not in last]
    return [key for key in (*order, *others, *last) if key in there]


def _short(name: str) -> str:
    return str(paper()["columns"].get(name, name))
