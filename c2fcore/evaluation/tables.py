"""The paper's tables: their lines, and the published figures known here beside ours."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..data.catalogue import DATASETS
from . import published, report
from .published import F1, MEAN, paper

SECOND_LOOK: Final = " + second look"
COARSE_ALONE: Final = "coarse alone"
SPEED: Final = ("FPS", "ratio")
_OURS: Final = ("line", "figures of")
_NO_COLUMN: Final = (*_OURS, "sources")

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
    summary = _summary(line, done)
    if summary is None:
        return {}
    refines = "refined" in summary["means"]["all"]
    stage = ("refined" if refines else "coarse") if line.stage == "last" else line.stage
    if stage == "refined" and not refines:
        return {}
    found = {}
    for score, before in (("iou", ""), ("f1", F1)):
        for row in summary["classes"]:
            if row["small"] and row[stage][score] is not None:
                found[before + _short(row["name"])] = 100 * row[stage][score]
        if (value := summary["means"]["small"][stage][score]) is not None:
            found[before + MEAN] = 100 * value
    if (value := summary["means"]["all"][stage]["iou"]) is not None:
        found["mIoU"] = 100 * value
    if stage == "refined" and (covered := summary["windows"]["covered"]) is not None:
        found["covered"] = 100 * covered
    speed = summary["speed"]
    fps = speed["fps"] if stage == "refined" else speed["coarse_fps"]
    ratio = speed["ratio"] if stage == "refined" else 1.0
    speeds = {name: value for name, value in zip(SPEED, (fps, ratio)) if value is not None}
    return {**found, **speeds}


def _summary(line: Line, done: Mapping[str, Summary]) -> Summary | None:
    name = next(iter(done), None) if line.setting is None else line.setting
    return None if name is None else done.get(name)


def published_figures(
    name: str, label: str, ours: Summary | None = None
) -> dict[str, dict[str, published.Figure]]:
    """Published figures of a line by row and column, with the ratio of speeds.

    Args:
        name: of the table.
        label: of the line.
        ours: the summary beside which they stand: means are over the same classes, or left out.
    """
    among = None if ours is None else list(map(_short, _counted(ours, small=True)))
    found = published.figures(name, label, among)
    if ours is not None and any(_other_classes(name, ours)):
        for row in found.values():
            row.pop("mIoU", None)
    alone = COARSE_ALONE if "sweep" in paper()["tables"][name] else label.split(SECOND_LOOK)[0]
    first = published.figures(name, alone)[published.OWN_ROW].get("FPS")
    own = found[published.OWN_ROW]
    if first and "FPS" in own:
        own["ratio"] = own["FPS"]._replace(value=own["FPS"].value / first.value)
    return found


def _counted(summary: Summary, *, small: bool = False) -> list[str]:
    """The classes that means are over, of the small ones or of all."""
    return [
        row["name"]
        for row in summary["classes"]
        if (row["small"] or not small) and (row["truth_px"] or summary["absent"] != "nan")
    ]


def _other_classes(name: str, ours: Summary) -> tuple[list[str], list[str]]:
    """Classes that a table's published mIoU is over and ours is not, and the other way round."""
    of = paper()["tables"][name].get("miou_of")
    theirs, counted = (DATASETS[of].class_names, _counted(ours)) if of else ((), [])
    lacking = [column for column in theirs if column not in counted]
    return lacking, [column for column in counted if column not in theirs]


def _miou_note(name: str, done: Mapping[str, Summary]) -> str:
    """Why a table's published mIoU is left out; "" if it is not."""
    for ours in done.values():
        lacking, more = (", ".join(columns) for columns in _other_classes(name, ours))
        if lacking or more:
            of = DATASETS[paper()["tables"][name]["miou_of"]]
            differs = [f"without {lacking}"] * bool(lacking) + [f"with {more}"] * bool(more)
            return (
                f"Published mIoU is over the {len(of.class_names)} classes of {of.name}, and left "
                f"out: ours is {'; '.join(differs)}."
            )
    return ""


def rows_of(which: Table, done: Mapping[str, Summary]) -> list[dict[str, Any]]:
    """The table as rows for JSON: per line one of ours, one of the paper's, and others' if any.

    Published rows say under "sources" where each figure is from. Their means are over the classes
    that ours are over, or left out.
    """
    rows = []
    for line in which.lines:
        rows.append({"line": line.label, "figures of": "ours", **our_figures(line, done)})
        ours = _summary(line, done) or next(iter(done.values()), None)
        for source, figures in published_figures(which.name, line.label, ours).items():
            row: dict[str, Any] = {"line": line.label, "figures of": source}
            row.update({column: figure.value for column, figure in figures.items()})
            row["sources"] = {column: figure.source for column, figure in figures.items()}
            rows.append(row)
    return rows


def markdown(which: Table, done: Mapping[str, Summary], missing: Mapping[str, str]) -> str:
    """The table with the published figures beside ours.

    Args:
        which: the table.
        done: summaries by name of the setting.
        missing: why a setting has none.
    """
    rows, strange = _comparable(rows_of(which, done))
    first, second = _columns(rows)
    text = [which.title, "", _block(rows, first, every=not strange)]
    if second:
        text += [
            "",
            "F1 in percent, 2 IoU / (1 + IoU):",
            "",
            _block(rows, second, every=False),
        ]
    if strange := strange or _miou_note(which.name, done):
        text += ["", strange]
    text += ["", *_notes(which, rows, every=not strange)]
    text += dict.fromkeys(filter(None, map(report.absent_note, done.values())))
    text += [f"No figures of ours for {name}: {why}." for name, why in missing.items()]
    return "\n".join(text) + "\n"


def _comparable(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Rows with figures that can be compared, and why others are left out; "" if none is.

    Scores of other classes say nothing beside ours: where all are, speeds stay.
    """
    columns = paper()["columns"]
    known = {key for row in rows if "sources" in row for key in row} & set(columns.values())
    scored = [row for row in rows if row["figures of"] == "ours" and len(row) > len(_OURS)]
    if not scored or not known:
        return rows, ""
    lacking = known.difference(*scored)
    names = ", ".join(name for name, short in columns.items() if short in lacking)
    if lacking == known:
        lines = {row["line"] for row in scored}
        kept = [row if row in scored else _only(row, SPEED) for row in rows if row["line"] in lines]
        return kept, (
            f"No class of the data is one that published figures are of ({names}): their scores "
            "are left out."
        )
    plain = {MEAN, "mIoU", "covered", *SPEED, *_OURS}
    more = [key for key in dict.fromkeys(itertools.chain(*scored))
            if key not in known | plain and not key.startswith(F1)]  # fmt: skip
    why = []
    if lacking:
        strange = {*lacking, *(F1 + column for column in lacking)}
        rows = [_only(row, row.keys() - strange) for row in rows]
        why.append(f"The data lack classes that published figures are of ({names}): left out.")
    if more:
        why.append(f"The data have small classes that they are not of: {', '.join(more)}.")
    if why:
        why.append("Published means and mIoU stand beside ours only where they are of one set.")
    return rows, " ".join(why)


def _only(row: dict[str, Any], columns: Collection[str]) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if key in _OURS or key in columns}
    if "sources" in row:
        kept["sources"] = {key: of for key, of in row["sources"].items() if key in kept}
    return kept


def _block(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, every: bool) -> str:
    """The rows; without `every` published ones only where they have a figure."""
    cells = []
    for row in rows:
        ours = row["figures of"] == "ours"
        figures = [_cell(row, column) for column in columns]
        always = ours or (every and row["figures of"] == published.OWN_ROW)
        if always or set(figures) != {"-"}:
            cells.append([row["line"] if ours else "", row["figures of"], *figures])
    return report.table(["", "", *(column.removeprefix(F1) for column in columns)], cells)


def _cell(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        return "-"
    source = row.get("sources", {}).get(column)
    return f"{row[column]:.2f}{published.mark(source) if source else ''}"


def _notes(which: Table, rows: Sequence[Mapping[str, Any]], *, every: bool) -> list[str]:
    """What is to be said below; without `every` of the figures in `rows` alone."""
    lines = ["IoU in percent; mean: of the small classes; mIoU: of all; covered: "
             "small-object pixels within windows. FPS and their ratio to the coarse "
             "network alone; the paper's are of another machine: compare the ratio."]  # fmt: skip
    of_rows = [set(row.get("sources", {}).values()) for row in rows]
    used = set().union(*of_rows)
    lines.append("'-' beside \"paper\": " + ("figures that are not known here." if used else
                 "no figure of the paper's is known here for this table."))  # fmt: skip
    if any(column == MEAN or column.startswith(F1) for row in rows for column in
           row.get("sources", ())):  # fmt: skip
        lines.append("Published means and F1 are computed here, from the IoU of one source.")
    if which.remark:
        lines.append(which.remark)
    others, more = _others(which) if every else ([], set())
    lines += [*published.footnotes(used | more), *others]
    shown = {(row["line"], row["figures of"]): row for row in rows}
    for line in which.lines:
        for source, figures in published.figures(which.name, line.label).items():
            lines += [
                f"{line.label}, {column}: {figure.note}."
                for column, figure in figures.items()
                if figure.note and column in shown.get((line.label, source), ())
            ]
    return lines


def _others(which: Table) -> tuple[list[str], set[str]]:
    """Published figures of lines that this table does not have, and their sources."""
    known = {line.label for line in which.lines}
    shown, used = [], set()
    for label in published.lines(which.name):
        if label in known or "sweep" in paper()["tables"][which.name]:
            continue
        for figures in published.figures(which.name, label).values():
            for column, figure in figures.items():
                shown.append(f"{label}: {column} {figure.value:.2f}{published.mark(figure.source)}")
                used.add(figure.source)
    return (["Also published: " + "; ".join(shown) + "."] if shown else []), used


def _columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Columns that any row has, in the paper's order, then other classes, means and speed; F1."""
    there = dict.fromkeys(key for row in rows for key in row if key not in _NO_COLUMN)
    scores = {key for key in there if key.startswith(F1)}
    order = [*paper()["columns"].values()]
    last = [MEAN, "mIoU", "covered", *SPEED]
    others = [key for key in there if key not in order and key not in last and key not in scores]
    first = [key for key in (*order, *others, *last) if key in there]
    return first, [F1 + key for key in first if F1 + key in scores]


def _short(name: str) -> str:
    return str(paper()["columns"].get(name, name))
