"""The same jobs done with what people have without c2fcore: other libraries, and unfold and fold.

"unfold" is the way of the method's authors, written from the description of what their code does:
whole maps are unfolded into windows, the chosen columns are worked on, and fold puts them back.
Where their code would take a slower call for the same values (argmax for max, on the CPU) it gets
the faster one here. The image is given to it normalised, as theirs is; the others normalise.

A peer that is not installed, or that cannot do a job, says so in a NotImplementedError.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..windows import grid_origins
from .inputs import MEAN, STD, Case

LOOP = "interpolate-loop"
UNFOLD = "unfold"
# Peers whose taps read the image beyond the window: compared without the window's outermost pixels.
READS_BEYOND = frozenset({"roi-align", "grid-sample"})

_NEEDS = {"roi-align": "torchvision", "kornia": "kornia", "opencv": "cv2"}


def every() -> list[str]:
    """Peers of any op, installed or not."""
    return list(dict.fromkeys(name for of_op in _PEERS.values() for name in of_op))


def names_of(op: str) -> list[str]:
    """Peers of an op, or of "glue", that are installed."""
    return [
        name
        for name in _PEERS.get(op, {})
        if name not in _NEEDS or importlib.util.find_spec(_NEEDS[name]) is not None
    ]


def call_of(name: str, op: str, options: dict[str, Any], case: Case) -> Callable[[], Any]:
    """A callable that does the job of `op` once.

    Raises:
        NotImplementedError: the peer cannot do this job.
    """
    return _PEERS[op][name](options, case)


def _count_unfold(options: dict[str, Any], case: Case) -> Callable[[], Tensor]:
    _need("unfold", not options, f"counting with {options}")
    _need("unfold", _regular(case), "a last window at the border")
    table = _membership(case)
    k = case.windows.window
    rows, columns = (len(grid_origins(side, k, case.stride, case.edge)) for side in case.size)

    def count() -> Tensor:
        mask = table[_labels(_upsampled(case))].float()[:, None]
        sums = F.unfold(mask, k, stride=case.stride).sum(1)
        return sums.reshape(-1, rows, columns).int()

    return count


def _interpolate_loop(options: dict[str, Any], case: Case) -> Callable[[], Tensor]:
    """One F.interpolate per window, as one would write it."""
    side, mean, std = _look(options, case)
    k = case.windows.window

    def loop() -> Tensor:
        patches = []
        for b, y, x in _spots(case):
            crop = case.image[b : b + 1, :, y : y + k, x : x + k].float()
            zoomed = F.interpolate(crop, size=side, mode="bilinear", align_corners=False)
            patches.append((zoomed / 255 - mean) / std)
        return torch.cat(patches)

    return loop


def _roi_align(options: dict[str, Any], case: Case) -> Callable[[], Tensor]:
    """Torchvision's roi_align, one sample per output pixel."""
    from torchvision.ops import roi_align

    side, mean, std = _look(options, case)
    k = case.windows.window
    spots = torch.tensor(_spots(case), dtype=torch.float32, device=case.image.device)
    b, y, x = spots.unbind(1)
    boxes = torch.stack((b, x, y, x + k, y + k), dim=1)

    def align() -> Tensor:
        patches: Tensor = roi_align(case.image.float(), boxes, side, sampling_ratio=1, aligned=True)
        return (patches / 255 - mean) / std

    return align


def _grid_sample(options: dict[str, Any], case: Case) -> Callable[[], Tensor]:
    """One F.grid_sample over all windows of an image."""
    _need("grid-sample", len(case.truth) == 1, "batches: one image per call")
    side, mean, std = _look(options, case)
    (height, width), k = case.size, case.windows.window
    spots = torch.tensor(_spots(case), device=case.image.device)
    steps = (torch.arange(side, device=spots.device) + 0.5) * k / side  # from the window's corner
    ys = (spots[:, 1:2] + steps) * 2 / height - 1  # [P, side], as grid_sample counts
    xs = (spots[:, 2:3] + steps) * 2 / width - 1
    grid = torch.stack(
        (xs[:, None, :].expand(-1, side, -1), ys[:, :, None].expand(-1, -1, side)), dim=-1
    ).reshape(1, -1, side, 2)

    def sample() -> Tensor:
        found = F.grid_sample(case.image.float(), grid, align_corners=False, padding_mode="border")
        patches = found.reshape(found.shape[1], -1, side, side).transpose(0, 1)
        return (patches / 255 - mean) / std

    return sample


def _kornia(options: dict[str, Any], case: Case) -> Callable[[], Tensor]:
    """Kornia's crop_and_resize."""
    from kornia.geometry.transform import crop_and_resize

    side, mean, std = _look(options, case)
    _need("kornia", side == case.windows.window, "a zoom: it aligns the corners of the windows")
    last = case.windows.window - 1
    corners = ((0, 0), (0, last), (last, last), (last, 0))
    spots = _spots(case)
    boxes = torch.tensor(
        [[[x + dx, y + dy] for dy, dx in corners] for _, y, x in spots],
        dtype=torch.float32,
        device=case.image.device,
    )
    rows = torch.tensor([b for b, _, _ in spots], device=case.image.device)

    def crop() -> Tensor:
        images = case.image.float().index_select(0, rows)
        patches: Tensor = crop_and_resize(images, boxes, (side, side), align_corners=True)
        return (patches / 255 - mean) / std

    return crop


def _opencv(options: dict[str, Any], case: Case) -> Callable[[], Tensor]:
    """OpenCV's resize, one window after the other, from an interleaved image."""
    import cv2

    _need("opencv", case.image.device.type == "cpu", "tensors that are not in host memory")
    side, mean, std = _look(options, case)
    k = case.windows.window
    images = case.image.permute(0, 2, 3, 1).contiguous().numpy()

    def loop() -> Tensor:
        cv2.setNumThreads(torch.get_num_threads())
        patches = [
            torch.from_numpy(
                cv2.resize(
                    images[b, y : y + k, x : x + k].astype("float32"),
                    (side, side),
                    interpolation=cv2.INTER_LINEAR,
                )
            )
            for b, y, x in _spots(case)
        ]
        return (torch.stack(patches).permute(0, 3, 1, 2) / 255 - mean) / std

    return loop


def _aggregate_fold(options: dict[str, Any], case: Case) -> Callable[[], Tensor]:
    """Eq. 1 with F.fold for the overlaps and full-size tensors for all else."""
    rule, output = options.get("rule", case.rule), options.get("output", "labels")
    _need("fold", rule != "official", "rule 'official' with windows that overlap")
    k, (height, width) = case.windows.window, case.size
    table = _membership(case)
    small = table[: case.logits.shape[1]]
    spots = _spots(case)
    _need("fold", len(case.truth) == 1, "batches: one image per call")
    _need(
        "fold",
        all(y % case.stride == 0 and x % case.stride == 0 for _, y, x in spots) and _regular(case),
        "windows off the grid",
    )
    per_row = len(grid_origins(width, k, case.stride, "drop"))
    total = per_row * len(grid_origins(height, k, case.stride, "drop"))
    places = torch.tensor(
        [y // case.stride * per_row + x // case.stride for _, y, x in spots],
        device=case.logits.device,
    )

    def merge() -> Tensor:
        full = _upsampled(case)
        fg = _foreground(case.fine[: len(spots)], k).flatten(1)  # [P, k*k]
        cells = fg.new_zeros((1, k * k, total))
        covers = torch.zeros_like(cells)
        cells[0].index_add_(1, places, fg.t())
        covers[0].index_fill_(1, places, 1.0)
        fold = functools.partial(
            F.fold, output_size=(height, width), kernel_size=k, stride=case.stride
        )
        count = fold(covers)[:, 0]
        p_f = fold(cells)[:, 0] / count.clamp(min=1)
        p = full.softmax(1)
        before = _labels(full)
        is_small = table[before]
        covered = count > 0
        outside = p.masked_fill(small[:, None, None], -1).max(1).indices
        inside = p.masked_fill(~small[:, None, None], -1).max(1).indices
        demote = covered & is_small & (p_f < 0.5)
        promote = covered & ~is_small & (p_f >= 0.5)
        added = torch.where(demote, 1 - p_f, torch.where(promote, p_f, 0.0))
        target = torch.where(demote, outside, inside)
        merged = p.scatter_add(1, target[:, None], added[:, None])
        if output == "labels":
            return _labels(merged).to(torch.uint8)
        if rule == "normalized":
            return merged / (1 + added)[:, None]
        return torch.where(covered[:, None], merged.softmax(1), p)

    return merge


def _glue_unfold(options: dict[str, Any], case: Case) -> Callable[[], Any]:
    """The authors' evaluation: unfold image and logits, add to the chosen columns, fold back.

    Windows are disjoint. The strip that is in no window keeps the coarse answer; theirs becomes
    background.
    """
    _need("unfold", case.rule == "official" and case.strategy == "all", "another preset")
    k, table = case.windows.window, _membership(case)
    batch, num_classes = case.logits.shape[:2]
    height, width = (side // k * k for side in case.size)
    small = table[:num_classes]
    mean, std = _mean_std(case)
    image = (case.image.float() / 255 - mean) / std
    rows = torch.arange(case.n, device=case.logits.device) < case.windows.num[:, None]
    given = case.fine[rows.flatten()]  # the fine answer for the windows that will be found

    def unfold(maps: Tensor) -> Tensor:
        return F.unfold(maps, k, stride=k).transpose(1, 2)  # [B, L, C*k*k]

    def glue() -> Tensor:
        full = _upsampled(case)
        mask = table[_labels(full)].float()[:, None]
        chosen = (unfold(mask).sum(2) > 0).flatten()
        patches = unfold(image).reshape(-1, image.shape[1], k, k)[chosen]
        columns = unfold(full).reshape(-1, num_classes, k, k)
        assert len(patches) == len(given)
        zoomed = F.interpolate(given, size=(k, k), mode="bilinear", align_corners=False)
        fg = zoomed.softmax(1)[:, 1:2]
        columns[chosen] += torch.where(small[:, None, None], fg, 0.0)
        whole = columns.reshape(batch, -1, num_classes * k * k).transpose(1, 2)
        full[..., :height, :width] = F.fold(whole, (height, width), k, stride=k)
        return _labels(full).to(torch.uint8)

    return glue


_PEERS: dict[str, dict[str, Callable[[dict[str, Any], Case], Callable[[], Any]]]] = {
    "count_windows": {UNFOLD: _count_unfold},
    "extract_patches": {
        LOOP: _interpolate_loop,
        "roi-align": _roi_align,
        "grid-sample": _grid_sample,
        "kornia": _kornia,
        "opencv": _opencv,
    },
    "aggregate": {"fold": _aggregate_fold},
    "glue": {UNFOLD: _glue_unfold},
}


def _need(peer: str, can: bool, job: str) -> None:
    if not can:
        raise NotImplementedError(f"{peer} does not do {job}")


def _regular(case: Case) -> bool:
    """Whether regular windows reach the borders, or need not."""
    k = case.windows.window
    return case.edge == "drop" or all((side - k) % case.stride == 0 for side in case.size)


def _membership(case: Case) -> Tensor:
    table = torch.zeros(256, dtype=torch.bool)
    table[list(case.small_classes)] = True
    return table.to(case.logits.device)


def _upsampled(case: Case) -> Tensor:
    return F.interpolate(case.logits.float(), size=case.size, mode="bilinear", align_corners=False)


def _labels(scores: Tensor) -> Tensor:
    return scores.max(1).indices  # a quarter of argmax's time on the CPU


def _foreground(fine: Tensor, k: int) -> Tensor:
    zoomed = F.interpolate(fine.float(), size=(k, k), mode="bilinear", align_corners=False)
    return zoomed.softmax(1)[:, 1]


def _look(options: dict[str, Any], case: Case) -> tuple[int, Tensor, Tensor]:
    """Side of a patch, mean and std; refuses what only the op can do."""
    more = {k: v for k, v in options.items() if k != "zoom" and v not in (torch.float32, False)}
    _need("a peer", not more, f"extraction with {more}")
    return round(case.windows.window * options.get("zoom", 1)), *_mean_std(case)


def _mean_std(case: Case) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(v, device=case.image.device)[:, None, None] for v in (MEAN, STD))
    return mean, std


def _spots(case: Case) -> list[tuple[int, int, int]]:
    """(image, y, x) of every window in use."""
    used = case.windows.num.tolist()
    return [
        (b, y, x) for b, row in enumerate(case.windows.origins.tolist()) for y, x in row[: used[b]]
    ]
