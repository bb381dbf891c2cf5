"""Whole scenes: images too large to pass a network at once."""

from .tiled import segment

__all__ = ["segment"]
