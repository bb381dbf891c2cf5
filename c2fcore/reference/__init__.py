"""The ops in unfused PyTorch: specification, fallback, and what every backend is measured against.

Plain eager code on any device, as good as eager code gets. Arguments are those of `c2fcore.ops` and
are taken as already checked. Shapes: B images, N classes, H x W full size, h x w the coarse map's
own size, k the window side, n windows per image, p the patch side after zoom, C the set of small
classes.
"""

from .aggregate import aggregate
from .count_windows import count_windows
from .extract_patches import extract_patches, extract_targets
from .select_windows import select_windows

__all__ = [
    "aggregate",
    "count_windows",
    "extract_patches",
    "extract_targets",
    "select_windows",
]
