"""Engines on a GPU, for tests: made, looked into, compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from availability import need
from glue_inputs import GLUE
from networks import network, scene
from torch import Tensor, nn

from c2fcore import C2FNet, Engine
from c2fcore.engine.cuda_graphs import no_conditional_nodes as reason
from c2fcore.engine.programs import Program

# Another memory format rounds logits otherwise; a pixel in a thousand may be that close.
AGREE = 0.999


class Forgetful(nn.Module):
    """A network without the record of its calls.

    For that it would be compiled at each of them; and what it holds is memory that stays taken.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.stride_multiple = network.stride_multiple

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network.logits(image)
        return logits


def made(backend: str, **options: Any) -> C2FNet:
    need(backend, *GLUE)
    return network(backend=backend, **options).cuda()


def images(count: int, height: int = 75, width: int = 83) -> list[Tensor]:
    return [scene(height, width, objects=(7 * i) % 31, seed=i)[0][0] for i in range(count)]


def branching(engine: Engine, wanted: bool) -> Engine:
    if wanted and reason():
        pytest.skip(reason())
    for lane in engine._all_lanes:
        lane._settings = replace(lane._settings, conditional=wanted)
    return engine


def captured(engine: Engine) -> set[Any]:
    plans = [plan for _, plan in engine._plans.items()]
    programs: list[tuple[Any, Program[Any]]] = [item for p in plans for item in p.programs.items()]
    return {name for name, program in programs if program.captured}


def agreement(one: Tensor, two: Tensor) -> float:
    return float((one.cpu() == two.cpu()).float().mean())
