"""Georeferenced scenes for tests, and networks that answer them in several classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from c2fcore import C2FConfig, C2FNet
from c2fcore.models import build

COMMON: dict[str, Any] = {"tile": 40, "overlap": 8, "progress": False}
NAMES = ("ground", "car", "ship", "sea & sand")
PALETTE = ((64, 64, 64), (255, 0, 0), (0, 255, 0), (0, 0, 255))


def make_net(channels: int = 3) -> C2FNet:
    config = C2FConfig(
        num_classes=4, small_classes=(1, 2), window=16, n=3, class_names=NAMES, palette=PALETTE
    )
    torch.manual_seed(8)  # labels of several classes, which a tile's borders change
    coarse, fine = (build("tiny_fcn", n, channels, width=4) for n in (4, 2))
    return C2FNet(coarse, fine, config).eval()


def noise(count: int, height: int, width: int, dtype: Any = np.uint8) -> npt.NDArray[Any]:
    made = np.random.default_rng(5).integers(0, 256, (count, height, width), dtype=np.uint8)
    return made if dtype == np.uint8 else (made.astype(np.float64) * 31 + 500).astype(dtype)


def write(path: Path, bands: npt.NDArray[Any], mask: Any = None, **profile: Any) -> Path:
    """Bands [C, H, W] as a GeoTIFF whose rows do not run east."""
    import rasterio

    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    where = rasterio.Affine(0.3, 0.05, 500000, 0.04, -0.3, 5400000)
    known = {"crs": "EPSG:32633", "transform": where, **profile}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", "GTiff", **shape, **known) as file,
    ):
        file.write(bands)
        if mask is not None:
            file.write_mask(mask)
    return path


def labels_of(path: Path) -> npt.NDArray[np.uint8]:
    import rasterio

    with rasterio.open(path) as file:
        read: npt.NDArray[np.uint8] = file.read(1)
        return read
