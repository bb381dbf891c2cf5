"""The inference engine: a `C2FNet` as a deployed pipeline; see `Engine`."""

from .engine import Engine
from .running import Result

__all__ = ["Engine", "Result"]
