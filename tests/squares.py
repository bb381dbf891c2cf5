"""A small prepared data set that networks learn in a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from c2fcore.cli import main


def square_tiles(root: Path, names: str = "ground,square", small: str = "square") -> Path:
    """Bright squares of class 1 on dark ground: 3 tiles to train on, 3 to validate."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(3):
            pixels = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
            ids = np.zeros((64, 64), np.uint8)
            for y, x in rng.integers(0, 52, (6, 2)):
                pixels[y : y + 12, x : x + 12] += 180
                ids[y : y + 12, x : x + 12] = 1
            for kind, array in (("images", pixels), ("masks", ids)):
                (root / "raw" / split / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / "raw" / split / kind / f"{i}.png")
    options = ["--classes", names, "--small", small, "--tile", "64", "--workers", "0"]
    assert main(["prepare", "custom", str(root / "raw"), "-o", str(root / "tiles"), *options]) == 0
    return root / "tiles"
