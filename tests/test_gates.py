"""The gates of `make gpu-check`: judged by rows, under the names that the benchmarks give them."""

from __future__ import annotations

import copy
import json
from typing import Any

import gates
import pytest
from gate_rows import row_of

from c2fcore.bench import network_suite, op_suite


def _verdict(rows: list[dict[str, Any]], text: str, backend: str = "cuda") -> gates.Verdict:
    return next(v for v in gates.judge(rows) if v.text == text and v.backend == backend)


def test_gates_are_judged_by_rows() -> None:
    rows = [
        row_of("glue", "cuda", 512, graph_ms=[0.02, 0.02, 0.02], dtype="float32", launches=3),
        row_of("glue", "cuda", 512, graph_ms=[0.03, 0.03, 0.03], launches=4),
        row_of("glue", "reference", 512, ms=[0.6, 0.5, 0.7]),
        row_of("glue", "compiled", 512, ms=[0.06, 0.05, 0.07]),
        row_of("extract_patches", "cuda", 512, options={"zoom": 4.0}, graph_ms=[9.0, 9, 9],
             bytes=1, copy_gbs=4000.0),
        row_of("extract_patches", "cuda", 6000, options={"zoom": 4.0}, graph_ms=[0.0145, 0, 0],
             bytes=51_900_000, copy_gbs=4000.0),
        row_of("select_windows", "cuda", 6000, options={"strategy": "cover"}, graph_ms=[0.1, 0, 0]),
        row_of("count_windows", "cuda", 6000, graph_ms=[0.045, 0, 0], bytes=1, copy_gbs=1.0),
    ]  # fmt: skip
    slowest = _verdict(rows, "glue in a graph, 512, labels")
    assert slowest.value == pytest.approx(30)
    assert (slowest.met, slowest.stretch_met) == (True, False)
    eager = _verdict(rows, "glue over the eager chain, 512")
    assert eager.value == pytest.approx(20), "the half-precision row has a peer, the other has none"
    assert eager.stretch_met
    compiled = _verdict(rows, "glue over torch.compile of the chain, 512")
    assert compiled.met is False
    assert compiled.value == pytest.approx(2)
    share = _verdict(rows, "extract_patches zoom 4, of copy bandwidth")
    assert share.value == pytest.approx(51.9e6 / 14.5e-6 / 4e12)
    cover = _verdict(rows, "greedy cover of 32 windows beyond counting, 6000")
    assert cover.value == pytest.approx(55)
    assert _verdict(rows, "launches of the whole glue").value == 4
    assert all(v.met is None for v in gates.judge(rows) if v.backend == "triton")
    assert all(v.met is None for v in gates.judge([{**r, "error": "x"} for r in rows]))
    shown = gates.table(gates.judge(rows))
    assert "NOT MET" in shown
    assert "met, stretch too" in shown


def test_gates_of_the_engine() -> None:
    def frame(way: str, median: float, **case: Any) -> dict[str, Any]:
        spec = network_suite.Spec("a", "b", device="cuda", **case)
        stages = {"normalise": 0.02, "coarse": 1, "select": 0.01, "extract": 0.01, "fine": 1,
                  "aggregate": 0.01}  # fmt: skip
        result = {"ms": {"median": median}, "stages_ms": stages, "of_coarse": [0.95, 0.9, 1]}
        return {"suite": "network", "case": spec.case(way), "result": result, "error": ""}

    half: dict[str, Any] = {"dtype": "bfloat16", "channels_last": True}
    rows = [
        frame("reference", 12), frame("engine", 2), frame("cuda", 3),
        frame("reference", 5, **half), frame("engine", 2, **half),
        frame("engine", 2, preset="fast", **half),
    ]  # fmt: skip
    over = "frame over the eager reference, "
    assert _verdict(rows, over + "float32", "engine").value == pytest.approx(6)
    assert _verdict(rows, over + "bfloat16, channels_last", "engine").met is False
    share = _verdict(rows, "glue of a frame", "engine")
    assert share.value == pytest.approx(0.03 / 2.05)
    assert share.met
    assert _verdict(rows, "frame over compiled networks with eager glue", "engine").met is None
    coarse = _verdict(rows, "frames per second of the coarse network's, cover", "engine")
    assert coarse.value == 0.95


def test_gates_read_the_rows_that_c2f_bench_writes() -> None:
    """Rows measured here, said to be a GPU's: the gates know the names that figures have there."""
    found = []
    for op, side in (("glue", 512), ("extract_patches", 160)):
        (variant,) = (v for v in op_suite.variants(op, [4.0])
                      if v.content == "realistic" and not v.preset)  # fmt: skip
        setting = op_suite.Setting(rounds=1, target_s=0.0, dtype="float16")
        for row in op_suite.run(variant, side, setting, {}, 10.0, only=["reference"]):
            assert not row["error"]
            row["case"]["device"] = "cuda"
            ours = copy.deepcopy(row)
            ours["case"]["provider"] = "cuda"
            ours["result"].update(graph_ms=ours["result"]["ms"], launches=4)
            found += [row, ours]
    found = json.loads(json.dumps(found))
    assert _verdict(found, "glue over the eager chain, 512").value == pytest.approx(1)
    assert _verdict(found, "glue in a graph, 512, labels").value is not None
    assert _verdict(found, "extract_patches zoom 4, of copy bandwidth").value is not None
    assert _verdict(found, "launches of extract_patches").met is False
