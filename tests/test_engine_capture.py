"""What may go wrong around a capture on a GPU, played on the CPU: memory, threads, errors."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_doubles import Replayed, replay_everywhere
from networks import Fine, network, scene
from torch import Tensor

from c2fcore.engine import lane, programs
from c2fcore.engine.programs import (
    FRAME,
    NETWORK,
    NETWORK_RUNS_BEFORE_CAPTURE,
    RUNS_BEFORE_CAPTURE,
    CudaGraphs,
    Plan,
    Plans,
    Program,
)


@pytest.fixture(autouse=True)
def one_thread(threads: Callable[[int], None]) -> None:
    """Networks this small only lose by threads."""
    threads(1)


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Replayed]:
    return replay_everywhere(monkeypatch)


def test_a_network_by_itself_overwrites_nothing_of_a_frame(recorders: list[Replayed]) -> None:
    """Captured for other sizes before, it is replayed between a look and its second look."""
    net = network(n=4)
    engine = net.compile(buckets="powers")
    for i in range(NETWORK_RUNS_BEFORE_CAPTURE + 2):
        image, _ = scene(48 + 8 * i, 64, objects=9, seed=i)
        assert torch.equal(engine(image), net(image))
    empty, _ = scene(40, 64, objects=0)
    for _ in range(RUNS_BEFORE_CAPTURE):
        engine(empty)
    full, _ = scene(40, 64, objects=9)
    assert torch.equal(engine(full), net(full))
    plans = [plan for _, plan in engine._plans.items()]
    captured = {p.name for plan in plans for p in plan.programs.values() if p.captured}
    assert "fine network on (4, 3, 32, 32)" in captured
    assert any(name.startswith("look of Shape(batch=1, height=40") for name in captured)


@pytest.mark.parametrize("rule", ["normalized", "paper", "official"])
def test_a_thread_makes_itself_ready_before_it_captures(
    recorders: list[Replayed], rule: str
) -> None:
    """Every program is captured by a thread that has not run it, and so runs twice in a row."""
    net = network(n=4, rule=rule)
    engine = net.compile(buckets="powers", lanes=1)
    image, _ = scene(60, 64, objects=9)
    found: list[Tensor] = []
    for _ in range(RUNS_BEFORE_CAPTURE + 2):
        thread = threading.Thread(target=lambda: found.append(engine(image)))
        thread.start()
        thread.join()
    assert all(torch.equal(labels, net(image)) for labels in found)
    assert len(found) == RUNS_BEFORE_CAPTURE + 2
    assert recorders[0].captures == 2


def test_the_thread_that_captures_has_run_the_body() -> None:
    ran: list[str] = []

    class Noting(Replayed):
        def capture(self, body: Callable[[], Any], memory: str) -> Any:
            ran.append("capture")
            return super().capture(body, memory)

    def body() -> Tensor:
        ran.append(threading.current_thread().name)
        return torch.ones(1)

    program = Program("look", body, Noting())
    for _ in range(RUNS_BEFORE_CAPTURE):
        program.run()
    other = threading.Thread(target=program.run, name="other")
    other.start()
    other.join()
    main = threading.current_thread().name
    assert ran[: RUNS_BEFORE_CAPTURE + 2] == [main] * RUNS_BEFORE_CAPTURE + ["other", "capture"]


def test_a_whole_that_cannot_be_captured_gives_way_to_two_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Called, it would run the fine network once per size of the second look in every frame."""

    class NoBranches(Replayed):
        def capture(self, body: Callable[[], Any], memory: str) -> Any:
            if "_whole" in repr(body):
                raise RuntimeError("a node that must not be in a branch")
            return super().capture(body, memory)

    monkeypatch.setattr(lane, "recorder_for", lambda networks, stream: NoBranches())
    fine = Fine()
    net = network(fine=fine, n=9)
    engine = net.compile(buckets="powers", lanes=1)
    (only,) = engine._all_lanes
    only._settings = replace(only._settings, conditional=True)
    image, _ = scene(96, 96, objects=3)
    expected = net(image)
    with caplog.at_level(logging.WARNING, "c2fcore"):
        for _ in range(RUNS_BEFORE_CAPTURE + 1):
            assert torch.equal(engine(image), expected)
    assert len(caplog.messages) == 1
    shown = engine.networks.fine.shapes
    for _ in range(3):
        shown.clear()
        assert torch.equal(engine(image), expected)
        assert {shape[0] for shape in shown} == {4}
    assert len(caplog.messages) == 1


def test_many_chunks_need_no_more_graphs(recorders: list[Replayed]) -> None:
    """Wherever a chunk begins: networks are captured for each number of patches, once."""
    net = network(n=40, max_batch=8, stride=4)
    engine = net.compile(buckets="powers", lanes=1)
    for i in range(40):
        image, _ = scene(120, 120, objects=2 + i, seed=i)
        assert torch.equal(engine(image), net(image))
    names = {name for _, plan in engine._plans.items() for name in plan.programs}
    assert names <= {"look", "coarse", "fine", ("second", 4), ("second", 8)}
    inputs = {key[2][0] for key, _ in engine._plans.items() if key[1] == "fine"}
    assert inputs == {4, 8}


def test_warm_up_captures_the_networks_of_many_chunks(recorders: list[Replayed]) -> None:
    net = network(n=40, max_batch=8, stride=4)
    engine = net.compile(buckets="powers", lanes=1)
    shape = lane.Shape(1, 120, 120, 3, torch.uint8)
    for _ in range(RUNS_BEFORE_CAPTURE + 1):
        engine._all_lanes[0].warm_up(shape)
    before = recorders[0].captures
    assert before == 1 + 2 + 2  # the look; 4 and 8 patches in one forward; in one of several
    for i in range(12):
        image, _ = scene(120, 120, objects=2 + 3 * i, seed=i)
        assert torch.equal(engine(image), net(image))
    assert recorders[0].captures == before


class Sized(Plan):
    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self.size_bytes = size_bytes


def test_buffers_are_bounded_in_bytes() -> None:
    plans: Plans[Sized] = Plans(64, 100)
    for key, size in (("a", 60), ("b", 30), ("c", 20), ("d", 500), ("e", 1)):
        plans.release(plans.get(key, lambda size=size: Sized(size)))
    assert [key for key, _ in plans.items()] == ["e"]  # "d" alone was too much, but in use
    assert plans.evicted == 4


def test_an_engine_keeps_few_images_that_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("c2fcore.engine.engine._BUFFER_BYTES", 3 * 100 * 100 * 16)
    net = network(n=4)
    engine = net.compile()
    for side in (96, 97, 98, 99, 100, 98):
        image, _ = scene(side, 100, objects=9)
        assert torch.equal(engine(image), net(image))
    assert engine.programs() <= 3


class FakeCuda:
    """As much of torch.cuda as a capture touches; notes what is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[Any] = []
        self.capturing = False
        self.end_fails = False
        self.handles = 0
        fake = self

        class Graph:
            def replay(self) -> None:
                fake.done.append("replay")

            def capture_end(self) -> None:
                fake.capturing = False
                fake.done.append("capture_end")
                raise RuntimeError("capture was invalidated")

        @contextmanager
        def graph(graph: Any, **options: Any) -> Iterator[None]:
            fake.done.append(options)
            fake.capturing = True
            try:
                yield
            finally:
                if fake.end_fails:
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
        ):
            monkeypatch.setattr(torch.cuda, name, value)

        def end(index: int, pool: tuple[int, int]) -> None:
            fake.done.append(("end", index, pool))
            raise RuntimeError("not currently recording")

        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)


def test_captures_keep_to_their_stream_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(monkeypatch)
    recorder = CudaGraphs(torch.device("cuda:1"), "lane's", True)  # type: ignore[arg-type]
    collecting: list[bool] = []

    def body() -> int:
        collecting.append(gc.isenabled())
        assert recorder.recording
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
    assert fake.done[1:] == [("set_stream", "lane's"), "capture_end", ("end", 1, pool)]
    fake.end_fails = False
    recorder.capture(lambda: None, FRAME)
    assert fake.done[-1]["pool"] != pool  # no other capture would be let into it
    assert not recorder.recording
    assert gc.isenabled()
    assert programs._capturing.acquire(blocking=False)
    programs._capturing.release()


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


def test_nothing_is_freed_while_a_graph_is_captured() -> None:
    """Freeing pinned memory records events on streams, of which one may be capturing."""
    plans: Plans[Sized] = Plans(1, 100)
    plans.release(plans.get("old", lambda: Sized(1)))
    (held,) = [plan for _, plan in plans.items()]
    held.programs["look"] = Program("look", lambda: None, Replayed())
    started = threading.Event()

    def evict() -> None:
        started.set()
        plans.release(plans.get("new", lambda: Sized(1)))

    thread = threading.Thread(target=evict)
    with programs._capturing:
        thread.start()
        assert started.wait(5)
        thread.join(0.2)
        assert thread.is_alive()
        assert held.programs
    thread.join(5)
    assert not held.programs
