"""Runs tests so that one broken kernel does not hide the others: a plugin, and its restarts.

    python tests/gpu_run.py RECORD [pytest arguments]

An illegal address or a failed launch poisons the CUDA context of a process: every later call fails,
whatever it is. The plugin notices and ends the process; `main` starts another one, which goes on
behind the last test, and does the same after a crash. RECORD keeps what came of each test.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BROKEN = 77  # exit status of a process whose CUDA context is unusable
RESTARTS = 20


def read(record: Path) -> dict[str, dict[str, str]]:
    """The last entry of each test: {"test", "outcome", "why"}; "started" if it never ended."""
    found: dict[str, dict[str, str]] = {}
    if record.exists():
        for line in record.read_text().splitlines():
            entry = json.loads(line)
            found[entry["test"]] = entry
    return found


class Recorder:
    """Writes the record, leaves out what stands in it, stops when the context is broken."""

    def __init__(self, record: Path, shard: str) -> None:
        self.record = record
        self.first, self.step = (int(word) for word in shard.split("/"))
        self.done = read(record)
        self.outcome, self.why = "passed", ""
        self.session: pytest.Session | None = None
        self.broken = False

    def write(self, test: str, outcome: str, why: str = "") -> None:
        with self.record.open("a") as file:
            file.write(json.dumps({"test": test, "outcome": outcome, "why": why}) + "\n")

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        mine = items[self.first - 1 :: self.step]
        items[:] = [item for item in mine if item.nodeid not in self.done]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.outcome, self.why = "passed", ""
        self.write(nodeid, "started")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.outcome != "failed":
            self.outcome, self.why = "failed", _reason(report)
        elif report.skipped and self.outcome == "passed":
            self.outcome, self.why = "skipped", _reason(report)
        if report.when == "teardown":
            self.write(report.nodeid, self.outcome, self.why)
            if self.outcome == "failed" and context_is_broken():
                self.broken = True
                assert self.session is not None
                self.session.shouldstop = "the CUDA context is broken"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.broken:
            session.exitstatus = BROKEN


def _reason(report: pytest.TestReport) -> str:
    """The last line of the traceback, or the reason of a skip."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash else report.longrepr)
    return (text.strip().splitlines() or [""])[0][:200]


def context_is_broken() -> bool:
    """Whether nothing will run on the GPU in this process any more."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").sum().item()
    except RuntimeError as error:  # out of memory ends a test, not a context
        return not isinstance(error, torch.cuda.OutOfMemoryError)
    return False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="file of outcomes (tests/gpu_run.py)")
    parser.addoption("--shard", default="1/1", help="2/5: the second of every five tests")


def pytest_configure(config: pytest.Config) -> None:
    record = config.getoption("--record")
    if record is not None:
        shard = Recorder(record, config.getoption("--shard"))
        config.pluginmanager.register(shard, "gpu_run-recorder")


def sums(record: Path, restarts: int) -> tuple[str, bool]:
    """One line about all processes together, and whether all is well."""
    entries = list(read(record).values())
    counts = dict.fromkeys(("passed", "failed", "skipped", "started"), 0)
    for entry in entries:
        counts[entry["outcome"]] += 1
    said = [f"{counts['passed']} passed", f"{counts['failed']} failed"]
    said += [f"{counts['started']} crashed"] if counts["started"] else []
    said += [f"{counts['skipped']} skipped"] if counts["skipped"] else []
    said += [f"{restarts} restarts"] if restarts else []
    bad = [e for e in entries if e["outcome"] in ("failed", "started")]
    line = ", ".join(said)
    if bad:
        line += f"; first: {bad[0]['test']}: {bad[0]['why'] or 'the process died'}"
    return line, not bad and counts["passed"] > 0


def main(arguments: list[str]) -> int:
    """Runs pytest until every test has been met, in as many processes as that takes."""
    record = Path(arguments[0]).resolve()
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    command: list[Any] = [sys.executable, "-m", "pytest", "-p", "gpu_run", "--record", record]
    restarts = 0
    while True:
        before = len(read(record))
        code = subprocess.call([*command, *arguments[1:]])
        if (code != BROKEN and code >= 0) or len(read(record)) == before or restarts == RESTARTS:
            break
        restarts += 1
        print(f"gpu_run: the process broke (exit {code}); another one goes on", flush=True)
    line, well = sums(record, restarts)
    print(line)
    # 5: nothing was left to collect after the last restart.
    return 0 if well and (code == 0 or (code == 5 and restarts)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
