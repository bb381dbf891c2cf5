"""CUDA graphs played on the CPU, and networks that misbehave, for tests of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from networks import Coarse
from torch import Tensor
from torch.utils import _pytree as pytree

from c2fcore.engine import lane


class Replayed:
    """Programs as a GPU's graphs would run them: always into the memory of the first run.

    What a graph needs in between may lie where graphs captured later, of the same memory, have
    their outputs: a replay overwrites those.
    """

    graphs = True
    glue = True
    recording = False
    lost = False

    def __init__(self) -> None:
        self.captures = 0
        self._held: dict[str, list[list[Tensor]]] = {}

    def capture(self, body: Callable[[], Any], memory: str) -> tuple[Callable[[], None], Any]:
        self.captures += 1
        outputs = pytree.tree_map_only(Tensor, torch.clone, self._recorded(body))
        held = self._held.setdefault(memory, [])
        held.append(tensors(outputs))
        number = len(held)
        ran = True

        def replay() -> None:
            nonlocal ran
            if ran:  # as a part of the capture, which runs nothing on a GPU
                ran = False
                return
            for later in held[number:]:
                for tensor in later:
                    tensor.fill_(float("nan") if tensor.is_floating_point() else 0x5A)
            # Bodies read memory that must not move, so that of the first run is written anew.
            found = self._recorded(body)
            for static, fresh in zip(tensors(outputs), tensors(found), strict=True):
                static.copy_(fresh)

        return replay, outputs

    def rehearse(self, parts: Sequence[Callable[[], Any]]) -> None:
        for part in parts:
            self._recorded(part)

    def _recorded(self, body: Callable[[], Any]) -> Any:
        """What is inside a graph never meets the recorder again, in a replay either."""
        self.recording = True
        try:
            return body()
        finally:
            self.recording = False

    def when(self, condition: Tensor, body: Callable[[], Any]) -> None:
        assert condition.dtype == torch.bool
        assert condition.ndim == 0
        if bool(condition):
            body()


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def replay_everywhere(monkeypatch: Any) -> list[Replayed]:
    """Engines made from now on play graphs; returns their recorders, one per lane."""
    recorders: list[Replayed] = []

    def make(networks: Any, stream: Any) -> Replayed:
        recorders.append(Replayed())
        return recorders[-1]

    monkeypatch.setattr(lane, "recorder_for", make)
    return recorders


class Fragile(Coarse):
    """Fails on images whose first pixel is white."""

    def forward(self, image: Tensor) -> Any:
        if bool((image[:, :, 0, 0] > 0.999).all(1).any()):
            raise RuntimeError("a white corner")
        return super().forward(image)
