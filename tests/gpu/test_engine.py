"""The engine on a GPU: capture, replay, branching, order, what is waited for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from availability import need
from engine_doubles import Fragile
from glue_inputs import GLUE
from gpu_engines import AGREE, Forgetful, agreement, branching, captured, images, made
from networks import Coarse, Fine, network
from torch import Tensor

from c2fcore.engine.plan import ShapePlan
from c2fcore.engine.programs import NETWORK_RUNS_BEFORE_CAPTURE, RUNS_BEFORE_CAPTURE

pytestmark = pytest.mark.usefixtures("full_float32")


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("options", [{"n": 9}, {"n": 9, "max_batch": 4, "zoom": 2.0}, {"n": None}])
@pytest.mark.parametrize("batch", [1, 3])
def test_replays_answer_like_calls_and_like_eager(
    everyone: str, conditional: bool, options: dict[str, Any], batch: int
) -> None:
    net = made(everyone, **options)
    plain = net.compile(batch=batch, graphs=False)
    engine = branching(net.compile(batch=batch), conditional)
    for start in range(0, 36, batch):
        stack = torch.stack(images(36)[start : start + batch])
        labels = engine(stack)
        assert labels.device.type == "cpu"
        assert torch.equal(labels, plain(stack))
        assert agreement(labels, net(stack.cuda())) >= AGREE
    names = captured(engine)
    fits = batch * (options["n"] or 99) <= options.get("max_batch", 32)
    if everyone == "reference":  # its glue waits for the device, its networks do not
        assert names <= {"coarse", "fine"}
        assert "coarse" in names
    elif conditional and fits:
        assert names == {"whole"}
    else:
        assert "look" in names
    assert not captured(plain)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("conditional", [False, True])
def test_warm_up_leaves_nothing_to_capture(fused: str, conditional: bool, batch: int) -> None:
    net = made(fused, n=9)
    plain = net.compile(graphs=False, lanes=1)
    engine = branching(net.compile(lanes=2, batch=batch), conditional)
    engine.warm_up([(75, 83)], progress=False)
    before = captured(engine)
    if conditional:
        assert before == {"whole"}
    else:
        assert before >= {"look", *(("second", size) for size in (4, 8, 9))}
    programs = engine.programs()
    given = images(11)  # three batches, and two that are left over
    for result, image in zip(engine.run(given), given, strict=True):
        assert agreement(result.labels, plain(image)) >= AGREE
    assert captured(engine) == before
    assert engine.programs() == programs


def test_run_overlaps_and_keeps_the_order(everyone: str) -> None:
    net = made(everyone, n=6)
    given = images(40)
    expected = net.compile(graphs=False, lanes=1)
    results = list(net.compile(lanes=3).run(given))
    assert [r.index for r in results] == list(range(40))
    for result, image in zip(results, given, strict=True):
        assert torch.equal(result.labels, expected(image))


def test_what_goes_up_and_comes_back_is_pinned(everyone: str) -> None:
    engine = made(everyone, n=6).compile()
    engine(images(1)[0])
    (plan,) = (plan for _, plan in engine._plans.items() if isinstance(plan, ShapePlan))
    host = (plan.staged, plan.host_num, plan.host_origins, plan.host_labels)
    assert all(tensor.is_pinned() for tensor in host)
    assert plan.staged.dtype == plan.host_labels.dtype == torch.uint8


def test_one_that_fails_leaves_the_stream_usable(everyone: str) -> None:
    need(everyone, *GLUE)
    net = network(Fragile(), n=4, backend=everyone).cuda()
    given = images(12)
    given[5] = given[5].clone()
    given[5][:, 0, 0] = 255
    results = list(net.compile(batch=2).run(given))
    assert [str(r.error) for r in results if r.error is not None] == ["a white corner"]
    assert results[5].error is not None
    for i in (4, 6, 11):
        assert agreement(results[i].labels, net(given[i][None].cuda())[0]) >= AGREE


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_precision(everyone: str, precision: str) -> None:
    net = made(everyone, n=6)
    engine = net.compile(precision=precision)
    for image in images(6):
        assert agreement(engine(image), net(image[None].cuda())[0]) > 0.95


def test_images_on_the_device_are_waited_for(everyone: str) -> None:
    engine = made(everyone, n=6).compile()
    right = images(1)[0]
    for _ in range(NETWORK_RUNS_BEFORE_CAPTURE + RUNS_BEFORE_CAPTURE):
        wanted = engine(right)
    late = torch.zeros_like(right, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # clock cycles, some 30 ms
        late.copy_(right.pin_memory(), non_blocking=True)
        labels = engine(late)
    assert labels.is_cuda
    assert torch.equal(labels.cpu(), wanted)


def test_images_of_a_run_are_waited_for_on_the_callers_stream(everyone: str) -> None:
    engine = made(everyone, n=6).compile()
    right = images(1)[0]
    wanted = [engine(right) for _ in range(NETWORK_RUNS_BEFORE_CAPTURE + RUNS_BEFORE_CAPTURE)][-1]
    late = torch.zeros_like(right, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        late.copy_(right.pin_memory(), non_blocking=True)
        (found,) = engine.run([late])
    assert torch.equal(found.labels.cpu(), wanted)


def test_arrays_of_cupy_are_waited_for(everyone: str) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("CuPy sees no GPU")
    engine = made(everyone, n=6).compile()
    right = images(1)[0]
    wanted = engine(right)
    hwc = right.permute(1, 2, 0).contiguous().numpy()
    late = cupy.zeros_like(cupy.asarray(hwc))
    ready = cupy.asarray(hwc)
    cupy.cuda.Device().synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
        torch.cuda._sleep(50_000_000)
    with stream:
        late[...] = ready
        found = [engine(late)]
        late[...] = 0
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)):
            torch.cuda._sleep(50_000_000)
        late[...] = ready
        found += [result.labels for result in engine.run([late, late])]
    assert all(isinstance(labels, cupy.ndarray) for labels in found)
    stream.synchronize()
    for labels in found:
        assert torch.equal(torch.from_numpy(cupy.asnumpy(labels)), wanted)


def test_buffers_are_ready_though_the_callers_stream_is_busy(everyone: str) -> None:
    """Those of a new size are filled on the lane's stream, where they are read."""
    net = made(everyone, n=6, mean=(0.4, 0.3, 0.2), std=0.25)
    plain = net.compile(graphs=False, lanes=1)
    engine = net.compile(lanes=1)
    for i in range(4):
        (image,) = images(1, 72 + 8 * i, 83)
        wanted = plain(image)
        torch.cuda._sleep(50_000_000)
        assert torch.equal(engine(image), wanted)


@pytest.mark.parametrize("conditional", [False, True])
def test_sizes_that_pass_by_leave_frames_alone(fused: str, conditional: bool) -> None:
    """Their networks' graphs are replayed between a captured look and its second look."""
    net = made(fused, n=4)
    plain = net.compile(graphs=False, lanes=1)
    engine = branching(net.compile(lanes=1), conditional)
    for turn in range(3):
        for i in range(10):
            (image,) = images(1, 64 + 8 * i, 83)
            empty = torch.zeros_like(image)
            for given in (empty, empty, empty, image):
                assert torch.equal(engine(given), plain(given)), (turn, i)


class Waiting(Fine):
    """Reads the device on the host, which no capture allows."""

    def logits(self, image: Tensor) -> Tensor:
        return super().logits(image) + 0.0 * float(image.sum())


@pytest.mark.parametrize("conditional", [False, True])
def test_a_network_that_waits_for_the_device_runs_without_graphs(
    everyone: str, conditional: bool, caplog: pytest.LogCaptureFixture
) -> None:
    need(everyone, *GLUE)
    net = network(fine=Waiting(), n=6, backend=everyone).cuda()
    plain = net.compile(graphs=False, lanes=1)
    engine = branching(net.compile(lanes=2), conditional)
    for image in images(30):
        assert torch.equal(engine(image), plain(image))
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        assert not torch.cuda.is_current_stream_capturing()
    torch.rand(1, device="cuda")  # the generator is not left in a capture
    assert any("runs without a CUDA graph" in message for message in caplog.messages)
    assert sum("whole of" in message for message in caplog.messages) <= 2  # once a lane
    # The lanes' streams capture again: only the fine network is refused.
    names = captured(engine)
    assert names & {"look", "coarse"}
    assert not names & {"whole", "fine"}


def test_the_second_gpu(everyone: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    net = made(everyone, n=6)
    expected = [net(image[None].cuda())[0] for image in images(8)]
    engine = net.to("cuda:1").compile(lanes=2)
    for _ in range(3):
        for result, labels in zip(engine.run(images(8)), expected, strict=True):
            assert agreement(result.labels, labels) >= AGREE
    assert torch.cuda.current_device() == 0


def test_compiled_networks(fused: str) -> None:
    need(fused, *GLUE)
    net = network(Forgetful(Coarse()), Forgetful(Fine()), n=6, backend=fused).cuda()
    engine = net.compile(compile=True, lanes=1)
    for image in images(8):
        assert agreement(engine(image), net(image[None].cuda())[0]) >= AGREE
    assert captured(engine) & {"look", "whole"}
