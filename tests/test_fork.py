"""A process forked after calls on several threads: OpenMP's threads do not come along."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from availability import need
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from c2fcore import Windows, ops

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 warns of forks beside threads, which are what is tested.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
SECONDS = 300.0  # at most
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 8, 96, 96, generator=GENERATOR)
IMAGE = torch.randint(0, 256, (2, 3, 384, 384), dtype=torch.uint8, generator=GENERATOR)
FINE = torch.randn(16, 2, 32, 32, generator=GENERATOR)
GRID = {"window": 64, "stride": 32, "size": (384, 384)}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def answers() -> dict[str, Tensor]:
    """Every op, on two threads and more tasks than that."""
    counts = ops.count_windows(LOGITS, (1, 2), **GRID, backend="cpu")
    windows = ops.select_windows(LOGITS, (1, 2), n=8, **GRID, backend="cpu")
    assert isinstance(windows, Windows)
    size = GRID["size"]
    return {
        "counts": counts,
        "origins": windows.origins,
        "patches": ops.extract_patches(IMAGE, windows, zoom=2, backend="cpu"),
        "targets": ops.extract_targets(IMAGE[:, 0], windows, (1, 2), backend="cpu"),
        "labels": ops.aggregate(LOGITS, FINE, windows, (1, 2), size=size, backend="cpu"),
        "probs": ops.aggregate(
            LOGITS, FINE, windows, (1, 2), size=size, output="probs", backend="cpu"
        ),
    }


def status_of_child(run: Callable[[], bool]) -> int | None:
    """What a forked child that runs this ended with; None if it hangs."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if run() else 1)
        finally:
            os._exit(2)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def test_a_child_and_its_own_child() -> None:
    need("cpu", "count_windows", "select_windows", "extract_patches", "aggregate")
    expected = {key: value.numpy() for key, value in answers().items()}

    def agrees() -> bool:
        # NumPy: torch's own parallel loops would hang here.
        found = {key: value.numpy() for key, value in answers().items()}
        return all(np.array_equal(found[key], expected[key]) for key in expected)

    assert status_of_child(agrees) == 0
    assert status_of_child(lambda: agrees() and status_of_child(agrees) == 0) == 0
    assert agrees()  # and the parent goes on


class Answers(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        torch.set_num_threads(2)  # a DataLoader sets 1
        return answers()


def test_loading_processes() -> None:
    need("cpu", "count_windows", "select_windows", "extract_patches", "aggregate")
    expected = answers()
    loader = DataLoader(
        Answers(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=SECONDS
    )
    found = list(loader)
    assert len(found) == 4
    for item in found:
        for key, value in expected.items():
            assert torch.equal(item[key], value), key
