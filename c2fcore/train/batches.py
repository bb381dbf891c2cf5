"""Batches of a prepared data set for Lightning, the same in a resumed run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import torch
from lightning import pytorch as pl

from ..data import loading
from ..data.augment import Augment
from ..data.draws import Draws, Share, Whole
from ..data.prepared import PreparedData, TileDataset

_NONE: Final = "none"  # what the parser of options leaves a string


class Tiles(pl.LightningDataModule):
    """Training crops and validation tiles of a folder that `c2f prepare` wrote.

    Args:
        root: the folder.
        train: split to train on.
        val: split to validate on; none for no validation.
        batch_size: images per step, over all processes.
        workers: loading processes of each training process.
        small: small classes by name or id, such as ship,plane or [8, 9]; the data set's own if not
            given.
    """

    def __init__(
        self,
        root: str,
        train: str = "train",
        val: str | None = "val",
        batch_size: int = 16,
        workers: int = 4,
        small: str | int | list[str | int] | None = None,
    ) -> None:
        """Opens the folder.

        Raises:
            FileNotFoundError: it was not prepared.
            ValueError: a split or class it does not have, or numbers out of range.
        """
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data: batch_size must be at least 1, got {batch_size}")
        self.prepared = PreparedData.open(root)
        self.small = self.prepared.small(small)
        splits = self.prepared.splits
        if val == _NONE and _NONE not in splits:
            val = None
        for option, name in (("train", train), ("val", val)):
            if name is None:
                continue
            if name not in splits:
                known = ", ".join(splits) + (f", or {_NONE}" if option == "val" else "")
                raise ValueError(f"--data.{option} must be one of {known}, got {name}")
            if not splits[name].tiles:
                raise ValueError(f"--data.{option} must hold tiles, got {name} without any")
        if val is not None and not any(splits[val].pixels[c] for c in self.small):
            # Else all would be as good as the first, whose weights would be kept.
            raise ValueError(
                f"--data.val must hold small objects, whose IoU says which weights are best, got "
                f"{val} without any (--data.val {_NONE} keeps the last)"
            )
        self.train_split, self.val_split = train, val
        self.batch_size, self.workers = batch_size, loading.check(workers)
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

    def train_dataloader(self) -> loading.Loader:
        """Augmented crops of this process; its share of max_steps batches."""
        trainer: Any = self.trainer
        world = trainer.world_size
        self.share(world)
        tiles = TileDataset(self.prepared, self.train_split, self.augment)
        batches = trainer.accumulate_grad_batches
        share = Share(
            self.batch_size,
            trainer.global_rank,
            world,
            trainer.max_steps * batches,
            trainer.global_step * batches,
        )
        return loading.Loader(
            Draws(tiles, self.seed),
            batch_size=self.batch_size // world,
            sampler=share,
            pin_memory=torch.cuda.is_available(),
            **loading.options(self.workers),
        )

    def plain_tiles(self, count: int) -> Iterator[dict[str, Any]]:
        """Up to `count` training tiles without augmentation, spread evenly over the split."""
        tiles = TileDataset(self.prepared, self.train_split)
        chosen = min(count, len(tiles))
        return (tiles[i * len(tiles) // chosen] for i in range(chosen))

    def val_dataloader(self) -> loading.Loader | list[Any]:
        """Whole tiles of this process, one at a time: their sizes may differ."""
        if self.val_split is None:
            return []
        trainer: Any = self.trainer
        tiles = TileDataset(self.prepared, self.val_split)
        whole = Whole(tiles, trainer.global_rank, trainer.world_size)
        return loading.Loader(whole, batch_size=1, **loading.options(min(self.workers, 2)))
