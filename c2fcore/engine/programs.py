"""Programs: parts of the pipeline that always do the same work on the same memory.

A program is a function without arguments that reads buffers and returns tensors. On a GPU it is
captured as a CUDA graph once it has run often enough, and replayed from then on: its tensors then
are always the same memory, which the next run overwrites. Elsewhere it is simply called.

How many are kept is bounded: plans, which own programs and buffers, go in the order of their last
use.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
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
# Graphs of one memory overwrite what later ones of it left, when they are replayed again. A frame's
# graphs are captured in the order of their replays; a network's may come between them at any time.
FRAME: Final = "frame"
NETWORK: Final = "network"
# Conditional nodes came with CUDA 12.4.
_CONDITIONAL_DRIVER: Final = 12040

_log = logging.getLogger("c2fcore")
# One capture at a time in the process, and nothing freed meanwhile: freeing pinned memory records
# events on the streams that used it, of which one may be capturing.
_capturing = threading.RLock()


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

    def capture(self, body: Body[T], memory: str) -> tuple[Callable[[], None], T]:
        """Records what `body` does: a function that does it again, and its static outputs.

        Graphs of one memory, FRAME or NETWORK, share what they do not give back.
        """

    def when(self, condition: Tensor, body: Body[Any]) -> None:
        """Runs `body` where `condition`, a bool of no dimensions on the device, is true."""


class Direct:
    """Programs that are called, on any device."""

    graphs = False
    glue = False
    recording = False

    def capture(self, body: Body[T], memory: str) -> tuple[Callable[[], None], T]:
        """Never asked for."""
        raise AssertionError("Direct captures nothing")

    def when(self, condition: Tensor, body: Body[Any]) -> None:
        """Waits for the device, and decides here."""
        if bool(condition):
            body()


class CudaGraphs:
    """Programs as CUDA graphs on the stream of a lane, where they never run together."""

    graphs = True

    def __init__(self, device: torch.device, stream: torch.cuda.Stream, glue: bool) -> None:
        self.glue = glue
        self.recording = False
        self._device = device
        self._stream = stream
        self._pools = {memory: torch.cuda.graph_pool_handle() for memory in (FRAME, NETWORK)}

    def capture(self, body: Body[T], memory: str) -> tuple[Callable[[], None], T]:
        """The graph's replay, to be called on the lane's stream, and its outputs."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on allocating and waiting: only this one's calls are restricted.
        recorded = torch.cuda.graph(
            graph,
            pool=self._pools[memory],
            stream=self._stream,
            capture_error_mode="thread_local",
        )
        with _capturing, _no_collection(), torch.cuda.device(self._device):
            self.recording = True
            first: list[BaseException] = []  # the end of a capture that failed fails, too
            try:
                with recorded:
                    try:
                        outputs = body()
                    except BaseException as error:
                        first.append(error)
                        raise
            except BaseException as error:
                self._leave(graph, memory)
                raise (first or [error])[0] from None
            finally:
                self.recording = False
        return graph.replay, outputs

    def _leave(self, graph: torch.cuda.CUDAGraph, memory: str) -> None:
        """Ends whatever a failed capture has left behind."""
        torch.cuda.set_stream(self._stream)  # that of a conditional node may be current still
        if torch.cuda.is_current_stream_capturing():
            with suppress(RuntimeError):  # tells once more that it failed
                graph.capture_end()
        # Before torch 2.12 the allocator goes on taking the capture for one under way, frees
        # nothing that several streams have used, and lets no other capture into that memory.
        with suppress(RuntimeError):  # it has ended as it should
            torch._C._cuda_endAllocateToPool(self._device.index, self._pools[memory])  # type: ignore[attr-defined,unused-ignore]
        self._pools[memory] = torch.cuda.graph_pool_handle()

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
        except BaseException:
            with suppress(RuntimeError):  # the first error is the one to tell
                graph.end_capture_to_conditional_node()
            raise
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


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection inside, which may destroy graphs and free pinned memory."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Program(Generic[T]):
    """A body, which may be run twice in a row, and its graph once there is one.

    A capture that fails (a network that waits for the device, say) is logged once, and the program
    goes on being called.

    Attributes:
        refused: whether that has happened.
    """

    def __init__(
        self,
        name: str,
        body: Body[T],
        recorder: Recorder,
        runs: int = RUNS_BEFORE_CAPTURE,
        memory: str = FRAME,
    ) -> None:
        """A program of `body`, to be captured in a memory after so many runs."""
        self.name = name
        self.refused = False
        self._before = runs
        self._memory = memory
        self._body = body
        self._recorder = recorder
        self._runs = 0
        self._graph: tuple[Callable[[], None], T] | None = None
        self._warm: threading.Thread | None = None

    @property
    def captured(self) -> bool:
        """Whether it is replayed from now on."""
        return self._graph is not None

    def run(self, may_capture: bool = True) -> T:
        """Does the work; tensors of a graph hold until the next run."""
        if self._graph is None:
            self._runs += 1
            thread = threading.current_thread()
            if self.refused or not may_capture or self._runs <= self._before:
                self._warm = thread
                return self._body()
            try:
                if self._warm is not thread:
                    # Handles and chosen algorithms of cuDNN are a thread's: none in a capture.
                    self._body()
                self._graph = self._recorder.capture(self._body, self._memory)
            except Exception as error:
                answer = self._body()  # an input that fails here, too, says nothing of graphs
                self.refused = True
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
        size_bytes: of its buffers.
    """

    def __init__(self) -> None:
        self.programs: dict[Hashable, Program[Any]] = {}
        self.holders = 0
        self.kept = True
        self.size_bytes = 0


P = TypeVar("P", bound=Plan)


class Plans(Generic[P]):
    """Plans by key, bounded in programs and bytes; the least recently used goes first.

    A plan without programs counts as one. One that a lane still works with lives on until it is
    released; the bounds count it no more. Thread-safe.
    """

    def __init__(self, bound: int, bound_bytes: int) -> None:
        self.bound = bound
        self.bound_bytes = bound_bytes
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
            dropped = self._trim()
        self._free(dropped)
        return plan

    def release(self, plan: P) -> None:
        """Gives a plan back, and drops plans until the bounds hold; the last used one stays."""
        with self._lock:
            plan.holders -= 1
            dropped = [plan, *self._trim()]
        self._free(dropped)

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
            dropped = [self._drop_oldest() for _ in range(len(self._plans))]
        self._free(dropped)

    def _count(self) -> int:
        return sum(max(1, len(plan.programs)) for plan in self._plans.values())

    def _full(self) -> bool:
        held = sum(plan.size_bytes for plan in self._plans.values())
        return self._count() > self.bound or held > self.bound_bytes

    def _trim(self) -> list[P]:
        dropped = []
        while len(self._plans) > 1 and self._full():
            dropped.append(self._drop_oldest())
            self.evicted += 1
        return dropped

    def _drop_oldest(self) -> P:
        _, plan = self._plans.popitem(last=False)
        plan.kept = False
        return plan

    @staticmethod
    def _free(plans: list[P]) -> None:
        if all(plan.kept for plan in plans):
            return
        with _capturing:
            while plans:
                plan = plans.pop()
                if not plan.kept and not plan.holders:
                    # Programs refer to their plan: its memory must not wait for a collection.
                    plan.programs.clear()
                del plan
