"""What lanes and engines of one GPU share: streams, workspaces, memory of graphs."""

from __future__ import annotations

import logging
import threading

import pytest
import torch
from availability import need
from glue_inputs import GLUE
from gpu_engines import AGREE, Forgetful, agreement, branching, captured, images, made
from networks import Coarse, Fine, network
from torch import Tensor, nn

from c2fcore import Engine
from c2fcore.engine.programs import NETWORK_RUNS_BEFORE_CAPTURE, RUNS_BEFORE_CAPTURE

pytestmark = pytest.mark.usefixtures("full_float32")


class Mixing(Fine):
    """Multiplies matrices large enough for cuBLAS to take its workspace."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(32 * 32, 32 * 32)
        nn.init.eye_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)

    def logits(self, image: Tensor) -> Tensor:
        found = super().logits(image)
        return self.mix(found.flatten(1)).view_as(found)


@pytest.mark.parametrize("conditional", [False, True])
def test_lanes_share_no_workspace(everyone: str, conditional: bool) -> None:
    need(everyone, *GLUE)
    net = network(fine=Mixing(), n=32, stride=4, backend=everyone).cuda()
    given = images(24, 160, 160)
    plain = net.compile(graphs=False, lanes=1)
    expected = [plain(image) for image in given]
    engine = branching(net.compile(lanes=3), conditional)
    for _ in range(6):
        for result, labels in zip(engine.run(given), expected, strict=True):
            assert result.error is None
            assert agreement(result.labels, labels) >= AGREE


def test_the_end_of_a_graph_leaves_the_others_their_workspace(everyone: str) -> None:
    """All graphs of a lane are captured on one stream, and torch keeps a workspace for each."""
    need(everyone, *GLUE)
    net = network(fine=Mixing(), n=4, backend=everyone).cuda()
    plain = net.compile(graphs=False, lanes=1)
    engine = net.compile(max_graphs=5, lanes=1)
    sizes = [(160, 160), (160, 192), (192, 192)]
    runs = NETWORK_RUNS_BEFORE_CAPTURE + RUNS_BEFORE_CAPTURE
    for turn in range(2):
        for size in sizes:
            given = images(runs, *size)
            expected = [plain(image) for image in given]
            for image, labels in zip(given, expected, strict=True):
                assert agreement(engine(image), labels) >= AGREE, (turn, size)
            # Whatever was freed is somebody else's now, and must stay as it is.
            others = [torch.full((1 << 20,), 7, device="cuda") for _ in range(64)]
            for image, labels in zip(given, expected, strict=True):
                assert agreement(engine(image), labels) >= AGREE, (turn, size)
            assert all(bool((other == 7).all()) for other in others)
    assert engine._plans.evicted


@pytest.mark.parametrize("conditional", [False, True])
def test_evicted_graphs_give_their_memory_back(fused: str, conditional: bool) -> None:
    need(fused, *GLUE)
    net = network(Forgetful(Coarse()), Forgetful(Fine()), n=4, backend=fused).cuda()
    engine = branching(net.compile(max_graphs=6, lanes=1), conditional)
    held: list[tuple[int, int]] = []
    for turn in range(4):
        for i in range(6):
            (image,) = images(1, 256 + 32 * i, 320)
            for _ in range(RUNS_BEFORE_CAPTURE + 2):
                assert agreement(engine(image), net(image[None].cuda())[0]) >= AGREE
            assert engine.programs() <= 6
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        held.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
        assert engine._plans.evicted > turn
    assert held[-1][0] <= 1.1 * held[1][0] + (1 << 20)
    assert held[-1][1] <= 1.25 * held[1][1] + (64 << 20)


def test_where_memory_is_short_no_graph_branches(
    fused: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A branch that ran out of memory while it is captured would end the process."""
    net = made(fused, n=4)
    engine = branching(net.compile(lanes=1), True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 1 << 30))
    given = images(2 * RUNS_BEFORE_CAPTURE + 4)
    with caplog.at_level(logging.WARNING, "c2fcore"):
        for image in given:
            assert agreement(engine(image), net(image[None].cuda())[0]) >= AGREE
    assert "whole" not in captured(engine)
    assert "look" in captured(engine)
    assert "beside each other" in caplog.text


def test_threads_and_engines_at_once(everyone: str) -> None:
    net = made(everyone, n=6)
    given = images(8)
    plain = net.compile(graphs=False, lanes=1)
    expected = [plain(image) for image in given]
    engines = [net.compile(lanes=2), net.compile(lanes=1)]
    wrong: list[int] = []

    def work(start: int) -> None:
        for i in range(start, start + 24):
            for engine in engines:
                if not torch.equal(engine(given[i % 8]), expected[i % 8]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_engines_that_got_the_same_stream(everyone: str) -> None:
    """torch hands 32 streams of a device out in turn: what one enqueues, a capture would hold."""
    net = made(everyone, n=6)
    one, *others = (net.compile(lanes=1, fold_norms=False) for _ in range(33))
    (stream,) = (lane._stream for lane in one._all_lanes)
    same = next(e for e in others if e._all_lanes[0]._stream.cuda_stream == stream.cuda_stream)
    plain = net.compile(graphs=False, lanes=1, fold_norms=False)
    given = [images(RUNS_BEFORE_CAPTURE + 3, 75 + 8 * i) for i in range(4)]
    expected = [[plain(image) for image in of_size] for of_size in given]
    wrong: list[int] = []

    def work(engine: Engine) -> None:
        for i, (of_size, labels) in enumerate(zip(given, expected, strict=True)):
            found = [engine(image) for image in of_size]
            wrong.extend(i for a, b in zip(found, labels, strict=True) if not torch.equal(a, b))

    threads = [threading.Thread(target=work, args=(engine,)) for engine in (one, same)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert captured(one)
    assert captured(same)
