"""The engine's recorder of CUDA graphs, on a double of torch.cuda: memory, streams, errors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from c2fcore.engine import cuda_graphs, programs
from c2fcore.engine.cuda_graphs import CudaGraphs
from c2fcore.engine.programs import FRAME, NETWORK, OWN


class FakeCuda:
    """As much of torch.cuda as a capture touches; notes what is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[Any] = []
        self.capturing = False
        self.end_fails = False
        self.stuck = False
        self.allocating = False  # to the memory of a capture that has failed
        self.graphs: list[weakref.ref[Any]] = []
        self.handles = 0
        self.free = 0
        self.allowed = 1.0
        fake = self

        class Graph:
            def __init__(self) -> None:
                fake.graphs.append(weakref.ref(self))

            def replay(self) -> None:
                fake.done.append("replay")

            def capture_end(self) -> None:
                fake.capturing = fake.stuck
                fake.done.append("capture_end")
                raise RuntimeError("capture was invalidated")

        @contextmanager
        def graph(graph: Any, **options: Any) -> Iterator[None]:
            fake.done.append(options)
            fake.capturing = True
            try:
                yield
            finally:
                if fake.end_fails and "pool" in options:
                    raise RuntimeError("Capture must end on the same stream it began on.")
                fake.capturing = False

        @contextmanager
        def device(device: Any) -> Iterator[None]:
            yield

        def handle() -> tuple[int, int]:
            fake.handles += 1
            return (0, fake.handles)

        for name, value in (
            ("CUDAGraph", Graph),
            ("graph", graph),
            ("device", device),
            ("graph_pool_handle", handle),
            ("set_stream", lambda stream: fake.done.append(("set_stream", stream))),
            ("is_current_stream_capturing", lambda: fake.capturing),
            ("empty_cache", lambda: fake.done.append("empty")),
            ("mem_get_info", lambda device: (fake.free, 16 << 30)),
            ("get_per_process_memory_fraction", lambda device: fake.allowed),
            ("memory_reserved", lambda device: 2 << 30),
            ("memory_snapshot", lambda pool: [{"total_size": 1 << 30}, {"total_size": 1 << 29}]),
        ):
            monkeypatch.setattr(torch.cuda, name, value)

        def end(index: int, pool: tuple[int, int]) -> None:
            fake.done.append(("end", index, pool))
            if not fake.allocating:
                raise RuntimeError("not currently recording")

        def clear() -> None:
            fake.done.append("clear" if fake.capturing else "clear too late")

        monkeypatch.setattr(cuda_graphs, "_failed", [])
        monkeypatch.setattr(torch, "zeros", lambda *size, **options: fake.done.append("zeros"))
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", clear, raising=False)


def test_captures_keep_to_their_stream_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    recorder = CudaGraphs(torch.device("cuda:1"), "lane's", True)  # type: ignore[arg-type]
    collecting: list[bool] = []

    def body() -> int:
        collecting.append(gc.isenabled())
        assert recorder.recording
        fake.done.append("body")
        return 7

    for memory in (FRAME, NETWORK, FRAME):
        replay, outputs = recorder.capture(body, memory)
        assert outputs == 7
        replay()
    captures = [given for given in fake.done if isinstance(given, dict)]
    pools = [given["pool"] for given in captures]
    assert pools[0] == pools[2] != pools[1]
    assert all(given["stream"] == "lane's" for given in captures)
    assert all(given["capture_error_mode"] == "thread_local" for given in captures)
    # Workspaces of cuBLAS are the graph's own: that of the stream ends with any of its graphs.
    assert fake.done[1:5] == ["clear", "body", "clear", "replay"]
    assert collecting == [False] * 3
    assert gc.isenabled()
    assert not recorder.recording


def test_a_capture_that_fails_leaves_the_stream_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    fake.end_fails = True
    recorder = CudaGraphs(torch.device("cuda:1"), "lane's", True)  # type: ignore[arg-type]

    def body() -> None:
        raise ValueError("what went wrong first")

    with pytest.raises(ValueError, match="what went wrong first"):
        recorder.capture(body, FRAME)
    assert not fake.capturing
    pool = fake.done[0]["pool"]
    alone = {"stream": "lane's", "capture_error_mode": "thread_local"}
    ended = [("set_stream", "lane's"), "capture_end", ("end", 1, pool)]
    assert fake.done[3:] == [*ended, alone, "zeros"], "a capture that succeeds, for the generator"
    assert not recorder.lost
    fake.end_fails = False
    recorder.capture(lambda: None, FRAME)
    assert fake.done[-3]["pool"] != pool  # no other capture would be let into it
    assert not recorder.recording
    assert gc.isenabled()
    assert programs.capturing.acquire(blocking=False)
    programs.capturing.release()


@pytest.mark.parametrize("allocating", [False, True])
def test_graphs_that_an_allocator_asks_stay(
    monkeypatch: pytest.MonkeyPatch, allocating: bool
) -> None:
    """Those whose capture could not be ended as it should."""
    fake = FakeCuda(monkeypatch)
    fake.end_fails, fake.allocating = True, allocating
    recorder = CudaGraphs(torch.device("cuda:1"), "lane's", True)  # type: ignore[arg-type]

    def body() -> None:
        raise ValueError("what went wrong first")

    with pytest.raises(ValueError, match="what went wrong first"):
        recorder.capture(body, FRAME)
    del recorder
    gc.collect()
    graph, again = fake.graphs
    assert (graph() is not None) == allocating
    assert again() is None


def test_a_stream_that_goes_on_capturing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    fake.end_fails = fake.stuck = True
    recorder = CudaGraphs(torch.device("cuda:1"), "lane's", True)  # type: ignore[arg-type]

    def body() -> None:
        raise ValueError("what went wrong first")

    with pytest.raises(ValueError, match="what went wrong first"):
        recorder.capture(body, FRAME)
    assert recorder.lost


def test_a_branch_that_fails_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    class Capturing:
        def begin_capture_to_if_node(self, condition: Tensor) -> None:
            assert condition.dtype == torch.bool

        def end_capture_to_conditional_node(self) -> None:
            ended.append("end")
            raise RuntimeError("capture was invalidated")

    FakeCuda(monkeypatch)
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "get_currently_capturing_graph", Capturing, raising=False
    )
    recorder = CudaGraphs(torch.device("cuda:0"), None, True)  # type: ignore[arg-type]
    recorder.recording = True

    def body() -> None:
        raise ValueError("what went wrong first")

    with pytest.raises(ValueError, match="what went wrong first"):
        recorder.when(torch.tensor(True), body)
    assert ended == ["end"]
    with pytest.raises(RuntimeError, match="invalidated"):
        recorder.when(torch.tensor(True), lambda: None)


def test_what_branches_is_captured_where_there_is_memory_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A branch that runs out of memory would end the process; no memory serves two of them."""
    fake = FakeCuda(monkeypatch)
    recorder = CudaGraphs(torch.device("cuda:0"), "lane's", True)  # type: ignore[arg-type]
    parts = [lambda: None] * 3
    fake.free = 8 << 30  # of 3 x 1.5 GiB, and as much for others
    with pytest.raises(
        RuntimeError, match=r"parts take 4\.50 GiB beside each other, and of 8\.00 "
    ):
        recorder.rehearse(parts)
    assert fake.done[-1] == "empty"
    fake.free = 9 << 30
    fake.allowed = 10 / 16  # of which 2 GiB are taken
    with pytest.raises(RuntimeError, match=r"of 8\.00 GiB that are free"):
        recorder.rehearse(parts)
    fake.allowed = 1.0
    recorder.rehearse(parts)
    recorder.capture(lambda: None, OWN)
    recorder.capture(lambda: None, OWN)
    captures = [given["pool"] for given in fake.done if isinstance(given, dict)]
    assert len(set(captures)) == len(captures) == 3 * 3 + 2
    gc.collect()
    assert not any(graph() for graph in fake.graphs)
