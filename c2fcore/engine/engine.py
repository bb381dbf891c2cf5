"""Engine: a `C2FNet` as a deployed pipeline, uint8 in, uint8 labels out."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from torch import Tensor

from .. import _arrays, _checks, _stages
from .._clock import Clock
from .._progress import Bar
from .buckets import check_sizes
from .cuda_graphs import no_conditional_nodes
from .inputs import check_many, load
from .lane import Answer, Lane, Settings
from .networks import Networks
from .plan import Shape, ShapePlan
from .programs import RUNS_BEFORE_CAPTURE, Plans
from .running import Result, run_items
from .working_set import patches_in_cache

if TYPE_CHECKING:
    from ..pipeline import C2FNet

R = TypeVar("R")

_log = logging.getLogger("c2fcore")
_WHO: Final = "Engine"
_FEWEST_THREADS: Final = 4  # of torch; with fewer, all belong to the networks
_LANES_GPU: Final = 3  # one in its first look, one in its second, one on its way to the host
_BUFFER_BYTES: Final = 2 << 30  # kept for image sizes to come back; the size in use may take more


class Engine:
    """The second look almost for free: `net` with its networks and steps made ready to be repeated.

    `engine(image)` gives the labels of `net(image)`, `engine.run(images)` those of many, in order.
    As the networks run in another memory format (and in another precision, if asked for), their
    logits may differ by rounding; all else is bit for bit the eager path.

    The engine keeps copies of the networks: training `net` on does not change it. On a GPU the
    steps are captured as CUDA graphs; on the CPU the same steps are called. Any thread may call an
    engine, and several engines live side by side; for several GPUs make one engine each.

    The graph of the second look depends on how many windows there are. torch from 2.14 on puts one
    per size into that of the first look, as IF nodes (`cuda_graphs` says why not earlier). Without,
    and where the windows take more than one forward, the number is read on the host, in `run` once
    the next batch has begun.

    Attributes:
        config: of the net, at the time.
        device: of its networks.
        batch: images that `run` shows the networks at once, if their sizes are equal.
        lanes: batches that may be in flight.
        networks: the copies, as they run.
        threads: of torch while a network runs on the CPU, if they were given.
    """

    def __init__(
        self,
        net: C2FNet,
        *,
        batch: int = 1,
        precision: str | None = None,
        channels_last: bool = True,
        fold_norms: bool = True,
        compile: bool | Mapping[str, Any] = False,
        graphs: bool = True,
        buckets: str | Iterable[int] | None = None,
        max_graphs: int = 64,
        size_multiple: int | None = None,
        chunk: int | None = None,
        lanes: int | None = None,
        threads: int | None = None,
        sizes: Sequence[tuple[int, int]] = (),
        progress: bool = True,
    ) -> None:
        """Makes an engine of a net; `net.compile(...)` is the same.

        Args:
            net: its configuration and networks are taken as they are now.
            batch: images of one size that pass the networks together in `run` and in calls with
                several; their fine patches are packed without gaps. Those left over pass one by
                one.
            precision: None, the networks' own; "bfloat16" or "float16", autocast; "auto", bfloat16
                where it is faster: on GPUs that have it, and processors with AMX.
            channels_last: memory format of the networks.
            fold_norms: make batch normalisation a part of the convolution before it, where a run on
                noise shows the same answer.
            compile: torch.compile both networks; a mapping gives its options. On a GPU no mode that
                captures graphs of its own.
            graphs: capture CUDA graphs; without a GPU there are none.
            buckets: how many patches a forward of the fine network may get: "powers" (4, 8, 16,
                ...), "exact" (any number), or sizes. None is "exact" on the CPU, unless networks
                are compiled, and "powers" otherwise. Empty places are filled with zeros.
            max_graphs: programs kept, and 2 GiB of buffers; image sizes that were not seen for
                longest go first. Memory of graphs is not counted: those of a lane share what the
                largest takes, and one that branches is captured where twice its own is free.
            size_multiple: pad images for the coarse network to multiples of this, so that images of
                many sizes need few compiled networks and graphs. The labels are then those of a
                network whose `stride_multiple` is this.
            chunk: patches per forward of the fine network at most; `config.max_batch` bounds it in
                any case. None is what fits the processor's cache on the CPU, and no further bound
                on a GPU.
            lanes: batches in flight; None is 3 on a GPU, 1 on the CPU. Networks that answer in the
                same memory every time, as runtimes with bound outputs do, need 1.
            threads: of torch while a network runs on the CPU, up to 1024; None leaves them as they
                are, but for `run` on 4 threads or more, which keeps one for reading images.
            sizes: image sizes (H, W) to warm up for now.
            progress: show a progress bar while warming up.

        Raises:
            ValueError: an option breaks its rule, a weight is no number, or a copy of a network
                would share parts with it.
            TypeError: an option is of the wrong type.
        """
        from ..pipeline import C2FNet

        if not isinstance(net, C2FNet):
            raise TypeError(f"{_WHO}: net must be a C2FNet, got {type(net).__name__}")
        self.config = net.config
        self.batch = _checks.integer(_WHO, "batch", batch, 1)
        if not isinstance(graphs, bool):
            raise TypeError(f"{_WHO}: graphs must be a bool, got {graphs!r}")
        self.networks = Networks(net, precision, channels_last, compile, size_multiple, fold_norms)
        self.device = self.networks.device
        on_gpu = self.device.type == "cuda"
        if buckets is None:
            buckets = "powers" if on_gpu or self.networks.compiled is not None else "exact"
        bound = _checks.integer(_WHO, "max_graphs", max_graphs, 1)
        self._plans: Plans[Any] = Plans(bound, _BUFFER_BYTES)
        self._chunk = None if chunk is None else _checks.integer(_WHO, "chunk", chunk, 1)
        self.threads = threads
        if threads is not None:
            self.threads = _checks.integer(_WHO, "threads", threads, 1, _checks.MOST_THREADS)
        self._limits: dict[int, int] = {}
        self._probing, self._warming = threading.Lock(), threading.Lock()
        self._settings = Settings(
            graphs=graphs,
            conditional=on_gpu and graphs and not no_conditional_nodes(),
            limit=self.patches_at_once,
            sizes=check_sizes(buckets),
        )
        count = (_LANES_GPU if on_gpu else 1) if lanes is None else lanes
        self._all_lanes = [
            Lane(i, self.networks, self._settings, self._plans)
            for i in range(_checks.integer(_WHO, "lanes", count, 1))
        ]
        self.lanes = len(self._all_lanes)
        self._lanes: queue.LifoQueue[Lane] = queue.LifoQueue()
        for lane in reversed(self._all_lanes):
            lane.threads = self.threads
            self._lanes.put(lane)
        if sizes:
            self.warm_up(sizes, progress=progress)

    def __call__(self, image: Any) -> Any:
        """The labels of one image, or of a batch of one size.

        Args:
            image: a path; a Pillow image; a NumPy or CuPy array [H, W, C] or [H, W] (rasterio's
                `read()` gives [C, H, W]); a tensor [C, H, W] or [B, C, H, W]; C as the networks
                take. Raw pixel values of the dtypes that `C2FNet.forward`
                takes. Arrays of CuPy are not copied, and its current stream is waited for.

        Returns:
            uint8 labels [H, W], an array or a tensor (on the image's device), or [B, H, W].

        Raises:
            ValueError: a shape that does not fit, of the image or of a network's output.
            TypeError: a dtype or a kind of image that is not known.
        """
        if isinstance(image, Tensor) and image.ndim == 4:
            image = _arrays.as_tensor(_WHO, "image", image)
            _stages.check_image(image)
            _stages.check_memory(_WHO, image)
            ready = [one.permute(1, 2, 0) for one in image]
            labels = [self.answer(part).labels for part in self.batches(ready)]
            empty = torch.empty((0, *image.shape[2:]), dtype=torch.uint8, device="cpu")
            return torch.cat([empty, *labels]).to(image.device)
        loaded = load(image)
        return loaded.answer(self.answer([loaded.pixels]).labels[0])

    def run(
        self, images: Iterable[Any], *, prefetch: int = 4, readers: int | None = None
    ) -> Generator[Result, None, None]:
        """Segments many images, and yields a `Result` for each, in their order.

        Images are read ahead by other threads while earlier ones are computed, and at most
        `prefetch` wait before and after the networks: whoever is slow slows the others. An image
        that fails gives a result with its `error`, and the others go on. Images of one size that
        follow each other pass the networks together, `batch` at a time.

        Leaving the loop, or Ctrl-C, ends the threads; `contextlib.closing` does so for sure. One
        that waits for `images` to give the next is let go after a second, and ends when it has it.
        What happens on a GPU's stream that is current when the loop starts, torch's or CuPy's, is
        waited for.

        Args:
            images: each as for a call, one image at a time, or (name, image). Read by one thread.
                Arrays and tensors are not copied, and Pillow's images decoded later: they must stay
                as they are, and open, until their results have come.
            prefetch: images to hold ahead, and results to hold behind.
            readers: threads that decode; 2 on a GPU, 1 on the CPU if None.

        Raises:
            ValueError: an option breaks its rule.
            TypeError: `images` is one image, or nothing to iterate over.
            Exception: what iterating over `images` raises, after the results before it.
        """
        check_many(images)
        prefetch = _checks.integer(_WHO, "prefetch", prefetch, 1)
        if readers is None:
            readers = 2 if self.device.type == "cuda" else 1
        readers = _checks.integer(_WHO, "readers", readers, 1)
        return run_items(self, images, prefetch, readers)

    def profile(self, image: Any) -> tuple[Any, dict[str, float]]:
        """The labels of one image, and the seconds of each stage as in `C2FNet.profile`.

        Nothing is captured or replayed here. Normalising counts as "coarse", reading and the way
        from and to the host count as nothing.
        """
        loaded = load(image)
        clock = Clock(self.device)
        labels = self.answer([loaded.pixels], clock).labels[0]
        return loaded.answer(labels), clock.seconds

    def warm_up(
        self,
        sizes: Sequence[tuple[int, int]],
        *,
        channels: int = 3,
        dtype: torch.dtype = torch.uint8,
        progress: bool = True,
    ) -> None:
        """Makes everything ready for images of these sizes: kernels, compilations, graphs.

        That is for `batch` of them and for one by itself, in every lane: nothing else passes the
        networks, in calls or in `run`. A warning tells if that is more than `max_graphs` allows.

        Args:
            sizes: (H, W) of images to come.
            channels: theirs.
            dtype: theirs.
            progress: show a progress bar.

        Raises:
            ValueError: a size is not two numbers from 1.
            TypeError: it holds something else.
        """
        if not isinstance(sizes, Sequence):
            raise TypeError(f"{_WHO}: sizes must be a sequence of pairs (H, W), got {sizes!r}")
        channels = _checks.integer(_WHO, "channels", channels, 1)
        _stages.check_image(torch.empty((1, channels, 1, 1), dtype=dtype, device="meta"))
        for size in sizes:
            if not isinstance(size, Sequence) or len(size) != 2:
                raise ValueError(f"{_WHO}: sizes must be pairs (H, W), got {size!r}")
            for side in size:
                _checks.integer(_WHO, "sizes", side, 1, _checks.INT32_MAX)
        steps = RUNS_BEFORE_CAPTURE + 1 if self.device.type == "cuda" else 1
        shapes = [
            Shape(count, *size, channels, dtype)
            for size in sizes
            for count in sorted({self.batch, 1})
        ]
        total = len(shapes) * len(self._all_lanes) * steps
        with (
            self._warming,
            Bar(total=total, desc="warm-up", unit="run", shown=progress) as bar,
        ):
            held: list[Lane] = []
            evicted = self._plans.evicted
            try:
                for _ in self._all_lanes:  # one by one: an interruption must lose none
                    held.append(self._lanes.get())
                for shape, lane in itertools.product(shapes, held):
                    for _ in range(steps):
                        lane.warm_up(shape)
                        bar.update()
            finally:
                for lane in held:
                    self._lanes.put(lane)
        if self._plans.evicted > evicted:
            _log.warning(
                "engine: %d shapes of batches in %d lanes need more than max_graphs=%d or 2 GiB of "
                "buffers; what was made ready first is gone",
                len(shapes),
                len(self._all_lanes),
                self._plans.bound,
            )

    def __repr__(self) -> str:
        """What the engine runs as, the graphs captured so far, and the sizes (H, W) it holds."""
        plans = [plan for _, plan in self._plans.items()]
        programs = [program for plan in plans for program in list(plan.programs.values())]
        sizes = dict.fromkeys(plan.true_size for plan in plans if isinstance(plan, ShapePlan))
        networks, wanted = self.networks, self._settings.graphs and self.device.type == "cuda"
        told = {
            "device": str(self.device),
            "precision": networks.precision and str(networks.precision).removeprefix("torch."),
            "channels_last": networks.config.channels_last,
            "folded": networks.folded,
            "compiled": networks.compiled is not None,
            "graphs": sum(program.captured for program in programs) if wanted else False,
            "buckets": self._settings.sizes,
            "batch": self.batch,
            "lanes": self.lanes,
            "sizes": list(sizes),
        }
        return f"Engine({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    def __reduce__(self) -> Any:
        """Raises: an engine has threads, streams and graphs, which belong to one process."""
        raise TypeError(
            "Engine: an engine can be neither copied nor sent to another process: send the net, "
            "and call net.compile() there"
        )

    def programs(self) -> int:
        """Programs kept at the moment; image sizes without any count as one."""
        return self._plans.programs()

    def release(self) -> None:
        """Gives buffers and graphs back; later calls make them anew."""
        self._plans.clear()

    def answer(self, images: Sequence[Tensor], clock: Clock | None = None) -> Answer:
        """Labels and windows of images [H, W, C] of one size and dtype, in one batch.

        Where a GPU's memory is not enough, it is tried once more without what is kept for other
        sizes.
        """
        with suppress(torch.cuda.OutOfMemoryError):
            return self._answer(images, clock)
        _log.info("engine: out of memory: graphs and buffers of all sizes are given back")
        self.release()
        return self._answer(images, clock)

    def _answer(self, images: Sequence[Tensor], clock: Clock | None) -> Answer:
        lane = self._lanes.get()
        try:
            lane.look(images, clock)
            lane.second()
            return lane.finish()
        except BaseException:
            lane.abandon()
            raise
        finally:
            self._lanes.put(lane)

    def batches(self, images: Sequence[R]) -> list[Sequence[R]]:
        """As they pass the networks: `batch` at a time, and one by one those that are left over.

        A number of images that is seen now and then would have to be compiled and captured for.
        """
        whole = len(images) - len(images) % self.batch
        full = [images[i : i + self.batch] for i in range(0, whole, self.batch)]
        return full + [images[i : i + 1] for i in range(whole, len(images))]

    def take_lane(self, wait_s: float) -> Lane | None:
        """A free lane for a run, if there is one within that time; to be given back."""
        try:
            lane = self._lanes.get(timeout=wait_s) if wait_s else self._lanes.get_nowait()
        except queue.Empty:
            return None
        threads = torch.get_num_threads()
        if self.threads is None and threads >= _FEWEST_THREADS:
            lane.threads = threads - 1
        return lane

    def give_lane(self, lane: Lane) -> None:
        """Gives a lane of a run back."""
        lane.threads = self.threads
        self._lanes.put(lane)

    def patches_at_once(self, channels: int) -> int:
        """Patches per forward of the fine network at most, for images of so many channels."""
        with self._probing:
            if channels not in self._limits:
                networks = self.networks
                bound = self.config.max_batch
                if self._chunk is not None:
                    bound = min(bound, self._chunk)
                elif self.device.type == "cpu":
                    bound = min(bound, patches_in_cache(networks, channels))
                self._limits[channels] = bound
            return self._limits[channels]
