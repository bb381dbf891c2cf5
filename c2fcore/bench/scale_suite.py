"""How cost grows: with the image's area, with windows, classes, images and threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from .. import _errors
from . import contest, floors, inputs, measure, memory, rows
from .op_suite import JOBS
from .ways import EAGER, Job

SUITE = "scale"
# The reference's tensors of all classes at full size: beyond this side they do not fit, or take
# longer than all else together. Answers beyond it are not compared.
REFERENCE_SIDE = 2048


class Axis(NamedTuple):
    """What grows, while all else stays.

    Attributes:
        values: of the axis.
        side: of the image, pixels, where it is not the axis.
        unit: of a value, in words.
    """

    values: tuple[int, ...]
    side: int
    unit: str


AXES = {
    "area": Axis((512, 1024, 2048, 4096, 6000, 12000), 0, "side, pixels"),
    "n": Axis((8, 16, 32, 64, 128, 256), 1024, "windows"),
    "classes": Axis((2, 4, 8, 16, 32, 64, 128, 256), 1024, "classes"),
    "batch": Axis((1, 2, 4, 8, 16), 512, "images"),
    "threads": Axis((1, 2, 4, 8, 16, 32, 64), 1024, "threads"),
}

# Exponent that an op should have along an axis: 1 is linear, 0 constant. What is left out depends
# on what the image shows.
EXPECTED: dict[tuple[str, str], float] = {
    **{(op, "area"): 1.0 for op in JOBS},
    ("extract_patches", "area"): 0.0,
    ("count_windows", "n"): 0.0,
    ("extract_patches", "n"): 1.0,
    ("count_windows", "classes"): 1.0,
    ("select_windows", "classes"): 1.0,
    ("extract_patches", "classes"): 0.0,
    **{(op, "batch"): 1.0 for op in JOBS},
    **{(op, "threads"): -1.0 for op in JOBS},
}


def run(
    axis: str,
    values: Sequence[int],
    origin: dict[str, Any],
    *,
    ways: Sequence[str],
    device: str,
    threads: int,
    rounds: int,
    with_memory: bool,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[rows.Row]:
    """Measures every op along one axis: a row per value, op and way, failures among them."""
    for value in values:
        workers = value if axis == "threads" else threads
        torch.set_num_threads(workers)
        arguments = case_arguments(axis, value)
        for op in JOBS:
            identity = {"axis": axis, "value": value, "op": op, "device": device}
            identity["threads"] = workers
            say(f"{op}, {axis} {value}")
            yield from _times(op, arguments, identity, origin, ways, rounds)
        if with_memory and axis == "area":
            for way in _possible(ways, value):
                say(f"memory of the glue by {way}, {axis} {value}")
                identity = {"axis": axis, "value": value, "op": "glue memory", "device": device}
                identity["threads"] = workers
                yield _peak(arguments, {**identity, "way": way}, origin)
    torch.set_num_threads(threads)


def case_arguments(axis: str, value: int) -> dict[str, Any]:
    """Arguments of `inputs.make_case` for a point of an axis."""
    found: dict[str, Any] = {"size": value if axis == "area" else AXES[axis].side}
    found["preset"] = "paper"  # the highest counts: as many windows as asked for
    if axis == "n":
        found["n"] = value
    if axis == "classes":
        found["num_classes"] = value
    if axis == "batch":
        found["batch"] = value
    return found


def _times(
    op: str,
    arguments: dict[str, Any],
    identity: dict[str, Any],
    origin: dict[str, Any],
    ways: Sequence[str],
    rounds: int,
) -> Iterator[rows.Row]:
    names = _possible(ways, arguments["size"])
    try:
        case = inputs.make_case(**arguments).to(identity["device"])
        job = Job(op, {})
        held = contest.hold(
            job,
            case,
            names,
            rounds,
            device=identity["device"],
            compared=arguments["size"] <= REFERENCE_SIDE,
        )
    except Exception as error:  # a point that does not fit is a row
        for way in names:
            yield rows.make(SUITE, {**identity, "way": way}, origin, error=_errors.reason(error))
        return
    for way in names:
        whole = {**identity, "way": way}
        if way in held.failures:
            yield rows.make(SUITE, whole, origin, error=held.failures[way])
            continue
        result = {
            "ms": [rows.rounded(1e3 * t) for t in measure.spread(held.times[way])],
            "rounds": len(held.times[way]),
            "bytes": floors.floor_bytes(job, case),
            "max_error": held.errors.get(way),
            "windows": int(case.windows.num.sum()),
            "source": case.source,
        }
        yield rows.make(SUITE, whole, origin, result)


def _peak(arguments: dict[str, Any], identity: dict[str, Any], origin: dict[str, Any]) -> rows.Row:
    given = {**arguments, "way": identity["way"], "device": identity["device"]}
    try:
        found = memory.extra_mib("c2fcore.bench.memory:glue_call", identity["threads"], given)
    except (RuntimeError, OSError) as error:
        return rows.make(SUITE, identity, origin, error=_errors.reason(error))
    return rows.make(SUITE, identity, origin, {"peak_mib": round(found, 2)})


def _possible(ways: Sequence[str], side: int) -> list[str]:
    return [way for way in ways if way != EAGER or side <= REFERENCE_SIDE]


class Growth(NamedTuple):
    """How a cost grew along an axis.

    Attributes:
        op: name.
        axis: name.
        way: in which it is done.
        points: (value, median milliseconds or MiB), ascending.
        exponent: of the power law through the first and the last point.
        worst: (exponent between neighbours that is furthest from `expected`, or from `exponent`).
        expected: what it should be, if that is known.
    """

    op: str
    axis: str
    way: str
    points: list[tuple[int, float]]
    exponent: float
    worst: float
    expected: float | None


def growth(found: Sequence[rows.Row]) -> list[Growth]:
    """Exponents of every series of rows of this suite. Area counts as area, not as side."""
    series: dict[tuple[str, str, str], list[tuple[int, float]]] = {}
    for row in found:
        if row["suite"] != SUITE or row["error"]:
            continue
        case, result = row["case"], row["result"]
        cost = result["ms"][0] if "ms" in result else result["peak_mib"]
        series.setdefault((case["op"], case["axis"], case["way"]), []).append((case["value"], cost))
    made = []
    for (op, axis, way), points in series.items():
        points.sort()
        if len(points) < 2 or min(cost for _, cost in points) <= 0:
            continue
        power = 2 if axis == "area" else 1
        steps = [_exponent(a, b, power) for a, b in zip(points, points[1:])]
        whole = _exponent(points[0], points[-1], power)
        expected = EXPECTED.get((op, axis))
        target = whole if expected is None else expected
        worst = max(steps, key=lambda step: abs(step - target))
        made.append(Growth(op, axis, way, points, whole, worst, expected))
    return made


def _exponent(first: tuple[int, float], last: tuple[int, float], power: int) -> float:
    return math.log(last[1] / first[1]) / (power * math.log(last[0] / first[0]))
