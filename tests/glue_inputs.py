"""The whole glue on the GPU: inputs of any size, and the calls as the pipeline makes them."""

from __future__ import annotations

from typing import Any

import torch
from compare import to_device
from torch import Tensor

from c2fcore import Windows, ops
from c2fcore.testing.samples.inputs import blob_logits, generator, noise_logits

GLUE = ("select_windows", "extract_patches", "aggregate")
SMALL = (1, 3, 5)
RGB: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Glue:
    """Coarse logits at a quarter of the image, the image, fine logits for the windows found."""

    def __init__(
        self,
        side: int = 256,
        *,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        strategy: str = "cover",
        batch: int = 2,
        n: int = 8,
        zoom: float = 2.0,
        device: str = "cuda",
    ) -> None:
        self.size = (side, side)
        self.grid: dict[str, Any] = {"window": 64, "stride": 16, "n": n, "strategy": strategy}
        self.zoom = zoom
        logits = blob_logits(batch, 7, side // 4, side // 4, seed)
        self.logits = logits.to(dtype).to(device)
        image = torch.randint(0, 256, (batch, 3, *self.size), generator=generator(seed))
        self.image = image.to(torch.uint8).to(device)
        self.fine = noise_logits((batch * n, 2, 16, 16), seed, spread=2.0).to(dtype).to(device)

    def run(self, backend: str) -> tuple[Windows, Tensor, Tensor]:
        """Windows, patches and labels."""
        where: dict[str, Any] = {"size": self.size, "backend": backend}
        windows, labels = ops.select_windows(
            self.logits, SMALL, **self.grid, **where, _return_labels=True
        )
        patches = ops.extract_patches(
            self.image, windows, zoom=self.zoom, dtype=torch.bfloat16, channels_last=True, **RGB,
            backend=backend,
        )  # fmt: skip
        merged = ops.aggregate(self.logits, self.fine, windows, SMALL, **where, _labels=labels)
        return windows, patches, merged

    def take(self, other: Glue) -> None:
        """Copies the content of another one."""
        for name in ("logits", "image", "fine"):
            getattr(self, name).copy_(getattr(other, name))

    def to(self, device: str) -> Glue:
        """The same on another device."""
        for name in ("logits", "image", "fine"):
            setattr(self, name, to_device(getattr(self, name), device))
        return self
