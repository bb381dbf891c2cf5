"""Bytes that an op cannot avoid: each input read once, each output written once."""

from __future__ import annotations

import torch

from ..metrics import covered_mask
from ..windows import grid_shape
from .inputs import Case
from .ways import Job


def floor_bytes(job: Job, case: Case) -> int:
    """Fused floor of a job in bytes; no intermediate is counted."""
    height, width = case.size
    pixels = len(case.truth) * height * width
    logits = case.logits.numel() * case.logits.element_size()
    fine = case.fine.numel() * case.fine.element_size()
    if job.op == "count_windows":
        rows, columns = grid_shape(height, width, case.windows.window, case.stride, case.edge)
        return logits + 4 * len(case.truth) * rows * columns
    if job.op == "select_windows":
        return logits + 16 * case.windows.counts.numel()
    if job.op == "extract_patches":
        return _extract(job, case)
    if job.op == "aggregate":
        classes = case.logits.shape[1]
        out = 4 * classes * pixels if job.options.get("output") == "probs" else pixels
        return logits + fine + out
    # Glue to labels: logits once, the label map once, the patches, the fine logits.
    return logits + pixels + _extract(job, case) + fine


def _extract(job: Job, case: Case) -> int:
    """Pixels under the union of the windows in, patches out."""
    k = case.windows.window
    channels = case.image.shape[1]
    read = int(covered_mask(case.windows, *case.size).sum()) * channels * case.image.element_size()
    side: int = round(k * job.options.get("zoom", 1))
    item = torch.empty((), dtype=job.options.get("dtype") or torch.float32).element_size()
    return read + int(case.windows.counts.numel()) * channels * side * side * item
