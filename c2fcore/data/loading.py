"""Processes that load data: forked by a server without threads, never by the one that computes.

What a thread holds at the moment of a fork stays locked in the child for ever: beside those of
autograd, of collectives or of pinned memory a fork hangs now and then, and with it the run. A
server has no threads, and imports once what takes long, which spawned processes do one by one.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any, Final

from torch.utils.data import DataLoader

_METHOD: Final = "forkserver"
_SERVER: Final = f"{__package__}.loading_server"
# Seconds: as long as torchrun waits.
_GRACE: Final = 30
_MOST: Final = 16


def check(workers: int) -> int:
    """The number of processes, of which each takes some hundred MB.

    Raises:
        ValueError: it is out of range.
    """
    most = _MOST * (os.cpu_count() or 1)
    if not 0 <= workers <= most:
        raise ValueError(f"workers must be in 0..{most}, {_MOST} for each processor, got {workers}")
    return workers


def start() -> None:
    """Starts the server, which imports what it needs beside what the caller does next."""
    multiprocessing.get_context(_METHOD).set_forkserver_preload(["__main__", _SERVER])
    with deaf_to_interrupts():
        forkserver.ensure_running()


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started within never get Ctrl-C, which would be a traceback of an import.

    They inherit that it is blocked. One that comes meanwhile is heard here at the end: ignored, it
    would be lost, and the command would work on.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    if (before := signal.getsignal(signal.SIGINT)) is None:  # not Python's
        yield
        return
    resource_tracker.ensure_running()  # Python 3.11 unblocks Ctrl-C when it has started it
    came: list[int] = []
    # Other threads do not block it, and may get it instead.
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


class Loader(DataLoader[Any]):
    """A DataLoader whose processes have all been started when Ctrl-C is heard.

    Between two of them it would leave an iterator that cannot tidy up, and take away from the first
    one what it was about to be sent: either is a traceback below the command's last word.
    """

    def __iter__(self) -> Any:
        """Starts the processes, or takes those of the iteration before."""
        with deaf_to_interrupts():
            return super().__iter__()


def options(workers: int, *, kept: bool = True) -> dict[str, Any]:
    """Of a Loader with so many processes, kept for the next iteration or not; 0 for none."""
    if workers == 0:
        return {}
    start()
    return {
        "num_workers": workers,
        "multiprocessing_context": _METHOD,
        "worker_init_fn": _begin,
        "persistent_workers": kept,
    }


@atexit.register
def _end() -> None:
    """Who is still loading when the interpreter ends would have it wait until the grace is over."""
    for child in multiprocessing.active_children():
        if child.daemon and isinstance(child, multiprocessing.context.ForkServerProcess):
            child.kill()


def _begin(worker: int) -> None:
    """A loading process lives on, for training to finish its step, when all are asked to stop.

    Ctrl-C in a terminal goes to every process, and so may a scheduler's SIGTERM. But it ends with
    the process that it loads for: DataLoader's own watch looks at the server, which lives on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
