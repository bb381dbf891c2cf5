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


def test_one_broken_kernel_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "test_kernels.py").write_text(BREAKING)
    (tmp_path / "conftest.py").write_text(POISONED)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    script, record = str(Path(gpu_run.__file__)), tmp_path / "record.jsonl"
    done = subprocess.run(
        [sys.executable, script, str(record), "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(script).parent)},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    outcomes = {k.split("::")[1]: v["outcome"] for k, v in gpu_run.read(record).items()}
    assert outcomes == {
        "test_good": "passed", "test_crashes": "started", "test_wrong": "failed",
        "test_skipped": "skipped", "test_poisons": "failed", "test_last": "passed",
    }  # fmt: skip
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("2 passed, 2 failed, 1 crashed, 1 skipped, 2 restarts; first: ")
    assert "test_crashes: the process died" in last
    (tmp_path / "test_kernels.py").write_text("def test_good(): pass\n")
    done = subprocess.run(
        [sys.executable, script, str(record), "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(script).parent)},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip().splitlines()[-1]) == (0, "1 passed, 0 failed")
