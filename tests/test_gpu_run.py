"""Tests that go on behind a broken kernel: tests/gpu_run.py, with tests that break."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gpu_run

BREAKING = """
import os, signal
import pytest

def test_good(): pass
def test_crashes(): os.kill(os.getpid(), signal.SIGKILL)
def test_wrong(): assert 1 == 2
def test_skipped(): pytest.skip("not here")
def test_poisons(): raise RuntimeError("CUDA error: an illegal memory access was encountered")
def test_last(): pass
"""
# A context that is unusable after that test, and only in its process.
POISONED = """
import gpu_run

def pytest_runtest_logreport(report):
    if "test_poisons" in report.nodeid and report.failed:
        gpu_run.context_is_broken = lambda: True
"""


def _run(folder: Path, record: Path, *options: str) -> subprocess.CompletedProcess[str]:
    script = Path(gpu_run.__file__)
    return subprocess.run(
        [sys.executable, script, record, "-q", "-p", "no:cacheprovider", *options, folder],
        env={**os.environ, "PYTHONPATH": str(script.parent)},
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
    )


def test_one_broken_kernel_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "test_kernels.py").write_text(BREAKING)
    (tmp_path / "conftest.py").write_text(POISONED)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    record = tmp_path / "record.jsonl"
    done = _run(tmp_path, record)
    assert done.returncode == 1
    outcomes = {k.split("::")[1]: v["outcome"] for k, v in gpu_run.read(record).items()}
    assert outcomes == {
        "test_good": "passed", "test_crashes": "started", "test_wrong": "failed",
        "test_skipped": "skipped", "test_poisons": "failed", "test_last": "passed",
    }  # fmt: skip
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("2 passed, 2 failed, 1 crashed, 1 skipped, 2 restarts; first: ")
    assert "test_crashes: the process died" in last


def test_shards_are_all_tests_once(tmp_path: Path) -> None:
    (tmp_path / "test_good.py").write_text(
        "import pytest\n@pytest.mark.parametrize('i', range(7))\ndef test_good(i): pass\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    seen: list[str] = []
    for shard, line in (("1/3", "3 passed, 0 failed"), ("2/3", "2 passed, 0 failed"),
                        ("3/3", "2 passed, 0 failed")):  # fmt: skip
        record = tmp_path / f"{shard[0]}.jsonl"
        done = _run(tmp_path, record, "--shard", shard)
        assert (done.returncode, done.stdout.strip().splitlines()[-1]) == (0, line)
        seen += gpu_run.read(record)
    assert len(seen) == len(set(seen)) == 7
