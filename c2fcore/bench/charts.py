"""Charts, drawn from rows and from nothing else; SVG of some ten kilobytes each.

Needs matplotlib: pip install 'c2fcore[plot]'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._plots import pyplot
from .rows import Row
from .scale_suite import growth
from .tables import networks_of, op_title

# One colour per way, in every chart.
_COLOURS = {
    "coarse": "#9a9a9a",
    "reference": "#d1605e",
    "reference-shared": "#e49a8f",
    "compiled": "#e7a33e",
    "cpu": "#2b7bba",
    "triton": "#5aa469",
    "cuda": "#7a5195",
    "engine": "#1f3b57",
}
_OTHER = "#b8b0a8"
_STAGES = {
    "coarse": "#9a9a9a",
    "select": "#1b6ca8",
    "extract": "#3c9dd0",
    "fine": "#cfcfcf",
    "aggregate": "#9ecae1",
}
# FPS with the second look over FPS of the coarse network alone, zoom 1 to 4, on a V100: the paper.
PAPER_SHARES = ((1, 0.73), (2, 0.38), (3, 0.26), (4, 0.14))


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draws every chart that the rows of one device have figures for; returns the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    plt = pyplot()
    good = [row for row in rows if "suite" in row and not row["error"]]
    made = []
    charts: tuple[tuple[str, Callable[[Any, list[Row]], Any]], ...] = (
        ("roofline", _roofline),
        ("fps", _fps),
        ("stages", _stages),
        ("scale", _scale),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in charts:
        figure = chart(plt, good)
        if figure is None:
            continue
        made.append(folder / f"{name}.svg")
        # Without a date, so that the same rows give the same file.
        figure.savefig(made[-1], metadata={"Date": None}, bbox_inches="tight")
        plt.close(figure)
    return made


def _roofline(plt: Any, rows: list[Row]) -> Any:
    """Time of every op and way, and the time that its bytes need at copy bandwidth."""
    found = [row for row in rows if row["suite"] == "op"]
    if not found:
        return None
    size = _most([row["case"]["size"] for row in found])
    found = [row for row in found if row["case"]["size"] == size]
    titles = list(dict.fromkeys(op_title(row["case"]) for row in found))
    bars = sum(1 for _ in found) + len(titles)
    figure, axes = plt.subplots(figsize=(8, 0.19 * bars + 1))
    y, ticks = 0.0, []
    for title in titles:
        group = [row for row in found if op_title(row["case"]) == title]
        group.sort(key=lambda row: -float(row["result"]["ms"][0]))
        first = y
        for row in group:
            ms, way = row["result"]["ms"], row["case"]["provider"]
            axes.barh(y, ms[0], height=0.85, color=_COLOURS.get(way, _OTHER))
            axes.plot(ms[1:], [y, y], color="black", linewidth=1)
            share = row["result"]["share_of_copy"]
            axes.text(ms[2] * 1.08, y, f"{way}  {share:.1%}", va="center", fontsize=6.5)
            y -= 1
        result = group[0]["result"]
        floor = result["bytes"] / result["copy_gbs"] / 1e6
        axes.plot([floor, floor], [first + 0.5, y + 0.5], color="black", linestyle=":")
        ticks.append(((first + y + 1) / 2, title.replace(" ", "\n", 1)))
        y -= 1
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 4)
    axes.set_yticks([at for at, _ in ticks], [title for _, title in ticks], fontsize=7)
    axes.set_xlabel(
        f"ms, {size} x {size}; dotted: bytes that no way avoids at copy bandwidth; "
        "per cent: share of that"
    )
    return figure


def _fps(plt: Any, rows: list[Row]) -> Any:
    """FPS by zoom, and as a share of the coarse network's beside the paper's."""
    found = [row for row in rows if row["suite"] == "network"]
    groups = _by_network(found)
    groups = {key: group for key, group in groups.items() if len(_zooms(group)) > 1}
    if not groups:
        return None
    figure, grid = plt.subplots(len(groups), 2, figsize=(8, 2.9 * len(groups)), squeeze=False)
    for line, (title, group) in zip(grid, groups.items()):
        for way in dict.fromkeys(row["case"]["way"] for row in group):
            results = {r["case"]["zoom"]: r["result"] for r in group if r["case"]["way"] == way}
            style = {"color": _COLOURS.get(way, _OTHER), "marker": "o", "markersize": 3}
            for axes, name in ((line[0], "fps"), (line[1], "of_coarse")):
                # Of the coarse network there is no share, and none where it alone has failed.
                x = [z for z in sorted(results) if name in results[z]]
                if x and (way, name) != ("coarse", "of_coarse"):
                    y = [np.ravel(results[z][name])[0] for z in x]
                    axes.plot(x, y, label=way, **style)
        line[1].plot(*zip(*PAPER_SHARES), color="black", linestyle=":", label="paper (V100, HRNet)")
        line[0].set_yscale("log")
        line[0].set_ylabel("frames per second")
        line[1].set_ylabel("of the coarse network alone")
        line[1].set_ylim(bottom=0)
        for axes in line:
            axes.set_xticks(_zooms(group))
            axes.set_xlabel("zoom")
            axes.legend(frameon=False, fontsize=7)
        line[0].set_title(title, fontsize=8, loc="left")
    figure.tight_layout()
    return figure


def _stages(plt: Any, rows: list[Row]) -> Any:
    """Where the time of a frame goes, per way."""
    found = [row for row in rows if row["suite"] == "network" and "stages_ms" in row["result"]]
    if not found:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.24 * len(found) + 1))
    labels = []
    for y, row in enumerate(found):
        case, stages = row["case"], row["result"]["stages_ms"]
        total = sum(stages.values())
        left = 0.0
        for stage, colour in _STAGES.items():
            share = stages[stage] / total
            axes.barh(-y, share, left=left, height=0.8, color=colour,
                      label=stage if y == 0 else None)  # fmt: skip
            left += share
        glue = total - stages["coarse"] - stages["fine"]
        axes.text(1.01, -y, f"{total:.0f} ms, glue {glue:.1f}", va="center", fontsize=7)
        labels.append(
            f"{case['coarse']} {case['height']} n {case['n']} z {case['zoom']:g} {case['way']}"
        )
    axes.set_yticks([-y for y in range(len(found))], labels, fontsize=7)
    axes.set_xlabel("share of the time of one frame")
    axes.set_xlim(0, 1)
    axes.legend(ncols=5, frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _scale(plt: Any, rows: list[Row]) -> Any:
    """Cost against area, its peak memory, and the other axes; dotted: exactly linear."""
    found = growth(rows)
    panels = list(dict.fromkeys(
        (g.axis, "memory" in g.op) for g in found if len(g.points) > 1
    ))  # fmt: skip
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, grid = plt.subplots(lines, columns, figsize=(5 * columns, 3 * lines), squeeze=False)
    for axes, (axis, is_memory) in zip(grid.flat, panels):
        power = 2 if axis == "area" else 1
        for series in found:
            if series.axis != axis or ("memory" in series.op) != is_memory:
                continue
            x = [value**power / (1e6 if power == 2 else 1) for value, _ in series.points]
            y = [cost for _, cost in series.points]
            dashed = "--" if series.way == "reference" else "-"
            label = f"{series.op} {series.way} ({series.exponent:.2f})"
            axes.plot(x, y, dashed, marker="o", markersize=2.5, linewidth=1, label=label)
        lines_drawn = axes.get_lines()
        ends = [f(f(line.get_xdata()) for line in lines_drawn) for f in (min, max)]
        start = min(min(line.get_ydata()) for line in lines_drawn)
        if axis == "threads":  # twice the threads, half the time
            guide = [start * ends[1] / ends[0], start]
        else:
            guide = [start, start * ends[1] / ends[0]]
        axes.plot(ends, guide, ":", color="black")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("Mpx" if axis == "area" else axis)
        axes.set_ylabel("peak MiB" if is_memory else "ms")
        axes.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.tight_layout()
    return figure


def _by_network(found: list[Row]) -> dict[str, list[Row]]:
    """Rows by everything but way and zoom."""
    several = len({row["case"].get("threads") for row in found}) > 1
    groups: dict[str, list[Row]] = {}
    for row in found:
        case = row["case"]
        title = f"{networks_of(case)}, {case['height']} x {case['width']}, n {case['n']}, "
        title += f"{case['preset']}, {case['dtype']}, {case['device']}"
        title += ", channels_last" if case.get("channels_last") else ""
        title += ", compiled" if case.get("compile") else ""
        title += f", {case['threads']} threads" if several else ""
        title += f", {case['image']}" if case.get("image") else ""
        groups.setdefault(title, []).append(row)
    return groups


def _zooms(group: list[Row]) -> list[float]:
    return sorted({float(row["case"]["zoom"]) for row in group})


def _most(values: Sequence[Any]) -> Any:
    """The most frequent value."""
    return max(dict.fromkeys(values), key=list(values).count)
