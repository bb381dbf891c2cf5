"""aggregate in unfused PyTorch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from .._classes import ClassSet
from ..windows import Windows
from .extract_patches import check_inside, crops_of, used_origins, used_slots
from .uncompiled import uncompiled
from .upsample import (
    as_class_set,
    labels_of,
    member_mask,
    probabilities,
    resampled_backward,
    surely_finite,
    upsample_logits,
)


def aggregate(
    coarse: Tensor,
    fine: Tensor,
    windows: Windows,
    small_classes: Iterable[int] | ClassSet,
    *,
    size: tuple[int, int] | None = None,
    rule: str = "paper",
    output: str = "labels",
) -> Tensor:
    """Merges the coarse and the fine answer: uint8 labels [B, H, W] or float32 scores [B, N, H, W].

    Let p = softmax of the coarse logits at full size, c* their argmax, and p_f the probability of a
    small object at a pixel: the sigmoid of the fine foreground logit, the mean over the windows in
    use that cover the pixel, summed in slot order. A pixel whose p_f is NaN counts as not covered.

    "paper" (Eq. 1 of the paper, read so that either network can overrule the other), on covered
    pixels:
      case 1, c* in C and p_f < 0.5:      add 1 - p_f to the most probable class outside C;
      case 2, c* not in C and p_f >= 0.5: add p_f to the most probable class of C;
      otherwise nothing. Covered pixels then go through a softmax over all classes; the others keep
      p. Without a class outside C case 1 has no target and adds nothing.
    "normalized": the same additions, divided by their sum instead of the softmax: same labels.
    "official" (the authors' code): p_f is added to the coarse *logits* of every class of C on
      covered pixels; "probs" are these sums.
    Labels are the argmax of the same values, the lowest class on a tie.
    """
    classes = as_class_set(small_classes)
    finite = surely_finite(coarse)
    logits = upsample_logits(coarse, size or (coarse.shape[-2], coarse.shape[-1]), finite)
    p_f, covered = fine_foreground(fine, windows, (logits.shape[-2], logits.shape[-1]))
    if rule == "official":
        return _official(logits, p_f, covered, classes, output)
    labels = labels_of(logits)
    conflict = covered & (member_mask(labels, classes, in_range=True) != (p_f >= 0.5))
    # The pixels that change; what is costly is done for them alone.
    at = (covered if (rule, output) == ("paper", "probs") else conflict).nonzero(as_tuple=True)
    picked, before = logits.permute(0, 2, 3, 1)[at], labels[at]  # [M, N], [M]
    target, addition = _additions(picked, before, p_f[at], classes)
    p = probabilities(picked, finite)
    merged = p.scatter_add(1, target[:, None], addition[:, None])
    if output == "labels":
        # Only c* and the class that was added to can win.
        top, raised = (merged.gather(1, c[:, None])[:, 0] for c in (before, target))
        wins = (addition > 0) & ((raised > top) | ((raised == top) & (target < before)))
        labels[at] = torch.where(wins, target, before)
        return labels.to(torch.uint8)
    merged = merged.softmax(dim=1) if rule == "paper" else merged / (1 + addition)[:, None]
    everywhere = probabilities(logits, finite).permute(0, 2, 3, 1)
    return everywhere.index_put(at, merged).permute(0, 3, 1, 2)


def aggregate_backward(
    grad: Tensor,
    coarse: Tensor,
    fine: Tensor,
    windows: Windows,
    small_classes: Iterable[int] | ClassSet,
    *,
    rule: str,
    of_coarse: bool = True,
    of_fine: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the scores of `aggregate` in coarse and fine, None where not asked for.

    With g the gradient of the scores q, a what is added to class t, and the gradient through a
    softmax x written s(g, x) = x * (g - sum(g * x)):

    "paper", covered pixels:        g_p = s(g, q), g_a = g_p[t]
    "normalized", where a > 0:      g_p = g / (1 + a), g_a = (g[t] - sum(g * q)) / (1 + a)
    both, elsewhere:                g_p = g
    The logits at full size get s(g_p, p), and p_f gets -g_a in case 1, g_a in case 2.
    "official": the logits get g, and p_f of a covered pixel the sum of g over C.

    Which class is the most probable, and on which side of 0.5 p_f lies, has no gradient. Nor does
    any pass an interpolated logit that is not finite, coarse or NaN of a patch, or a pixel whose
    largest coarse one is infinite.
    """
    classes, k, size = as_class_set(small_classes), windows.window, grad.shape[-2:]
    finite = surely_finite(coarse)
    logits = upsample_logits(coarse, (size[0], size[1]), finite)
    grad = grad.to(logits.dtype)
    foreground = _patch_foreground(fine, k)
    total, covers = _pasted(foreground, windows, (size[0], size[1]))
    p_f, covered = _mean(total, covers)
    of_logits = grad
    if rule == "official":
        inside, _ = classes.indices(grad.shape[1], grad.device)
        of_p_f = torch.where(covered, grad.index_select(1, inside).sum(dim=1), 0)
        if of_coarse and not finite:
            of_logits = torch.where(logits.isfinite(), grad, 0)
    else:
        at, rows, of_p_f = _through_additions(grad, logits, p_f, covered, classes, rule, finite)
        if of_coarse:
            # Where the largest logit is infinite p is one-hot, and nothing passes.
            p = probabilities(logits, finite)
            del logits  # a tensor of the scores' size less, of five
            of_p = grad.permute(0, 2, 3, 1).index_put(at, rows).permute(0, 3, 1, 2)
            of_logits = _through_softmax(of_p, p)
    of_total = of_p_f / covers.clamp(min=1)
    return (
        _downsampled(of_logits, coarse) if of_coarse else None,
        _through_foreground(of_total, foreground, fine, windows) if of_fine else None,
    )


# Windows are pasted at positions that the host reads; a compiler would unroll them one by one.
@uncompiled
def fine_foreground(fine: Tensor, windows: Windows, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """p_f [B, H, W] and where it stands, bool [B, H, W]; p_f is 0 elsewhere.

    Args:
        fine: logits [B*n, 1 or 2, hf, wf]; two channels give the foreground logit l1 - l0.
        windows: the windows the patches came from.
        size: full size (H, W).
    """
    return _mean(*_pasted(_patch_foreground(fine, windows.window), windows, size))


def _patch_foreground(fine: Tensor, window: int) -> Tensor:
    """The foreground probability [B*n, 1, k, k] of each patch."""
    fine = fine if fine.dtype == torch.float64 else fine.float()
    foreground = fine[:, 1:2] - fine[:, 0:1] if fine.shape[1] == 2 else fine
    side = (window, window)
    if tuple(foreground.shape[-2:]) != side and len(foreground):
        foreground = F.interpolate(foreground, size=side, mode="bilinear", align_corners=False)
    return foreground.sigmoid().reshape(-1, 1, *side)


def _pasted(foreground: Tensor, windows: Windows, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sum of the patches over each pixel, in slot order, and how many they are: [B, H, W] both."""
    check_inside("aggregate", windows, *size)
    k = windows.window
    batch, n = windows.origins.shape[:2]
    foreground = foreground.reshape(batch, n, k, k)
    total = foreground.new_zeros((batch, *size))
    covers = foreground.new_zeros((batch, *size))
    for b, row in enumerate(used_origins(windows)):
        for j, (y, x) in enumerate(row):
            total[b, y : y + k, x : x + k] += foreground[b, j]
            covers[b, y : y + k, x : x + k] += 1
    return total, covers


def _mean(total: Tensor, covers: Tensor) -> tuple[Tensor, Tensor]:
    """p_f and where it stands, of what `_pasted` returns."""
    p_f = total / covers.clamp(min=1)
    covered = (covers > 0) & ~p_f.isnan()
    return torch.where(covered, p_f, 0), covered


def _additions(
    logits: Tensor, labels: Tensor, p_f: Tensor, classes: ClassSet
) -> tuple[Tensor, Tensor]:
    """Which class of M covered pixels gets how much: int64 and float [M], 0 without a conflict.

    The most probable class of a group is that of its largest logit: softmax keeps the order, but
    may round far smaller ones to equal probabilities.
    """
    inside, outside = classes.indices(logits.shape[1], logits.device)
    is_small = member_mask(labels, classes, in_range=True)
    target = inside[logits.index_select(1, inside).max(dim=1).indices]
    addition = torch.where(~is_small & (p_f >= 0.5), p_f, 0)
    if len(outside):
        demote = is_small & (p_f < 0.5)
        other = outside[logits.index_select(1, outside).max(dim=1).indices]
        target = torch.where(demote, other, target)
        addition = torch.where(demote, 1 - p_f, addition)
    return target, addition


def _official(
    logits: Tensor, p_f: Tensor, covered: Tensor, classes: ClassSet, output: str
) -> Tensor:
    """Eval branch of the authors' layer, for windows that may overlap."""
    is_small = classes.mask(logits.shape[1], logits.device)[:, None, None]
    sums = torch.where(is_small, logits + p_f[:, None], logits)
    return labels_of(sums).to(torch.uint8) if output == "labels" else sums


def _through_additions(
    grad: Tensor,
    logits: Tensor,
    p_f: Tensor,
    covered: Tensor,
    classes: ClassSet,
    rule: str,
    finite: bool,
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Under "paper" and "normalized": which pixels, g_p there [M, N], and the gradient of p_f."""
    labels = labels_of(logits)
    conflict = covered & (member_mask(labels, classes, in_range=True) != (p_f >= 0.5))
    at = (covered if rule == "paper" else conflict).nonzero(as_tuple=True)
    picked, before = logits.permute(0, 2, 3, 1)[at], labels[at]  # [M, N], [M]
    target, addition = _additions(picked, before, p_f[at], classes)
    merged = probabilities(picked, finite).scatter_add(1, target[:, None], addition[:, None])
    rows = grad.permute(0, 2, 3, 1)[at]
    if rule == "paper":
        rows = _through_softmax(rows, merged.softmax(dim=1))
        of_addition = rows.gather(1, target[:, None])[:, 0]
    else:
        rows = rows / (1 + addition)[:, None]
        mean = (rows * merged).sum(dim=1) / (1 + addition)
        of_addition = rows.gather(1, target[:, None])[:, 0] - mean
    is_small = member_mask(before, classes, in_range=True)
    of_addition = torch.where(is_small, -of_addition, of_addition)
    of_addition = torch.where(addition > 0, of_addition, 0)
    return at, rows, torch.zeros_like(p_f).index_put(at, of_addition)


def _through_softmax(grad: Tensor, p: Tensor) -> Tensor:
    """s(grad, p) = p * (grad - sum(grad * p)) over dim 1."""
    found: Tensor = torch.ops.aten._softmax_backward_data(grad, p, 1, p.dtype)
    return found


def _through_foreground(grad: Tensor, foreground: Tensor, fine: Tensor, windows: Windows) -> Tensor:
    """Gradient of the fine logits, of that of the sum of patches [B, H, W]."""
    used = used_slots(windows).flatten()[:, None, None, None] & ~foreground.isnan()
    grad = crops_of(grad[:, None], windows) * (foreground * (1 - foreground))
    grad = _downsampled(torch.where(used, grad, 0), fine[:, :1])
    return torch.cat((-grad, grad), dim=1) if fine.shape[1] == 2 else grad


def _downsampled(grad: Tensor, logits: Tensor) -> Tensor:
    """Gradient of logits, of that of the same interpolated bilinearly."""
    if grad.shape[-2:] != logits.shape[-2:]:
        grad = resampled_backward(grad, logits.shape[-2:])
    return grad.to(logits.dtype).contiguous()
