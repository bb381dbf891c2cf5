"""A signal that comes while a kernel runs: what its handler raises ends the call."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from availability import need
from test_fork import status_of_child
from torch import Tensor

from c2fcore import ops

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
AFTER_S = 0.3  # from setting the timer to the signal
Ring = Callable[[Callable[..., Any]], None]


class Told(Exception):
    """What a handler raises."""


def raise_told(*_: Any) -> None:
    raise Told


@pytest.fixture
def ring() -> Iterator[Ring]:
    """The function that sets a timer, and what is called when it has run."""
    need("cpu", "count_windows")
    handler, threads = signal.getsignal(signal.SIGALRM), torch.get_num_threads()

    def start(called: Callable[..., Any]) -> None:
        signal.signal(signal.SIGALRM, called)
        signal.setitimer(signal.ITIMER_REAL, AFTER_S)

    torch.set_num_threads(2)
    yield start
    torch.set_num_threads(threads)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)


def count(batch: int) -> Tensor:
    """Counts on maps of small objects alone, which are one number in memory."""
    labels = torch.ones((), dtype=torch.uint8).expand(batch, 16384, 16384)
    found = ops.count_windows(labels, (1,), window=1024, stride=1024, backend="cpu")
    assert isinstance(found, Tensor)
    return found


def whole(counts: Tensor) -> bool:
    return bool((counts == 1024**2).all())


def batch_lasting(seconds: float) -> int:
    """As many maps as take ``count`` that long, at least, by the best of three calls here."""

    def once() -> float:
        start = time.monotonic()
        count(1)
        return time.monotonic() - start

    return math.ceil(seconds / min(once() for _ in range(3)))


def ends_early(ring: Ring) -> bool:
    batch = batch_lasting(12)
    start = time.monotonic()
    ring(raise_told)
    try:
        count(batch)
    except Told:
        return time.monotonic() - start < 6  # it hears within 0.2 s, and a task has to end
    return False


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_handler_raises_ends_the_call(ring: Ring, threads: int) -> None:
    torch.set_num_threads(threads)
    assert ends_early(ring)
    assert whole(count(1))  # and the next one is whole


def test_in_a_forked_process(ring: Ring) -> None:
    count(1)
    assert status_of_child(lambda: ends_early(ring)) == 0


def test_a_handler_that_returns_ends_nothing(ring: Ring) -> None:
    rung: list[float] = []
    batch = batch_lasting(8 * AFTER_S)
    ring(lambda *_: rung.append(time.monotonic()))
    assert whole(count(batch))
    assert rung


def test_calls_of_other_threads_go_on(ring: Ring) -> None:
    found: list[Tensor] = []
    batch = batch_lasting(8 * AFTER_S)
    worker = threading.Thread(target=lambda: found.append(count(batch)))
    ring(raise_told)
    worker.start()
    with pytest.raises(Told):
        time.sleep(60)
    worker.join()
    assert whole(found[0])
