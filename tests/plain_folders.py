"""Small data sets in plain folders, and the command that prepares them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def photo(height: int = 24, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ids(classes: int, height: int = 24, width: int = 30) -> np.ndarray:
    return (np.arange(height * width).reshape(height, width) // 7 % classes).astype(np.uint8)


def three_images(root: Path) -> Path:
    """Three images of two classes in plain folders."""
    for name in "abc":
        save(root / f"images/{name}.png", photo())
        save(root / f"masks/{name}.png", ids(2))
    return root


def command(root: Path, out: Path, *more: str) -> list[str]:
    classes = [] if "--classes" in more else ["--classes", "ground,car"]
    return ["prepare", "custom", str(root), "-o", str(out), "--workers", "0", *classes, *more]
