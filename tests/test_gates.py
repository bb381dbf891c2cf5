"""The gates of `make gpu-check`: judged by rows, under the names that the benchmarks give them."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any

import gates
import gpu_stages
import numpy as np
import pytest
from availability import need
from gate_rows import row_of
from PIL import Image

from c2fcore.bench import frames, inputs, network_suite, op_suite
from c2fcore.cli import main


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


def _frame(way: str, median: float, **case: Any) -> dict[str, Any]:
    result = case.pop("result", {})
    spec = network_suite.Spec("a", "b", device="cuda", **case)
    stages = {"normalise": 0.02, "coarse": 1, "select": 0.01, "extract": 0.01, "fine": 1,
              "aggregate": 0.01}  # fmt: skip
    result = {"ms": {"median": median}, "stages_ms": stages, "windows": 7, **result}
    return {"suite": "network", "case": spec.case(way), "result": result, "error": ""}


def test_gates_of_the_engine() -> None:
    amp: dict[str, Any] = {"dtype": "amp", "channels_last": True}
    rows = [
        _frame("reference", 12), _frame("engine", 2), _frame("cuda", 3),
        _frame("reference", 5, **amp), _frame("engine", 2, **amp),
        _frame("reference", 9, compile=True, **amp), _frame("engine", 1, compile=True, **amp),
    ]  # fmt: skip
    over = "frame over the eager reference, "
    assert _verdict(rows, over + "float32", "engine").value == pytest.approx(6)
    assert _verdict(rows, over + "AMP, channels_last", "engine").met is False
    compiled = "frame over compiled networks in graphs with eager glue"
    assert _verdict(rows, compiled, "engine").met is None, "networks called one by one are no peer"
    rows.append(_frame("eager-glue", 1.3, compile=True, **amp))
    assert _verdict(rows, compiled, "engine").value == pytest.approx(1.3)
    share = _verdict(rows, "glue of a frame", "engine")
    assert share.value == pytest.approx(0.03 / 2.05)
    assert share.met
    # In a graph the networks are faster, and the glue is more of a frame.
    rows.append(row_of("glue", "cuda", 512, graph_ms=[0.06, 0.06, 0.06]))
    assert _verdict(rows, "glue of a frame", "engine").value == pytest.approx(0.06 / 2)
    rows += [_frame("engine", 2, dtype="float16", result={"backend": "triton"})]
    rows += [row_of("glue", "triton", 512, graph_ms=[0.07, 0, 0])]
    assert _verdict(rows, "glue of a frame", "engine").value == pytest.approx(0.07 / 2)


def test_the_gate_of_real_images_says_what_is_covered() -> None:
    def real(way: str, alike: float, coverage: float, **case: Any) -> dict[str, Any]:
        covered = {"of_coarse_alike": [alike, 0, 9], "coverage": coverage,
                   "coverage_of_paper": 0.5}  # fmt: skip
        fields = {"preset": "cover", "image": "/data/P0003.png", "height": 1023, **case}
        return _frame(way, 2, result=covered, **fields)

    text = "frames per second of the coarse network's, iSAID, cover"
    found = [real("engine", 0.8, 0.6), real("engine-run", 0.93, 0.6)]
    assert found[0]["case"]["image"] == "P0003.png"
    verdict = _verdict(found, text, "engine")
    assert (verdict.value, verdict.met) == (0.93, True)
    assert verdict.note == "P0003.png float32: 7 windows cover 60.0%, the paper's 50.0%"
    assert verdict.note in gates.table(gates.judge(found))
    single = _verdict(found, "the same one frame at a time", "engine")
    assert (single.value, single.met) == (0.8, False)
    for other in (real("engine-run", 2, 0.4), real("engine-run", 2, 0.6, image="")):
        assert _verdict([other], text, "engine").met is None, "less covered, or no real image"


def test_gates_read_the_frames_that_the_stages_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their command lines with tiny networks on the CPU; the rows are then said to be a GPU's."""
    need("cpu", "select_windows", "extract_patches", "aggregate")
    labels = np.zeros((160, 192), dtype=np.uint8)
    labels[20:60, 30:60] = labels[100:140, 150:180] = 9
    ids, photo = tmp_path / "ids.png", tmp_path / "photo.png"
    Image.fromarray(labels).save(ids)
    Image.fromarray(np.dstack([labels * 20] * 3)).save(photo)
    plan = gpu_stages.Plan(Path(gates.__file__).parents[1], tmp_path, tmp_path / "out", [9, 0])
    fewer = {"--device": "cpu", "--coarse": "tiny_fcn", "--sizes": "160", "--rounds": "1",
             "--zooms": "1", "--image": str(photo), "--masks": str(ids)}  # fmt: skip
    every = network_suite.ways_of

    def as_on_a_gpu(device: str, preset: str = "") -> list[str]:
        return [*every(device, preset), frames.EAGER_GLUE]

    monkeypatch.setattr(network_suite, "ways_of", as_on_a_gpu)
    monkeypatch.delenv("C2F_BENCH_MASKS", raising=False)
    stages = [s for s in gpu_stages.every_stage(plan) if s.name.startswith("bench-network")]
    assert len(stages) == 5
    for stage in stages:
        words = shlex.split(stage.command[2].split('"$c2f" ')[1])
        for option, value in fewer.items():
            if option in words:
                words[words.index(option) + 1] = value
        compiled = "--compile" in words
        given = [word for word in words if word != "--compile"]  # in a minute, and not the point
        inputs.class_map.cache_clear()
        inputs._real_maps.cache_clear()
        assert main([*given, "--threads", "1", "--warmup", "1"]) == 0, stage.name
        (file,) = (tmp_path / "out").glob("*/network.jsonl")
        kept = tmp_path / f"{stage.name}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            size = {} if row["case"]["image"] else {"height": 512, "width": 512}
            row["case"] |= {"device": "cuda", "compile": compiled, **size}
        kept.write_text("\n".join(map(json.dumps, rows)))
        file.unlink()
    judged = [v for v in gates.judge(gates.read(tmp_path)) if v.backend == "engine"]
    assert len(judged) == 6
    assert [v.text for v in judged if v.value is None] == []
    assert re.match(r"photo.png amp: \d windows cover \S+%, the paper's \S+%", judged[4].note)


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
