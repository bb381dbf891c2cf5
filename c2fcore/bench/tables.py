"""Rows as text: for the terminal, and as Markdown for the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from .rows import Row
from .scale_suite import Growth, growth

NETWORK_COLUMNS: Final = ("network", "image", "n", "zoom", "way", "FPS", "ms (p20..p80)",
                          "of coarse", "glue ms", "windows", "peak MiB")  # fmt: skip
OP_COLUMNS: Final = ("job", "way", "ms (p20..p80)", "over reference", "GB/s", "of copy bandwidth",
                     "max error", "launches")  # fmt: skip
GROWTH_COLUMNS: Final = ("op", "axis", "way", "from", "to", "exponent", "worst step", "should be")
_REMARK_CHARS: Final = 88  # the row has the rest


def columns(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Left-aligned first column, right-aligned others; a shorter line ends in a remark.

    However long, a remark widens no column.
    """
    cells = [list(header), *(list(line) for line in lines)]
    columns_of = [row if len(row) == len(header) else row[:-1] for row in cells]
    widths = [max(len(row[i]) for row in columns_of if i < len(row)) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            [
                *(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(known, widths))),
                *(remark[:_REMARK_CHARS] for remark in row[len(known) :]),
            ]
        ).rstrip()
        for row, known in zip(cells, columns_of)
    )


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; shorter lines end in empty cells."""
    rows = [list(header), ["---"] * len(header), *(list(line) for line in lines)]
    filled = ([*row, *[""] * (len(header) - len(row))] for row in rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in filled)


def network(found: Sequence[Row]) -> str:
    """End-to-end rows for the terminal, and why a part of a row is not known."""
    missing = (
        f"{row['case']['way']}: {part} failed: {row['result'][error]}"
        for row in found
        for part, error in (("stages", "stages_error"), ("peak memory", "peak_error"))
        if error in row["result"]
    )
    table = columns(NETWORK_COLUMNS, map(network_line, found))
    return "\n".join([table, *dict.fromkeys(missing)])


def network_line(row: Row) -> list[str]:
    """An end-to-end row, for NETWORK_COLUMNS."""
    case, result = row["case"], row["result"]
    line = [networks_of(case), f"{case['height']} x {case['width']}", str(case["n"]),
            f"{case['zoom']:g}", case["way"]]  # fmt: skip
    if row["error"]:
        return [*line, f"failed: {row['error']}"]
    share = result.get("of_coarse")  # none where the coarse network alone has failed
    peak = result.get("peak_mib")
    return [
        *line,
        f"{result['fps']:.3g}",
        spread(*(result["ms"][name] for name in ("median", "p20", "p80"))),
        f"{share[0]:.2f}" if share else "",
        f"{glue_ms(row):.1f}" if "stages_ms" in result else "",
        str(result.get("windows", "")),
        f"{peak:.0f}" if peak is not None else "",
    ]


def spread(median: float, low: float, high: float) -> str:
    """Median and percentiles."""
    return "{} ({}..{})".format(
        *(f"{v:.0f}" if v >= 1000 else f"{v:.4g}" for v in (median, low, high))
    )


def networks_of(case: dict[str, Any]) -> str:
    """The networks of an end-to-end row."""
    coarse, fine = str(case["coarse"]), case["fine"]
    return coarse if fine in ("", coarse) else f"{coarse} + {fine}"


def glue_ms(row: Row) -> float:
    """Milliseconds of an end-to-end row that neither network takes."""
    stages = row["result"]["stages_ms"]
    return float(sum(v for stage, v in stages.items() if stage not in ("coarse", "fine")))


def ops(found: Sequence[Row]) -> str:
    """Op rows for the terminal."""
    return columns(OP_COLUMNS, map(op_line, found))


def op_line(row: Row) -> list[str]:
    """An op row, for OP_COLUMNS."""
    case, result = row["case"], row["result"]
    line = [f"{op_title(case)} {case['size']}^2 {case['dtype']}", case["provider"]]
    if row["error"]:
        return [*line, f"failed: {row['error']}"]
    ratio = result.get("over_reference")
    return [
        *line,
        spread(*result["ms"]),
        f"{ratio[0]:.3g}x" if ratio else "",
        f"{result['gbs']:.3g}",
        f"{result['share_of_copy']:.1%}",
        _error(case, result["max_error"]),
        str(result.get("launches", "")),
    ]


def _error(case: dict[str, Any], found: float) -> str:
    """The largest difference of floats; of labels and counts the share of pixels that differ."""
    of_floats = case["op"] == "extract_patches" or case["options"].get("output") == "probs"
    return f"{found:.1e}" if of_floats else f"{found:.3%} px"


def scale(found: Sequence[Row]) -> str:
    """Growth of cost for the terminal: exponents of area and so on; 1 is linear, 0 constant."""
    return columns(GROWTH_COLUMNS, map(growth_line, growth(found)))


def growth_line(series: Growth) -> list[str]:
    """A series in words, as both tables of growth have it."""
    (low, first), (high, last) = series.points[0], series.points[-1]
    unit = "MiB" if "memory" in series.op else "ms"
    return [
        series.op,
        f"{series.axis} {low}..{high}",
        series.way,
        f"{first:.3g} {unit}",
        f"{last:.3g} {unit}",
        f"{series.exponent:.2f}",
        f"{series.worst:.2f}",
        "" if series.expected is None else f"{series.expected:g}",
    ]


def demands(found: Sequence[Row]) -> str:
    """Demands for the terminal: bound, measured and met, one line each."""
    lines = [f"{'demand':58} {'bound':>8} {'measured':>10} {'p20..p80':>17}  met"]
    for row in found:
        bound = f"{'>=' if row['unit'] == 'x' else '<='} {row['bound']:g}"
        verdict = {True: "yes", False: "NO", None: "-"}[row["met"]]
        if row["error"]:
            lines.append(f"{row['text']:58} {bound:>8}  failed: {row['error'][:_REMARK_CHARS]}")
            continue
        low_high = f"{row['p20']:.4g}..{row['p80']:.4g}"
        measured = f"{row['value']:.4g} {row['unit']}"
        lines.append(f"{row['text']:58} {bound:>8} {measured:>10} {low_high:>17}  {verdict}")
        if notes := _behind(row["detail"]):
            lines.append(f"    {notes}")
    return "\n".join(lines)


def _behind(detail: dict[str, Any]) -> str:
    """What stands behind a figure, in one line."""
    words = [f"{side} {times[0]:.4g} ms" for side, times in detail.get("ms", {}).items()]
    words += [f"{side} {mib:g} MiB" for side, mib in detail.get("extra_mib", {}).items()]
    if "graph_breaks" in detail:
        words.append(f"compiled with {detail['graph_breaks']} graph breaks")
    if "min_us" in detail:
        words.append(f"min {detail['min_us']:g} us")
    if "empty_batch_us" in detail:
        words.append(f"empty batch {detail['empty_batch_us']:g} us")
        words.append(f"torch.neg {detail['torch_neg_us']:g} us")
    return ", ".join(words)


def op_title(case: dict[str, Any]) -> str:
    """An op row's job in words."""
    words = [case["op"], *(f"{k}={v}" for k, v in case["options"].items())]
    words += [case["preset"]] if case["preset"] else []
    words += [case["content"]] if case["content"] != "realistic" else []
    return " ".join(words)
