"""What real_pixels.py scores: the answers of a two-stage network, merged in several ways."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from c2fcore import C2FNet, Windows, _stages, ops
from c2fcore.data.catalogue import IGNORED


class Look(NamedTuple):
    """Both networks' answers for one image."""

    logits: Tensor  # [1, N, h, w], of the coarse network
    size: tuple[int, int]  # full size of the padded image
    fine: Tensor  # foreground logits [n, 1, k, k]
    windows: Windows
    truth: Tensor  # uint8 [1, H, W], 255 where it is not scored
    small: tuple[int, ...]

    def crop(self, padded: Tensor) -> Tensor:
        return padded[..., : self.truth.shape[1], : self.truth.shape[2]]


@torch.no_grad()
def look(net: C2FNet, image: Tensor, truth: Tensor) -> Look:
    """`net` on image uint8 [3, H, W]; there must be a window."""
    config, batch = net.config, image[None]
    true_size = (truth.shape[0], truth.shape[1])
    logits, size = _stages.coarse_logits(net.coarse, batch, config)
    windows, _ = _stages.choose_windows(logits, size, true_size, true_size, False, config)
    windows = _stages.part(windows, 0, 1, 0, int(windows.num))
    patches = ops.extract_patches(
        batch, windows, zoom=config.zoom, mean=config.mean, std=config.std, channels_last=True
    )
    answers = [net.fine(some) for some in patches.split(config.max_batch)]
    side = (windows.window, windows.window)
    fine = F.interpolate(torch.cat(answers), size=side, mode="bilinear")
    return Look(logits, size, fine, windows, truth[None], config.small_classes)


def coarse_labels(seen: Look) -> Tensor:
    return seen.crop(F.interpolate(seen.logits, size=seen.size, mode="bilinear")).argmax(1)


@torch.no_grad()
def whole_enlarged(net: C2FNet, image: Tensor, seen: Look) -> tuple[Tensor, Tensor]:
    """Labels of the coarse network on the whole image at the zoom, and averaged with the plain one.

    What a user without a second look would do; as many pixels as windows that cover everything.
    """
    config, true_size = net.config, tuple(seen.truth.shape[1:])
    pixels = F.interpolate(image[None].float(), scale_factor=config.zoom, mode="bilinear")
    pixels = pixels.round().to(torch.uint8)
    logits, size = _stages.coarse_logits(net.coarse, pixels, config)
    large = F.interpolate(logits, size=size, mode="bilinear")
    large = large[..., : pixels.shape[2], : pixels.shape[3]]
    large = F.interpolate(large, size=true_size, mode="bilinear", antialias=True)
    plain = seen.crop(F.interpolate(seen.logits, size=seen.size, mode="bilinear"))
    return large.argmax(1), (large.softmax(1) + plain.softmax(1)).argmax(1)


def merged(seen: Look, shift: float = 0.0, slope: float = 1.0, rule: str = "normalized") -> Tensor:
    """`ops.aggregate` with the fine logits taken times slope plus shift."""
    fine = seen.fine * slope + shift
    found = ops.aggregate(
        seen.logits, fine, seen.windows, seen.small, size=seen.size, rule=rule, backend="auto"
    )
    return seen.crop(found)


def oracle(seen: Look) -> Tensor:
    """Eq. (1) with a fine network that is always right: what it could reach with these windows."""
    target = ops.extract_targets(seen.truth, seen.windows, seen.small)
    known = torch.where(target == IGNORED, 0, target).float()
    return merged(seen._replace(fine=(known * 80 - 40)[:, None]))


def posterior(seen: Look, weight: float) -> Tensor:
    """A small object where logit(p_C) + weight logit(p_f) >= 0, under the windows."""
    logits = F.interpolate(seen.logits, size=seen.size, mode="bilinear")
    inside = torch.zeros(logits.shape[1], dtype=torch.bool)
    inside[list(seen.small)] = True
    # What rule "official" adds to logits of zero is p_f; without windows over it, nothing.
    zero = torch.zeros_like(seen.logits)
    p_f = ops.aggregate(
        zero, seen.fine, seen.windows, seen.small, size=seen.size, rule="official", output="probs"
    )[:, seen.small[0]]
    odds = logits[:, inside].logsumexp(1) - logits[:, ~inside].logsumexp(1)
    is_small = odds + weight * torch.logit(p_f.clamp(1e-6, 1 - 1e-6)) >= 0
    best = [
        logits.masked_fill(out[:, None, None], -torch.inf).argmax(1) for out in (~inside, inside)
    ]
    answer = torch.where(is_small, *best)
    return seen.crop(torch.where(p_f > 0, answer, logits.argmax(1)))


def examples(looks: list[Look]) -> tuple[Tensor, Tensor]:
    """Fine logits and true classes of all scored pixels of the windows."""
    logits, classes = [], []
    for seen in looks:
        cut = ops.extract_patches(seen.truth[:, None], seen.windows, mode="nearest", scale=1.0)
        labels = cut[:, 0].round().long()
        logits.append(seen.fine[:, 0][labels != IGNORED])
        classes.append(labels[labels != IGNORED])
    return torch.cat(logits), torch.cat(classes)


def calibration(logits: Tensor, target: Tensor) -> dict[str, Any]:
    """Mean p_f and share of small-object pixels per bin of p_f, and their mean distance (ECE)."""
    p, bins = logits.sigmoid(), 10
    bin_ = (p * bins).long().clamp(max=bins - 1)
    filled = torch.bincount(bin_, minlength=bins)
    mean, share = (torch.bincount(bin_, v, bins) / filled.clamp(min=1) for v in (p, target))
    ece = float(((mean - share).abs() * filled).sum() / filled.sum().clamp(min=1))
    return {"ece": ece, "p": mean.tolist(), "share": share.tolist(), "pixels": filled.tolist()}
