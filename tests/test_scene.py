"""Whole scenes, tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from c2fcore import C2FConfig, C2FNet, scene
from c2fcore.engine import Engine
from c2fcore.models import build
from c2fcore.scene.tiled import tiles_of


@pytest.fixture(scope="module")
def engine() -> Engine:
    config = C2FConfig(num_classes=4, small_classes=(1, 2), window=16, n=3)
    torch.manual_seed(8)  # labels of several classes, which a tile's borders change
    net = C2FNet(build("tiny_fcn", 4, width=4), build("tiny_fcn", 2, width=4), config)
    return net.eval().compile()


def _noise(height: int, width: int) -> np.ndarray:
    made: np.ndarray = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return made


def test_one_tile_is_the_image(engine: Engine) -> None:
    image = _noise(50, 70)
    found = scene.segment(engine, image, tile=70, overlap=0, progress=False)
    assert np.array_equal(found.labels, engine(image))
    assert torch.equal(found.windows, next(engine.run([image])).windows)


def test_each_tile_speaks_for_its_half(engine: Engine) -> None:
    """Tiles of 40 of a 64 x 100 image: rows at 0, 24, columns at 0, 32, 60."""
    image = _noise(64, 100)
    found = scene.segment(engine, torch.from_numpy(image).permute(2, 0, 1), tile=40, overlap=8)
    assert isinstance(found.labels, torch.Tensor)
    rows = ((0, 0, 32), (24, 32, 64))  # start, first and end of what it speaks for
    columns = ((0, 0, 36), (32, 36, 66), (60, 66, 100))
    windows = []
    for y, y0, y1 in rows:
        for x, x0, x1 in columns:
            (result,) = engine.run([image[y : y + 40, x : x + 40]])
            expected = result.labels[y0 - y : y1 - y, x0 - x : x1 - x]
            assert np.array_equal(found.labels[y0:y1, x0:x1].numpy(), expected)
            windows.append(result.windows + torch.tensor([y, x]))
    assert not np.array_equal(found.labels.numpy(), engine(image))
    assert torch.equal(found.windows, torch.cat(windows))
    assert len(found.windows) > 3  # more than one image's


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (0, 0, "tile must be at least 1, got 0"),
        (32, 32, "overlap must be in 0..tile-1, got 32 for tiles of 32"),
    ],
)
def test_options_out_of_range(engine: Engine, tile: int, overlap: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scene.segment(engine, _noise(40, 40), tile=tile, overlap=overlap)


def test_a_tile_that_fails_fails_the_scene(engine: Engine) -> None:
    with pytest.raises(ValueError, match="3 channels, got 4 in an image of 32 x 32"):
        scene.segment(engine, np.zeros((40, 40, 4), np.uint8), tile=32, overlap=0, progress=False)


def test_a_file(engine: Engine, tmp_path: Path) -> None:
    image = _noise(40, 48)
    Image.fromarray(image).save(tmp_path / "scene.png")
    found = scene.segment(engine, tmp_path / "scene.png", tile=32, overlap=4, progress=False)
    assert found.name == str(tmp_path / "scene.png")
    expected = scene.segment(engine, image, tile=32, overlap=4, progress=False)
    assert np.array_equal(found.labels, expected.labels)


def test_more_tiles_than_any_scene_has() -> None:
    """As a damaged head asks for: their list would take all memory."""
    side = 2_000_000_000
    with pytest.raises(ValueError, match=r"tiles must be at most 4194304, got 1245616709184 of 20"):
        tiles_of(side, side, 2048, 256)


def test_what_is_no_engine_is_named(engine: Engine, tmp_path: Path) -> None:
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    net: Any = C2FNet(build("tiny_fcn", 4, width=4), build("tiny_fcn", 2, width=4), engine.config)
    calls: tuple[Callable[[], object], ...] = (
        lambda: scene.segment(net, image),
        lambda: scene.segment_file(net, "scene.tif", tmp_path / "labels.tif"),
    )
    for call in calls:
        with pytest.raises(TypeError, match=r"got C2FNet; net\.compile\(\) makes one$"):
            call()
    nothing: Any = None
    with pytest.raises(TypeError, match=r"^engine must be an Engine, got NoneType$"):
        scene.segment(nothing, image)
