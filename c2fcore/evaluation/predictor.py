"""A checkpoint as something to score: both stages side by side, or the coarse one alone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .. import _checks, _stages, checkpoint
from .._clock import Clock
from ..config import C2FConfig
from ..pipeline import C2FNet
from ..windows import Windows

AMP: Final = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Answer(NamedTuple):
    """What a predictor makes of a batch.

    Attributes:
        coarse: uint8 [B, H, W], labels of stage 1.
        refined: uint8 [B, H, W], labels after the second look; None without stage 2.
        windows: where the second look went, or would go.
        seconds: of each stage, as in `pipeline.Details`.
    """

    coarse: Tensor
    refined: Tensor | None
    windows: Windows
    seconds: dict[str, float]

    def maps(self, b: int, truth: Tensor) -> dict[str, Tensor]:
        """What image `b` is scored by, uint8 [H, W] each: "truth", "coarse", and "refined"."""
        found = {"truth": truth, "coarse": self.coarse[b]}
        return found if self.refined is None else {**found, "refined": self.refined[b]}


class Predictor(Protocol):
    """Something that answers images uint8 [B, 3, H, W] on its device."""

    config: C2FConfig
    device: torch.device
    refines: bool

    def __call__(self, image: Tensor) -> Answer:
        """The labels of a batch."""


class TwoStages:
    """Both answers of a C2FNet.

    Args:
        net: the network.
        amp: a key of AMP: the networks run in this precision where autocast does so.
    """

    refines = True

    def __init__(self, net: C2FNet, amp: str = "no") -> None:
        self.net = net.eval()
        self.config = net.config
        self.device = _device(net.fine)
        self._amp = amp

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Answer:
        """The labels of a batch; takes and raises what C2FNet does."""
        with _autocast(self.device, self._amp):
            found = self.net.detailed(image)
        return Answer(found.coarse_labels, found.labels, found.windows, found.seconds)


class CoarseOnly:
    """The answer of a coarse network without a second look.

    Args:
        network: gives config.num_classes logits.
        config: classes and normalisation; its windows are chosen, to tell what they would cover.
        amp: as in TwoStages.
    """

    refines = False

    def __init__(self, network: nn.Module, config: C2FConfig, amp: str = "no") -> None:
        self.network = network.eval()
        self.config = config
        self.device = _device(network)
        self._amp = amp

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Answer:
        """The labels of a batch; takes and raises what C2FNet does."""
        _stages.check_image(image)
        true_size = (image.shape[-2], image.shape[-1])
        clock = Clock(self.device)
        with clock.stage("coarse"), _autocast(self.device, self._amp):
            logits, size = _stages.coarse_logits(self.network, image, self.config)
        with clock.stage("select"):
            frame_size = _stages.make_frame(image, self.config).size
            windows, labels = _stages.choose_windows(
                logits, size, true_size, frame_size, True, self.config
            )
            assert labels is not None
            labels = _stages.crop(labels, true_size).contiguous()
        return Answer(labels, None, windows, clock.seconds)


def load(
    source: str | Path,
    *,
    coarse: str | Path | None = None,
    device: str | torch.device = "cpu",
    amp: str = "no",
    trust_code: bool = False,
    changes: dict[str, Any] | None = None,
) -> Predictor:
    """A predictor of a checkpoint: of both stages, or of stage 1 if that is all it holds.

    Args:
        source: folder or hub id.
        coarse: checkpoint of the coarse network, for a checkpoint that holds the fine one alone.
        device: where the networks go.
        amp: a key of AMP.
        trust_code: see `checkpoint.load`.
        changes: fields of the configuration to change.

    Raises:
        FileNotFoundError, ImportError: as `checkpoint.load`.
        ValueError: as `checkpoint.load`; coarse weights are missing, or there twice.
    """
    _checks.choice("eval", "amp", amp, tuple(AMP))
    held = checkpoint.stages(source)
    options: dict[str, Any] = {"device": device, "trust_code": trust_code}
    if coarse is not None and "coarse" in held:
        raise ValueError(f"--coarse is for checkpoints without coarse weights, got it for {source}")
    if held == ("coarse",):
        network, config = checkpoint.load_coarse(source, **options)
        return CoarseOnly(network, config.replace(**(changes or {})), amp)
    first = None
    if "coarse" not in held:
        if coarse is None:
            raise ValueError(f"{source} holds the fine network alone: give --coarse, got none")
        first, config = checkpoint.load_coarse(coarse, **options)
    net = C2FNet.from_pretrained(source, first, **options, **(changes or {}))
    if first is not None:
        _check_alike(config, net.config)
    return TwoStages(net, amp)


def _check_alike(coarse: C2FConfig, both: C2FConfig) -> None:
    """The coarse network's classes and pixels are those of the checkpoint that it comes to.

    Raises:
        ValueError: its answers would be read as other classes, or it would see other values.
    """
    rule = "--coarse must be of the classes and the normalisation of the checkpoint it comes to"
    for i, (found, wanted) in enumerate(zip(coarse.class_names or (), both.class_names or ())):
        if found != wanted:
            raise ValueError(f"{rule}, got class {i} {found!r} instead of {wanted!r}")
    if coarse.num_classes != both.num_classes:
        raise ValueError(f"{rule}, got {coarse.num_classes} instead of {both.num_classes}")
    given = [(config.scale, config.mean, config.std) for config in (coarse, both)]
    channels = max(len(v) if isinstance(v, tuple) else 1 for values in given for v in values)
    probe = torch.tensor([0, 255], dtype=torch.uint8).expand(1, channels, 1, 2)
    if not torch.equal(_stages.normalise(probe, coarse), _stages.normalise(probe, both)):
        raise ValueError(f"{rule}, got scale, mean and std {given[0]} instead of {given[1]}")


def _device(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def _autocast(device: torch.device, amp: str) -> AbstractContextManager[Any]:
    dtype = AMP[amp]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
