"""Segmentation networks by name, and the adapter for everybody else's."""

from .low_resolution import low_resolution
from .outputs import all_logits, logits_of
from .registry import available, build

__all__ = ["all_logits", "available", "build", "logits_of", "low_resolution"]
