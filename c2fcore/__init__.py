"""c2fcore: the second look of coarse-to-fine segmentation, fast.

`c2fcore.ops` holds the fused operations, `c2fcore.reference` the unfused PyTorch that specifies
them, `C2FNet` the two-stage network around any PyTorch segmentation model. Method: C2FNet, IEEE
GRSL 2025.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._interrupts import quiet_in_command
from ._version import __version__

with quiet_in_command():
    from . import ops
    from ._backend import backends, use_backend
    from .windows import Windows

if TYPE_CHECKING:
    from .config import C2FConfig
    from .engine import Engine
    from .pipeline import C2FNet

__all__ = [
    "C2FConfig",
    "C2FNet",
    "Engine",
    "Windows",
    "__version__",
    "backends",
    "ops",
    "use_backend",
]

# The network brings checkpoint libraries along; the ops alone do not need them.
_LAZY = {"C2FConfig": "config", "C2FNet": "pipeline", "Engine": "engine"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
