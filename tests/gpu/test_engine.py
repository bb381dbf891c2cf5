"""The engine with real CUDA graphs: the labels of the eager path, replay after replay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from availability import need
from networks import network, scene
from torch import Tensor

from c2fcore import Engine

GLUE = ("select_windows", "extract_patches", "aggregate")


@pytest.fixture
def images() -> list[Tensor]:
    """uint8 [3, H, W] of one size, from none to many objects."""
    return [scene(75, 83, objects=(7 * i) % 31, seed=i)[0][0] for i in range(12)]


def _captured(engine: Engine) -> bool:
    programs = [p for plan in engine._plans._plans.values() for p in plan.programs.values()]
    return any(program.captured for program in programs)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("options", [{"n": 9}, {"n": 9, "max_batch": 4}, {"n": None}])
def test_same_labels(
    fused: str,
    images: list[Tensor],
    options: dict[str, Any],
    lanes: int,
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need(fused, *GLUE)
    monkeypatch.setenv("C2F_BACKEND", fused)  # every thread of the engine's sees it
    net = network(**options).cuda()
    expected = [net(image[None].cuda())[0].cpu() for image in images]
    engine = net.compile(batch=batch, lanes=lanes)
    for _ in range(3):
        results = list(engine.run(images))
        assert [result.error for result in results] == [None] * len(images)
        for result, labels in zip(results, expected, strict=True):
            assert torch.equal(result.labels.cpu(), labels)
    assert _captured(engine), "nothing was replayed"
    for image, labels in zip(images, expected, strict=True):
        assert torch.equal(engine(image[None]).cpu()[0], labels)


def test_sizes_come_back_after_eviction(fused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need(fused, *GLUE)
    monkeypatch.setenv("C2F_BACKEND", fused)
    net = network(n=4).cuda()
    engine = net.compile(max_graphs=6)
    for _ in range(3):
        for seed, size in enumerate([(40, 40), (48, 56), (64, 40), (40, 72), (56, 56)]):
            image, _ = scene(*size, objects=9, seed=seed)
            expected = net(image.cuda()).cpu()
            for _ in range(4):
                assert torch.equal(engine(image).cpu(), expected)
            assert engine.programs() <= 6


def test_without_graphs(everyone: str, images: list[Tensor], monkeypatch: Any) -> None:
    need(everyone, *GLUE)
    monkeypatch.setenv("C2F_BACKEND", everyone)
    net = network(n=9).cuda()
    engine = net.compile(graphs=False)
    for image in images[:4]:
        assert torch.equal(engine(image[None]).cpu(), net(image[None].cuda()).cpu())
