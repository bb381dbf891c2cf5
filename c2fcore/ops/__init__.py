"""The fused ops. Each takes torch tensors, NumPy arrays or CuPy arrays and answers in kind.

Shapes: B images, N classes, H x W full size, h x w the coarse map's own size, k the window side, s
the stride, n windows per image, z zoom, p the patch side after zoom, C the set of small classes.
"""

from .aggregate import aggregate
from .count_windows import count_windows
from .extract_patches import extract_patches
from .extract_targets import extract_targets
from .select_windows import select_windows

__all__ = [
    "aggregate",
    "count_windows",
    "extract_patches",
    "extract_targets",
    "select_windows",
]
