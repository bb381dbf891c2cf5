"""Which tiles a process of a training run sees, the same whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from .catalogue import IGNORED
from .prepared import TileDataset


class Draws(Dataset[dict[str, Any]]):
    """An endless stream of augmented tiles: draw i depends on (seed, i) alone.

    Tiles come in a new random order in each pass over the data.
    """

    def __init__(self, tiles: TileDataset, seed: int) -> None:
        self.tiles = tiles
        self.seed = seed
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """Draw number `draw`, from 0."""
        turn, place = divmod(draw, len(self.tiles))
        if self._order[0] != turn:
            generator = torch.Generator().manual_seed(hash((self.seed, 0, turn)) % 2**63)
            self._order = (turn, torch.randperm(len(self.tiles), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, 1, draw)) % 2**63)
            return self.tiles[int(self._order[1][place])]


class Share(Sampler[int]):
    """The draws of one process: its share of every batch, from step `start` on.

    Its length counts from step 0, as Lightning counts batches of an interrupted epoch.
    """

    def __init__(self, batch: int, rank: int, world: int, steps: int, start: int) -> None:
        self.each, self.rank, self.world = batch // world, rank, world
        self.steps, self.start = steps, start

    def __len__(self) -> int:
        return self.steps * self.each

    def __iter__(self) -> Iterator[int]:
        """Numbers of draws."""
        for step in range(self.start, self.steps):
            first = (step * self.world + self.rank) * self.each
            yield from range(first, first + self.each)


class Whole(Dataset[dict[str, Any]]):
    """Tiles of one process without augmentation; as many for each, so the last may be a blank."""

    def __init__(self, tiles: TileDataset, rank: int, world: int) -> None:
        self.tiles, self.rank, self.world = tiles, rank, world

    def __len__(self) -> int:
        return -(-len(self.tiles) // self.world)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """This process's tile number `index`."""
        place = index * self.world + self.rank
        if place < len(self.tiles):
            return self.tiles[place]
        blank = self.tiles[0]
        return {**blank, "labels": torch.full_like(blank["labels"], IGNORED)}
