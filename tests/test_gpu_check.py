"""The driver of `make gpu-check`, without a GPU: limits, failures, order, summary."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_check
import gpu_stages
import pytest
import stages
from gate_rows import row_of
from stages import ALONE, FAILED, OK, SKIPPED, TIMEOUT, Stage

from c2fcore.testing import samples

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
GPU = {"device": "Some GPU 9000", "torch": "2.11.0", "capability": [9, 0]}


def python(name: str, code: str, limit_s: float = 30, **options: Any) -> Stage:
    return Stage(name, [sys.executable, "-c", code], limit_s, **options)


def run(tmp_path: Path, *chosen: Stage, cores: int = 4, budget_s: float = 60) -> dict[str, Any]:
    results = stages.run(
        chosen, cores=cores, budget_s=budget_s, logs=tmp_path / "logs", cwd=tmp_path
    )
    assert [result.name for result in results] == [stage.name for stage in chosen]
    return {result.name: result for result in results}


def test_a_failure_ends_only_its_stage(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        python("fails", "print('half way'); raise SystemExit(3)"),
        python("dies", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
        Stage("absent", ["/no/such/program"], 5),
        python("left-out", "", unless=lambda: "no such tool"),
        python("next", "print('12 passed')", after=("fails", "dies", "absent", "left-out")),
    )
    assert found["fails"].status == FAILED
    assert found["fails"].detail == "exit 3; last line: half way"
    assert found["dies"].status == FAILED
    assert "SIGSEGV" in found["dies"].detail
    assert found["absent"].status == FAILED
    assert "does not start" in found["absent"].detail
    assert (found["left-out"].status, found["left-out"].detail) == (SKIPPED, "no such tool")
    assert (found["next"].status, found["next"].detail) == (OK, "12 passed")
    assert (tmp_path / "logs" / "fails.log").read_text() == "half way\n"


CHILD = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path("child").write_text(str(child.pid))
print("working", flush=True)
time.sleep(60)
"""


def test_a_limit_kills_the_stage_and_what_it_started(tmp_path: Path) -> None:
    start = time.monotonic()
    found = run(tmp_path, python("hangs", CHILD, 6), python("next", "", after=("hangs",)))
    assert time.monotonic() - start < 50
    assert found["hangs"].status == TIMEOUT
    assert "last line: working" in found["hangs"].detail
    assert found["next"].status == OK
    assert not _alive(int((tmp_path / "child").read_text()))


def _alive(process: int) -> bool:
    """Whether a process still runs; one that only waits to be collected does not."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


def test_the_budget_ends_all(tmp_path: Path) -> None:
    chosen = (
        python("quick", "", after=()),
        python("slow", "import time; time.sleep(60)", 50),
        python("never", "", after=("slow",)),
    )
    found = run(tmp_path, *chosen, budget_s=8)
    assert [found[s.name].status for s in chosen] == [OK, TIMEOUT, SKIPPED]
    assert found["never"].detail == "no time left of 8 s"


SPAN = """
import pathlib, sys, time
start = time.monotonic(); time.sleep(0.6)
pathlib.Path(sys.argv[1]).write_text(f"{start} {time.monotonic()}")
"""


def test_what_runs_beside_what(tmp_path: Path) -> None:
    """Two share three cores where one takes two; a stage that measures has the machine alone."""

    def span(name: str, **options: Any) -> Stage:
        return Stage(name, [sys.executable, "-c", SPAN, name], 30, **options)

    run(
        tmp_path,
        span("a", cores=2),
        span("b"),
        span("c", cores=2),
        span("m", gpu=ALONE),
        span("d"),
        cores=3,
    )
    times = {n: [float(t) for t in (tmp_path / n).read_text().split()] for n in "abcmd"}

    def together(x: str, y: str) -> bool:
        return times[x][0] < times[y][1] and times[y][0] < times[x][1]

    assert not together("a", "c")
    assert not any(together("m", other) for other in "abcd")
    assert times["m"][0] < times["d"][0], "what measures is held up by nothing behind it"


def test_summary(tmp_path: Path) -> None:
    results = [stages.Result("a", OK, 1.5, "5 passed"), stages.Result("b", TIMEOUT, 9, "killed")]
    whole = json.loads(stages.summary(results, {"origin": GPU}))
    assert whole["counts"] == {"ok": 1, "failed": 0, "timeout": 1, "skipped": 0}
    assert whole["stages"][0] == {"name": "a", "status": "ok", "seconds": 1.5, "detail": "5 passed"}
    assert whole["origin"] == GPU


def test_without_a_gpu_it_says_so_and_ends_with_0(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--out", str(tmp_path)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no GPU to check on" in done.stdout
    assert "Nothing was run" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """gpu_check with a GPU that is only said to be there, and stages of the test's."""

    def run_with(*chosen: Stage, arguments: tuple[str, ...] = ()) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(gpu_check, "probe", lambda: dict(GPU))
        monkeypatch.setattr(gpu_check, "WORK", tmp_path / "work")
        monkeypatch.setattr(gpu_check, "every_stage", lambda plan: list(chosen))
        code = gpu_check.main(["--out", str(tmp_path / "out"), *arguments])
        written = tmp_path / "out" / "some-gpu-9000" / "gpu-check.json"
        return code, json.loads(written.read_text())

    return run_with


def test_the_whole_check(check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = json.dumps(row_of("glue", "cuda", 512, graph_ms=[0.030, 0.029, 0.031]))
    rows = tmp_path / "out" / "some-gpu-9000" / "ops.jsonl"
    measures = f"open({str(rows)!r}, 'w').write({row!r}); print('1 row')"
    good = python("install", "print('installed')"), python("bench", measures, after=("install",))
    code, summary = check(*good)
    assert code == 0
    assert summary["counts"]["ok"] == 2
    assert summary["origin"]["device"] == "Some GPU 9000"
    assert len(summary["origin"]["sources_sha256"]) == 64
    judged = {(g["text"], g["backend"]): g["met"] for g in summary["gates"]}
    assert judged["glue in a graph, 512, labels", "cuda"] is True
    assert judged["glue in a graph, 512, labels", "triton"] is None
    shown = capsys.readouterr().out
    assert "ok       install" in shown
    assert "not measured" in shown
    log = (rows.parent / "gpu-check.log").read_text()
    assert "installed" in log
    assert "1 row" in log

    code, summary = check(python("install", "raise SystemExit(1)"), *good[1:])
    assert code == 1
    assert [s["status"] for s in summary["stages"]] == [FAILED, OK]
    slow = json.dumps(row_of("glue", "cuda", 512, graph_ms=[0.050, 0.049, 0.051]))
    code, summary = check(good[0], python("bench", measures.replace(row, slow)))
    assert code == 1, "a gate that was measured and not met"
    assert summary["counts"]["failed"] == 0


def test_environments_see_the_packages_of_the_running_python(tmp_path: Path) -> None:
    gpu_check.environment(tmp_path / "venv")
    ask = "import torch, sys; print(sys.prefix); print(torch.__file__)"
    done = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "python"), "-c", ask],
        text=True,
        capture_output=True,
        check=True,
    )
    prefix, seen = done.stdout.splitlines()
    assert prefix == str(tmp_path / "venv")
    assert seen == sys.modules["torch"].__file__


def test_choice_of_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "WORK", tmp_path)
    all_ = [
        python(name, "", after=() if name == "install" else ("install",))
        for name in ("install", "tests-cuda-a", "tests-cuda-b", "bench-a")
    ]

    def names(only: str, skip: str = "") -> list[str]:
        return [stage.name for stage in gpu_check.choose(all_, only, skip)]

    assert names("") == ["install", "tests-cuda-a", "tests-cuda-b", "bench-a"]
    assert names("bench") == ["install", "bench-a"], "nothing is installed yet"
    assert names("bench", "install") == ["bench-a"], "left out by name all the same"
    (tmp_path / "install.done").touch()
    assert names("bench") == ["bench-a"]
    assert names("tests,bench", "tests-cuda-a") == ["tests-cuda-b", "bench-a"]
    with pytest.raises(SystemExit, match="no stage begins with 'tets'"):
        names("tets")


def test_stages_of_the_real_check(tmp_path: Path) -> None:
    """Every file they name exists, every op and backend is tested, stages wait for stages."""
    root = BENCHMARKS.parent
    plan = gpu_stages.Plan(root, tmp_path / "work", tmp_path / "out", [9, 0])
    listed = gpu_stages.every_stage(plan)
    names = [stage.name for stage in listed]
    assert len(set(names)) == len(names)
    assert samples.OPS == gpu_stages.OPS
    for backend in ("triton", "cuda"):
        for op in (*samples.OPS, "library", "gpu"):
            assert any(name.startswith(f"tests-{backend}-{op}") for name in names)
        assert {f"sanitize-{backend}-{tool}" for tool in gpu_stages.TOOLS} <= set(names)
    jit = [stage for stage in listed if stage.env.get("C2F_JIT") == "1"]
    assert [stage.name for stage in jit] == [f"tests-jit-{op}" for op in (*samples.OPS, "gpu")]
    for stage in listed:
        assert stage.limit_s > 0
        assert set(stage.after) <= set(names[: names.index(stage.name)]), stage.name
        for word in stage.command:
            path = Path(word)
            if path.is_relative_to(root / "tests"):
                assert path.exists(), f"{stage.name}: {word}"


def test_rows_of_stages_that_run_at_once_are_apart(tmp_path: Path) -> None:
    """Two processes that write one file take it from each other."""
    plan = gpu_stages.Plan(BENCHMARKS.parent, tmp_path / "work", tmp_path / "out", [9, 0])
    benches = [s for s in gpu_stages.every_stage(plan) if s.name.startswith("bench")]
    folders = [shlex.split(s.command[-1])[-1] for s in benches if s.gpu != ALONE]
    assert folders
    assert len(set(folders)) == len(folders)
    assert str(plan.out) not in folders


def test_what_is_compiled_when_needed_needs_cupy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = gpu_stages.Plan(BENCHMARKS.parent, tmp_path, tmp_path, [9, 0])
    for found, said in ((object(), ""), (None, "this Python has no CuPy")):
        monkeypatch.setattr(gpu_stages.importlib.util, "find_spec", lambda name, found=found: found)
        listed = {stage.name: stage for stage in gpu_stages.every_stage(plan)}
        assert listed["tests-jit-aggregate"].unless() == said
        assert listed["tests-cuda-aggregate"].unless() == ""


def test_rows_without_native_modules(tmp_path: Path) -> None:
    """Where they could not be built, `c2f bench` runs from the installation without them."""
    plan = gpu_stages.Plan(BENCHMARKS.parent, tmp_path / "a b", tmp_path / "out", [9, 0])
    for environment in ("native", "python"):
        program = Path(plan.c2f(environment))
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/bash\necho {environment} $C2F_BACKEND "$@"\n')
        program.chmod(0o755)
    (plan.work / "fastest").write_text("triton\n")
    stage = next(s for s in gpu_stages.every_stage(plan) if s.name == "bench-glue-512-fp16")

    def said() -> str:
        return subprocess.run(stage.command, capture_output=True, text=True, check=True).stdout

    assert said().startswith("python triton bench --device cuda")
    (plan.work / "install.done").touch()
    assert said().startswith("native triton bench --device cuda")
    assert "--no-charts" in said()


def test_tests_need_no_pytest_benchmark(tmp_path: Path) -> None:
    plan = gpu_stages.Plan(BENCHMARKS.parent, tmp_path, tmp_path, [9, 0])
    command = [sys.executable, "-m", "pytest", *gpu_stages._pytest_options(plan)]
    command += ["-p", "no:benchmark", "--collect-only", str(BENCHMARKS.parent / "tests/gpu")]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **plan.tests()},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_whole_glue_is_three_nodes" in done.stdout


def test_native_modules_are_built_for_this_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = gpu_stages.Plan(BENCHMARKS.parent, tmp_path, tmp_path, [12, 0])
    for given, wanted in (("", "120"), ("80;90", "80;90")):
        monkeypatch.setenv("CUDAARCHS", given)
        stage = next(s for s in gpu_stages.every_stage(plan) if s.name == "install")
        assert stage.env["CUDAARCHS"] == wanted


def test_nvcc_off_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(gpu_stages, "CUDA", tmp_path / "cuda")
    plan = gpu_stages.Plan(BENCHMARKS.parent, tmp_path, tmp_path, [9, 0])

    def told() -> str | None:
        stage = next(s for s in gpu_stages.every_stage(plan) if s.name == "install")
        return stage.env.get("CUDA_HOME")

    assert told() is None
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch(0o755)
    assert told() == str(tmp_path / "cuda")
    monkeypatch.setenv("CUDA_PATH", "/elsewhere")
    assert told() is None
    monkeypatch.delenv("CUDA_PATH")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch(0o755)
    assert told() is None


def test_what_this_version_lacks_is_left_out(tmp_path: Path) -> None:
    plan = gpu_stages.Plan(tmp_path, tmp_path, tmp_path, [9, 0])
    absent = gpu_stages._absent(plan, "install", "aggregate", "cuda")
    assert absent() == "", "an installation that failed is a reason to fail, not to skip"
    (tmp_path / "install.done").write_text(
        json.dumps({"aggregate": {"cuda": [False, "not part of this version"]}})
    )
    assert absent() == "not part of this version"
    (tmp_path / "install.done").write_text(
        json.dumps({"aggregate": {"cuda": [False, "no CUDA driver"]}})
    )
    assert absent() == "", "one that is there and cannot run has to fail"
