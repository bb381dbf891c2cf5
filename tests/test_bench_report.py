"""What is made of rows: comparisons, growth, charts, tables, and the README's copy of them."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c2fcore.bench import charts, compare, provenance, report, rows, scale_suite, ways
from c2fcore.cli import main
from c2fcore.images import write_png

ROOT = Path(__file__).resolve().parents[1]
ORIGIN = {
    "commit": "0123456789abcdef", "dirty": False, "device": "a processor", "cores": 2, "threads": 2,
    "torch": "2.14", "native": "_cpu_avx2", "date": "2026-01-02T03:04:05+00:00",
}  # fmt: skip


def op_row(ms: list[float], way: str = "cpu", **case: Any) -> rows.Row:
    identity = {"op": "aggregate", "options": {}, "content": "realistic", "preset": "", "size": 64,
                "dtype": "float32", "provider": way, **case}  # fmt: skip
    result = {"ms": ms, "gbs": 1.0, "copy_gbs": 10.0, "share_of_copy": 0.1, "bytes": 10**6,
              "max_error": 0.0, "over_reference": [2.0, 1.9, 2.1]}  # fmt: skip
    return rows.make("op", identity, ORIGIN, result)


def network_row(way: str, zoom: float, ms: float) -> rows.Row:
    case = {"way": way, "coarse": "a", "fine": "b", "height": 64, "width": 96, "zoom": zoom,
            "n": 4, "preset": "paper", "dtype": "float32", "device": "cpu"}  # fmt: skip
    result: dict[str, Any] = {
        "fps": 1e3 / ms,
        "ms": {"median": ms, "p20": 0.9 * ms, "p80": 1.1 * ms},
        "of_coarse": [10 / ms, 0.0, 1.0],
        "windows": 4,
    }
    if way != "coarse":
        result["stages_ms"] = dict.fromkeys(("coarse", "select", "extract", "fine", "aggregate"), 2)
    return rows.make("network", case, ORIGIN, result)


def scale_row(op: str, axis: str, value: int, ms: float) -> rows.Row:
    case = {"axis": axis, "value": value, "op": op, "way": "cpu"}
    return rows.make("scale", case, ORIGIN, {"ms": [ms, ms, ms]})


def test_a_way_that_fails_on_large_images_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no answers are compared."""

    def bad() -> None:
        raise MemoryError("too large")

    calls = {"good": lambda: None, "bad": bad}
    monkeypatch.setattr(ways, "call_of", lambda job, way, case: calls[way])
    monkeypatch.setattr(scale_suite, "case_arguments", lambda axis, value: {"size": 64, "n": value})
    monkeypatch.setattr(scale_suite, "JOBS", ("count_windows",))
    monkeypatch.setattr(scale_suite, "REFERENCE_SIDE", 0)
    found = scale_suite.run(
        "n", [2], {}, ways=list(calls), device="cpu", threads=1, rounds=1, with_memory=False
    )
    errors = {row["case"]["way"]: row["error"] for row in found}
    assert errors == {"good": "", "bad": "MemoryError: too large"}


def test_the_harness_of_older_commits_is_whole() -> None:
    """What `c2f bench` imports of the command line lies over them, too."""
    text = (Path(compare.__file__).parents[1] / "cli" / "bench.py").read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            assert f"cli/{node.module}.py" in compare._HARNESS


def test_comparison_tells_ratio_and_noise() -> None:
    a = compare.Side("a", [[op_row([10.0, 9.0, 11.0])]])
    b = compare.Side("b", [[op_row([5.0, 4.9, 5.1])], [op_row([6.0, 5.9, 6.1])]])
    (change,) = compare.changes(a, b)
    assert (change.before, change.after, change.ratio) == (10.0, 5.5, 0.55)
    # Samples of A: +-10 %. Runs of B lie +-0.5 around 5.5, which is more than their samples do.
    assert change.noise == pytest.approx((0.1**2 + (0.5 / 5.5) ** 2) ** 0.5)


@pytest.mark.parametrize(("runs", "drift"), [(1, True), (2, False)])
@pytest.mark.parametrize(("load", "busy"), [(2.0, False), (2.1, True)])
def test_comparison_says_what_its_noise_does_not_hold(
    runs: int, drift: bool, load: float, busy: bool
) -> None:
    row = op_row([10.0, 9.0, 11.0])
    row["origin"] = {**row["origin"], "cores": 2, "load": load}
    said = compare.table(*(compare.Side(name, [[row]] * runs) for name in "ab"))
    assert ("note: one run of a side: noise is without the drift of the machine" in said) == drift
    assert ("note: load up to 2.1 on 2 cores" in said) == busy


def test_what_cost_nothing_has_no_ratio() -> None:
    sides = [compare.Side(name, [[op_row([ms] * 3)]]) for name, ms in (("a", 0.0), ("b", 1.0))]
    (change,) = compare.changes(*sides)
    assert np.isnan(change.ratio)
    assert "nan" in compare.table(*sides)


def test_files_of_the_user_are_found_from_where_commits_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[list[str]] = []

    def sides(names: Any, options: list[str], repeats: int) -> Any:
        given.append(options)
        return [compare.Side(name, [[op_row([1.0] * 3)]]) for name in names]

    monkeypatch.setattr(compare, "sides", sides)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    for name in ("a.png", "m.png"):
        write_png(tmp_path / name, np.eye(64, dtype=np.uint8))
    common = ["bench", "--compare", "A", "B"]
    assert main([*common, "--image", "a.png", "--masks", "m.png"]) == 0
    assert main([*common, "--checkpoint", "net", "--image", "a.png", "--channels-last"]) == 0
    assert main([*common, "--checkpoint", "owner/name", "--repeats", "3", "--no-memory"]) == 0
    here, fixed = str(tmp_path), ["--no-charts", "--no-memory"]
    assert given == [
        [*fixed, "--image", f"{here}/a.png", "--masks", f"{here}/m.png"],
        [*fixed, "--checkpoint", f"{here}/net", "--image", f"{here}/a.png", "--channels-last"],
        [*fixed, "--checkpoint", "owner/name"],
    ]


def test_comparison_of_files_has_no_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, ms in (("a.jsonl", 10.0), ("b.jsonl", 12.0)):
        both = [op_row([ms, ms, ms]), op_row([ms, ms, ms], way=name)]
        rows.write(tmp_path / name, both)
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    assert main(["bench", "--compare", *paths]) == 0
    said = capsys.readouterr().out
    assert "1.200" in said
    assert "1 case in A only" in said
    assert "1 case in B only" in said
    assert "load" in said
    assert not {"faster", "slower", "better", "worse"} & set(said.split())


def test_comparison_needs_rows_or_a_commit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--compare", "no-such-thing", "neither"]) == 2
    assert "--compare no-such-thing: must be a file or folder of results" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["bench", "--compare", str(empty), str(empty)]) == 2
    assert "must hold rows of results, got none" in capsys.readouterr().err
    assert main(["bench", "--compare", str(empty), str(empty), "--n", "8"]) == 2
    assert "--n must come with a commit to measure, got --compare of files" in (
        capsys.readouterr().err
    )


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_comparison_of_commits_measures_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """HEAD against itself, without native kernels."""
    mask = tmp_path / "mask.png"
    write_png(mask, np.eye(64, dtype=np.uint8))
    monkeypatch.setenv("C2F_BENCH_MASKS", str(mask))
    monkeypatch.setenv("C2F_BUILD", "none")
    options = ["--op", "count_windows", "--sizes", "64", "--rounds", "1", "--ways", "reference"]
    options += ["--device", "cpu", "--no-charts"]
    a, b = compare.sides(["HEAD", "HEAD~0"], options, 1, say=lambda text: None)
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert len(compare.changes(a, b)) == 2  # realistic and noise
    assert {row["origin"]["commit"] for row in a.runs[0] + b.runs[0]} == {commit}
    assert {row["result"]["source"] for row in a.runs[0]} == {"masks", "noise"}
    (native,) = {row["origin"]["native"] for row in a.runs[0]}
    assert "C2F_BUILD=none leaves it out" in native  # which this checkout's may not
    trees = subprocess.run(
        ["git", "-C", str(ROOT), "worktree", "list"], capture_output=True, text=True, check=True
    ).stdout
    assert f"/{commit}" not in trees  # nothing is left behind


def test_growth_of_known_series() -> None:
    linear = [scale_row("count_windows", "area", side, side**2 / 1e4) for side in (512, 1024, 2048)]
    steps = [scale_row("aggregate", "n", n, ms) for n, ms in ((8, 1.0), (16, 1.0), (32, 4.0))]
    area, windows = scale_suite.growth([*linear, *steps])
    assert (area.exponent, area.worst, area.expected) == (pytest.approx(1), pytest.approx(1), 1.0)
    assert windows.exponent == pytest.approx(1)
    assert windows.worst in (pytest.approx(0), pytest.approx(2))  # both one off the whole
    assert windows.expected is None


def test_tables_show_figures_and_failures(tmp_path: Path) -> None:
    broken = rows.make("op", op_row([1.0] * 3)["case"], ORIGIN, error="RuntimeError: no memory")
    folder = tmp_path / "results"
    made = [op_row([3.0, 2.0, 4.0], way="fold"), broken, network_row("cpu", 2, 50.0)]
    rows.write(folder / "x.jsonl", made)
    text = "a\n<!-- rows: ops results -->\nold\n<!-- end of rows -->\nb\n"
    full = report.filled(text, tmp_path)
    assert "| aggregate 64^2 float32 | fold | 3 (2..4) | 2x | 1 | 10.0% | 0.000% px |  |" in full
    assert "failed: RuntimeError: no memory" in full
    assert "a processor, 2 cores, 2 threads" in full
    assert "\nold\n" not in full
    assert full.startswith("a\n")
    assert full.endswith("b\n")
    assert report.filled(full, tmp_path) == full
    assert "| a + b | 64 x 96 | 4 | 2 | cpu | 20 |" in report.fps(made)
    with pytest.raises(
        ValueError, match="must be one of demands, fps, fps_by_zoom, ops, scale, speedups, training"
    ):
        report.filled("<!-- rows: nothing results -->\n<!-- end of rows -->", tmp_path)


def test_short_table_has_a_line_per_zoom() -> None:
    failed = network_row("cpu", 3, 10.0)
    failed.update(result=None, error="no memory")
    other_size = network_row("cpu", 2, 10.0)
    other_size["case"]["height"] = 65
    made = [network_row("coarse", zoom, 10.0) for zoom in (2, 3)]
    made += [network_row("cpu", 2, 20.0), failed, other_size, network_row("engine", 2, 1000 / 3)]
    text = report.fps_by_zoom(made)
    assert "| network | zoom | coarse | cpu | engine | paper |" in text
    assert "| a + b | 2 | 100 | 50 (0.50) | 3 (0.03) | 0.38 |" in text
    assert "| a + b | 3 | 100 | failed | - | 0.26 |" in text
    assert "64 x 96, 4 windows" in text
    assert report.fps_by_zoom([]) == "No rows yet."


def test_demands_of_several_devices_stand_side_by_side() -> None:
    def row(device: str, text: str, value: float, met: bool, error: str = "") -> rows.Row:
        return {"demand": text, "text": text, "bound": 12, "unit": "us", "value": value,
                "p20": value - 1, "p80": value + 1, "met": met, "error": error,
                **ORIGIN, "device": device, "load": 1.0}  # fmt: skip

    made = [row("fast", "a call", 5.0, True), row("slow", "a call", 20.0, False)]
    made += [row("slow", "another", 0.0, False, error="no memory")]
    text = report.demands(made)
    assert "| demand | bound | fast | slow |" in text
    assert "| a call | <= 12 us | 5 (4..6) | **20 (19..21)** |" in text
    assert "| another | <= 12 us | - | **failed: no memory** |" in text
    assert text.count("2 cores, 2 threads") == 2
    assert report.demands([]) == "No rows yet."
    ratio = {**made[0], "text": "over eager", "unit": "x"}
    short = report.speedups([*made, ratio])
    assert "| over eager | >= 12 x | 5 (4..6) |" in short
    assert "a call" not in short


def test_training_table() -> None:
    case = {"batch": 4, "size": 512, "window": 128, "stride": 32, "n": 32, "provider": "cpu"}
    result = {"ms": 5.0, "ms_p20": 4.5, "ms_p80": 6.0, "times_unfold": 40.0, "peak_mib": 12.0}
    text = report.training([rows.make("training-windows", case, ORIGIN, result)])
    assert "| 4 x 512 x 512 | 32 | cpu | 5 (4.5..6) | 40x | 12 |" in text


def test_charts_come_from_rows_and_are_light(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = [op_row([3.0, 2.0, 4.0]), op_row([9.0, 8.0, 9.5], way="reference")]
    made += [network_row(way, zoom, 10.0 * zoom) for way in ("coarse", "cpu") for zoom in (1, 2, 4)]
    made += [scale_row("glue", "area", side, side / 100) for side in (512, 1024)]
    first = charts.draw(made, tmp_path / "a")
    assert [file.stem for file in first] == ["roofline", "fps", "stages", "scale"]
    again = charts.draw(made, tmp_path / "b")
    for file, other in zip(first, again, strict=True):
        assert file.stat().st_size < 100_000
        assert file.read_bytes() == other.read_bytes()
    # The same zoom twice is another way to run the networks; the coarse one alone may have failed.
    compiled = [network_row(way, zoom, 9.0 * zoom) for way in ("cpu", "triton") for zoom in (1, 2)]
    for row in compiled:
        row["case"]["compile"] = True
        del row["result"]["of_coarse"]
    drawn = charts.draw([*made, *compiled], tmp_path / "d")[1].read_text()
    assert drawn.count("cpu, compiled") == 1
    assert charts.draw([], tmp_path / "c") == []


@pytest.mark.skipif(not (ROOT / "benchmarks").exists(), reason="only the tests are here")
def test_rows_that_a_run_writes_are_no_change_to_what_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, measured = tmp_path / rows.FOLDER / "rows.jsonl", tmp_path / "code.py"
    written.parent.mkdir(parents=True)
    written.touch()
    measured.touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    written.write_text("{}")
    assert provenance.provenance(1)["dirty"] is False
    measured.write_text("changed")
    assert provenance.provenance(1)["dirty"] is True


def test_readme_tables_are_those_of_the_committed_rows() -> None:
    for name in ("README.md", "benchmarks/README.md"):
        text = (ROOT / name).read_text()
        assert "<!-- rows: " in text
        stale = f"{name}: run python benchmarks/readme_tables.py"
        assert report.filled(text, ROOT) == text, stale


@pytest.mark.skipif(not (ROOT / "benchmarks").exists(), reason="only the tests are here")
def test_committed_rows_have_their_provenance() -> None:
    files = list((ROOT / "benchmarks" / "results").glob("*/*.jsonl"))
    assert files
    for file in files:
        for row in rows.read(file):
            origin = row.get("origin", row)
            assert {"commit", "dirty", "torch", "device", "threads", "load", "date"} <= set(origin)
            assert json.dumps(row).count("/tmp/") == 0
