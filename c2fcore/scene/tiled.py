"""A scene in overlapping tiles, each with a second look of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..data.tiling import boxes, owned
from ..engine import Engine, Result
from ..engine.inputs import load


def segment(
    engine: Engine, image: Any, *, tile: int = 2048, overlap: int = 256, progress: bool = True
) -> Result:
    """The labels of a large image, tile by tile.

    Every tile passes both networks as an image of its own: the number of windows grows with the
    scene, and beside the scene's pixels and labels only a few tiles are in memory. Where tiles
    overlap each speaks for its half. One that fails fails the scene.

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
        ValueError: the tile or the overlap is out of range, or the image cannot be read.
        Exception: what happened in a tile.
    """
    loaded = load(image)
    height, width = loaded.pixels.shape[:2]
    # Equal tiles, for what is captured or compiled by size: the last ones reach back, not out.
    found = [
        b._replace(y1=min(b.y1, height), x1=min(b.x1, width))
        for b in boxes(height, width, tile, overlap)
    ]
    rows = owned(height, [(b.y0, b.y1) for b in found])
    columns = owned(width, [(b.x0, b.x1) for b in found])

    def tiles() -> Iterator[tuple[str, Tensor]]:
        for b in found:
            part = loaded.pixels[b.y0 : b.y1, b.x0 : b.x1]
            yield f"{loaded.name} from row {b.y0}, column {b.x0}", part.permute(2, 0, 1)

    labels = torch.empty((height, width), dtype=torch.uint8, device="cpu")
    windows = []
    bar = tqdm(
        total=len(found),
        unit="tile",
        desc=loaded.name,
        leave=False,
        disable=None if progress else True,
    )
    with bar, closing(engine.run(tiles())) as results:
        for b, result in zip(found, results, strict=True):
            if result.error is not None:
                raise result.error
            assert result.windows is not None
            (y0, y1), (x0, x1) = rows[b.y0, b.y1], columns[b.x0, b.x1]
            inside = result.labels[y0 - b.y0 : y1 - b.y0, x0 - b.x0 : x1 - b.x0]
            labels[y0:y1, x0:x1].copy_(inside)
            windows.append(result.windows + result.windows.new_tensor([b.y0, b.x0]))
            bar.update()
    return Result(0, loaded.name, loaded.answer(labels), loaded.pixels, torch.cat(windows))
