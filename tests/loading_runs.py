"""A loader of a few drawn crops, and a process that holds one until it is killed."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

from c2fcore.data import loading
from c2fcore.data.augment import Augment
from c2fcore.data.draws import Draws, Share
from c2fcore.data.prepared import PreparedData, TileDataset

SECONDS = 300.0  # at most; a process of torch takes 20 to start where many do


def loader(data: Path, workers: int, steps: int = 4) -> loading.Loader:
    tiles = TileDataset(PreparedData.open(data), "train", Augment(crop=32, focus=0.5, classes=(1,)))
    share = Share(2, 0, 1, steps=steps, start=0)
    how = loading.options(workers)
    return loading.Loader(Draws(tiles, seed=3), batch_size=2, sampler=share, **how)


def hold(data: Path, theirs: Any) -> None:
    """Sends the loading processes' ids, then waits."""
    batches = iter(loader(data, 2))
    next(batches)
    theirs.send([child.pid for child in multiprocessing.active_children()])
    time.sleep(SECONDS)
