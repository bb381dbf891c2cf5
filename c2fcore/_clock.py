"""Time of the stages of the two-stage network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

STAGES: Final = ("coarse", "select", "extract", "fine", "aggregate")


class Clock:
    """Adds up the seconds of each stage; without a device it does nothing."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._device = device
        self.running = device is not None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self._device is None:
            yield
            return
        start = self._now(self._device)
        yield
        self.seconds[name] += self._now(self._device) - start

    @staticmethod
    def _now(device: torch.device) -> float:
        if device.type == "cuda":
            # Not the whole device: another thread's stream may be capturing a graph.
            torch.cuda.current_stream(device).synchronize()
        return time.perf_counter()
