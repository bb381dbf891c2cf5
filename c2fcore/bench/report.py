"""Markdown tables made from rows, and the places in a text that hold them.

A place is `<!-- rows: TABLE FOLDER -->` ... `<!-- end of rows -->`, with the name of a table below
and a folder of results, relative to the text; several folders, by commas, where a table compares
devices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from . import rows
from .charts import PAPER_SHARES
from .frames import COARSE
from .rows import Row
from .scale_suite import SUITE as SCALE
from .scale_suite import growth
from .tables import (
    GROWTH_COLUMNS,
    NETWORK_COLUMNS,
    OP_COLUMNS,
    growth_line,
    markdown,
    network_line,
    networks_of,
    op_line,
    spread,
)
from .training_suite import SUITE as TRAINING

_PLACE = re.compile(
    r"(<!-- rows: (?P<table>\w+) (?P<folder>\S+) -->\n)(?P<text>.*?)(<!-- end of rows -->)", re.S
)

# What the rows of a short table have in common.
_KEPT_BY_ZOOM = ("height", "width", "n", "preset", "dtype", "device", "channels_last", "compile",
                 "threads", "image")  # fmt: skip
_OF_COARSE = (
    "Of coarse: against the coarse network with the post-processing that everybody has (normalise, "
    "interpolate, argmax, unfused); on large images that costs more than a second look whose glue "
    "is fused, so the share can pass 1."
)


def filled(text: str, beside: Path) -> str:
    """`text` with every place filled from the rows.

    Raises:
        ValueError: a place names a table that there is not.
        FileNotFoundError: its folder is not there.
    """

    def fill(place: re.Match[str]) -> str:
        table = TABLES.get(place["table"])
        if table is None:
            known = ", ".join(TABLES)
            raise ValueError(f"a table of rows must be one of {known}, got {place['table']}")
        found = [row for folder in place["folder"].split(",") for row in rows.read(beside / folder)]
        return f"{place[1]}{table(found)}\n{place[5]}"

    return _PLACE.sub(fill, text)


def demands(found: Sequence[Row]) -> str:
    """The speed demands, and what every device measured; what is not met is set in bold."""
    chosen = [row for row in found if "demand" in row]
    devices = list(dict.fromkeys(row["device"] for row in chosen))
    lines: dict[str, list[str]] = {}
    for row in chosen:
        bound = f"{'>=' if row['unit'] == 'x' else '<='} {row['bound']:g} {row['unit']}"
        line = lines.setdefault(row["text"], [row["text"], bound, *["-"] * len(devices)])
        line[2 + devices.index(row["device"])] = _measured(row)
    table = markdown(("demand", "bound", *devices), lines.values())
    below = (_with_origin("", [row for row in chosen if row["device"] == d]) for d in devices)
    return "\n\n".join([table, *(text.strip() for text in below)]) if chosen else "No rows yet."


def speedups(found: Sequence[Row]) -> str:
    """Of the demands those that are ratios to another way."""
    return demands([row for row in found if row.get("unit") == "x"])


def _measured(row: Row) -> str:
    if row["error"]:
        return f"**failed: {row['error']}**"
    text = f"{row['value']:.3g} ({row['p20']:.3g}..{row['p80']:.3g})"
    return f"**{text}**" if row["met"] is False else text


def fps(found: Sequence[Row]) -> str:
    """Frames per second by network, size, windows and zoom."""
    chosen = _network_rows(found)
    table = markdown(NETWORK_COLUMNS, map(network_line, chosen))
    paper = ", ".join(f"{share:.2f} at zoom {zoom}" for zoom, share in PAPER_SHARES)
    below = f"{_OF_COARSE} In the paper (V100): {paper}."
    return _with_origin(f"{table}\n\n{below}", chosen)


def fps_by_zoom(found: Sequence[Row]) -> str:
    """The same in short: a line per network and zoom at the size and n of the first row."""
    rows_of = _network_rows(found)
    first = rows_of[0]["case"] if rows_of else {}
    chosen = [r for r in rows_of if all(r["case"].get(k) == first.get(k) for k in _KEPT_BY_ZOOM)]
    ways = list(dict.fromkeys(row["case"]["way"] for row in chosen))
    paper = {float(zoom): f"{share:.2f}" for zoom, share in PAPER_SHARES}
    lines: dict[tuple[str, float], list[str]] = {}
    for row in chosen:
        case = row["case"]
        network, zoom, way = networks_of(case), float(case["zoom"]), case["way"]
        blank = [network, f"{zoom:g}", *["-"] * len(ways), paper.get(zoom, "-")]
        line = lines.setdefault((network, zoom), blank)
        if row["error"]:
            line[2 + ways.index(way)] = "failed"
            continue
        of_coarse = row["result"].get("of_coarse") if way != COARSE else None
        share = f" ({of_coarse[0]:.2f})" if of_coarse else ""
        line[2 + ways.index(way)] = f"{row['result']['fps']:.3g}{share}"
    table = markdown(("network", "zoom", *ways, "paper"), lines.values())
    size = f"{first.get('height')} x {first.get('width')}, {first.get('n')} windows"
    below = f"FPS at {size}; in brackets of coarse, as the paper's on a V100. {_OF_COARSE}"
    return _with_origin(f"{table}\n\n{below}", chosen)


def _network_rows(found: Sequence[Row]) -> list[Row]:
    return [row for row in found if row.get("suite") == "network"]


def ops(found: Sequence[Row]) -> str:
    """Times of every op and way."""
    chosen = [row for row in found if row.get("suite") == "op"]
    return _with_origin(markdown(OP_COLUMNS, map(op_line, chosen)), chosen)


def scale(found: Sequence[Row]) -> str:
    """Exponents of growth: 1 is linear, 0 constant."""
    chosen = [row for row in found if row.get("suite") == SCALE]
    return _with_origin(markdown(GROWTH_COLUMNS, map(growth_line, growth(chosen))), chosen)


def training(found: Sequence[Row]) -> str:
    """Cutting a training batch's windows: time and peak memory against the authors' unfold."""
    chosen = [row for row in found if row.get("suite") == TRAINING]
    lines = []
    for row in chosen:
        case, result = row["case"], row["result"]
        line = [f"{case['batch']} x {case['size']} x {case['size']}", str(case["n"])]
        line += [case["provider"]]
        if row["error"]:
            lines.append([*line, f"failed: {row['error']}"])
            continue
        ms = spread(result["ms"], result["ms_p20"], result["ms_p80"])
        lines.append([*line, ms, f"{result['times_unfold']:.3g}x", f"{result['peak_mib']:.4g}"])
    header = ("batch", "n", "way", "ms (p20..p80)", "over unfold", "peak MiB")
    return _with_origin(markdown(header, lines), chosen)


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "demands": demands,
    "fps": fps,
    "fps_by_zoom": fps_by_zoom,
    "ops": ops,
    "scale": scale,
    "speedups": speedups,
    "training": training,
}


def _with_origin(table: str, found: Sequence[Row]) -> str:
    """The table, and where its rows come from."""
    origins = [row.get("origin", row) for row in found]
    if not origins:
        return "No rows yet."
    first = origins[0]
    loads = [origin["load"] for origin in origins]
    commits = sorted({f"{o['commit'][:7]}{'+' if o['dirty'] else ''}" for o in origins})
    dates = sorted({str(o["date"])[:10] for o in origins})
    return (
        f"{table}\n\n{first['device']}, {first['cores']} cores, {first['threads']} threads, torch "
        f"{first['torch']}, {first['native']}; {' to '.join(sorted({dates[0], dates[-1]}))}, "
        f"commit {', '.join(commits)} (+: with changes); load {min(loads):g} to {max(loads):g}."
    )
