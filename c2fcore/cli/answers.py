"""What was found, as the command line tells it."""

from __future__ import annotations

from typing import Any

from .. import pictures
from ..config import C2FConfig, names_of


def key_of(config: C2FConfig) -> str:
    """What ids in the label maps and colours in the pictures stand for."""
    names, palette = names_of(config), pictures.palette_of(config)
    colours = (f"{names[c]} #{bytes(palette[c].tolist()).hex()}" for c in config.small_classes)
    ids = (f"{c} {name}" for c, name in enumerate(names))
    return f"ids: {', '.join(ids)}\ncolours: {', '.join(colours)}"


def shares_of(config: C2FConfig, share: Any) -> str:
    """Which part of the pixels is of each small class; `share` has one entry per class."""
    names = names_of(config)
    return ", ".join(f"{names[c]} {share[c]:.2%}" for c in config.small_classes)


def counted(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
