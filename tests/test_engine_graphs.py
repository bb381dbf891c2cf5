"""What an engine does on a GPU, played on the CPU: buckets, packing, captures, eviction."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_doubles import Replayed, replay_everywhere
from networks import network, scene
from properties import for_any_data, st
from torch import Tensor

from c2fcore import Engine, Windows, ops
from c2fcore.engine import packing
from c2fcore.engine.buckets import Buckets, Chunk
from c2fcore.engine.cuda_graphs import no_conditional_nodes as reason
from c2fcore.engine.plan import Shape
from c2fcore.engine.programs import RUNS_BEFORE_CAPTURE, Plan, Plans, Program, Recorder

pytestmark = pytest.mark.usefixtures("one_thread")


def test_buckets() -> None:
    assert Buckets(32).sizes == (4, 8, 16, 32)
    assert Buckets(33).sizes == (4, 8, 16, 32, 33)
    assert Buckets(3).sizes == (3,)
    assert Buckets(10, (8, 2, 8, 99)).sizes == (2, 8, 10)
    assert [Buckets(32).size_of(count) for count in (1, 4, 5, 17, 32)] == [4, 4, 8, 32, 32]
    assert Buckets(32).chunks(0) == []
    assert Buckets(8).chunks(19) == [Chunk(0, 8), Chunk(8, 8), Chunk(16, 4)]
    assert Buckets(8, "exact").chunks(19)[-1] == Chunk(16, 3)
    assert Buckets(8, "exact").sizes == (8,)


@for_any_data(100)
def test_every_patch_is_in_one_chunk(data: st.DataObject) -> None:
    limit, total = data.draw(st.integers(1, 70)), data.draw(st.integers(0, 200))
    sizes: Any = data.draw(st.sampled_from(["powers", "exact", (5, 6, 40)]))
    chunks = Buckets(limit, sizes).chunks(total)
    shown = [i for c in chunks for i in range(c.offset, min(c.offset + c.size, total))]
    assert shown == list(range(total))
    assert all(0 < c.size <= limit for c in chunks)


@pytest.mark.parametrize("num", [[3], [0], [2, 0, 4], [0, 0], [4, 4, 4, 4]])
def test_packing(num: list[int]) -> None:
    batch, n, rows = len(num), 4, 50
    images = torch.randint(0, 256, (batch, rows, 40, 3), dtype=torch.uint8)
    origins = torch.randint(0, 20, (batch, n, 2), dtype=torch.int32)
    used = torch.tensor(num, dtype=torch.int32)
    windows = Windows(origins, torch.ones((batch, n), dtype=torch.int32), used, 16)
    packed = packing.pack(windows, rows)
    assert int(packed.total) == sum(num)
    slots = [(b, j) for b in range(batch) for j in range(num[b])]
    patches = ops.extract_patches(packing.tall(images), packing.chunk(packed, 0, batch * n, 16))
    single = ops.extract_patches(images.permute(0, 3, 1, 2), windows).view(batch, n, 3, 16, 16)
    assert not patches[len(slots) :].any()
    for i, (b, j) in enumerate(slots):
        assert torch.equal(patches[i], single[b, j])
    # The second chunk of two goes on where the first ended.
    later = ops.extract_patches(packing.tall(images), packing.chunk(packed, 2, 3, 16))
    want = patches[2:5]
    assert torch.equal(later[: len(want)], want)
    assert len(later) == 3  # also where fewer windows exist
    assert not later[len(want) :].any()
    if slots:
        spread, where = packing.spread(patches[: len(slots)], packed, windows)
        per_image = spread.view(batch, -1, 3, 16, 16)
        assert where.counts.shape[1] == per_image.shape[1]
        for b, j in slots:
            assert torch.equal(per_image[b, j], single[b, j])


class Counter:
    def __init__(self) -> None:
        self.memory = torch.zeros(1)

    def __call__(self) -> Tensor:
        return self.memory.add_(1).clone()


def test_a_program_is_captured_once_it_came_back() -> None:
    recorder = Replayed()
    program = Program("count", Counter(), recorder)
    for run in range(1, RUNS_BEFORE_CAPTURE + 1):
        assert program.run() == run
        assert not program.captured
    first = program.run()
    assert program.captured
    assert program.run() is first  # the same memory
    assert recorder.captures == 1


def test_a_program_that_cannot_be_captured_is_called(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Replayed):
        def capture(self, body: Any, memory: str) -> Any:
            self.captures += 1
            raise RuntimeError("operation not permitted")

    recorder = Refusing()
    program = Program("look of a network", Counter(), recorder)
    with caplog.at_level(logging.WARNING, "c2fcore"):
        assert [int(program.run()) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert recorder.captures == 1
    assert caplog.messages == [
        "engine: look of a network runs without a CUDA graph: operation not permitted"
    ]


def test_an_input_that_fails_says_nothing_of_graphs() -> None:
    class Strict(Replayed):
        def capture(self, body: Any, memory: str) -> Any:
            body()
            return super().capture(body, memory)

    bad = [False]

    def body() -> Tensor:
        if bad[0]:
            raise ValueError("this image")
        return torch.ones(1)

    program = Program("look", body, Strict())
    for _ in range(RUNS_BEFORE_CAPTURE):
        program.run()
    bad[0] = True
    with pytest.raises(ValueError, match="this image"):
        program.run()
    bad[0] = False
    program.run()
    assert program.captured


class Owner(Plan):
    def __init__(self, count: int) -> None:
        super().__init__()
        body = Program("", Counter(), Recorder())
        self.programs.update(dict.fromkeys(range(count), body))


def test_plans_go_in_the_order_of_their_last_use() -> None:
    plans: Plans[Owner] = Plans(5, 1000)

    def use(key: str, count: int) -> Owner:
        plan = plans.get(key, lambda: Owner(count))
        plans.release(plan)
        return plan

    def keys() -> list[Any]:
        return [key for key, _ in plans.items()]

    for key, count in (("a", 2), ("b", 0), ("c", 2)):
        use(key, count)
    assert plans.programs() == 5  # one without programs counts as one
    assert len(use("a", 9).programs) == 2
    use("d", 1)
    assert keys() == ["c", "a", "d"]
    held = plans.get("a", lambda: Owner(9))
    held.programs.update(dict.fromkeys("uvwxyz", held.programs[0]))
    use("e", 40)
    assert keys() == ["e"]  # the last one stays, however large
    assert plans.evicted == 4
    assert len(held.programs) == 8  # a lane still works with it
    plans.release(held)
    assert not held.programs
    plans.clear()
    assert plans.programs() == 0


def test_what_is_evicted_is_freed_at_once(recorders: list[Replayed]) -> None:
    engine = network(n=4).compile(max_graphs=4, buckets="powers")
    image, _ = scene(60, 64, objects=9)
    for _ in range(RUNS_BEFORE_CAPTURE + 2):
        engine(image)
    gc.collect()
    gc.disable()
    try:
        plans = [weakref.ref(plan) for _, plan in engine._plans.items()]
        for size in (40, 48, 56):
            for _ in range(RUNS_BEFORE_CAPTURE + 2):
                engine(scene(size, 64, objects=9)[0])
        assert [plan() for plan in plans] == [None] * len(plans)
    finally:
        gc.enable()
    engine.release()
    assert engine.programs() == 0
    assert torch.equal(engine(image), network(n=4)(image))


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Replayed]:
    return replay_everywhere(monkeypatch)


def branching(engine: Engine) -> Engine:
    """As on a GPU whose graphs can branch."""
    for lane in engine._all_lanes:
        lane._settings = replace(lane._settings, conditional=True)
    return engine


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("options", [{"n": 9}, {"n": 9, "max_batch": 4}, {"n": None}])
def test_replays_answer_like_the_eager_path(
    recorders: list[Replayed], conditional: bool, batch: int, options: dict[str, Any]
) -> None:
    net = network(**options)
    images = [scene(75, 83, objects=(7 * i) % 31, seed=i)[0][0] for i in range(12)]
    expected = [net(image[None])[0] for image in images]
    engine = net.compile(batch=batch, lanes=2, buckets="powers")
    if conditional:
        branching(engine)
    for _ in range(2):
        results = list(engine.run(images))
        assert [result.error for result in results] == [None] * len(images)
        for result, labels in zip(results, expected, strict=True):
            assert torch.equal(result.labels, labels)
    assert sum(recorder.captures for recorder in recorders) > 0
    names = {name for plan in (plan for _, plan in engine._plans.items()) for name in plan.programs}
    fits = batch * (options["n"] or 99) <= options.get("max_batch", 32)
    assert ("whole" in names) == (conditional and fits)


def test_each_size_of_the_second_look_is_one_program(recorders: list[Replayed]) -> None:
    net = network(n=16)
    engine = net.compile(buckets="powers")
    for i in range(30):
        image, _ = scene(96, 96, objects=i % 12, seed=i)
        assert torch.equal(engine(image), net(image))
    (plan,) = (plan for key, plan in engine._plans.items() if len(key) == 2)
    assert {name for name in plan.programs if name != "look"} <= {
        ("second", size) for size in (4, 8, 16)
    }
    assert plan.programs["look"].captured


def test_sizes_that_pass_by_share_the_networks(recorders: list[Replayed]) -> None:
    net = network(n=4)  # its multiple is 8
    engine = net.compile(max_graphs=8)
    for i in range(12):
        image, _ = scene(57 + i % 8, 64, objects=9, seed=i)
        assert torch.equal(engine(image), net(image))
    assert engine.programs() <= 8
    shapes = {key[2] for key, _ in engine._plans.items() if key[1] == "coarse"}
    assert shapes == {(1, 3, 64, 64)}


def test_the_bound_holds_and_evicted_sizes_come_back(recorders: list[Replayed]) -> None:
    net = network(n=4)
    engine = net.compile(max_graphs=6, buckets="powers")
    sizes = [(40, 40), (48, 56), (64, 40), (40, 72), (56, 56)]
    for turn in range(3):
        for seed, size in enumerate(sizes):
            image, _ = scene(*size, objects=9, seed=seed)
            for _ in range(RUNS_BEFORE_CAPTURE + 2):
                assert torch.equal(engine(image), net(image))
                assert engine.programs() <= 6
        assert engine._plans.evicted > 4 * turn


@pytest.mark.parametrize("conditional", [False, True])
def test_warm_up_leaves_nothing_to_capture(
    recorders: list[Replayed], conditional: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    net = network(n=9)
    engine = net.compile(lanes=2, buckets="powers")
    if conditional:
        branching(engine)
    for lane in engine._all_lanes:  # as many runs as on a GPU
        for _ in range(RUNS_BEFORE_CAPTURE + 1):
            lane.warm_up(Shape.of([torch.zeros((75, 83, 3))]))
    captures = [recorder.captures for recorder in recorders]
    # The whole; or the look, and 4, 8, 9 patches.
    assert captures == [1 if conditional else 4] * 2
    for i in range(8):
        image, _ = scene(75, 83, objects=3 * i, seed=i)
        assert torch.equal(engine(image.float()), network(n=9)(image.float()))
    assert [recorder.captures for recorder in recorders] == captures


@pytest.mark.parametrize("batch", [1, 3])
def test_warm_up_is_for_whatever_a_run_shows_the_networks(
    batch: int, recorders: list[Replayed], caplog: pytest.LogCaptureFixture
) -> None:
    """Whole batches, and what is left over of them; a run makes nothing that was not there."""
    net = network(n=9)
    engine = net.compile(batch=batch, lanes=2, buckets="powers")
    with caplog.at_level(logging.WARNING, "c2fcore"):
        for _ in range(RUNS_BEFORE_CAPTURE + 1):  # as on a GPU
            engine.warm_up([(75, 83)], progress=False)
    assert not caplog.messages
    keys = [key for key, _ in engine._plans.items()]
    captures = [recorder.captures for recorder in recorders]
    images = [scene(75, 83, objects=(7 * i) % 31, seed=i)[0] for i in range(8)]
    for result, image in zip(engine.run([image[0] for image in images]), images, strict=True):
        assert torch.equal(result.labels, net(image)[0])
    assert torch.equal(engine(torch.cat(images[:5])), net(torch.cat(images[:5])))
    assert {key for key, _ in engine._plans.items()} == set(keys)
    assert [recorder.captures for recorder in recorders] == captures


def test_a_warm_up_that_evicts_itself_says_so(caplog: pytest.LogCaptureFixture) -> None:
    engine = network(n=4).compile(max_graphs=2)
    with caplog.at_level(logging.WARNING, "c2fcore"):
        engine.warm_up([(40, 40), (40, 48), (48, 40)], progress=False)
    (said,) = caplog.messages
    assert said.startswith(
        "engine: 3 shapes of batches in 1 lanes need more than max_graphs=2 or 2 GiB"
    )


def test_warm_up_shows_its_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    engine = network().compile(sizes=[(64, 64), (40, 80)], lanes=2)
    assert "warm-up: 100%" in capsys.readouterr().err
    assert engine.programs() == 4
    network().compile(sizes=[(64, 64)], progress=False)
    assert capsys.readouterr().err == ""


class _Driver:
    """The library that comes with a driver; there is none of version 0."""

    def __init__(self, version: int) -> None:
        if not version:
            raise OSError("libcuda.so.1: cannot open shared object file")
        self._version = version

    def cuDriverGetVersion(self, into: Any) -> int:
        ctypes.cast(into, ctypes.POINTER(ctypes.c_int))[0] = self._version
        return 0


@pytest.mark.parametrize(
    ("torch_version", "driver", "allocator", "said"),
    [
        ("2.11.0+cu128", 13000, "native", "torch 2.11.0"),
        ("2.13.1", 13000, "native", "torch 2.13.1"),
        ("2.14.1+cu130", 12030, "native", "the driver knows CUDA 12.3, 12.4 is needed"),
        ("2.14.1+cu130", 0, "native", "the driver knows CUDA 0.0"),
        ("2.14.1+cu130", 12040, "cudaMallocAsync", "cannot allocate with cudaMallocAsync"),
        ("2.14.1+cu130", 12040, "native", ""),
        ("2.15.0.dev20261101", 13010, "native", ""),
    ],
)
def test_conditional_nodes_say_why_not(
    torch_version: str, driver: int, allocator: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", torch_version)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: _Driver(driver))
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: allocator)
    assert said in reason()
    assert bool(said) == bool(reason())
