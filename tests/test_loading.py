"""Loading processes of c2f train: forked by a server, kept over validations, gone with the run."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from loading_runs import SECONDS, hold, loader
from safetensors.torch import load_file
from train_runs import coarse

from c2fcore.cli import main
from c2fcore.data import loading

pytest.importorskip("lightning")
pytest.importorskip("jsonargparse")
pytest.importorskip("torchmetrics")

from c2fcore.train import command
from c2fcore.train.running import plain_errors

pytestmark = pytest.mark.usefixtures("one_thread")


def ended(pids: list[int]) -> bool:
    """Whether these processes end within the time."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_an_interpreter_that_ends_waits_for_no_loader(data: Path) -> None:
    """Where one is still alive, as in an interactive session: Python joins what it has started."""
    code = f"""if __name__ == "__main__":
        import atexit, multiprocessing.util, pathlib

        def tell():
            theirs[0].join({SECONDS})
            print(theirs[0].exitcode)

        atexit.register(tell)  # before Python joins
        import loading_runs
        kept = iter(loading_runs.loader(pathlib.Path({str(data)!r}), 1))
        next(kept)
        theirs = multiprocessing.active_children()
    """
    command, here = [sys.executable, "-c", code], Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout == "-9\n"


def test_a_training_process_never_forks_and_its_validations_share_processes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = command.CoarseTask.validation_step
    loading_it: dict[int, set[int]] = {}

    def watched(self: Any, batch: Any, batch_idx: int) -> None:
        pids = {child.pid for child in multiprocessing.active_children()}
        loading_it.setdefault(self.trainer.global_step, set()).update(pids)
        step(self, batch, batch_idx)

    def fork() -> int:
        raise AssertionError("a fork beside threads")

    assert main(coarse(data, tmp_path / "alone")) == 0
    monkeypatch.setattr(command.CoarseTask, "validation_step", watched)
    monkeypatch.setattr(os, "fork", fork)
    assert main(coarse(data, tmp_path / "run", "--data.workers=2")) == 0
    assert list(loading_it) == [2, 4, 6]
    assert len(set().union(*loading_it.values())) == 2 + 2
    one, other = (load_file(tmp_path / run / "checkpoint" / "model.safetensors")
                  for run in ("alone", "run"))  # fmt: skip
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_the_server_never_gets_ctrl_c_from_its_first_moment_on() -> None:
    """It imports for seconds, out of which a KeyboardInterrupt would be a traceback."""
    script = (
        "from multiprocessing import forkserver; from pathlib import Path\n"
        "from c2fcore.data import loading; loading.start()\n"
        "pid = forkserver._forkserver._forkserver_pid\n"
        "print(Path(f'/proc/{pid}/status').read_text().partition('SigBlk:')[2].split()[0])"
    )
    said = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert int(said, 16) & 1 << signal.SIGINT - 1


def test_ctrl_c_while_processes_are_started_is_heard_when_they_are() -> None:
    steps = []

    def command() -> None:
        with loading.deaf_to_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("started")
        steps.append("worked on")

    with pytest.raises(KeyboardInterrupt):
        command()
    assert steps == ["started"]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_leaves_no_loading_process_half_started(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be a traceback of its own, and of the iterator that cannot end it."""
    start, started = ForkServerProcess.start, []

    def interrupted(self: Any) -> None:
        start(self)
        started.append(self)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ForkServerProcess, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        iter(loader(data, 2))
    assert len(started) == 2
    for process in started:
        process.join(SECONDS)
        assert process.exitcode == 0


def test_loading_processes_end_with_the_process_they_load_for(data: Path) -> None:
    ours, theirs = multiprocessing.get_context("forkserver").Pipe()
    loading.start()
    training = multiprocessing.get_context("forkserver").Process(target=hold, args=(data, theirs))
    training.start()
    assert ours.poll(SECONDS)
    pids: list[int] = ours.recv()
    assert len(pids) == 2
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    training.kill()
    assert ended(pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_they_finish_the_step_when_all_are_asked_to_stop(data: Path, number: int) -> None:
    expected = [batch["index"].tolist() for batch in loader(data, 0, steps=30)]
    batches = iter(loader(data, 1, steps=30))
    found = [next(batches)["index"].tolist()]
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    (child,) = multiprocessing.active_children()
    for pid in (server, child.pid):
        os.kill(pid, number)
    found += [batch["index"].tolist() for batch in batches]
    assert found == expected
    assert os.waitpid(server, os.WNOHANG) == (0, 0)  # it lives on


def test_one_that_is_killed_ends_training_in_one_line(
    data: Path, tmp_path: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = command.CoarseTask.training_step

    def killing(self: Any, batch: Any, batch_idx: int) -> Any:
        for child in multiprocessing.active_children():
            child.kill()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(command.CoarseTask, "training_step", killing)
    assert main(coarse(data, tmp_path / "run", "--data.workers=1", "--data.val=null")) == 2
    assert "every loading process must live, got one ended from outside (out of" in said()


def test_what_a_lost_process_had_sent() -> None:
    with pytest.raises(RuntimeError, match="every loading process must live"), plain_errors():
        connection.Client("/nowhere", "AF_UNIX")
    with pytest.raises(FileNotFoundError), plain_errors():
        Path("/nowhere").read_text()


def test_other_processes_of_the_server_can_be_ended() -> None:
    loading.start()
    other = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(SECONDS,))
    other.start()
    other.terminate()
    other.join(SECONDS)
    assert other.exitcode == -signal.SIGTERM


def test_what_loads_can_be_sent(data: Path) -> None:
    tiles: Callable[[int], Any] = loader(data, 0).dataset.__getitem__
    sent = pickle.loads(pickle.dumps(loader(data, 0).dataset))
    for draw in range(4):
        assert torch.equal(tiles(draw)["image"], sent[draw]["image"])
