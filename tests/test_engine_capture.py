"""What may go wrong around a capture on a GPU, played on the CPU: memory, threads, errors."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_doubles import Replayed, replay_everywhere
from networks import Fine, network, scene
from torch import Tensor

from c2fcore.engine import lane, programs
from c2fcore.engine.plan import Shape, ShapePlan
from c2fcore.engine.programs import (
    NETWORK_RUNS_BEFORE_CAPTURE,
    RUNS_BEFORE_CAPTURE,
    Plan,
    Plans,
    Program,
    Recorder,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_what_goes_to_a_gpu_and_comes_back_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies that nobody waits for need pinned memory; what stays on the device needs none."""
    networks = network(n=4).compile().networks
    monkeypatch.setattr(networks, "device", torch.device("cuda"))
    pinned: list[Tensor] = []

    def on_the_cpu(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*size: Any, pin_memory: bool = False, device: Any = "cpu", **kind: Any) -> Tensor:
            assert not (pin_memory and str(device) == "cuda")
            tensor = make(*size, **kind)
            if pin_memory:
                pinned.append(tensor)
            return tensor

        return made

    for name in ("zeros", "empty"):
        monkeypatch.setattr(torch, name, on_the_cpu(getattr(torch, name)))
    shape = Shape(2, 40, 50, 3, torch.uint8)
    plan = ShapePlan(shape, networks, Recorder(), lambda: 8, "powers", lambda stage, pixels: pixels)
    host = (plan.staged, plan.host_num, plan.host_origins, plan.host_labels)
    assert [id(tensor) for tensor in pinned] == [id(tensor) for tensor in host]
    assert plan.staged.shape == plan.image.shape
    assert (plan.staged.dtype, plan.host_labels.dtype) == (torch.uint8, torch.uint8)


class Stuck(Replayed):
    """Its first capture cannot be ended: what is called from then on is not done."""

    def capture(self, body: Callable[[], Any], memory: str) -> Any:
        self.captures += 1
        self.lost = True
        raise RuntimeError("wrong thread")


def test_a_lane_whose_stream_goes_on_capturing_gets_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The image at hand fails; the others, the lane and its buffers go on, without graphs."""
    monkeypatch.setattr(lane, "recorder_for", lambda networks, stream: Stuck())
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    net = network(n=4)
    engine = net.compile(buckets="powers", lanes=1)
    first = engine._all_lanes[0]._recorder
    images = [scene(60, 64, objects=9, seed=i)[0] for i in range(RUNS_BEFORE_CAPTURE + 4)]
    with caplog.at_level(logging.WARNING, "c2fcore"):
        results = list(engine.run([image[0] for image in images]))
    assert [str(r.error) for r in results if r.error is not None] == ["wrong thread"]
    assert results[RUNS_BEFORE_CAPTURE].error is not None
    for result, image in zip(results, images, strict=True):
        assert result.error is not None or torch.equal(result.labels, net(image)[0])
    assert isinstance(first, Stuck)
    assert first.captures == 1
    assert caplog.messages == ["engine: a capture could not be ended; lane 0 does without"]
    assert torch.equal(engine(images[0]), net(images[0]))


def test_parts_are_rehearsed_before_what_branches_is_captured() -> None:
    """One that fails inside the whole would end the process."""
    seen: list[str] = []

    class Noting(Replayed):
        def rehearse(self, parts: Sequence[Callable[[], Any]]) -> None:
            for part in parts:
                seen.append(part())
                if seen[-1] == "waits for the device":
                    raise RuntimeError("operation not permitted")

        def capture(self, body: Callable[[], Any], memory: str) -> Any:
            assert memory == programs.OWN
            seen.append(body())
            return (lambda: None), None

    def whole() -> str:
        return "whole"

    for names, captured in ((["4", "8"], True), (["4", "waits for the device"], False)):
        seen.clear()
        parts = [lambda name=name: name for name in names]
        program: Program[str] = Program("whole", whole, Noting(), memory=programs.OWN, parts=parts)
        for _ in range(RUNS_BEFORE_CAPTURE + 2):
            program.run()
        assert seen == [*names, *["whole"] * captured]
        assert program.captured == captured
        assert program.refused != captured


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
    with programs.capturing:
        thread.start()
        assert started.wait(5)
        thread.join(0.2)
        assert thread.is_alive()
        assert held.programs
    thread.join(5)
    assert not held.programs


def test_lanes_that_got_the_same_stream_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch hands 32 streams out in turn: a capture would hold the other engine's work."""
    streams = iter([SimpleNamespace(cuda_stream=number) for number in (7, 7, 8)])
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: next(streams))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    networks: Any = SimpleNamespace(device=torch.device("cuda:0"))
    settings = lane.Settings(False, False, lambda channels: 8, "powers")
    one, same, other = (lane.Lane(i, networks, settings, Plans(1, 1)) for i in range(3))
    within: list[str] = []

    def work(which: lane.Lane, name: str) -> None:
        with which._running():
            within.append(name)

    threads = [threading.Thread(target=work, args=a) for a in ((same, "same"), (other, "other"))]
    with one._running():
        for thread in threads:
            thread.start()
        threads[1].join(5)
        threads[0].join(0.2)
        assert within == ["other"]
    threads[0].join(5)
    assert within == ["other", "same"]
