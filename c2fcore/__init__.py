"""c2fcore: the second look of coarse-to-fine segmentation, fast.

`c2fcore.ops` holds the fused operations, `c2fcore.reference` the unfused PyTorch that specifies
them, `C2FNet` the two-stage network around any PyTorch segmentation model. Method: C2FNet, IEEE
GRSL 2025.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import ops
    from ._backend import backends, use_backend
    from .config import C2FConfig
    from .engine import Engine
    from .pipeline import C2FNet
    from .windows import Windows

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

# Loaded when first asked for: torch takes seconds, in which `c2f` must heed Ctrl-C already, and the
# network brings checkpoint libraries along, which the ops alone do not need.
_LAZY = {
    "C2FConfig": "config",
    "C2FNet": "pipeline",
    "Engine": "engine",
    "Windows": "windows",
    "backends": "_backend",
    "use_backend": "_backend",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = importlib.import_module(".ops", __name__)  # before all else: it registers the backends
    if name in _LAZY:
        found = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = found  # not asked for again
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
