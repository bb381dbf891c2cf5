"""The gates of the GPU kernels, judged by measured rows and by nothing else.

python benchmarks/gates.py benchmarks/results/DEVICE
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
BACKENDS = ("triton", "cuda")
ENGINE = ("engine",)
AT_MOST = ("us", "launches", "share at most")


class Gate(NamedTuple):
    """A figure to be reached.

    Attributes:
        text: what has to hold.
        gate: bound that has to be kept.
        stretch: bound that is hoped for.
        unit: one of AT_MOST, at most the bound; "x" or "share", at least the bound.
        value: the figure of a backend among the rows of a device; None without a row of it.
        of: the backends that have to keep it, or the engine.
        note: what the figure stands on, beside it.
    """

    text: str
    gate: float
    stretch: float
    unit: str
    value: Callable[[list[Row], str], float | None]
    of: tuple[str, ...] = BACKENDS
    note: Callable[[list[Row]], str] = lambda rows: ""


class Verdict(NamedTuple):
    """A gate, judged for a backend; `met` and `stretch_met` are None if nothing was measured."""

    text: str
    backend: str
    bound: float
    stretch: float
    unit: str
    value: float | None
    met: bool | None
    stretch_met: bool | None
    note: str = ""


def read(folder: Path) -> list[Row]:
    """The rows of a device."""
    return [
        json.loads(line)
        for file in sorted(folder.glob("*.jsonl"))
        for line in file.read_text().splitlines()
        if line.strip()
    ]


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Every gate for every backend."""
    usable = [row for row in rows if row.get("result") and not row.get("error")]
    found = []
    for gate in GATES:
        for backend in gate.of:
            value = gate.value(usable, backend)
            met = [_met(gate.unit, value, bound) for bound in (gate.gate, gate.stretch)]
            judged = Verdict(gate.text, backend, gate.gate, gate.stretch, gate.unit, value, *met)
            found.append(judged._replace(note=gate.note(usable)))
    return found


def table(verdicts: Iterable[Verdict]) -> str:
    """The verdicts, a line each."""
    words = {True: "met", False: "NOT MET", None: "not measured"}
    lines = []
    for v in verdicts:
        value = "-" if v.value is None else f"{v.value:.3g}"
        bounds = f"{v.bound:g} ({v.stretch:g}) {v.unit}"
        extra = ", stretch too" if v.stretch_met else ""
        lines.append(f"{v.text:60} {v.backend:7} {value:>8}  of {bounds:22} {words[v.met]}{extra}")
        if v.note:
            lines.append(f"    {v.note}")
    return "\n".join(lines)


def _met(unit: str, value: float | None, bound: float) -> bool | None:
    if value is None:
        return None
    return value <= bound if unit in AT_MOST else value >= bound


def _find(rows: Sequence[Row], op: str, way: str, **case: Any) -> list[Row]:
    """Rows of a way; `case` holds fields of the case or options of the op."""
    found = []
    for row in rows:
        is_ = row["case"]
        fields = {"content": "realistic", "preset": "", "layout": "planar", **case}
        seen = {**is_, **(is_.get("options") or {})}
        fields |= {"op": op, "provider": way, "device": "cuda"}
        if all(seen.get(name) == value for name, value in fields.items()):
            found.append(row)
    return found


def _us(row: Row) -> float | None:
    """Median inside a CUDA graph, microseconds."""
    times = row["result"].get("graph_ms")
    return None if not times else 1e3 * float(times[0])


def _best(values: Iterable[float | None], pick: Callable[[Iterable[float]], float]) -> float | None:
    known = [value for value in values if value is not None]
    return pick(known) if known else None


def _graph_us(op: str, **case: Any) -> Callable[[list[Row], str], float | None]:
    """The slowest of the rows that fit: what holds for it holds for all."""

    def value(rows: list[Row], backend: str) -> float | None:
        return _best((_us(row) for row in _find(rows, op, backend, **case)), max)

    return value


def _cover(size: int) -> Callable[[list[Row], str], float | None]:
    """What choosing the windows takes beyond counting their pixels, inside a graph."""

    def value(rows: list[Row], backend: str) -> float | None:
        extra = []
        for row in _find(rows, "select_windows", backend, size=size, strategy="cover"):
            dtype = row["case"]["dtype"]
            for counted in _find(rows, "count_windows", backend, size=size, dtype=dtype):
                both, one = _us(row), _us(counted)
                if both is not None and one is not None:
                    extra.append(both - one)
        return _best(extra, max)

    return value


def _share(op: str, **case: Any) -> Callable[[list[Row], str], float | None]:
    """Share of the copy bandwidth inside a graph, of the rows of the largest images."""

    def value(rows: list[Row], backend: str) -> float | None:
        fitting = _find(rows, op, backend, **case)
        largest = max((row["case"]["size"] for row in fitting), default=0)
        shares: list[float | None] = []
        for row in fitting:
            us = _us(row)
            if row["case"]["size"] == largest and us:
                gbs = row["result"]["bytes"] / us / 1e3
                shares.append(gbs / row["result"]["copy_gbs"])
        return _best(shares, min)

    return value


def _over(op: str, peer: str, **case: Any) -> Callable[[list[Row], str], float | None]:
    """How many times faster inside a graph than a peer, which waits for the device and has none."""

    def value(rows: list[Row], backend: str) -> float | None:
        peers = _find(rows, op, peer, **case)
        ratios = []
        for row in _find(rows, op, backend, **case):
            us = _us(row)
            same = [p for p in peers if {**p["case"], "provider": backend} == row["case"]]
            if us and same:
                ratios.append(1e3 * same[0]["result"]["ms"][0] / us)
        return _best(ratios, min)

    return value


def _launches(op: str, **case: Any) -> Callable[[list[Row], str], float | None]:
    def value(rows: list[Row], backend: str) -> float | None:
        found = _find(rows, op, backend, **case)
        return _best((row["result"].get("launches") for row in found), max)

    return value


def _frames(rows: Sequence[Row], way: str, **case: Any) -> list[Row]:
    """Rows of whole frames, 512 x 512, zoom 1, at batch 1."""
    usual = {"way": way, "device": "cuda", "height": 512, "width": 512, "zoom": 1.0}
    fields = {**usual, "preset": "paper", "compile": False, **case}
    return [r for r in rows if all(r["case"].get(name) == v for name, v in fields.items())]


def _frame_over(way: str, **case: Any) -> Callable[[list[Row], str], float | None]:
    """How many frames of the engine go into one of another way, with the same networks."""

    def value(rows: list[Row], engine: str) -> float | None:
        ratios = []
        for row in _frames(rows, engine, **case):
            for peer in _frames(rows, way, **case):
                if {**peer["case"], "way": engine} == row["case"]:
                    ratios.append(peer["result"]["ms"]["median"] / row["result"]["ms"]["median"])
        return _best(ratios, min)

    return value


def _glue_share(rows: list[Row], engine: str) -> float | None:
    """Select, extract and aggregate in a frame of the engine: the larger of two estimates.

    One is the glue's time in a graph against the whole frame's, the other the share of its stages
    in a frame whose steps are called one by one, which holds all that stands between the networks.
    """
    shares = []
    for row in _frames(rows, engine):
        result = row["result"]
        stages = result.get("stages_ms")
        if stages:
            glue = sum(stages[name] for name in ("select", "extract", "aggregate"))
            shares.append(glue / sum(stages.values()))
        named = result.get("backend")
        for backend in (named,) if named in BACKENDS else BACKENDS:
            in_graphs = map(_us, _find(rows, "glue", backend, size=512))
            shares += [us / 1e3 / result["ms"]["median"] for us in in_graphs if us]
    return _best(shares, max)


def _covering(rows: Sequence[Row], way: str) -> list[Row]:
    """Frames of real images whose windows cover at least what the paper's do."""
    fields = {"way": way, "device": "cuda", "preset": "cover", "zoom": 1.0, "compile": False}
    return [
        row
        for row in rows
        if all(row["case"].get(name) == v for name, v in fields.items())
        and row["case"]["image"]
        and row["result"]["coverage"] >= row["result"]["coverage_of_paper"]
    ]


def _of_coarse(way: str) -> Callable[[list[Row], str], float | None]:
    """Frames per second against those of the coarse network alone, deployed alike."""

    def value(rows: list[Row], _: str) -> float | None:
        found = _covering(rows, way)
        return _best((row["result"]["of_coarse_alike"][0] for row in found), min)

    return value


def _covered(rows: list[Row]) -> str:
    """What the windows of these images cover."""
    return ", ".join(
        f"{row['case']['image']} {row['case']['dtype']}: {row['result']['windows']} windows cover "
        f"{row['result']['coverage']:.1%}, the paper's {row['result']['coverage_of_paper']:.1%}"
        for row in _covering(rows, "engine")
    )


GATES = [
    Gate("glue in a graph, 512, labels", 40, 18, "us", _graph_us("glue", size=512)),
    Gate(
        "glue in a graph, 6000, labels, fp16 quarter logits", 200, 100, "us",
        _graph_us("glue", size=6000, dtype="float16"),
    ),
    *(
        Gate(f"glue over the eager chain, {size}", gate, stretch, "x",
             _over("glue", "reference", size=size))
        for size, gate, stretch in ((512, 8, 15), (1024, 15, 25), (6000, 60, 120))
    ),
    *(
        Gate(f"glue over torch.compile of the chain, {size}", 3, 6, "x",
             _over("glue", "compiled", size=size))
        for size in (512, 1024, 6000)
    ),
    Gate("count_windows 6000, quarter logits, of copy bandwidth", 0.6, 0.8, "share",
         _share("count_windows", size=6000)),
    Gate("extract_patches zoom 4, of copy bandwidth", 0.75, 0.88, "share",
         _share("extract_patches", zoom=4)),
    Gate("aggregate to probs, of copy bandwidth", 0.75, 0.88, "share",
         _share("aggregate", output="probs")),
    *(
        Gate(f"greedy cover of 32 windows beyond counting, {size}", most, most, "us", _cover(size))
        for size, most in ((512, 10), (6000, 60))
    ),
    Gate("launches of select_windows", 2, 1, "launches", _launches("select_windows")),
    Gate("launches of extract_patches", 1, 1, "launches", _launches("extract_patches")),
    Gate("launches of aggregate", 1, 1, "launches", _launches("aggregate")),
    Gate("launches of the whole glue", 4, 3, "launches", _launches("glue")),
    Gate("frame over the eager reference, float32", 5, 8, "x",
         _frame_over("reference", dtype="float32"), ENGINE),
    Gate("frame over the eager reference, AMP, channels_last", 3, 8, "x",
         _frame_over("reference", dtype="amp", channels_last=True), ENGINE),
    Gate("frame over compiled networks in graphs with eager glue", 1.25, 1.4, "x",
         _frame_over("eager-glue", compile=True), ENGINE),
    Gate("glue of a frame", 0.02, 0.01, "share at most", _glue_share, ENGINE),
    Gate("frames per second of the coarse network's, iSAID, cover", 0.9, 1, "share",
         _of_coarse("engine-run"), ENGINE, _covered),
    Gate("the same one frame at a time", 0.9, 1, "share", _of_coarse("engine"), ENGINE),
]  # fmt: skip


if __name__ == "__main__":
    print(table(judge(read(Path(sys.argv[1])))))
