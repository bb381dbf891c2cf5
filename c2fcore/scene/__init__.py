"""Whole scenes: images too large to pass a network at once."""

from .files import SceneFile, segment_file, unfinished, write_objects
from .tiled import segment

__all__ = ["SceneFile", "segment", "segment_file", "unfinished", "write_objects"]
