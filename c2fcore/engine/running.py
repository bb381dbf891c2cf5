"""Many images through an engine: read ahead, computed in lanes, handed out in order."""

from __future__ import annotations

import contextvars
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import _arrays
from .inputs import Loaded, at_once, load, name_of
from .lane import Answer, Lane

if TYPE_CHECKING:
    from .engine import Engine

_POLL_S: Final = 0.05  # how long a blocked thread takes to notice that it should stop
_PATIENCE_S: Final = 1.0  # how long to wait for an iterable that does not return


@dataclass(frozen=True)
class Result:
    """What became of one image of a run.

    Attributes:
        index: its place, from 0.
        name: its path, the name given with it, or "image INDEX".
        labels: uint8 [H, W], an array, or a tensor if the image was one; None if it failed.
        pixels: [H, W, C], what was segmented; None if it could not be read.
        windows: int32 [num, 2], (y, x) of the windows looked at; None if it failed.
        error: what went wrong, or None.
        known: bool [H, W], False where a file or a Pillow image has no data; it has labels there,
            too. None if there is data everywhere.
    """

    index: int
    name: str
    labels: Any = None
    pixels: Tensor | None = None
    windows: Tensor | None = None
    error: Exception | None = None
    known: npt.NDArray[np.bool_] | None = None

    def __repr__(self) -> str:
        """The sizes of what there is, without a pixel."""
        if self.error is not None:
            return f"Result(index={self.index}, name={self.name!r}, error={self.error!r})"
        labels = None if self.labels is None else tuple(self.labels.shape)
        windows = None if self.windows is None else len(self.windows)
        return (
            f"Result(index={self.index}, name={self.name!r}, labels of {labels}, {windows} windows)"
        )


@dataclass(frozen=True)
class _Job:
    index: int
    name: str
    loading: Future[Loaded]

    @property
    def loaded(self) -> Loaded:
        return self.loading.result()  # `loading` is done

    def kind(self) -> tuple[Any, ...]:
        """Images of one kind may pass the networks together."""
        pixels = self.loaded.pixels
        return pixels.shape, pixels.dtype, pixels.device


class _Stopped(Exception):
    """The run is over for this thread."""


class _Channel:
    """A bounded queue whose waiting ends when the run stops."""

    def __init__(self, bound: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(bound)
        self._stop = stop

    def put(self, item: Any) -> None:
        _until(self._stop, lambda: self._queue.put(item, timeout=_POLL_S), queue.Full)

    def get(self) -> Any:
        return _until(self._stop, lambda: self._queue.get(timeout=_POLL_S), queue.Empty)

    def empty(self) -> bool:
        return self._queue.empty()

    def full(self) -> bool:
        return self._queue.full()


def _until(stop: threading.Event, attempt: Callable[[], Any], missing: type[Exception]) -> Any:
    """What `attempt` returns, tried again while it raises `missing`."""
    while not stop.is_set():
        try:
            return attempt()
        except missing:
            continue
    raise _Stopped


_END: Final = object()


def run_items(
    engine: Engine, images: Iterable[Any], prefetch: int, readers: int
) -> Generator[Result, None, None]:
    """`Engine.run`, once its options are checked. The threads start with the first result."""
    run = _Run(engine, images, prefetch, readers)
    try:
        run.start()
        while (found := run.results.get()) is not _END:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        run.stop()


class _Run:
    """One call of `Engine.run`: a thread that reads on, readers that decode, one that computes."""

    def __init__(self, engine: Engine, images: Iterable[Any], prefetch: int, readers: int) -> None:
        self._engine = engine
        self._images = images
        self._stopping = threading.Event()
        self._jobs = _Channel(prefetch, self._stopping)
        self.results = _Channel(prefetch, self._stopping)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="c2f-read")
        self._in_flight: deque[tuple[Lane, list[_Job]]] = deque()
        self._finished: dict[int, Result] = {}
        self._next = 0  # index of the result to hand out
        stream = _current_stream(engine.device)
        self._threads = [
            # use_backend(...) and the current stream of the caller hold in the threads, too.
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(_on, stream, work),
                name=name,
                daemon=True,
            )
            for work, name in ((self._feed, "c2f-feed"), (self._compute, "c2f-compute"))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends all threads; waits for the batch that is being computed.

        An iterable that waits for an image cannot be stopped: its thread ends when it returns.
        """
        self._stopping.set()
        self._readers.shutdown(wait=False, cancel_futures=True)
        for thread, patience_s in zip(self._threads, (_PATIENCE_S, None), strict=True):
            # Garbage collection may call this for a dropped run in one of the run's own threads.
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(patience_s)

    def _feed(self) -> None:
        """Iterates over the images, no further ahead than `prefetch`."""
        last: Any = _END
        try:
            for index, item in enumerate(self._images):
                loading = self._load(item, index)
                self._jobs.put(_Job(index, name_of(item, index), loading))
        except BaseException as error:  # raised by the user's iterable, or _Stopped
            last = error
        with suppress(_Stopped):
            self._jobs.put(last)

    def _load(self, item: Any, index: int) -> Future[Loaded]:
        if not at_once(item):
            return self._readers.submit(load, item, index)
        loading: Future[Loaded] = Future()
        try:
            loading.set_result(load(item, index))
        except Exception as error:
            loading.set_exception(error)
        return loading

    def _compute(self) -> None:
        """Takes the jobs in order, and hands out a result for each."""
        last: Any = _END
        try:
            last = self._take_jobs()
            self._settle()
        except BaseException as error:  # never leave the user waiting
            last = error
        while self._in_flight:
            lane, _ = self._in_flight.popleft()
            with suppress(Exception):  # a lost device raises at every call; `last` reports it
                self._drop(lane)
        with suppress(_Stopped):
            self.results.put(last)

    def _take_jobs(self) -> Any:
        """Computes until the jobs end; returns what ended them."""
        batch: list[_Job] = []
        while True:
            if self._jobs.empty():  # nothing to overlap with: do not keep results waiting
                self._settle()
            job = self._jobs.get()
            if not isinstance(job, _Job):
                self._advance_all(batch)
                return job
            if not self._is_loaded(job):
                continue
            if batch and job.kind() != batch[0].kind():
                self._advance_all(batch)
                batch = []
            batch.append(job)
            if len(batch) == self._engine.batch:
                self._advance_all(batch)
                batch = []

    def _is_loaded(self, job: _Job) -> bool:
        """Waits for the pixels; an image that cannot be read is a result already."""
        if not job.loading.done():
            self._settle()
        error = _until(self._stopping, lambda: job.loading.exception(_POLL_S), futures.TimeoutError)
        if error is not None:
            self._fail(job, None, error)
        return error is None

    def _advance_all(self, jobs: list[_Job]) -> None:
        for batch in self._engine.batches(jobs):
            self._advance(list(batch))

    def _advance(self, batch: list[_Job]) -> None:
        """Starts the first look of a batch, and only then the second look of the one before.

        By then its number of windows has come from the device: nobody waits for it.
        """
        lane = self._take_lane()
        earlier = list(self._in_flight)
        self._in_flight.append((lane, batch))  # before anything that may end the run
        try:
            lane.look([job.loaded.pixels for job in batch])
        except Exception as error:
            self._give_up(lane, batch, error)
            return
        for other, others in earlier:
            self._second(other, others)
        if self._engine.lanes == 1:
            self._settle()

    def _second(self, lane: Lane, batch: list[_Job]) -> None:
        try:
            lane.second()
        except Exception as error:
            self._give_up(lane, batch, error)

    def _finish_oldest(self) -> None:
        lane, batch = self._in_flight[0]
        try:
            lane.second()
            answer = lane.finish()
        except Exception as error:
            self._give_up(lane, batch, error)
            return
        self._in_flight.popleft()
        self._engine.give_lane(lane)
        self._succeed(batch, answer)

    def _settle(self) -> None:
        """Finishes what is in flight, and hands out what can be handed out."""
        while self._in_flight:
            self._finish_oldest()
        self._hand_out()

    def _take_lane(self) -> Lane:
        """A free lane; finishes batches of this run rather than wait for others with them held."""
        while True:
            lane = self._engine.take_lane(wait_s=0 if self._in_flight else _POLL_S)
            if lane is not None:
                return lane
            if self._in_flight:
                self._finish_oldest()
                self._hand_out()
            elif self._stopping.is_set():
                raise _Stopped

    def _give_up(self, lane: Lane, batch: list[_Job], error: Exception) -> None:
        """After an error in a batch: each of its images by itself, to find the one that fails.

        One that had not the memory may have it then: see `Engine.answer`.
        """
        self._in_flight.remove((lane, batch))
        self._drop(lane)
        out_of_memory = isinstance(error, torch.cuda.OutOfMemoryError)
        if len(batch) == 1 and not out_of_memory:
            self._fail(batch[0], batch[0].loaded.pixels, error)
            return
        traceback.clear_frames(error.__traceback__)  # frames keep the batch's tensors alive
        while self._in_flight:  # or this thread would wait for a lane that it holds itself
            self._finish_oldest()
        for job in batch:
            try:
                self._succeed([job], self._engine.answer([job.loaded.pixels]))
            except Exception as own:
                self._fail(job, job.loaded.pixels, own)

    def _drop(self, lane: Lane) -> None:
        """Gives a lane back whose batch is lost."""
        try:
            lane.abandon()
        finally:
            self._engine.give_lane(lane)

    def _succeed(self, batch: list[_Job], answer: Answer) -> None:
        for job, labels, windows in zip(batch, answer.labels, answer.origins, strict=True):
            loaded = job.loaded
            # A copy: a result must not keep the labels of its whole batch.
            own = labels.clone() if len(batch) > 1 else labels
            self._finished[job.index] = Result(
                job.index,
                job.name,
                loaded.answer(own),
                loaded.pixels,
                windows,
                known=loaded.known,
            )

    def _fail(self, job: _Job, pixels: Tensor | None, error: BaseException) -> None:
        if not isinstance(error, Exception):
            raise error
        self._finished[job.index] = Result(job.index, job.name, pixels=pixels, error=error)

    def _hand_out(self) -> None:
        while (result := self._finished.pop(self._next, None)) is not None:
            if self.results.full():
                # The consumer may itself call this engine meanwhile: leave it all lanes.
                while self._in_flight:
                    self._finish_oldest()
            self.results.put(result)
            self._next += 1


def _current_stream(device: torch.device) -> Any:
    """Where this thread's work on the device goes, CuPy's before it; None if it is no GPU."""
    if device.type != "cuda":
        return None
    stream = torch.cuda.current_stream(device)
    _arrays.wait_for_cupy(stream)
    return stream


def _on(stream: Any, work: Callable[[], None]) -> None:
    """`work` with that stream current: images made on it are waited for on it."""
    with nullcontext() if stream is None else torch.cuda.stream(stream):
        work()
