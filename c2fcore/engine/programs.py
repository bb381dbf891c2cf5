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
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, Generic, TypeVar

from torch import Tensor

T = TypeVar("T")
Body = Callable[[], T]

# Runs before the capture: they compile kernels, pick algorithms and fill caches, and spare an image
# size that never comes back the capture.
RUNS_BEFORE_CAPTURE: Final = 2
# Of a network by itself, which runs up to twice as often before what holds it is captured.
NETWORK_RUNS_BEFORE_CAPTURE: Final = 3 * RUNS_BEFORE_CAPTURE
# Graphs that share memory overwrite, when replayed, what graphs captured after them left there. A
# frame's graphs are captured in the order of their replays; a network's may be replayed between
# them at any time, and has memory of its own.
FRAME: Final = "frame"
NETWORK: Final = "network"
# Memory of one program with branches. torch captures each branch on a stream of its own, and never
# reuses memory across streams: in FRAME, what evicted graphs leave could not be used again.
OWN: Final = "own"

# One capture at a time in the process, and nothing freed meanwhile: freeing pinned memory records
# events on the streams that used it, and one of them may be capturing.
capturing: Final = threading.RLock()

_log = logging.getLogger("c2fcore")


class Recorder:
    """What runs the programs of a lane; this one calls them, `CudaGraphs` captures and replays.

    Attributes:
        graphs: whether programs are captured.
        glue: whether those that hold more than a network are.
        recording: whether a capture is going on.
        lost: whether one could not be ended: the stream is of no use any more.
    """

    graphs = False
    glue = False
    recording = False
    lost = False

    def capture(self, body: Body[T], memory: str) -> tuple[Callable[[], None], T]:
        """Records what `body` does: a function that does it again, and its static outputs.

        Graphs of one memory, FRAME or NETWORK, share what they do not give back; that of OWN goes
        with its graph.
        """
        raise NotImplementedError

    def rehearse(self, parts: Sequence[Body[Any]]) -> None:
        """Records each part by itself, and forgets it.

        Raises:
            RuntimeError: the device has not the memory for all of them beside each other.
            Exception: one cannot be captured.
        """
        raise NotImplementedError

    def when(self, condition: Tensor, body: Body[Any]) -> None:
        """Runs `body` where `condition`, a bool of no dimensions on the device, is true.

        Here that is waited for, and decided on the host.
        """
        if bool(condition):
            body()


class Program(Generic[T]):
    """A body, which may be run twice in a row, and its graph once there is one.

    A capture that fails (a network that waits for the device, say) is logged once, and the program
    goes on being called.

    One with branches (`Recorder.when`) is rehearsed part by part: a capture that fails inside a
    branch is the end of the process with the drivers there are (issue 2918 of NVIDIA/cuda-python).

    Attributes:
        refused: whether a capture has failed.
    """

    def __init__(
        self,
        name: str,
        body: Body[T],
        recorder: Recorder,
        runs: int = RUNS_BEFORE_CAPTURE,
        memory: str = FRAME,
        parts: Sequence[Body[Any]] = (),
    ) -> None:
        """A program of `body`, to be captured in a memory after so many runs.

        Of one with branches `parts` are those, and what else it does.
        """
        self.name = name
        self.refused = False
        self._before = runs
        self._memory = memory
        self._body = body
        self._parts = parts
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
                    # cuDNN's handles and chosen algorithms are per thread; they cannot be made
                    # during a capture.
                    self._body()
                # Under one lock: another capture could take the memory that the rehearsal finds
                # free, or keep it from emptying torch's cache.
                with capturing:
                    if self._parts:
                        self._recorder.rehearse(self._parts)
                    self._graph = self._recorder.capture(self._body, self._memory)
            except Exception as error:
                if self._recorder.lost:
                    raise
                answer = self._body()  # if this raises too, graphs are not to blame
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
        self.drop(lambda key: True)

    def drop(self, wanted: Callable[[Any], bool]) -> None:
        """Forgets those whose keys are wanted gone."""
        with self._lock:
            dropped = [self._drop(key) for key in list(self._plans) if wanted(key)]
        self._free(dropped)

    def _count(self) -> int:
        return sum(max(1, len(plan.programs)) for plan in self._plans.values())

    def _full(self) -> bool:
        held = sum(plan.size_bytes for plan in self._plans.values())
        return self._count() > self.bound or held > self.bound_bytes

    def _trim(self) -> list[P]:
        dropped = []
        while len(self._plans) > 1 and self._full():
            dropped.append(self._drop(next(iter(self._plans))))
            self.evicted += 1
        return dropped

    def _drop(self, key: Hashable) -> P:
        plan = self._plans.pop(key)
        plan.kept = False
        return plan

    @staticmethod
    def _free(plans: list[P]) -> None:
        if all(plan.kept for plan in plans):
            return
        with capturing:
            while plans:
                plan = plans.pop()
                if not plan.kept and not plan.holders:
                    # Programs and their plan form a cycle; cleared, memory is freed at once.
                    plan.programs.clear()
                del plan
