"""Small pictures on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def draw(file: Path, height: int, width: int) -> Path:
    """Noise of its own for each height."""
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    return file


def pixels_of(file: Path) -> Any:
    with Image.open(file) as image:
        return np.asarray(image)
