"""Memory that the CUDA kernels work in, as far as it needs no GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from c2fcore import _cuda

CPU = torch.device("cpu")


def test_counters_of_graphs_are_zero_and_nobody_elses() -> None:
    pool = _cuda.TicketPool()
    assert pool.take(3) is None, "nothing is known to be zero yet"
    pool.fill(CPU)
    taken = [pool.take(count) for count in (3, 32, 33, 1)]
    for number, slice_ in enumerate(taken, start=1):
        assert slice_ is not None
        assert not slice_.any()
        slice_.fill_(number)
    for number, slice_ in enumerate(taken, start=1):
        assert slice_ is not None
        assert (slice_ == number).all()
    lines = [slice_.storage_offset() for slice_ in taken if slice_ is not None]
    assert lines == [0, 32, 64, 128]


def test_used_up_counters_are_refused() -> None:
    pool = _cuda.TicketPool()
    pool.fill(CPU)
    assert pool.take(pool.COUNT) is not None
    assert pool.take(1) is None
    pool.fill(CPU)  # what graphs hold is not zeroed under them
    assert pool.take(1) is None


def test_a_captured_call_launches_nothing_to_get_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does an eager one, once it has some of its stream."""
    workspace = _cuda.Workspace(torch.device("cuda", 0))
    workspace._of_graphs.fill(CPU)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)

    def launches(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a launch of its own")

    monkeypatch.setattr(torch, "zeros", launches)
    first, second = workspace.tickets(15), workspace.tickets(15)
    assert first.numel() == second.numel() == 15
    assert first.data_ptr() != second.data_ptr()
