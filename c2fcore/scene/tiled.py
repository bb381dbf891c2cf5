"""A scene in overlapping tiles, each with a second look of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from .._progress import Bar
from ..data.tiling import Box, boxes, owned
from ..engine import Engine, Result
from ..engine.inputs import load
from ..pipeline import C2FNet

Map = TypeVar("Map", Tensor, "np.ndarray[Any, Any]")


class Tile(NamedTuple):
    """A tile of a scene.

    Attributes:
        seen: what the networks see.
        own: what it speaks for.
    """

    seen: Box
    own: Box

    def own_part(self, of: Map) -> Map:
        """The part of [H, W], which lies over what is seen, that it speaks for."""
        (y0, x0, y1, x1), (top, left, _, _) = self.own, self.seen
        return of[y0 - top : y1 - top, x0 - left : x1 - left]

    def name(self, scene: str) -> str:
        """What messages call it."""
        return f"{scene} from row {self.seen.y0}, column {self.seen.x0}"


def tiles_of(height: int, width: int, tile: int, overlap: int) -> list[Tile]:
    """The tiles of a scene in raster order; where neighbours overlap each speaks for its half.

    Raises:
        ValueError: the tile or the overlap is out of range.
    """
    # Equal tiles, for what is captured or compiled by size: the last ones reach back, not out.
    found = [
        b._replace(y1=min(b.y1, height), x1=min(b.x1, width))
        for b in boxes(height, width, tile, overlap)
    ]
    rows = owned(height, [(b.y0, b.y1) for b in found])
    columns = owned(width, [(b.x0, b.x1) for b in found])
    tiles = []
    for b in found:
        (y0, y1), (x0, x1) = rows[b.y0, b.y1], columns[b.x0, b.x1]
        tiles.append(Tile(b, Box(y0, x0, y1, x1)))
    return tiles


def check_engine(engine: object) -> None:
    """Refuses what is no engine.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(engine, Engine):
        hint = "; net.compile() makes one" if isinstance(engine, C2FNet) else ""
        raise TypeError(f"engine must be an Engine, got {type(engine).__name__}{hint}")


def segment(
    engine: Engine, image: Any, *, tile: int = 2048, overlap: int = 256, progress: bool = True
) -> Result:
    """The labels of a large image, tile by tile.

    Every tile passes both networks as an image of its own: the number of windows grows with the
    scene, and beside the scene's pixels and labels only a few tiles are in memory. Where tiles
    overlap each speaks for its half. One that fails fails the scene. For files of any size, and
    labels that lie where the scene does: `segment_file`.

    Args:
        engine: from `C2FNet.compile`; with `batch`, that many tiles pass the networks together.
        image: as for `Engine.run`: a path, an array [H, W, C], a tensor [C, H, W], (name, image).
        tile: side of a tile in pixels; a shorter side of the image is the tile's.
        overlap: of neighbours, in pixels; at least the width that the networks see around a pixel
            leaves no seams.
        progress: show a bar of the tiles.

    Returns:
        As `Engine.run` gives for an image; `windows` holds those of all tiles, tile after tile,
        with origins in the scene.

    Raises:
        TypeError: `engine` is none.
        ValueError: the tile or the overlap is out of range, or the image cannot be read.
        Exception: what happened in a tile.
    """
    check_engine(engine)
    loaded = load(image)
    height, width = loaded.pixels.shape[:2]
    tiles = tiles_of(height, width, tile, overlap)

    def parts() -> Iterator[tuple[str, Tensor]]:
        for t in tiles:
            part = loaded.pixels[t.seen.y0 : t.seen.y1, t.seen.x0 : t.seen.x1]
            yield t.name(loaded.name), part.permute(2, 0, 1)

    labels = torch.empty((height, width), dtype=torch.uint8, device="cpu")
    windows = []
    bar = Bar(
        total=len(tiles),
        unit="tile",
        desc=loaded.name,
        leave=False,
        shown=progress,
    )
    with bar, closing(engine.run(parts())) as results:
        for t, result in zip(tiles, results, strict=True):
            if result.error is not None:
                raise result.error
            assert result.windows is not None
            (y0, x0, y1, x1), origin = t.own, t.seen[:2]
            labels[y0:y1, x0:x1].copy_(t.own_part(result.labels))
            windows.append(result.windows + result.windows.new_tensor(origin))
            bar.update()
    answer = loaded.answer(labels)
    return Result(
        0, loaded.name, answer, loaded.pixels, torch.cat(windows), known=loaded.known
    )  # fmt: skip
