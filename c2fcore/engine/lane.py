"""A lane: one batch in flight, with its own stream, buffers and programs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from .. import _backend, _channels, _stages
from .._clock import Clock
from ..models import logits_of
from .cuda_graphs import CudaGraphs
from .networks import Networks
from .plan import Shape, ShapePlan
from .programs import (
    NETWORK,
    NETWORK_RUNS_BEFORE_CAPTURE,
    Plan,
    Plans,
    Program,
    Recorder,
)

_log = logging.getLogger("c2fcore")

# By stream. torch has 32 per device and hands them out in turn, so lanes of several engines may
# share one: what one enqueued while the other captures would be captured, too.
_turns: Final[dict[int, AbstractContextManager[Any]]] = {}


@dataclass(frozen=True)
class Settings:
    """What all lanes of an engine share.

    Attributes:
        graphs: whether programs are captured, where there is a GPU.
        conditional: whether a whole pipeline is one graph that branches.
        limit: patches per forward of the fine network at most, given the images' channels.
        sizes: of these forwards, as for `Buckets`.
    """

    graphs: bool
    conditional: bool
    limit: Callable[[int], int]
    sizes: str | tuple[int, ...]


class Answer(NamedTuple):
    """What became of a batch.

    Attributes:
        labels: uint8 [B, H, W] on the CPU.
        origins: int32 [num, 2] of each image, (y, x) of the windows looked at.
    """

    labels: Tensor
    origins: list[Tensor]


class _NetworkPlan(Plan):
    """A network on inputs of one shape, whatever the images' sizes are."""

    def __init__(self, stage: str, like: Tensor, recorder: Recorder, run: Callable[..., Tensor]):
        super().__init__()
        self._input = torch.empty_like(like)
        name = f"{stage} network on {tuple(like.shape)}"

        def body() -> Tensor:
            # Networks may write into their input, and a called body may run twice on one; a graph
            # is replayed only once per input.
            return run(stage, self._input if recorder.recording else self._input.clone())

        program = Program(name, body, recorder, NETWORK_RUNS_BEFORE_CAPTURE, NETWORK)
        self.programs[stage] = program
        self.size_bytes = like.numel() * like.element_size()

    def run(self, pixels: Tensor) -> Tensor:
        self._input.copy_(pixels)
        (program,) = self.programs.values()
        answer: Tensor = program.run()
        return answer.clone()  # the next run overwrites it


class Lane:
    """Takes one batch at a time through `look`, `second` and `finish`.

    On a GPU the first two only enqueue work on the lane's stream, and lanes overlap. `second` needs
    the number of windows on the host: the later it is called, the less it waits. A lane is used by
    one thread at a time.

    Attributes:
        threads: of torch while a network runs on the CPU; None leaves it as it is.
    """

    def __init__(
        self,
        number: int,
        networks: Networks,
        settings: Settings,
        plans: Plans[Any],
    ) -> None:
        """A lane of an engine."""
        self.threads: int | None = None
        self._number = number
        self._networks = networks
        self._settings = settings
        self._plans = plans
        self._stream: Any = None
        if networks.device.type == "cuda":
            self._stream = torch.cuda.Stream(networks.device)
        self._recorder = recorder_for(networks, self._stream if settings.graphs else None)
        self._plan: ShapePlan | None = None
        self._merged: Tensor | None = None
        self._event: Any = None
        self._downloading = False

    def look(self, images: Sequence[Tensor], clock: Clock | None = None) -> None:
        """Uploads images [H, W, C] of one shape and dtype, and starts the first look."""
        callers: Any = None
        if self._stream is not None and any(image.is_cuda for image in images):
            callers = torch.cuda.current_stream(self._networks.device)
        with self._running():
            if callers is not None:
                self._stream.wait_stream(callers)
            plan = self._take(Shape.of(images))
            plan.clock = clock or Clock()
            self._upload(plan, images)
            if self._whole(plan):
                self._merged = plan.run_whole()
            else:
                plan.run_look()
            windows = plan.looked.windows
            plan.host_num.copy_(windows.num, non_blocking=True)
            plan.host_origins.copy_(windows.origins, non_blocking=True)
            self._event = self._record()

    def second(self) -> None:
        """Waits for the number of windows, and starts the second look and the download, once."""
        plan = self._current()
        if self._downloading:
            return
        if self._merged is None:
            _wait(self._event)
            with self._running():
                self._merged = plan.run_second(int(plan.host_num.sum()))
        with self._running():
            plan.host_labels.copy_(self._merged, non_blocking=True)
            self._event = self._record()
        self._downloading = True

    def finish(self) -> Answer:
        """Waits for the batch; the lane is free then."""
        plan = self._current()
        _wait(self._event)
        self._release()
        used = plan.host_num.tolist()
        origins = [row[:num].clone() for row, num in zip(plan.host_origins, used, strict=True)]
        return Answer(plan.host_labels.clone(), origins)

    def warm_up(self, shape: Shape) -> None:
        """Runs everything that batches of a shape may need once, on black images."""
        try:
            with self._running():
                plan = self._take(shape)
                plan.clock = Clock()
                plan.image.zero_()
                if self._whole(plan):
                    plan.run_whole()
                if not self._whole(plan):
                    plan.run_look()
                    for total in plan.totals():
                        plan.run_second(total)
                event = self._record()
            _wait(event)
        except BaseException:
            self.abandon()
            raise
        self._release()

    def abandon(self) -> None:
        """Gives up the batch after an error; the lane is free then."""
        if self._recorder.lost:
            self._release()
            self._renew()
            return
        try:
            with self._turn():
                if self._stream is not None:
                    self._stream.synchronize()
        finally:
            self._release()

    def _renew(self) -> None:
        """Another stream in place of one that goes on capturing whatever it is given; no graphs."""
        _log.warning("engine: a capture could not be ended; lane %d does without", self._number)
        self._plans.drop(lambda key: key[0] == self._number)
        self._stream = torch.cuda.Stream(self._networks.device)
        self._recorder = Recorder()

    def _current(self) -> ShapePlan:
        assert self._plan is not None, "no batch in this lane"
        return self._plan

    def _take(self, shape: Shape) -> ShapePlan:
        # On the lane's stream, so that buffers are filled before they are read.
        self._plan = self._plans.get((self._number, shape), lambda: self._make(shape))
        return self._current()

    def _release(self) -> None:
        plan, self._plan = self._plan, None
        self._merged = self._event = None
        self._downloading = False
        if plan is not None:
            self._plans.release(plan)

    def _whole(self, plan: ShapePlan) -> bool:
        """Whether this batch is one program."""
        wanted = self._settings.conditional and self._recorder.glue and not plan.clock.running
        return wanted and plan.branches()

    def _make(self, shape: Shape) -> ShapePlan:
        settings = self._settings
        size = (shape.height, shape.width)
        _channels.check("Engine", self._networks.channels, shape.channels, size)
        return ShapePlan(
            shape,
            self._networks,
            self._recorder,
            lambda: settings.limit(shape.channels),
            settings.sizes,
            self._call_network,
        )

    def _upload(self, plan: ShapePlan, images: Iterable[Tensor]) -> None:
        for b, image in enumerate(images):
            staged = self._stream is not None and not image.is_cuda
            (plan.staged if staged else plan.image)[b].copy_(image)
            if staged:
                plan.image[b].copy_(plan.staged[b], non_blocking=True)

    def _call_network(self, stage: str, pixels: Tensor) -> Tensor:
        recorder = self._recorder
        if not recorder.graphs or recorder.recording or self._current().clock.running:
            return self._run_network(stage, pixels)
        key = (self._number, stage, tuple(pixels.shape), pixels.dtype)
        plan = self._plans.get(
            key, lambda: _NetworkPlan(stage, pixels, recorder, self._run_network)
        )
        try:
            answer: Tensor = plan.run(pixels)
        finally:
            self._plans.release(plan)
        return answer

    def _run_network(self, stage: str, pixels: Tensor) -> Tensor:
        networks = self._networks
        with networks.autocast(), _threads(self.threads):
            if stage == "fine":
                return _stages.fine_logits(networks.fine, pixels, networks.config)
            fed = _stages.fed(pixels, networks.coarse, networks.config)
            if not networks.config.channels_last:
                fed = fed.contiguous()
            size = self._current().true_size
            answer = _channels.call("Engine", networks.coarse, fed, size)
            return logits_of(answer, "coarse network")

    @contextmanager
    def _running(self) -> Iterator[None]:
        with torch.inference_mode(), self._turn():
            if self._stream is None:
                yield
                return
            with torch.cuda.device(self._networks.device), torch.cuda.stream(self._stream):
                yield

    def _turn(self) -> AbstractContextManager[Any]:
        """No other lane uses the stream inside."""
        if self._stream is None:
            return nullcontext()
        return _turns.setdefault(self._stream.cuda_stream, threading.RLock())

    def _record(self) -> Any:
        if self._stream is None:
            return None
        event = torch.cuda.Event()
        event.record(self._stream)
        return event


def recorder_for(networks: Networks, stream: Any) -> Recorder:
    """What runs the programs of a lane: graphs on its CUDA stream, if it has one."""
    if stream is None:
        return Recorder()
    return CudaGraphs(networks.device, stream, _glue_captures(networks))


def _glue_captures(networks: Networks) -> bool:
    """Whether the ops never wait for the device: the reference reads windows on the host."""
    probe = torch.empty(0, dtype=torch.float32, device=networks.device)
    return not any(
        _backend.takes_reference(op, networks.config.backend, probe)
        for op in ("select_windows", "extract_patches", "aggregate")
    )


def _wait(event: Any) -> None:
    if event is not None:
        event.synchronize()


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """So many threads of torch inside; as many as before afterwards."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
