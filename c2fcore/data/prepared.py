"""Reading what `c2f prepare` wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..config import C2FConfig
from ..images import UNREADABLE, no_size_limit
from .catalogue import IGNORED, Classes, class_ids
from .prepare import DATASET_FILE, FORMAT, FORMAT_VERSION, is_name
from .tiling import Box

Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Tile(NamedTuple):
    """A tile of a prepared data set.

    Attributes:
        name: of its files, without ending.
        source: name of the image it was cut from.
        box: where.
    """

    name: str
    source: str
    box: Box


@dataclass(frozen=True)
class Split:
    """A split of a prepared data set.

    Attributes:
        name: such as "train".
        tiles: in the order of dataset.json.
        sizes: (height, width) of each source image.
        pixels: of each class in the source images.
    """

    name: str
    tiles: tuple[Tile, ...]
    sizes: dict[str, tuple[int, int]]
    pixels: tuple[int, ...]


@dataclass(frozen=True)
class PreparedData:
    """A folder that `prepare` wrote.

    Attributes:
        root: the folder.
        dataset: name of the data set.
        class_names: one per class id 0..N-1.
        palette: one colour per class, or empty.
        small_classes: ids of the small classes.
        splits: by name.
        options: how tiles were made.
    """

    root: Path
    dataset: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    small_classes: tuple[int, ...]
    splits: dict[str, Split]
    options: dict[str, Any]

    @classmethod
    def open(cls, root: str | Path) -> PreparedData:
        """Reads dataset.json.

        Raises:
            FileNotFoundError: the folder has none.
            ValueError: the file is damaged or of another format.
        """
        path = Path(root) / DATASET_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"data must be a folder that `c2f prepare` finished, got {root} without "
                f"{DATASET_FILE}"
            )
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} must be JSON, got {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{path} must be {FORMAT}'s, got a {type(found).__name__}")
        version = (found.get("format"), found.get("format_version"))
        if version != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"{path} must be {FORMAT} version {FORMAT_VERSION}, got {version}")
        try:
            return cls(
                root=Path(root),
                dataset=found["dataset"],
                class_names=tuple(found["class_names"]),
                palette=tuple((r, g, b) for r, g, b in found["palette"]),
                small_classes=tuple(found["small_classes"]),
                splits={
                    name: _split(name, split, len(found["class_names"]))
                    for name, split in found["splits"].items()
                },
                options=found["options"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} must be as `c2f prepare` wrote it, run that again: got a damaged file "
                f"({type(error).__name__}: {error})"
            ) from None

    def check_classes(self, config: C2FConfig) -> None:
        """The data set's classes are the network's.

        Raises:
            ValueError: another number of classes, or other names.
        """
        names = self.class_names
        if len(names) != config.num_classes:
            raise ValueError(
                f"the network's {config.num_classes} classes must be the data set's, got "
                f"{len(names)} in {self.root}"
            )
        for i, (ours, theirs) in enumerate(zip(names, config.class_names or names)):
            if ours != theirs:
                raise ValueError(
                    f"the network's classes must be the data set's, got class {i} {theirs!r} of "
                    f"the network and {ours!r} in {self.root}"
                )

    def split(self, name: str) -> Split:
        """A split by name.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.splits:
            raise ValueError(f"split must be one of {', '.join(self.splits)}, got {name}")
        return self.splits[name]

    def small(self, chosen: Classes | None = None) -> tuple[int, ...]:
        """Small classes: those `chosen`, as `class_ids`, or the data set's own.

        Raises:
            ValueError: unknown classes, or none at all.
        """
        ids = self.small_classes if chosen is None else class_ids(chosen, self.class_names)
        if not ids:
            raise ValueError(
                f"{self.dataset} must have small classes, got none: name some (c2f prepare "
                f"--small, c2f train --data.small)"
            )
        return ids

    def files(self, split: str, name: str) -> tuple[Path, Path]:
        """Image and mask file of a tile."""
        return (
            self.root / "img_dir" / split / f"{name}.png",
            self.root / "ann_dir" / split / f"{name}.png",
        )


def _split(name: str, found: dict[str, Any], classes: int) -> Split:
    """Raises: ValueError, TypeError or KeyError, of what `prepare` does not write."""
    tiles = tuple(Tile(t["name"], t["source"], Box(*t["box"])) for t in found["tiles"])
    sizes = {source: (h, w) for source, (h, w) in found["sources"].items()}
    if not tiles:
        raise ValueError(f"{name} must have tiles, got none")
    for tile in tiles:
        if not is_name(tile.name):
            raise ValueError(f"tiles must lie in {name}, got {tile.name!r}")
        (y0, x0, y1, x1), (height, width) = tile.box, sizes[tile.source]
        if not (0 <= y0 < min(y1, height) and 0 <= x0 < min(x1, width)):
            raise ValueError(f"box must lie in the image, got {list(tile.box)} for {tile.name}")
    pixels = tuple(map(int, found["pixels"]))
    if len(pixels) != classes:
        raise ValueError(f"pixels must be of {classes} classes, got {len(pixels)} in {name}")
    return Split(name, tiles, sizes, pixels)


class TileDataset(Dataset[dict[str, Any]]):
    """Tiles of a split as tensors.

    Items are dicts: "image" uint8 [3, H, W], "labels" uint8 [H, W] (255 is ignored), "index" of the
    tile in the split.

    Args:
        data: the prepared folder.
        split: name of the split.
        transform: maps (image, labels) to such a pair; may change their size.
    """

    def __init__(self, data: PreparedData, split: str, transform: Transform | None = None) -> None:
        self.data = data
        self.split = data.split(split)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split.tiles)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a tile.

        Raises:
            ValueError: files that do not belong to each other or hold other ids.
        """
        image_file, mask_file = self.data.files(self.split.name, self.split.tiles[index].name)
        image, labels = _read(image_file), _read(mask_file)
        if image.ndim != 3 or labels.ndim != 2 or image.shape[:2] != labels.shape:
            raise ValueError(
                f"{image_file} must be RGB of its mask's size, got {image.shape} and {labels.shape}"
            )
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        ids = torch.from_numpy(labels)
        highest = int(ids[ids != IGNORED].max()) if bool((ids != IGNORED).any()) else 0
        if highest >= len(self.data.class_names):
            raise ValueError(
                f"{mask_file} must hold ids in 0..{len(self.data.class_names) - 1} or 255, "
                f"got {highest}"
            )
        if self.transform is not None:
            pixels, ids = self.transform(pixels, ids)
        return {"image": pixels, "labels": ids, "index": index}


def _read(path: Path) -> Any:
    try:
        with no_size_limit(), Image.open(path) as image:
            return np.array(image)
    except UNREADABLE as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ValueError(
            f"{path} must be as `c2f prepare` wrote it, remove it and run that again: got {what}"
        ) from None
