"""Progress: a bar on a terminal, lines now and then in a log."""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from c2fcore import _progress
from c2fcore._progress import Bar, tell


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_progress, "time", clock)
    return clock


def work(clock: Clock, steps: int, seconds: float, **options: Any) -> None:
    with Bar(total=steps, unit="image", desc="work", mininterval=0, **options) as bar:
        for step in range(steps):
            clock.now += seconds
            if step % 2:
                bar.update(2)
            else:
                bar.write(f"step {step}")
                bar.set_description_str("still at work")


def test_short_work_says_nothing_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 8, 1.0)
    assert capsys.readouterr().err == ""


def test_a_log_gets_lines_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 96, 1.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10  # each 10 seconds, and the last
    assert all(line.startswith("still at work: ") and "\r" not in line for line in lines)
    assert " 10/96 " in lines[0]
    assert " 96/96 " in lines[-1]


def test_lines_get_rarer(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 3600, 10.0)
    assert 100 < len(capsys.readouterr().err.splitlines()) < 200  # of ten hours


def test_hidden(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 96, 1.0, shown=False)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(Bar(range(3), "work"))
    assert capsys.readouterr().err.startswith("\rwork:   0%|")


def test_without_stderr_work_goes_on(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a service, after `2>&-`, or of a notebook that put something else there."""
    closed = io.StringIO()
    closed.close()
    for stderr in (None, closed):
        monkeypatch.setattr(sys, "stderr", stderr)
        tell("note: nobody hears it")
        with Bar(range(96), "work") as bar:
            for _ in bar:
                clock.now += 1.0
                bar.set_description_str("still at work")
    assert capsys.readouterr().out == ""
    written: list[str] = []
    plain = SimpleNamespace(write=written.append, flush=lambda: None)  # has no isatty
    monkeypatch.setattr(sys, "stderr", plain)
    work(clock, 96, 1.0)
    assert "96/96" in "".join(written)


def test_a_note_that_nobody_hears_ends_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where `2> >(head -1)` has read enough."""

    def broken(_: str) -> None:
        raise BrokenPipeError

    for terminal in (False, True):
        left = SimpleNamespace(write=broken, flush=lambda: None, isatty=lambda: terminal)  # noqa: B023
        monkeypatch.setattr(sys, "stderr", left)
        tell("note: nobody hears it")
        work(clock, 96, 1.0)


def test_a_note_stands_above_the_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Bar(range(3), "work"):
        capsys.readouterr()
        tell("note: this")
    assert re.search(r"\r +\rnote: this\n\rwork:", capsys.readouterr().err)


def test_without_stderr_training_keeps_its_notes_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lightning")
    from c2fcore.train import command, resuming, running

    last, options = tmp_path / "last.ckpt", tmp_path / "train.yaml"
    with zipfile.ZipFile(resuming.partial_of(last), "w"):
        pass
    options.write_text("trainer: {max_steps: 1}")
    monkeypatch.setattr(sys, "stderr", None)
    resuming.check_resumed(last, options, "trainer: {max_steps: 2}")
    running.StopAtStep(last)._ask(2, None)
    command._load_best(None, "", None)
    assert capsys.readouterr().out == ""
