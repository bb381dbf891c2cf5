"""Runs the stages of a check at the same time, each with a time limit, and sums them up.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

# What a stage may share the machine with.
NO_GPU, SHARED, ALONE = "no gpu", "shared", "alone"
OK, FAILED, TIMEOUT, SKIPPED = "ok", "failed", "timeout", "skipped"
_TICK_S = 0.05
_GRACE_S = 5.0  # between the request to end and the kill


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: shown, and the name of its log.
        command: program and arguments.
        limit_s: seconds after which it is killed, with every process it started.
        cores: processor cores it keeps busy; stages run at the same time while cores last.
        gpu: "no gpu" and "shared" stages run side by side; one that is "alone" measures, so
            nothing else runs meanwhile.
        after: stages that have to be over first, whatever came of them.
        env: added to the environment.
        unless: asked when its turn comes; a reason leaves the stage out.
    """

    name: str
    command: Sequence[str]
    limit_s: float
    cores: int = 1
    gpu: str = SHARED
    after: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    unless: Callable[[], str] = lambda: ""


@dataclass
class Result:
    """What came of a stage.

    Attributes:
        name: of the stage.
        status: "ok", "failed", "timeout" or "skipped".
        seconds: how long it ran.
        detail: the last line it printed, or why it did not run to its end.
    """

    name: str
    status: str
    seconds: float = 0.0
    detail: str = ""


@dataclass
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    started: float
    limit_s: float


def run(
    stages: Sequence[Stage],
    *,
    cores: int,
    budget_s: float,
    logs: Path,
    cwd: Path,
    say: Callable[[str], None] = print,
    finished: Callable[[list[Result]], None] = lambda results: None,
) -> list[Result]:
    """Runs every stage; a failure ends nothing but its stage. Results are in order of the stages.

    The order of the list is the order of preference: a stage starts as soon as those it comes after
    are over and there is room for it; an "alone" stage whose turn it is holds back those behind it.

    Args:
        stages: what to run; names in `after` that are not among them count as over.
        cores: of the machine.
        budget_s: seconds for all; what runs then is killed, what has not begun is skipped.
        logs: folder of the logs, NAME.log each.
        cwd: working directory of the commands.
        say: told what begins and ends.
        finished: called with the results so far whenever a stage is over.
    """
    logs.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    pending, running = list(stages), list[_Running]()
    results: dict[str, Result] = {}

    def over(result: Result) -> None:
        results[result.name] = result
        say(line_of(result))
        finished([results[s.name] for s in stages if s.name in results])

    def begin(stage: Stage, left: float) -> None:
        pending.remove(stage)
        if reason := stage.unless():
            over(Result(stage.name, SKIPPED, detail=reason))
            return
        try:
            running.append(_started(stage, logs, cwd, left))
            say(f"{'begins':8} {stage.name}")
        except OSError as error:
            over(Result(stage.name, FAILED, detail=f"does not start: {error}"))

    try:
        while pending or running:
            left = budget_s - (time.monotonic() - start)
            for one in list(running):
                if result := _state(one, left):
                    running.remove(one)
                    over(result)
            if left <= 0:
                for stage in pending:
                    over(Result(stage.name, SKIPPED, detail=f"no time left of {budget_s:.0f} s"))
                pending.clear()
            while stage := _next(pending, running, {s.name for s in stages} - {*results}, cores):
                begin(stage, left)
            time.sleep(_TICK_S)
    finally:  # Ctrl-C too
        for one in running:
            _kill(one)
    return [results[stage.name] for stage in stages]


def _next(
    pending: list[Stage], running: list[_Running], not_over: set[str], cores: int
) -> Stage | None:
    """The first stage that may start now."""
    for stage in pending:
        if not not_over.isdisjoint(stage.after):
            continue
        if _fits(stage, running, cores):
            return stage
        if stage.gpu == ALONE:
            return None
    return None


def _fits(stage: Stage, running: list[_Running], cores: int) -> bool:
    if not running:
        return True
    if stage.gpu == ALONE or any(one.stage.gpu == ALONE for one in running):
        return False
    return stage.cores + sum(one.stage.cores for one in running) <= cores


def _started(stage: Stage, logs: Path, cwd: Path, left: float) -> _Running:
    log = open(logs / f"{stage.name}.log", "wb")  # noqa: SIM115  (closed when the stage is over)
    try:
        process = subprocess.Popen(
            list(stage.command),
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **stage.env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own: what it starts is killed with it
        )
    except OSError:
        log.close()
        raise
    return _Running(stage, process, log, time.monotonic(), min(stage.limit_s, left))


def _state(one: _Running, left: float) -> Result | None:
    """The result of a stage that is over, by itself or by its limit."""
    code = one.process.poll()
    seconds = time.monotonic() - one.started
    if code is None and left > 0 and seconds < one.limit_s:
        return None
    _kill(one)
    last = _last_line(Path(one.log.name))
    if code is None:
        detail = f"killed after {seconds:.0f} s; last line: {last}"
        return Result(one.stage.name, TIMEOUT, seconds, detail)
    if code == 0:
        return Result(one.stage.name, OK, seconds, last)
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    return Result(one.stage.name, FAILED, seconds, f"{how}; last line: {last}")


def _kill(one: _Running) -> None:
    """Ends what is left of a stage: the whole process group, first asked, then killed."""
    end = time.monotonic() + _GRACE_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(one.process.pid, number)
        except ProcessLookupError:
            break
        while one.process.poll() is None and time.monotonic() < end:
            time.sleep(_TICK_S)
    one.process.wait()
    one.log.close()


def _last_line(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].strip("= ")[:200] if said else "(nothing printed)"


def line_of(result: Result) -> str:
    """One line for people."""
    time_of = f"{result.seconds:6.1f} s" if result.status != SKIPPED else " " * 8
    return f"{result.status:8} {result.name:34} {time_of}  {result.detail}"


def summary(results: Sequence[Result], extra: dict[str, Any]) -> str:
    """The results as JSON, with whatever else belongs there."""
    counts = {s: sum(r.status == s for r in results) for s in (OK, FAILED, TIMEOUT, SKIPPED)}
    whole = {**extra, "counts": counts, "stages": [asdict(result) for result in results]}
    return json.dumps(whole, indent=2) + "\n"
