"""What an engine does with batches of one shape: buffers, and the steps as programs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks, _stages, ops
from .._clock import Clock
from ..windows import Windows
from . import packing
from .buckets import Buckets, Chunk
from .networks import Networks
from .programs import FRAME, OWN, Body, Plan, Program, Recorder, T


class Looked(NamedTuple):
    """What the first look found.

    Attributes:
        logits: coarse logits [B, N, h, w].
        labels: uint8 [B, H', W'], their argmax at the coarse network's size; the merge edits them.
        windows: [B, n] on the true images.
        packed: the same, packed.
    """

    logits: Tensor
    labels: Tensor
    windows: Windows
    packed: packing.Packed


@dataclass(frozen=True)
class Shape:
    """Images that share a plan: B of H x W with C channels."""

    batch: int
    height: int
    width: int
    channels: int
    dtype: torch.dtype

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> Shape:
        """That of images [H, W, C] of one size and dtype."""
        height, width, channels = images[0].shape
        return cls(len(images), height, width, channels, images[0].dtype)


NetworkCall = Callable[[str, Tensor], Tensor]


class ShapePlan(Plan):
    """Static buffers for a shape, and the steps that read and write them.

    Attributes:
        image: [B, H, W, C], the raw pixels, to be filled before a look.
        looked: what the last look found; on a graph's memory, until the next.
        clock: what the steps are timed with.
    """

    def __init__(
        self,
        shape: Shape,
        networks: Networks,
        recorder: Recorder,
        limit: Callable[[], int],
        sizes: str | Iterable[int],
        call_network: NetworkCall,
    ) -> None:
        """Allocates the buffers.

        Args:
            shape: of the images.
            networks: both stages.
            recorder: how programs run.
            limit: patches per forward of the fine network at most; asked for when first needed.
            sizes: of its forwards, as for `Buckets`.
            call_network: runs "coarse" or "fine" on its input.
        """
        config = networks.config
        super().__init__()
        self.shape = shape
        self.clock = Clock()
        self.looked: Looked
        self._networks = networks
        self._recorder = recorder
        self._call_network = call_network
        self.true_size = (shape.height, shape.width)
        self.size = _stages.coarse_size(networks.coarse, self.true_size, config)
        self.frame_size = (
            max(shape.height, config.window),
            max(shape.width, config.window),
        )
        _, self.n = _stages.step_and_slots(self.frame_size, config)
        self._limit, self._sizes = limit, sizes

        device, batch = networks.device, shape.batch
        on_gpu = device.type == "cuda"
        held = (batch, shape.height, shape.width, shape.channels)
        # The ops take no float64 images; the coarse network's input is float32 anyway.
        dtype = torch.float32 if shape.dtype == torch.float64 else shape.dtype
        self.image = torch.zeros(held, dtype=dtype, device=device)
        # Normalised, with zeros around it: [B, H', W', C] in memory.
        padded = (batch, *self.size, shape.channels)
        pixels = torch.zeros(padded, dtype=torch.float32, device=device)
        self._pixels = pixels.permute(0, 3, 1, 2)
        host: dict[str, Any] = {"device": "cpu", "pin_memory": on_gpu}
        self.staged = torch.empty(held if on_gpu else 0, dtype=dtype, **host)
        self.host_num = torch.zeros(batch, dtype=torch.int32, **host)
        self.host_origins = torch.zeros((batch, self.n, 2), dtype=torch.int32, **host)
        self.host_labels = torch.empty((batch, *self.true_size), dtype=torch.uint8, **host)
        buffers = (self.image, self._pixels, self.staged, self.host_origins, self.host_labels)
        self.size_bytes = sum(t.numel() * t.element_size() for t in buffers)
        self._frame = self._make_frame()
        self._mean, self._std = self._statistics()

    def _make_frame(self) -> _stages.Frame:
        """What patches are cut from: all images as one tall one."""
        config = self._networks.config
        if self.frame_size != self.true_size:
            # Smaller than a window: patches include padding, which is zero after normalisation.
            whole = packing.tall(self._pixels.permute(0, 2, 3, 1))
            return _stages.Frame(whole, {"scale": 1.0}, self.size)
        remaining = {"scale": config.scale, "mean": config.mean, "std": config.std}
        return _stages.Frame(packing.tall(self.image), remaining, self.true_size)

    def _statistics(self) -> tuple[Tensor | None, Tensor | None]:
        """Mean and std for a row of pixels, [W * C]: long rows are vectorised, channels are not."""
        config, shape = self._networks.config, self.shape
        found = (
            _checks.per_channel("Engine", name, value, shape.channels)
            for name, value in (("mean", config.mean), ("std", config.std))
        )
        mean, std = (
            None if v is None else self._pixels.new_tensor(v).repeat(shape.width) for v in found
        )
        return mean, std

    @functools.cached_property
    def buckets(self) -> Buckets:
        """The sizes of the fine network's forwards."""
        return Buckets(min(self._limit(), self.shape.batch * self.n), self._sizes)

    def run_look(self) -> None:
        """The first look at what is in `image`; sets `looked`."""
        self.looked = self._run("look", self._look)

    def run_second(self, total: int) -> Tensor:
        """Labels uint8 [B, H, W] after the second look at the `total` windows of `looked`."""
        if not total:
            return self._merge(None)
        chunks = self.buckets.chunks(total)
        if len(chunks) == 1:
            size = chunks[0].size
            return self._run(("second", size), lambda: self._second_in_one(size))
        # More than one forward can take: only the networks are graphs, for any number of chunks.
        patches = sum(chunk.size for chunk in chunks)
        return self._merge(_stages.joined(map(self._fine, chunks), patches))

    def totals(self) -> list[int]:
        """Numbers of windows that make the second look do all that it may have to do.

        Those of several chunks come twice: networks by themselves are captured later.
        """
        sizes, limit = self.buckets.sizes, self.buckets.limit
        several = self.shape.batch * self.n > limit
        return [0, *sizes, *(limit + size for size in sizes * 2 if several)]

    def run_whole(self) -> Tensor:
        """Both looks in one program, which branches on the number of windows by itself."""
        sizes = self.buckets.sizes
        branches = [functools.partial(self._second_in_one, size) for size in sizes]
        self.looked, merged = self._run("whole", self._whole, [self._look, *branches])
        return merged

    def branches(self) -> bool:
        """Whether `run_whole` can do it: the windows fit one forward, and the sizes are few."""
        if self.buckets.exact or self.shape.batch * self.n > self.buckets.limit:
            return False
        whole = self.programs.get("whole")
        return whole is None or not whole.refused  # without a graph it would run every branch

    def _run(self, name: Hashable, body: Body[T], parts: Sequence[Body[Any]] = ()) -> T:
        """Runs a program of this plan, which is made when it is first asked for.

        What follows the first look reads its answer where it lay at the capture: it can be captured
        only if that is always the same place.
        """
        if not self._recorder.glue or self.clock.running:
            return body()
        program: Program[T] | None = self.programs.get(name)
        if program is None:
            title = f"{name} of {self.shape}"
            memory = OWN if parts else FRAME
            program = Program(title, body, self._recorder, memory=memory, parts=parts)
            self.programs[name] = program
        first = name in ("look", "whole")
        return program.run(may_capture=first or self.programs["look"].captured)

    def _look(self) -> Looked:
        config = self._networks.config
        with self.clock.stage("coarse"):
            logits = self._coarse(self._normalised())
            if self.frame_size != self.true_size:
                self._normalised()  # again: the network may have written into it
        with self.clock.stage("select"):
            windows, labels = _stages.choose_windows(
                logits, self.size, self.true_size, self.frame_size, True, config
            )
            assert labels is not None
            packed = packing.pack(windows, self._frame.size[0])
        return Looked(logits, labels, windows, packed)

    def _fine(self, chunk: Chunk) -> Tensor:
        """Fine logits [P, 1 or 2, hf, wf] of packed patches."""
        networks = self._networks
        with self.clock.stage("extract"):
            windows = packing.chunk(
                self.looked.packed, chunk.offset, chunk.size, networks.config.window
            )
            patches = _stages.extract(self._frame, windows, 0, networks.fine, networks.config)
        with self.clock.stage("fine"):
            return self._call_network("fine", patches)

    def _merge(self, packed: Tensor | None) -> Tensor:
        """Labels uint8 [B, H, W] of both answers; without patches the coarse ones."""
        config, looked = self._networks.config, self.looked
        with self.clock.stage("aggregate"):
            merged = looked.labels
            if packed is not None:
                fine, windows = packing.spread(packed, looked.packed, looked.windows)
                merged = ops.aggregate(
                    looked.logits,
                    fine,
                    windows,
                    config.small_classes,
                    size=self.size,
                    rule=config.rule,
                    backend=config.backend,
                    _labels=looked.labels,
                )
            return _stages.crop(merged, self.true_size)

    def _second_in_one(self, size: int) -> Tensor:
        return self._merge(self._fine(Chunk(0, size)))

    def _whole(self) -> tuple[Looked, Tensor]:
        recorder = self._recorder
        self.looked = self._look()
        if recorder.glue and not recorder.recording:
            # Branches that this image does not take are captured as well, and must be warm.
            for size in self.buckets.sizes:
                self._second_in_one(size)
            self.looked = self._look()
        # 0 if there are no windows, else 1 + the index of the smallest size that holds them.
        which = torch.bucketize(self.looked.packed.total[0], self._edges)
        chosen = which == self._numbers
        merged = _stages.crop(self.looked.labels, self.true_size).clone()
        for number, size in enumerate(self.buckets.sizes, 1):

            def second(size: int = size) -> None:
                merged.copy_(self._second_in_one(size))

            recorder.when(chosen[number], second)
        return self.looked, merged

    @functools.cached_property
    def _edges(self) -> Tensor:
        return torch.tensor((0, *self.buckets.sizes), dtype=torch.int32, device=self.image.device)

    @functools.cached_property
    def _numbers(self) -> Tensor:
        return torch.arange(len(self._edges), device=self.image.device)

    def _normalised(self) -> Tensor:
        """The batch as the coarse network takes it, bit for bit as the eager path makes it."""
        whole = self._pixels.permute(0, 2, 3, 1)  # [B, H', W', C], contiguous
        height, width = self.true_size
        if self.size != self.true_size:  # networks may have written into their last input
            whole[:, height:].zero_()
            whole[:, :height, width:].zero_()
        rows = whole[:, :height, :width].flatten(2)  # a view
        rows.copy_(self.image.flatten(2))
        scale = _stages.scale_of(self.shape.dtype, self._networks.config)
        if scale != 1.0:
            rows.mul_(scale)
        if self._mean is not None:
            rows.sub_(self._mean)
        if self._std is not None:
            rows.div_(self._std)
        return self._pixels

    def _coarse(self, pixels: Tensor) -> Tensor:
        networks = self._networks
        answer = self._call_network("coarse", pixels)
        return _stages.check_coarse(answer, self.shape.batch, self.size, networks.config)
