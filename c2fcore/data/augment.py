"""Augmentations on (image, mask) with torchvision's transforms v2; the paper's are the default."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .catalogue import IGNORED


class Augment:
    """Scale, crop, flip, turn and distort colours, alike for an image and its labels.

    Scale is drawn from steps; the crop is padded with zeros (labels: 255) where the image is
    smaller, and drawn anew while one class fills nearly all of it; labels are resampled by nearest
    neighbour, so no new ids arise. Random numbers come from torch's generator. Can be
    sent to other processes.

    Args:
        crop: side of the square crop in pixels.
        scales: (lowest, highest) factor of size.
        scale_step: distance of the factors in between; 0 draws any.
        flip: probability of mirroring left to right.
        vertical_flip: probability of mirroring upside down.
        turns: also turn by multiples of 90 degrees.
        distort: strength of random brightness, contrast and saturation; 0 for none.
        hue: strength of random hue, 0..0.5.
        max_share: largest share of one class in a crop, unless ten draws do not find one.
        focus: share of the crops that hold a random pixel of a random one of `classes`, if the
            image has one of them: crops drawn anywhere seldom show a rare class. `max_share` does
            not apply to them.
        classes: ids for `focus`.
    """

    def __init__(
        self,
        crop: int = 512,
        scales: tuple[float, float] = (0.5, 2.0),
        scale_step: float = 0.25,
        flip: float = 0.5,
        vertical_flip: float = 0.0,
        turns: bool = False,
        distort: float = 0.4,
        hue: float = 0.0,
        max_share: float = 1.0,
        focus: float = 0.0,
        classes: Sequence[int] = (),
    ) -> None:
        """Checks the options.

        Raises:
            ValueError: one is out of range.
            ImportError: torchvision is not installed.
        """
        low, high = scales
        if crop < 1 or not 0 < low <= high or scale_step < 0:
            raise ValueError(
                f"crop must be at least 1, scales ascending above 0, scale_step at least 0, "
                f"got {crop}, {scales}, {scale_step}"
            )
        shares = (("flip", flip), ("vertical_flip", vertical_flip), ("focus", focus))
        for name, value in shares:
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability in 0..1, got {value}")
        if not 0 < max_share <= 1:
            raise ValueError(f"max_share must be in (0, 1], got {max_share}")
        v2, _ = _torchvision()
        self.crop, self.max_share, self.turns = crop, max_share, turns
        self.focus, self.classes = focus, tuple(classes)
        self.factors = _steps(low, high, scale_step)
        self.scales = scales
        steps: list[Any] = []
        if flip:
            steps.append(v2.RandomHorizontalFlip(flip))
        if vertical_flip:
            steps.append(v2.RandomVerticalFlip(vertical_flip))
        if distort or hue:
            steps.append(v2.ColorJitter(distort, distort, distort, hue))
        self._after = v2.Compose(steps) if steps else None

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """An augmented crop.

        Args:
            image: uint8 [3, H, W].
            labels: uint8 [H, W].

        Returns:
            uint8 [3, crop, crop] and uint8 [crop, crop].
        """
        _, tensors = _torchvision()
        pixels = tensors.Image(image)
        mask = tensors.Mask(labels[None])
        pixels, mask = self._resized(pixels, mask)
        pixels, mask = self._cropped(pixels, mask)
        if self.turns:
            quarter = int(torch.randint(4, ()))
            pixels, mask = (
                type_(torch.rot90(t, quarter, (-2, -1)))
                for type_, t in ((tensors.Image, pixels), (tensors.Mask, mask))
            )
        if self._after is not None:
            pixels, mask = self._after(pixels, mask)
        plain = pixels.as_subclass(Tensor), mask.as_subclass(Tensor)[0]
        return plain[0].contiguous(), plain[1].contiguous()

    def _resized(self, pixels: Any, mask: Any) -> tuple[Any, Any]:
        if self.factors:
            factor = self.factors[int(torch.randint(len(self.factors), ()))]
        else:
            low, high = self.scales
            factor = low + (high - low) * float(torch.rand(()))
        if factor == 1.0:
            return pixels, mask
        size = [max(1, round(side * factor)) for side in mask.shape[-2:]]
        v2, tensors = _torchvision()
        # Where a label lies is where its pixel does: torchvision's own "nearest" for masks takes
        # the pixel at or before that place, half a pixel off in the mean.
        labels = mask.as_subclass(Tensor)[None]
        mask = tensors.Mask(F.interpolate(labels, size=size, mode="nearest-exact")[0])
        return v2.functional.resize(pixels, size, antialias=True), mask

    def _cropped(self, pixels: Any, mask: Any) -> tuple[Any, Any]:
        functional = _torchvision()[0].functional
        below, right = (max(0, self.crop - side) for side in mask.shape[-2:])
        if below or right:
            pixels = functional.pad(pixels, [0, 0, right, below], fill=0)
            mask = functional.pad(mask, [0, 0, right, below], fill=IGNORED)
        height, width = mask.shape[-2:]
        box = self._focused(mask.as_subclass(Tensor)[0])
        if box is not None:
            return functional.crop(pixels, *box), functional.crop(mask, *box)
        box = (0, 0, self.crop, self.crop)
        for _ in range(10):
            y = int(torch.randint(height - self.crop + 1, ()))
            x = int(torch.randint(width - self.crop + 1, ()))
            box = (y, x, self.crop, self.crop)
            if self.max_share >= 1 or _balanced(functional.crop(mask, *box), self.max_share):
                break
        return functional.crop(pixels, *box), functional.crop(mask, *box)

    def _focused(self, mask: Tensor) -> tuple[int, int, int, int] | None:
        """Box around a pixel of one of the classes, which may lie anywhere in it; None for none."""
        if not self.focus or float(torch.rand(())) >= self.focus:
            return None
        present = [c for c in self.classes if bool((mask == c).any())]
        if not present:
            return None
        wanted = present[int(torch.randint(len(present), ()))]
        places = (mask == wanted).nonzero()
        place = places[int(torch.randint(len(places), ()))].tolist()
        y, x = (
            min(max(centre - int(torch.randint(self.crop, ())), 0), side - self.crop)
            for centre, side in zip(place, mask.shape, strict=True)
        )
        return y, x, self.crop, self.crop


def _balanced(mask: Tensor, max_share: float) -> bool:
    counts = torch.bincount(mask.as_subclass(Tensor).flatten().long(), minlength=256)[:IGNORED]
    return int(counts.max()) <= max_share * int(counts.sum())


def _steps(low: float, high: float, step: float) -> Sequence[float]:
    """low, low + step, ... up to high at most; empty for a continuous range."""
    if low == high:
        return (low,)
    if step == 0:
        return ()
    count = math.floor((high - low) / step + 1e-6)  # a whole number may come out just below
    return tuple(low + i * step for i in range(count + 1))


def _torchvision() -> tuple[Any, Any]:
    try:
        from torchvision import tv_tensors
        from torchvision.transforms import v2
    except ImportError as error:
        raise ImportError(
            f"augmentation needs torchvision ({error}); pip install 'c2fcore[train]'"
        ) from error
    return v2, tv_tensors
