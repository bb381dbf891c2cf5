"""What was found, as the command line tells it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..config import C2FConfig, names_of
from ..images import Pixels


def key_of(config: C2FConfig, palette: Pixels) -> str:
    """What ids in the label maps and colours in the pictures stand for."""
    names = names_of(config)
    colours = (f"{names[c]} #{bytes(palette[c].tolist()).hex()}" for c in config.small_classes)
    ids = (f"{c} {name}" for c, name in enumerate(names))
    return f"ids: {', '.join(ids)}\ncolours: {', '.join(colours)}"


def shares_of(config: C2FConfig, counts: npt.NDArray[np.int64], missing: int) -> str:
    """Which part of the pixels with data is of each small class, and which part has none.

    Args:
        config: of the network.
        counts: pixels of each label.
        missing: of them, pixels without data.
    """
    names, pixels = names_of(config), int(counts.sum())
    share = counts / max(pixels - missing, 1)
    found = [f"{names[c]} {share[c]:.2%}" for c in config.small_classes]
    return ", ".join([*found, *([f"{missing / pixels:.2%} without data"] if missing else [])])
