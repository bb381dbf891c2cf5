"""One frame of a two-stage network, in every way that it can be had.

"coarse" is the coarse network alone with the post-processing that everybody has (normalise,
interpolate, argmax); "reference" both stages with the unfused glue; then every backend that can
run. "engine" is `net.compile()` with the fastest of them, from and to the host, and "eager-glue"
the same engine, networks in graphs of their own, with the unfused glue. "coarse-engine" is an
engine that never finds a window: the coarse network alone, deployed as well as both are. The two
"-run" ways are engines in `Engine.run`, where frames overlap.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import torch
from torch import Tensor

from .. import _stages
from ..pipeline import C2FNet
from ..reference.upsample import labels_of, upsample_logits
from .ways import EAGER, backends_of

COARSE: Final = "coarse"
ENGINE, EAGER_GLUE, COARSE_ENGINE = "engine", "eager-glue", "coarse-engine"
ENGINE_RUN, COARSE_RUN = "engine-run", "coarse-run"
OF_COARSE: Final = (COARSE, COARSE_ENGINE, COARSE_RUN)  # with the coarse network's labels
ALONE: Final = {ENGINE: COARSE_ENGINE, ENGINE_RUN: COARSE_RUN}  # the coarse network, deployed alike
# Ways of no backend.
EVERY: Final = (COARSE, EAGER, ENGINE, EAGER_GLUE, COARSE_ENGINE, ENGINE_RUN, COARSE_RUN)
AMP: Final = "amp"  # as a dtype: bfloat16 by autocast
RUN_FRAMES: Final = 8  # of one call of a "-run" way


def ways_of(device: str, preset: str = "") -> list[str]:
    """What is compared on a device of this machine; more of it for preset "cover"."""
    found = [COARSE, EAGER, *backends_of("glue", device), ENGINE]
    if torch.device(device).type == "cuda":
        found.append(EAGER_GLUE)
    if preset == "cover":
        found += [COARSE_ENGINE, ENGINE_RUN, COARSE_RUN]
    return found


def autocast(device: str, dtype: str) -> AbstractContextManager[Any]:
    """What a frame of both networks runs in."""
    return torch.autocast(device, torch.bfloat16, enabled=dtype == AMP)


def call_of(
    net: C2FNet, image: Tensor, way: str, compiled: bool = False, dtype: str = ""
) -> Callable[[], Tensor]:
    """One frame: labels uint8 [1, H, W] of the image [1, C, H, W].

    Args:
        net: its configuration's backend changes with every call.
        image: on the networks' device.
        way: one of `ways_of`.
        compiled: whether an engine compiles its networks.
        dtype: AMP for networks under autocast.
    """
    config, device = net.config, image.device.type

    def coarse() -> Tensor:
        with torch.inference_mode(), autocast(device, dtype):
            logits, size = _stages.coarse_logits(net.coarse, image, config)
            labels = labels_of(upsample_logits(logits, size, finite=True))
            shape = (int(image.shape[-2]), int(image.shape[-1]))
            return _stages.crop(labels, shape).to(torch.uint8)

    def both() -> Tensor:
        net.config = config.replace(backend=way)
        with torch.inference_mode(), autocast(device, dtype):
            labels: Tensor = net(image)
        return labels

    if way == COARSE:
        return coarse
    if way in (ENGINE, EAGER_GLUE, *ALONE, *ALONE.values()):
        return EngineCall(net, image, way, compiled, dtype)
    return both


class EngineCall:
    """A frame of an engine of `net`, from and to the host.

    Attributes:
        engine: the engine.
        backend: of its glue, "auto" if nobody has chosen.
        image: the image, on the host.
        frames: frames of one call.
    """

    def __init__(self, net: C2FNet, image: Tensor, way: str, compiled: bool, dtype: str) -> None:
        """Makes the engine."""
        given = net.config
        changes: dict[str, Any] = {"backend": EAGER if way == EAGER_GLUE else "auto"}
        self.backend = EAGER if way == EAGER_GLUE else os.environ.get("C2F_BACKEND") or "auto"
        if way in ALONE.values():
            changes["min_pixels"] = image[0, 0].numel() + 1
        net.config = given.replace(**changes)
        try:
            self.engine = net.compile(
                compile=compiled,
                precision="bfloat16" if dtype == AMP else None,
                # Every size is compiled before a graph branches, and here there is but one.
                buckets=(given.n,) if compiled and given.n else None,
            )
        finally:
            net.config = given
        # Shows the fine network a patch; in the first frame a script would count it as the frame's.
        self.engine.patches_at_once(image.shape[1])
        self.image = image.cpu()
        self.frames = RUN_FRAMES if way in (ENGINE_RUN, COARSE_RUN) else 1

    def __call__(self) -> Tensor:
        """Labels uint8 [1, H, W]."""
        if self.frames == 1:
            labels: Tensor = self.engine(self.image)
            return labels
        for result in self.engine.run([self.image[0]] * self.frames):
            if result.error is not None:
                raise result.error
            labels = result.labels
        return labels[None]
