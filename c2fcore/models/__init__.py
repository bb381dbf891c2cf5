"""Segmentation networks by name, and the adapter for everybody else's."""

from .foreground import Foreground, foreground_of
from .low_resolution import low_resolution
from .outputs import all_logits, logits_of
from .registry import available, build

__all__ = [
    "Foreground",
    "all_logits",
    "available",
    "build",
    "foreground_of",
    "logits_of",
    "low_resolution",
]
