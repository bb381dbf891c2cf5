"""Programs: parts of the pipeline that always do the same work on the same memory.

A program is a function without arguments that reads buffers and returns tensors. On a GPU it is
captured as a CUDA graph once it has run often enough, and replayed from then on: its tensors then
are always the same memory, which the next run overwrites. Elsewhere it is simply called.

How many are kept is bounded: plans, which own programs and buffers, go in the order of their last
use.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Body = Callable[[], T]

# Runs before the capture. They compile kernels, pick algorithms and fill caches; and an image size
# that never comes back costs no capture.
RUNS_BEFORE_CAPTURE: Final = 2
# Of a network by itself, which runs up to twice as often before what holds it is captured.
NETWORK_RUNS_BEFORE_CAPTURE: Final = 3 * RUNS_BEFORE_CAPTURE
# Conditional nodes came with CUDA 12.4.
_CONDITIONAL_DRIVER: Final = 12040

_log = logging.getLogger("c2fcore")
_capturing = threading.Lock()  # one capture at a time in the process


class Recorder(Protocol):
    """What runs the programs of a lane.

    Attributes:
        graphs: whether programs are captured.
        glue: whether those that hold more than a network are.
        recording: whether a capture is going on.
    """

    graphs: bool
    glue: bool
    recording: bool

    def capture(self, body: Body[T]) -> tuple[Callable[[], None], T]:
        """Records what `body` does: a function that does it again, and its static outputs."""

    def when(self, condition: Tensor, body: Body[Any]) -> None:
        """Runs `body` where `condition`, a bool of no dimensions on the device, is true."""


class Direct:
    """Programs that are called, on any device."""

    graphs = False
    glue = False
    recording = False

    def capture(self, body: Body[T]) -> tuple[Callable[[], None], T]:
        """Never asked for."""
        raise AssertionError("Direct captures nothing")

    def when(self, condition: Tensor, body: Body[Any]) -> None:
        """Waits for the device, and decides here."""
        if bool(condition):
            body()


class CudaGraphs:
    """Programs as CUDA graphs, all of one lane in one memory pool: they never run together."""

    graphs = True

    def __init__(self, device: torch.device, stream: torch.cuda.Stream, glue: bool) -> None:
        self.glue = glue
        self.recording = False
        self._device = device
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, body: Body[T]) -> tuple[Callable[[], None], T]:
        """The graph's replay, to be called on the lane's stream, and its outputs."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on allocating and waiting: only this one's calls are restricted.
        recorded = torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        )
        self._stream.synchronize()
        self.recording = True
        try:
            with _capturing, torch.cuda.device(self._device), recorded:
                outputs = body()
        finally:
            self.recording = False
        return graph.replay, outputs

    def when(self, condition: Tensor, body: Body[Any]) -> None:
        """A conditional node while capturing; a decision on the host otherwise."""
        if not self.recording:
            if bool(condition):
                body()
            return
        graph: Any = torch.cuda.CUDAGraph.get_currently_capturing_graph()  # type: ignore[attr-defined,unused-ignore]
        graph.begin_capture_to_if_node(condition)
        try:
            body()
        finally:
            graph.end_capture_to_conditional_node()


def no_conditional_nodes() -> str:
    """Why CUDA graphs cannot branch here, "" if they can."""
    if not hasattr(torch.cuda.CUDAGraph, "begin_capture_to_if_node"):
        return f"torch {torch.__version__} cannot capture conditional nodes"
    get_version: Any = getattr(torch._C, "_cuda_getDriverVersion", int)  # only in CUDA builds
    driver = int(get_version())
    if driver < _CONDITIONAL_DRIVER:
        return f"the driver knows CUDA {driver // 1000}.{driver % 1000 // 10}, 12.4 is needed"
    return ""


class Program(Generic[T]):
    """A body, and its graph once there is one.

    A capture that fails (a network that waits for the device, say) is logged once, and the program
    goes on being called.
    """

    def __init__(
        self, name: str, body: Body[T], recorder: Recorder, runs: int = RUNS_BEFORE_CAPTURE
    ) -> None:
        """A program of `body`, to be captured after so many runs."""
        self.name = name
        self._before = runs
        self._body = body
        self._recorder = recorder
        self._runs = 0
        self._graph: tuple[Callable[[], None], T] | None = None
        self._refused = False

    @property
    def captured(self) -> bool:
        """Whether it is replayed from now on."""
        return self._graph is not None

    def run(self, may_capture: bool = True) -> T:
        """Does the work; tensors of a graph hold until the next run."""
        if self._graph is None:
            self._runs += 1
            if self._refused or not may_capture or self._runs <= self._before:
                return self._body()
            try:
                self._graph = self._recorder.capture(self._body)
            except Exception as error:
                answer = self._body()  # an input that fails here, too, says nothing of graphs
                self._refused = True
                _log.warning("engine: %s runs without a CUDA graph: %s", self.name, error)
                return answer
        replay, outputs = self._graph
        replay()
        return outputs


class Plan:
    """Programs and what they work on, as `Plans` keeps them.

    Attributes:
        programs: those in use so far, by name.
        holders: lanes at work with it.
        kept: whether it is still among those kept.
    """

    def __init__(self) -> None:
        self.programs: dict[Hashable, Program[Any]] = {}
        self.holders = 0
        self.kept = True


P = TypeVar("P", bound=Plan)


class Plans(Generic[P]):
    """Plans by key, bounded by the number of their programs; the least recently used goes first.

    A plan without programs counts as one. One that a lane still works with lives on until it is
    released; the bound counts it no more. Thread-safe.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.evicted = 0
        self._plans: OrderedDict[Hashable, P] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], P]) -> P:
        """The plan of `key`, made if there is none, to be released after use."""
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                plan = self._plans[key] = make()
            plan.holders += 1
            self._plans.move_to_end(key)
            self._trim()
            return plan

    def release(self, plan: P) -> None:
        """Gives a plan back, and drops plans until the bound holds; the last used one stays."""
        with self._lock:
            plan.holders -= 1
            self._free(plan)
            self._trim()

    def programs(self) -> int:
        """What the bound is held against."""
        with self._lock:
            return self._count()

    def items(self) -> list[tuple[Hashable, P]]:
        """Keys and plans, from the least to the most recently used."""
        with self._lock:
            return list(self._plans.items())

    def clear(self) -> None:
        """Forgets all."""
        with self._lock:
            while self._plans:
                self._drop_oldest()

    def _count(self) -> int:
        return sum(max(1, len(plan.programs)) for plan in self._plans.values())

    def _trim(self) -> None:
        while len(self._plans) > 1 and self._count() > self.bound:
            self._drop_oldest()
            self.evicted += 1

    def _drop_oldest(self) -> None:
        _, plan = self._plans.popitem(last=False)
        plan.kept = False
        self._free(plan)

    def _free(self, plan: P) -> None:
        if not plan.kept and not plan.holders:
            # Programs refer to their plan: device memory must not wait for garbage collection.
            plan.programs.clear()
