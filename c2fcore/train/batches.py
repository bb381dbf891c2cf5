"""Batches of a prepared data set, the same whatever the number of workers, and after a resume."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from typing import Any, Final

import torch
from lightning import pytorch as pl
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..data.augment import Augment
from ..data.catalogue import IGNORED
from ..data.prepared import PreparedData, TileDataset

# Seconds: as long as torchrun waits.
_GRACE: Final = 30


def _outlive_signals(worker: int) -> None:
    """A loading process lives on, for training to finish its step, when all are asked to stop.

    Ctrl-C in a terminal goes to every process, and so may a scheduler's SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))


class _Draws(Dataset[dict[str, Any]]):
    """An endless stream of augmented tiles: draw i depends on (seed, i) alone.

    Tiles come in a new random order in each pass over the data.
    """

    def __init__(self, tiles: TileDataset, seed: int) -> None:
        self.tiles = tiles
        self.seed = seed
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def __getitem__(self, draw: int) -> dict[str, Any]:
        turn, place = divmod(draw, len(self.tiles))
        if self._order[0] != turn:
            generator = torch.Generator().manual_seed(hash((self.seed, 0, turn)) % 2**63)
            self._order = (turn, torch.randperm(len(self.tiles), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, 1, draw)) % 2**63)
            return self.tiles[int(self._order[1][place])]


class _Share(Sampler[int]):
    """The draws of one process: its share of every batch, from step `start` on.

    Its length counts from step 0, as Lightning counts batches of an interrupted epoch.
    """

    def __init__(self, batch: int, rank: int, world: int, steps: int, start: int) -> None:
        self.each, self.rank, self.world = batch // world, rank, world
        self.steps, self.start = steps, start

    def __len__(self) -> int:
        return self.steps * self.each

    def __iter__(self) -> Iterator[int]:
        for step in range(self.start, self.steps):
            first = (step * self.world + self.rank) * self.each
            yield from range(first, first + self.each)


class _Whole(Dataset[dict[str, Any]]):
    """Tiles of one process without augmentation; as many for each, so the last may be a blank."""

    def __init__(self, tiles: TileDataset, rank: int, world: int) -> None:
        self.tiles, self.rank, self.world = tiles, rank, world

    def __len__(self) -> int:
        return -(-len(self.tiles) // self.world)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place = index * self.world + self.rank
        if place < len(self.tiles):
            return self.tiles[place]
        blank = self.tiles[0]
        return {**blank, "labels": torch.full_like(blank["labels"], IGNORED)}


class Tiles(pl.LightningDataModule):
    """Training crops and validation tiles of a folder that `c2f prepare` wrote.

    Args:
        root: the folder.
        train: split to train on.
        val: split to validate on; none for no validation.
        batch_size: images per step, over all processes.
        workers: loading processes of each training process.
        small: small classes by name or id; the data set's own if not given.
    """

    def __init__(
        self,
        root: str,
        train: str = "train",
        val: str | None = "val",
        batch_size: int = 16,
        workers: int = 4,
        small: list[str] | None = None,
    ) -> None:
        """Opens the folder.

        Raises:
            FileNotFoundError: it was not prepared.
            ValueError: a split or class it does not have, or numbers out of range.
        """
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise ValueError(
                f"data: batch_size must be at least 1, workers at least 0, got {batch_size} and "
                f"{workers}"
            )
        self.prepared = PreparedData.open(root)
        self.small = self.prepared.small(small)
        for name in (train, val):
            if name is not None and not self.prepared.split(name).tiles:
                raise ValueError(f"data: split must hold tiles, got {name} without any")
        self.train_split, self.val_split = train, val
        self.batch_size, self.workers = batch_size, workers
        self.augment: Augment | None = None
        self.seed = 0

    def state_dict(self) -> dict[str, Any]:
        """What tells these data from others, wherever they lie; kept in the states of a run."""
        names = [name for name in (self.train_split, self.val_split) if name is not None]
        splits = [self.prepared.split(name) for name in names]
        told = repr((self.prepared.class_names, self.small, splits))
        return {"data": hashlib.sha256(told.encode()).hexdigest()}

    def share(self, processes: int) -> None:
        """Checks that batches can be shared out.

        Raises:
            ValueError: they cannot.
        """
        if self.batch_size % processes:
            raise ValueError(
                f"data: batch_size must be a multiple of the {processes} processes, "
                f"got {self.batch_size}"
            )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Augmented crops of this process; its share of max_steps batches."""
        trainer: Any = self.trainer
        world = trainer.world_size
        self.share(world)
        tiles = TileDataset(self.prepared, self.train_split, self.augment)
        batches = trainer.accumulate_grad_batches
        share = _Share(
            self.batch_size,
            trainer.global_rank,
            world,
            trainer.max_steps * batches,
            trainer.global_step * batches,
        )
        return DataLoader(
            _Draws(tiles, self.seed),
            batch_size=self.batch_size // world,
            sampler=share,
            num_workers=self.workers,
            worker_init_fn=_outlive_signals,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def plain_tiles(self, count: int) -> Iterator[dict[str, Any]]:
        """Up to `count` training tiles without augmentation, spread evenly over the split."""
        tiles = TileDataset(self.prepared, self.train_split)
        chosen = min(count, len(tiles))
        return (tiles[i * len(tiles) // chosen] for i in range(chosen))

    def val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        """Whole tiles of this process, one at a time: their sizes may differ."""
        if self.val_split is None:
            return []
        trainer: Any = self.trainer
        tiles = TileDataset(self.prepared, self.val_split)
        whole = _Whole(tiles, trainer.global_rank, trainer.world_size)
        workers = min(self.workers, 2)
        return DataLoader(whole, batch_size=1, num_workers=workers, worker_init_fn=_outlive_signals)
