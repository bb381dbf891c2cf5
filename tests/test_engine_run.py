"""Engine.run: order, packing, late counts, failures, back-pressure, and the end of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_doubles import Fragile
from networks import Coarse, Fine, network, scene
from PIL import Image
from torch import Tensor

from c2fcore.engine import lane as lanes
from c2fcore.engine import running

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 60
    while left := [t.name for t in threading.enumerate() if t.name.startswith("c2f-")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def pictures(count: int) -> list[Tensor]:
    """Images of three sizes, [3, H, W], with more and fewer objects."""
    return [
        scene(64 + 8 * (i // 3 % 3), 72, objects=(5 * i) % 17, seed=i)[0][0] for i in range(count)
    ]


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 11])
@pytest.mark.parametrize("lane_count", [1, 2, 3])
def test_results_in_order(batch: int, count: int, lane_count: int) -> None:
    net = network(n=6)
    images = pictures(count)
    engine = net.compile(batch=batch, lanes=lane_count)
    results = list(engine.run(iter(images), prefetch=2))
    assert [result.index for result in results] == list(range(count))
    assert [result.name for result in results] == [f"image {i}" for i in range(count)]
    for result, image in zip(results, images, strict=True):
        found = net.detailed(image[None])
        assert torch.equal(result.labels, found.labels[0])
        assert torch.equal(result.windows, found.windows.origins[0, : int(found.windows.num)])
        assert result.pixels.shape == (*image.shape[1:], 3)
        assert result.error is None


def test_names_and_kinds(tmp_path: Path) -> None:
    image = pictures(1)[0]
    hwc = image.permute(1, 2, 0).numpy()
    Image.fromarray(hwc).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    items = [path, str(path), Image.open(path), ("mine", image), hwc]
    net = network(n=4)
    results = list(net.compile(batch=2).run(items))
    assert [r.name for r in results] == [str(path)] * 3 + ["mine", "image 4"]
    assert [type(r.labels) for r in results] == [np.ndarray] * 3 + [Tensor, np.ndarray]
    expected = net(image[None])[0]
    assert all(torch.equal(torch.as_tensor(r.labels), expected) for r in results)


def test_patches_of_a_batch_pass_the_fine_network_together() -> None:
    fine = Fine()
    net = network(fine=fine, n=6)
    images = [scene(64, 72, objects=count, seed=count)[0][0] for count in (2, 0, 9, 1)]
    used = [int(net.detailed(image[None]).windows.num) for image in images]
    engine = net.compile(batch=4, chunk=64)
    shown = engine.networks.fine.shapes
    shown.clear()
    list(engine.run(images))
    assert [shape[0] for shape in shown] in ([1, sum(used)], [sum(used)])  # one measures the cache
    assert 0 < sum(used) < 4 * 6


def test_counts_are_read_one_image_late(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for step in ("look", "second", "finish"):
        original = getattr(lanes.Lane, step)

        def noted(self: Any, *args: Any, step: str = step, original: Any = original) -> Any:
            if not (step == "second" and self._downloading):
                calls.append(f"{step} {self._number}")
            return original(self, *args)

        monkeypatch.setattr(lanes.Lane, step, noted)
    images = [image.permute(1, 2, 0).numpy() for image in pictures(3)]
    engine = network(n=4).compile(lanes=3)
    ready = threading.Event()

    def source() -> Iterator[Any]:
        yield from images
        ready.set()

    run = running._Run(engine, source(), prefetch=4, readers=1)
    run._threads[0].start()
    assert ready.wait(60)
    run._readers.shutdown(wait=True)  # all are decoded before the first is computed
    while not run._jobs.full():
        time.sleep(0.01)
    run._threads[1].start()
    assert [run.results.get().index for _ in range(3)] == [0, 1, 2]
    assert run.results.get() is running._END
    run.stop()
    assert calls[:5] == ["look 0", "look 1", "second 0", "look 2", "second 1"]
    assert sorted(calls[5:]) == ["finish 0", "finish 1", "finish 2", "second 2"]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("lane_count", [1, 2])
def test_one_that_fails_is_named_and_the_others_go_on(
    batch: int, lane_count: int, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no image")
    good = pictures(2)
    white = good[0].clone()
    white[:, 0, 0] = 255
    items: list[Any] = [
        good[0],
        ("white", white),
        tmp_path / "bad.png",
        good[1],
        tmp_path / "nowhere.png",
        ("four", torch.zeros((1, 3, 64, 64))),
        good[0],
        7,
    ]
    net = network(Fragile(), n=4)
    results = list(net.compile(batch=batch, lanes=lane_count).run(items))
    assert [r.index for r in results] == list(range(8))
    failed = {r.index: (r.name, str(r.error)) for r in results if r.error is not None}
    assert failed[1] == ("white", "a white corner")
    assert failed[2][0].endswith("bad.png")
    assert "bad.png" in failed[2][1]
    assert "nowhere.png" in failed[4][1]
    assert failed[5] == ("four", "Engine: a tensor must be [C, H, W], got (1, 3, 64, 64)")
    assert "got int" in failed[7][1]
    assert results[1].pixels is not None
    assert results[2].pixels is results[2].labels is None
    for i in (0, 3, 6):
        assert torch.equal(results[i].labels, net(items[i][None])[0])


def test_a_fine_network_that_fails() -> None:
    class Angry(Fine):
        def forward(self, image: Tensor) -> Any:
            if len(image) > 1:
                raise RuntimeError("one at a time")
            return super().forward(image)

    net = network(fine=Angry(), n=4)
    images = [scene(64, 72, objects=count, seed=count)[0][0] for count in (1, 0, 30, 1)]
    results = list(net.compile(batch=4, lanes=2, chunk=64).run(images))
    assert [str(r.error) for r in results] == ["None", "None", "one at a time", "None"]
    assert all(torch.equal(results[i].labels, net(images[i][None])[0]) for i in (0, 1, 3))


class Hungry(Coarse):
    """Out of memory at the first image of a size; with `always` at all of them."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.always = always
        self.met: set[Any] = set()

    def forward(self, image: Tensor) -> Any:
        known = image.shape in self.met
        self.met.add(image.shape)
        if self.always or not known:
            raise torch.cuda.OutOfMemoryError("no memory")
        return super().forward(image)


@pytest.mark.parametrize("batch", [1, 2])
def test_memory_that_other_sizes_hold_is_given_back(batch: int) -> None:
    plain = network(n=4)
    images = [scene(60 + 24 * (i // 4), 64, objects=9, seed=i)[0][0] for i in range(8)]
    engine = network(Hungry(), n=4).compile(lanes=1, batch=batch)
    for image in images[::4]:
        assert torch.equal(engine(image), plain(image[None])[0])
        assert engine.programs() == 1, "the size that was there before is gone"
    engine = network(Hungry(), n=4).compile(lanes=1, batch=batch)
    for result, image in zip(engine.run(images), images, strict=True):
        assert result.error is None
        assert torch.equal(result.labels, plain(image[None])[0])
    engine = network(Hungry(always=True), n=4).compile(lanes=1, batch=batch)
    errors = [result.error for result in engine.run(images)]
    assert all(isinstance(error, torch.cuda.OutOfMemoryError) for error in errors)


def test_an_iterable_that_fails_does_so_after_the_images_before_it() -> None:
    def source() -> Iterator[Tensor]:
        yield from pictures(3)
        raise KeyError("no more")

    run = network().compile(batch=2).run(source())
    assert [next(run).index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="no more"):
        next(run)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_iterable_may_end_the_program(error: type[BaseException]) -> None:
    def source() -> Iterator[Tensor]:
        yield from pictures(2)
        raise error("enough")

    run = network().compile().run(source())
    assert [next(run).index for _ in range(2)] == [0, 1]
    with pytest.raises(error, match="enough"):
        next(run)


def test_a_device_that_is_lost_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call fails from then on, also those that give the lanes back."""
    engine = network(Fragile(), n=4).compile(lanes=2)
    images = pictures(6)
    images[3] = images[3].clone()
    images[3][:, 0, 0] = 255
    left = lanes.Lane.abandon

    def lost(self: lanes.Lane) -> None:
        left(self)
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(lanes.Lane, "abandon", lost)
    found: list[int] = []

    def collect() -> None:
        for result in engine.run(images):
            found.append(result.index)

    with pytest.raises(RuntimeError, match="the device is lost"):
        collect()
    assert found == list(range(len(found)))
    assert len(found) <= 3
    assert engine._lanes.qsize() == 2


@pytest.mark.parametrize("stage", ["coarse", "fine"])
@pytest.mark.parametrize("lane_count", [1, 2])
def test_a_network_may_end_the_program(stage: str, lane_count: int) -> None:
    """Who goes on all the same finds every lane: a call would wait for one that is lost."""
    engine = network(n=4).compile(lanes=lane_count)
    getattr(engine.networks, stage).register_forward_pre_hook(lambda *_: sys.exit("enough"))
    with pytest.raises(SystemExit, match="enough"):
        list(engine.run(pictures(2)))
    assert engine._lanes.qsize() == lane_count
    assert not any(plan.holders for _, plan in engine._plans.items())


def test_leaving_the_loop_does_not_wait_for_an_image_that_never_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "_PATIENCE_S", 0.1)
    comes = threading.Event()
    waited: list[bool] = []

    def camera() -> Iterator[Tensor]:
        yield pictures(1)[0]
        waited.append(comes.wait(30))
        yield pictures(1)[0]

    for result in network().compile().run(camera()):
        assert result.error is None
        break
    assert not waited
    comes.set()


def test_no_further_ahead_than_asked() -> None:
    image = pictures(1)[0]
    taken = 0

    def source() -> Iterator[Tensor]:
        nonlocal taken
        for _ in range(200):
            taken += 1
            yield image

    prefetch = 3
    run = network().compile().run(source(), prefetch=prefetch)
    next(run)
    time.sleep(0.5)
    # One handed out; results waiting, one in hand, one being put; jobs waiting, one being put.
    assert taken <= 1 + prefetch + 2 + prefetch + 2
    run.close()


def test_leaving_the_loop_ends_the_threads() -> None:
    endless = itertools.repeat(pictures(1)[0])
    with contextlib.closing(network().compile(lanes=2).run(endless)) as run:
        for result in run:
            if result.index == 2:
                break
    engine = network().compile()
    for _ in engine.run(endless):
        break
    assert torch.is_tensor(engine(pictures(1)[0]))  # its lane is free again


def test_the_engine_may_be_called_inside_its_own_loop() -> None:
    net = network(n=4)
    engine = net.compile(lanes=2, batch=2)
    images = pictures(12)
    for result in engine.run(images, prefetch=1):
        assert torch.equal(engine(images[result.index]), result.labels)


def test_two_runs_at_once_share_the_lanes() -> None:
    net = network(n=4)
    engine = net.compile(lanes=2)
    images = pictures(8)
    for one, two in zip(engine.run(images), engine.run(images), strict=True):
        assert torch.equal(one.labels, two.labels)


def test_one_thread_is_kept_for_reading_where_there_are_many(
    threads: Callable[[int], None],
) -> None:
    seen: list[int] = []

    class Noting(Coarse):
        def forward(self, image: Tensor) -> Any:
            seen.append(torch.get_num_threads())
            return super().forward(image)

    net = network(Noting())
    image = pictures(1)[0]
    for have, options, wanted in (
        (2, {}, 2),
        (4, {}, 3),
        (4, {"threads": 2}, 2),
        (2, {"threads": 1}, 1),
    ):
        threads(have)
        engine = net.compile(**options)
        seen.clear()
        list(engine.run([image]))
        assert seen == [wanted]
        assert torch.get_num_threads() == have
    assert engine.threads == 1


def test_bad_options() -> None:
    engine = network().compile()
    for options in ({"prefetch": 0}, {"readers": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            engine.run([], **options)


_INTERRUPTED = """
import itertools, sys, torch
sys.path.insert(0, {tests!r})
from networks import network, scene
image = scene(96, 96, objects=9)[0][0]
engine = network().compile(lanes=2)
try:
    for result in engine.run(itertools.repeat(image)):
        if result.index == 3:
            print("running", flush=True)
except KeyboardInterrupt:
    import threading
    print("left:", [t.name for t in threading.enumerate() if t.name.startswith("c2f-")], flush=True)
    print(engine(image).shape)
"""


def test_ctrl_c() -> None:
    code = _INTERRUPTED.format(tests=str(Path(__file__).parent))
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        os.kill(child.pid, signal.SIGINT)
        said, complaints = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 0, complaints
    assert "left: []" in said
    assert "torch.Size([96, 96])" in said
    assert complaints == ""
