"""The loss of stage 2: is a pixel of a small class or not, inside the windows."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _checks, _stages, ops
from .config import C2FConfig
from .windows import Windows

WINDOWS_FROM: Final = ("coarse", "labels", "both")


def fine_loss(
    coarse: nn.Module,
    fine: nn.Module,
    config: C2FConfig,
    image: Tensor,
    labels: Tensor,
    windows_from: str,
    pos_weight: float | None,
) -> Tensor:
    """See `C2FNet.fine_loss`."""
    _stages.check_image(image)
    _checks.choice("C2FNet", "windows_from", windows_from, WINDOWS_FROM)
    if pos_weight is not None and not pos_weight > 0:
        raise ValueError(f"C2FNet: pos_weight must be above 0, got {pos_weight}")
    with torch.no_grad():
        labels = _checked_labels(image, labels, config.ignore_index)
        found = _examples(coarse, fine, config, image, labels, windows_from)
    if found is None:
        return _zero(fine, image.device)
    patches, targets = found
    return _binary_loss(_stages.fine_logits(fine, patches, config), targets, pos_weight)


def _examples(
    coarse: nn.Module,
    fine: nn.Module,
    config: C2FConfig,
    image: Tensor,
    labels: Tensor,
    windows_from: str,
) -> tuple[Tensor, Tensor] | None:
    """Patches [P, C, p, p] and targets [P, k, k] of all windows in use; None if there are none."""
    frame = _stages.make_frame(image, config)
    labels = _stages.pad(labels, frame.size, _stages.IGNORED)
    windows = _windows(coarse, config, image, labels, frame.size, windows_from)
    used: list[int] = windows.num.tolist()
    if not any(used):
        return None
    n = max(used)
    leading = _stages.part(windows, 0, len(used), 0, n)
    rows = _stages.used_rows(used, n)
    patches = _stages.cut(frame, leading, rows, fine, config)
    targets: Tensor = ops.extract_targets(
        labels, leading, config.small_classes, ignore_index=_stages.IGNORED, backend=config.backend
    )
    if len(rows) < len(targets):
        targets = targets[torch.tensor(rows, device=targets.device)]
    if len(rows) == 1 and fine.training:
        # Batch norm after a global pooling cannot train on a single patch; twice the same patch
        # leaves the mean as it is.
        patches, targets = patches.repeat(2, 1, 1, 1), targets.repeat(2, 1, 1)
    return patches, targets


def _windows(
    coarse: nn.Module,
    config: C2FConfig,
    image: Tensor,
    labels: Tensor,
    frame_size: tuple[int, int],
    windows_from: str,
) -> Windows:
    """Windows of the coarse answer, of `labels` (of frame size), or of small objects in either."""
    windows: Windows
    if windows_from == "labels":
        windows = _stages.select(labels, frame_size, config)
        return windows
    true_size = (image.shape[-2], image.shape[-1])
    logits, size = _stages.coarse_logits(coarse, image, config)
    both = windows_from == "both"
    windows, answer = _stages.choose_windows(logits, size, true_size, frame_size, both, config)
    if answer is None or not both:
        return windows
    outside = _stages.outside_class(config)
    answer = _stages.pad(_stages.crop(answer, true_size), frame_size, outside)
    ids = torch.tensor(config.small_classes, device=labels.device)
    small = torch.isin(labels.long(), ids) | torch.isin(answer.long(), ids)
    # Which class it is does not matter to a window: any of C, and one outside.
    either = torch.where(small, config.small_classes[0], outside).to(torch.uint8)
    windows = _stages.select(either, frame_size, config)
    return windows


def _binary_loss(logits: Tensor, targets: Tensor, pos_weight: float | None) -> Tensor:
    """Mean binary cross-entropy over the pixels of [P, k, k] targets that are not ignored."""
    logits = logits.float()
    # Softmax over two channels is the sigmoid of their difference.
    foreground = logits[:, 1:2] - logits[:, 0:1] if logits.shape[1] == 2 else logits
    size = tuple(targets.shape[-2:])
    if tuple(foreground.shape[-2:]) != size:
        foreground = F.interpolate(foreground, size=size, mode="bilinear", align_corners=False)
    counted = targets != _stages.IGNORED
    weight = None if pos_weight is None else foreground.new_tensor(pos_weight)
    loss = F.binary_cross_entropy_with_logits(
        foreground[:, 0], (targets == 1).float(), pos_weight=weight, reduction="none"
    )
    # where, not a product: a NaN under an ignored pixel must not spread.
    return torch.where(counted, loss, 0.0).sum() / counted.sum().clamp(min=1)


def _zero(fine: nn.Module, device: torch.device) -> Tensor:
    """0, with a zero gradient of every parameter: DistributedDataParallel waits for one."""
    terms = [p.sum().float() * 0.0 for p in fine.parameters() if p.requires_grad]
    return torch.stack(terms).sum() if terms else torch.zeros((), device=device)


def _checked_labels(image: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Checks a label map [B, H, W]; returns it with ignored pixels as 255."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"C2FNet: labels must be a torch.Tensor, got {type(labels).__name__}")
    if labels.dtype not in _checks.LABEL_DTYPES:
        raise TypeError(f"C2FNet: labels must be uint8/int16/int32/int64, got {labels.dtype}")
    expected = (image.shape[0], *image.shape[-2:])
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"C2FNet: labels must be [B, H, W] = {expected} like the image, "
            f"got {tuple(labels.shape)}"
        )
    _checks.same_device("C2FNet", "labels", labels, image)
    limits = torch.iinfo(labels.dtype)
    if ignore_index == _stages.IGNORED or not limits.min <= ignore_index <= limits.max:
        return labels
    return labels.masked_fill(labels == ignore_index, _stages.IGNORED)
