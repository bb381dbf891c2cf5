"""What ends c2f prepare early: Ctrl-C, kill -9, a process that dies, a folder that refuses."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plain_folders import command, ids, photo, save, three_images

from c2fcore.cli import main
from c2fcore.data import prepare as preparing
from c2fcore.data.prepared import PreparedData

Said = Callable[[], str]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return three_images(tmp_path / "mine")


_KILLED = """
import os, signal, sys
from c2fcore.cli import main
move, files = os.replace, []
def killed(*names):
    files.append(names)
    if len(files) == 60:
        os.kill(os.getpid(), signal.SIGKILL)
    move(*names)
os.replace = killed
main(sys.argv[1:])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_ctrl_c_is_for_one_process_which_ends_the_others(
    mine: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal sends it to all of them, also to those that are importing."""
    deaf: list[bool] = []

    def stopped(_: Any) -> None:
        for child in multiprocessing.active_children():
            status = Path(f"/proc/{child.pid}/status").read_text()
            blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
            deaf.append(bool(blocked & 1 << signal.SIGINT - 1))
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing.Bar, "update", stopped)
    assert main(command(mine, tmp_path / "out", "--workers", "2")) == 130
    assert deaf == [True, True]
    assert not multiprocessing.active_children()
    monkeypatch.undo()
    assert main(command(mine, tmp_path / "out")) == 0


def test_a_run_that_was_killed_goes_on(mine: Path, tmp_path: Path) -> None:
    """Three images have a tile each, the others hundreds: it ends among the fourth one's."""
    for i in range(2):
        save(mine / f"images/n{i}.png", photo(200, 200))
        save(mine / f"masks/n{i}.png", ids(2, 200, 200))
    more = ["--tile", "32", "--overlap", "16"]
    run = command(mine, tmp_path / "out", *more)
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, *run], stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    assert killed.returncode == -signal.SIGKILL
    records = tmp_path / "out" / "records" / "all"
    done = {path.name: path.stat().st_mtime_ns for path in records.glob("[!.]*.json")}
    assert done.keys() == {"a.json", "b.json", "c.json"}
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert main(run) == 0
    assert all((records / name).stat().st_mtime_ns == time_ for name, time_ in done.items())
    assert main(command(mine, tmp_path / "whole", *more)) == 0
    whole = tmp_path / "whole"
    assert PreparedData.open(tmp_path / "out").splits == PreparedData.open(whole).splits
    assert not list((tmp_path / "out").rglob(".*.partial"))
    for path in whole.rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(whole)).read_bytes()


def test_a_process_that_dies_is_told(
    mine: Path, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import Future
    from concurrent.futures.process import BrokenProcessPool

    class Dying:
        def __init__(self, *args: object, **options: object) -> None: ...
        def __enter__(self) -> Dying:
            return self

        def __exit__(self, *args: object) -> None: ...
        def submit(self, *args: object) -> Future[None]:
            future: Future[None] = Future()
            future.set_exception(BrokenProcessPool("A process was terminated abruptly"))
            return future

    monkeypatch.setattr(preparing, "ProcessPoolExecutor", Dying)
    assert main([*command(mine, tmp_path / "out"), "--workers", "2"]) == 2
    assert "run it again to go on, with fewer --workers" in said()


@pytest.mark.skipif(os.name != "posix", reason="needs a file system that refuses")
def test_a_folder_that_cannot_be_written(mine: Path, said: Said) -> None:
    for out in (Path("/proc/nothing"), mine / "images/a.png", mine / "images/a.png/deeper"):
        assert main(command(mine, out)) == 2
        assert f"the folder to write must be one that can be made, got {out}: " in said()
