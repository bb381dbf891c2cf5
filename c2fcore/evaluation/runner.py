"""Scoring a predictor on samples, in one process or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from .. import metrics
from .._progress import Bar
from ..data import loading
from . import distributed
from .objects import TruthObjects
from .predictor import Answer, Predictor
from .samples import Canvas, Samples, TileReader, Unit, units_of
from .tally import Measures, Tally, pooled_iou

_Item = tuple[int, int, Tensor, Tensor]


class UnitScore(NamedTuple):
    """Of one tile or scene: pooled IoU of its small classes, NaN where there are none.

    Attributes:
        number: of the unit.
        name: of the unit.
        coarse: of stage 1.
        refined: after the second look; NaN without stage 2.
    """

    number: int
    name: str
    coarse: float
    refined: float


class Timing(NamedTuple):
    """Seconds of one batch, by stage."""

    images: int
    pixels: int
    seconds: dict[str, float]


@dataclass
class Result:
    """What a run counted, over all processes.

    Attributes:
        coarse: counts of stage 1.
        refined: counts after the second look; None without stage 2.
        units: scores by tile or scene, in the data set's order.
        timings: of every batch but each process's first, which warms up.
        tiles: the network saw.
        windows: how many the second look took.
        small_px: pixels of small classes in the tiles' truth.
        covered_px: those of them inside windows.
        processes: that shared the work.
    """

    coarse: Tally
    refined: Tally | None
    units: list[UnitScore] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    tiles: int = 0
    windows: int = 0
    small_px: int = 0
    covered_px: int = 0
    processes: int = 1


def evaluate(
    predict: Predictor,
    samples: Samples,
    protocol: str = "tiles",
    measures: Measures | None = None,
    *,
    batch: int = 1,
    workers: int = 0,
    limit: int | None = None,
    progress: bool = True,
) -> Result:
    """Scores a predictor; within a process group every process does its share.

    Counts are integers and are added exactly: any number of processes gives the same scores.

    Args:
        predict: what is scored.
        samples: on what.
        protocol: "tiles" or "whole", see `samples`.
        measures: what is counted.
        batch: neighbouring tiles of one size that pass the network at once; times are per batch.
        workers: processes that read files ahead; 0 reads in this one.
        limit: score the first units only.
        progress: show a bar (in the first process).

    Raises:
        ValueError: bad options; a file that cannot be read or does not fit; in several processes
            whatever stops one of them.
        TypeError, RuntimeError: what the predictor raises, in one process.
    """
    loading.check(workers)
    if batch < 1 or (limit is not None and limit < 1):
        raise ValueError(f"batch and limit must be at least 1, got {batch} and {limit}")
    units = units_of(samples, protocol)[:limit]
    run = _Run(predict, samples, units, measures or Measures())
    error = ""
    try:
        run.work(batch, workers, progress and distributed.rank() == 0)
    except (ValueError, TypeError, OSError, RuntimeError) as found:
        if distributed.world() == 1:
            raise
        # Told to all, or the others would wait for this one for ever; some errors say nothing.
        error = str(found) or type(found).__name__
    errors = [e for e in distributed.gather(error) if e]
    if errors:
        raise ValueError(errors[0])
    return run.together()


class _Run:
    """One process's share of an evaluation."""

    def __init__(
        self, predict: Predictor, samples: Samples, units: Sequence[Unit], measures: Measures
    ) -> None:
        config = predict.config
        self.predict, self.samples, self.measures = predict, samples, measures
        self.mine = list(range(len(units)))[distributed.rank() :: distributed.world()]
        self.units = [units[i] for i in self.mine]
        tallies = [Tally(config.num_classes, config.small_classes, measures) for _ in range(2)]
        self.result = Result(tallies[0], tallies[1] if predict.refines else None)
        self.small = torch.tensor(config.small_classes, dtype=torch.uint8)
        self.canvases: dict[int, Canvas] = {}

    def work(self, batch: int, workers: int, progress: bool) -> None:
        """Scores this process's units."""
        reader = TileReader(self.samples, self.units)
        loader = loading.Loader(reader, batch_size=None, **loading.options(workers, kept=False))
        with Bar(total=len(reader), unit="tile", desc="eval", shown=progress) as bar:
            for items in _batched(map(_readable, loader), batch):
                self._batch(items)
                bar.set_postfix_str(self._so_far(), refresh=False)
                bar.update(len(items))

    def _batch(self, items: list[_Item]) -> None:
        image = torch.stack([pixels for _, _, pixels, _ in items]).to(self.predict.device)
        answer = self.predict(image)
        height, width = image.shape[-2:]
        pixels = len(items) * height * width
        self.result.timings.append(Timing(len(items), pixels, answer.seconds))
        truth = torch.stack([labels for *_, labels in items])
        self._coverage(answer, truth)
        truth = truth.to(self.predict.device)
        for b, (u, t, *_) in enumerate(items):
            unit = self.units[u]
            canvas = self.canvases.get(u) or Canvas(unit, self.predict.device)
            self.canvases[u] = canvas
            if canvas.add(unit.tiles[t], answer.maps(b, truth[b])):
                self._score(u, self.canvases.pop(u).maps)

    def _coverage(self, answer: Answer, truth: Tensor) -> None:
        small = torch.isin(truth, self.small)
        covered = metrics.covered_mask(answer.windows, truth.shape[1], truth.shape[2])
        self.result.tiles += len(truth)
        self.result.windows += int(answer.windows.num.sum())
        self.result.small_px += int(small.sum())
        self.result.covered_px += int((small & covered).sum())

    def _score(self, u: int, maps: dict[str, Tensor]) -> None:
        config, result = self.predict.config, self.result
        truth = maps["truth"]
        objects = None
        if self.measures.sizes is not None:
            objects = TruthObjects(truth.cpu().numpy(), config.small_classes, self.measures.sizes)
        own = result.coarse.add(maps["coarse"], truth, objects)
        coarse, refined = pooled_iou(own, config.small_classes), float("nan")
        if result.refined is not None:
            own = result.refined.add(maps["refined"], truth, objects)
            refined = pooled_iou(own, config.small_classes)
        result.units.append(UnitScore(self.mine[u], self.units[u].name, coarse, refined))

    def _so_far(self) -> str:
        """The mean that the table ends with."""
        counts = [t.confusion for t in (self.result.coarse, self.result.refined) if t is not None]
        found = [c for c in self.predict.config.small_classes if counts[0][c].any()]
        if not found:
            return ""
        means = (100 * float(metrics.iou(matrix)[found].mean()) for matrix in counts)
        return "mean IoU of small " + " -> ".join(f"{mean:.2f}" for mean in means)

    def together(self) -> Result:
        """The sum over all processes, in every process."""
        result = self.result
        names = ("tiles", "windows", "small_px", "covered_px")
        numbers = [getattr(result, name) for name in names]
        tallies = [t for t in (result.coarse, result.refined) if t is not None]
        counts = [c for t in tallies for c in t.tensors()]
        gathered = distributed.gather((numbers, counts, result.units, _warm(result.timings)))
        every_number, every_count, every_unit, every_timing = zip(*gathered)
        for name, found in zip(names, zip(*every_number)):
            setattr(result, name, sum(found))
        for count, found in zip(counts, zip(*every_count)):
            count.copy_(torch.stack(found).sum(0))
        result.units = sorted(chain(*every_unit))
        result.timings = list(chain(*every_timing))
        result.processes = distributed.world()
        return result


def answer_of(predict: Predictor, samples: Samples, unit: Unit) -> tuple[Tensor, dict[str, Tensor]]:
    """One unit once more: its pixels uint8 [3, H, W] and its label maps uint8 [H, W]."""
    canvas = Canvas(unit, predict.device)
    pixels = torch.zeros((3, unit.scene.height, unit.scene.width), dtype=torch.uint8)
    for tile in unit.tiles:
        image, labels = samples.read(unit.scene, tile)
        answer = predict(image[None].to(predict.device))
        canvas.add(tile, answer.maps(0, labels.to(predict.device)))
        if not unit.whole:
            return image, canvas.maps
        target = pixels[:, tile.box.y0 : tile.box.y1, tile.box.x0 : tile.box.x1]
        target.copy_(image[:, : target.shape[1], : target.shape[2]])
    return pixels, canvas.maps


def _readable(item: _Item | Exception) -> _Item:
    if isinstance(item, Exception):
        raise item
    return item


def _batched(items: Iterable[_Item], most: int) -> Iterator[list[_Item]]:
    """Up to `most` neighbours of one size."""
    waiting: list[_Item] = []
    for item in items:
        if waiting and (len(waiting) == most or item[2].shape != waiting[0][2].shape):
            yield waiting
            waiting = []
        waiting.append(item)
    if waiting:
        yield waiting


def _warm(timings: list[Timing]) -> list[Timing]:
    return timings[1:] or timings
