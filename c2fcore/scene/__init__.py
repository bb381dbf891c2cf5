"""Whole scenes: images too large to pass a network at once."""

from .files import SceneFile, check_place, is_finished, segment_file, unfinished, write_objects
from .tiled import segment

__all__ = [
    "SceneFile",
    "check_place",
    "is_finished",
    "segment",
    "segment_file",
    "unfinished",
    "write_objects",
]
