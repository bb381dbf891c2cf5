"""What to score: images with their truth, from `c2f prepare` or from plain folders.

A scene is an image of the data set; the network sees it in tiles. Two protocols:

- "tiles": every tile is scored by itself, as the field's tables do; a pixel where tiles overlap
  counts as often as it is seen.
- "whole": the answers of a scene's tiles are put together, each speaking for the part nearest to
  its middle (`tiling.owned`), and every pixel counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..config import C2FConfig, names_of
from ..data import catalogue, sources
from ..data.catalogue import IGNORED, DatasetInfo
from ..data.masks import MaskDecoder, read_pair, shown
from ..data.prepare import DATASET_FILE
from ..data.prepared import PreparedData, TileDataset
from ..data.tiling import Box, boxes, cut, owned
from ..images import UNREADABLE, Pixels, check_file, no_size_limit

PROTOCOLS: Final = ("tiles", "whole")


class Tile(NamedTuple):
    """What the network sees at once: its name, and where in the scene it lies."""

    name: str
    box: Box


class Scene(NamedTuple):
    """An image of a data set: name, size, and its tiles."""

    name: str
    height: int
    width: int
    tiles: tuple[Tile, ...]


class Samples(Protocol):
    """Scenes with their truth."""

    name: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    scenes: tuple[Scene, ...]

    def read(self, scene: Scene, tile: Tile) -> tuple[Tensor, Tensor]:
        """Pixels uint8 [3, h, w] and ids uint8 [h, w] of a tile; 0 and 255 beyond the image."""


class PreparedSamples:
    """A split of a folder that `c2f prepare` wrote, in the tiles it was cut into.

    Args:
        data: the folder's description.
        split: name of the split.

    Raises:
        ValueError: no such split.
    """

    def __init__(self, data: PreparedData, split: str) -> None:
        self.name = f"{data.dataset} {split}"
        self.class_names, self.palette = data.class_names, data.palette
        self._tiles = TileDataset(data, split)
        tiles = self._tiles.split.tiles
        self._index = {tile.name: i for i, tile in enumerate(tiles)}
        by_source: dict[str, list[Tile]] = {source: [] for source in self._tiles.split.sizes}
        for tile in tiles:
            by_source[tile.source].append(Tile(tile.name, tile.box))
        self.scenes = tuple(
            Scene(source, *self._tiles.split.sizes[source], tuple(found))
            for source, found in by_source.items()
        )

    def read(self, scene: Scene, tile: Tile) -> tuple[Tensor, Tensor]:
        """Pixels and ids of a tile."""
        found = self._tiles[self._index[tile.name]]
        return found["image"], found["labels"]


class FolderSamples:
    """Images and masks in plain folders.

    Args:
        pairs: image and mask of each scene.
        info: what the masks mean.
        encoding: of the masks, see `MaskDecoder`.
        tile: side of the tiles in pixels; None shows the network whole images.
        overlap: of neighbouring tiles, pixels.
        unknown: "error" stops at ids and colours that the data set does not have, "ignore" leaves
            these pixels out.
        name: in reports.

    Raises:
        ValueError: a mask that is no image, or tiles that are impossible.
    """

    def __init__(
        self,
        pairs: Sequence[sources.Pair],
        info: DatasetInfo,
        encoding: str,
        tile: int | None = None,
        overlap: int = 0,
        unknown: str = "error",
        name: str = "images",
    ) -> None:
        self.name = name
        self.class_names, self.palette = info.class_names, info.palette
        self._pairs = {pair.name: pair for pair in pairs}
        self._decode = MaskDecoder(info, encoding)
        self._unknown = unknown
        self._last: tuple[str, tuple[Pixels, Pixels]] | None = None  # its tiles follow each other
        self.scenes = tuple(_cut_scene(pair, tile, overlap) for pair in pairs)

    def read(self, scene: Scene, tile: Tile) -> tuple[Tensor, Tensor]:
        """Pixels and ids of a tile.

        Raises:
            ValueError: image and mask differ in size, or unknown ids.
        """
        if self._last is None or self._last[0] != scene.name:
            self._last = scene.name, self._read_pair(scene.name)
        image, labels = self._last[1]
        pixels = torch.from_numpy(cut(image, tile.box, 0).copy()).permute(2, 0, 1)
        return pixels.contiguous(), torch.from_numpy(cut(labels, tile.box, IGNORED).copy())

    def _read_pair(self, name: str) -> tuple[Pixels, Pixels]:
        pair = self._pairs[name]
        image, labels, unknown = read_pair(pair.image, pair.mask, self._decode)
        if unknown and self._unknown == "error":
            raise ValueError(
                f"masks must hold ids in 0..{len(self.class_names) - 1} or 255 (encoding "
                f"{self._decode.encoding}), got {shown(unknown)} in {pair.mask}; --unknown ignore "
                f"leaves such pixels out"
            )
        return image, labels


def _cut_scene(pair: sources.Pair, tile: int | None, overlap: int) -> Scene:
    check_file("mask", pair.mask)
    try:
        with no_size_limit(), Image.open(pair.mask) as mask:
            width, height = mask.size
    except UNREADABLE as error:
        raise ValueError(f"mask must be an image, got {pair.mask}: {error}") from None
    found = boxes(height, width, tile, overlap)
    if tile is None:
        return Scene(pair.name, height, width, (Tile(pair.name, found[0]),))
    tiles = [Tile(f"{pair.name}_{b.y0}_{b.y1}_{b.x0}_{b.x1}", b) for b in found]
    return Scene(pair.name, height, width, tuple(tiles))


def open_samples(
    root: Path,
    split: str | None,
    config: C2FConfig,
    *,
    encoding: str = "",
    tile: int | None = None,
    overlap: int = 0,
    unknown: str = "error",
) -> Samples:
    """The samples of a folder that `c2f prepare` wrote, or of one with images/ and masks/.

    Args:
        root: the folder.
        split: which; may be None where there is one only, or one named "val".
        config: of the network, which tells the classes of plain folders.
        encoding: of the masks of plain folders: index (default), shifted or rgb.
        tile: side of tiles cut from plain folders, pixels; None shows whole images.
        overlap: of such tiles.
        unknown: as in FolderSamples.

    Raises:
        FileNotFoundError: a folder or a mask is missing.
        ValueError: classes that are not the network's; options of plain folders for a prepared one.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data must be in a folder, got {root}")
    if (root / DATASET_FILE).is_file():
        if encoding or tile is not None or overlap:
            raise ValueError(
                f"--encoding, --tile and --overlap are for plain folders, got them for {root}, "
                f"which `c2f prepare` has decoded and cut"
            )
        data = PreparedData.open(root)
        data.check_classes(config)
        return PreparedSamples(data, _choose(list(data.splits), split, root))
    info = replace(catalogue.custom(",".join(map(str, range(config.num_classes)))),
                   class_names=names_of(config), palette=config.palette or ())  # fmt: skip
    layout = "mmseg" if (root / "img_dir").is_dir() else "folders"
    if layout == "folders" and not any(root.glob("images")) and not any(root.glob("*/images")):
        raise FileNotFoundError(
            f"data must be a folder that `c2f prepare` finished, or hold images/ and masks/ (or "
            f"SPLIT/images/ and SPLIT/masks/), got {root}"
        )
    if overlap and tile is None:
        raise ValueError(f"--overlap needs --tile, got {overlap} without it")
    found = sources.find(info, root, layout, None if split is None else [split])
    chosen = _choose(list(found), split, root)
    name = root.name if chosen == "all" else f"{root.name} {chosen}"
    return FolderSamples(found[chosen], info, encoding or "index", tile, overlap, unknown, name)


def _choose(splits: list[str], wanted: str | None, root: Path) -> str:
    if wanted is not None:
        return wanted
    if len(splits) == 1:
        return splits[0]
    if "val" in splits:
        return "val"
    raise ValueError(f"--split must say which of {', '.join(splits)} of {root}, got none")


class Unit(NamedTuple):
    """What is scored at once: a tile, or a scene put together from its tiles."""

    name: str
    scene: Scene
    tiles: tuple[Tile, ...]
    whole: bool


def units_of(samples: Samples, protocol: str) -> list[Unit]:
    """The units of a protocol in the data set's order.

    Raises:
        ValueError: unknown protocol, or nothing to score.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol}")
    whole = protocol == "whole"
    if whole:
        found = [Unit(s.name, s, s.tiles, True) for s in samples.scenes]
    else:
        found = [Unit(t.name, s, (t,), False) for s in samples.scenes for t in s.tiles]
    if not found:
        raise ValueError(f"{samples.name} must hold images, got none")
    return found


class Canvas:
    """Label maps of a unit, filled tile by tile.

    Args:
        unit: what is put together.
        device: of the maps.
    """

    def __init__(self, unit: Unit, device: torch.device) -> None:
        self._unit, self._device = unit, device
        self.maps: dict[str, Tensor] = {}
        scene = unit.scene
        self._rows = owned(scene.height, [(t.box.y0, t.box.y1) for t in unit.tiles])
        self._columns = owned(scene.width, [(t.box.x0, t.box.x1) for t in unit.tiles])
        self._missing = len(unit.tiles)

    def add(self, tile: Tile, maps: dict[str, Tensor]) -> bool:
        """Takes the maps uint8 [h, w] of a tile; True once all tiles are there."""
        self._missing -= 1
        if not self._unit.whole:
            self.maps = maps
            return True
        box = tile.box
        y0, y1 = self._rows[box.y0, box.y1]
        x0, x1 = self._columns[box.x0, box.x1]
        scene = self._unit.scene
        for name, part in maps.items():
            if name not in self.maps:
                self.maps[name] = torch.full(
                    (scene.height, scene.width), IGNORED, dtype=torch.uint8, device=self._device
                )
            inside = part[y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0]
            self.maps[name][y0:y1, x0:x1] = inside
        return self._missing == 0


class TileReader(Dataset[tuple[int, int, Tensor, Tensor] | Exception]):
    """The tiles of units, one after the other: (unit, tile, pixels, ids).

    A tile that cannot be read gives the error itself: raised in another process it would come with
    that process's traceback as its text.

    Args:
        samples: to read from.
        units: whose tiles.
    """

    def __init__(self, samples: Samples, units: Sequence[Unit]) -> None:
        self._samples, self._units = samples, units
        self._tiles = [(u, t) for u, unit in enumerate(units) for t in range(len(unit.tiles))]

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> tuple[int, int, Tensor, Tensor] | Exception:
        """Reads a tile."""
        u, t = self._tiles[index]
        unit = self._units[u]
        try:
            return u, t, *self._samples.read(unit.scene, unit.tiles[t])
        except (ValueError, OSError) as error:
            return error
