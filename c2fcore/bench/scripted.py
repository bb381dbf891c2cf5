"""A two-stage network whose networks do all their work and then give realistic answers.

Networks without trained weights answer noise: no class map has such borders, and the number of
windows with small objects would be an accident. So every network runs in full, and its answer is
replaced by logits of the same shape made from a real class map (`inputs`): the time of the networks
is theirs, and the glue meets what it would meet after training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import _stages
from ..config import C2FConfig
from ..models.outputs import logits_of
from ..pipeline import C2FNet
from ..windows import Windows
from . import inputs

_Answer = Callable[[Tensor, Tensor], Tensor]  # what the network saw, and what it gave


class Scripted(nn.Module):
    """Runs a network and replaces its logits.

    Attributes:
        answer: gives logits in place of those of the network, of the same shape.
    """

    def __init__(self, network: nn.Module, answer: _Answer) -> None:
        super().__init__()
        self.network = network
        self.answer = answer
        multiple = getattr(network, "stride_multiple", None)
        if multiple is not None:
            self.stride_multiple = multiple

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the shape that the network gives."""
        return self.answer(image, logits_of(self.network(image)))


class Place:
    """Which of a frame's windows is shown to the fine network next, for one frame at a time.

    A number on the device: a CUDA graph's replays count on, where one on the host would stay what
    it was at the capture. An engine's copies of both networks share it.
    """

    def __init__(self) -> None:
        self._held: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """int64 [1], to be changed in place."""
        if device not in self._held:
            with torch.inference_mode(False):
                self._held[device] = torch.zeros(1, dtype=torch.int64, device=device)
        return self._held[device]

    def __deepcopy__(self, memo: object) -> Place:
        return self


class CoarseAnswer:
    """Coarse logits of a class map, at whatever resolution the network answers."""

    def __init__(self, truth: Tensor, num_classes: int, place: Place) -> None:
        """Takes the class map [1, H, W] of the image, without padding."""
        self._truth = truth
        self._num_classes = num_classes
        self._place = place
        self._made: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, image: Tensor, given: Tensor) -> Tensor:
        """Logits in place of `given`; a frame begins."""
        self._place.on(given.device).zero_()
        shape = tuple(given.shape)
        if shape not in self._made:
            height, width = image.shape[-2:]
            whole = _stages.pad(self._truth, (height, width))
            near = inputs.nearest(whole, *shape[-2:])
            self._made[shape] = inputs.soft_logits(near, self._num_classes).to(given)
        return self._made[shape].to(given)  # the same, but for an engine's trials on the CPU


class FineAnswer:
    """Fine logits for windows that are known, handed out chunk by chunk."""

    def __init__(self, truth: Tensor, small_classes: tuple[int, ...], place: Place) -> None:
        """Takes the class map [1, H, W]; `windows` are set when they are known."""
        self._truth = truth
        self._small = small_classes
        self._place = place
        self._windows: Windows | None = None
        self._used = 0
        self._made: dict[tuple[int, ...], Tensor] = {}

    def expect(self, windows: Windows) -> None:
        """From now on a frame's patches are those of these windows, in order."""
        self._windows, self._used = windows, int(windows.num[0])
        self._made.clear()

    def __call__(self, patches: Tensor, given: Tensor) -> Tensor:
        """Logits in place of `given`, for the next patches."""
        if self._windows is None:
            return given
        shape = tuple(given.shape[1:])
        if shape not in self._made:
            both = inputs.fine_logits(
                self._truth, self._windows, self._small, side=(shape[1], shape[2])
            )
            logits = both if shape[0] == 2 else both[:, 1:] - both[:, :1]
            self._made[shape] = logits.to(given)
        made = self._made[shape].to(given)  # the same, but for an engine's trials on the CPU
        slots = torch.arange(len(given), device=given.device)
        if len(given) < self._used:  # one of several forwards
            place = self._place.on(given.device)
            slots += place
            place.add_(len(given))
        # An engine may fill a forward up with empty patches: any answer does for those.
        return made.index_select(0, slots.clamp_(max=len(made) - 1))


def scripted_net(
    coarse: nn.Module, fine: nn.Module, config: C2FConfig, truth: Tensor, image: Tensor
) -> C2FNet:
    """A C2FNet in eval mode around two networks, scripted for one image.

    Args:
        coarse: gives num_classes channels.
        fine: gives 1 or 2 channels.
        config: of the network.
        truth: uint8 [1, H, W], the class map that the answers come from.
        image: uint8 [1, 3, H, W], where the networks are.
    """
    frame = (max(config.window, truth.shape[-2]), max(config.window, truth.shape[-1]))
    place = Place()
    first = CoarseAnswer(truth, config.num_classes, place)
    second = FineAnswer(_stages.pad(truth, frame), config.small_classes, place)
    net = C2FNet(Scripted(coarse, first), Scripted(fine, second), config).eval()
    second.expect(windows_of(net.coarse, config, image))
    # Answers are made at the first call of their shape: not in one that is compiled or captured.
    side = round(config.window * config.zoom)
    patch = image.new_zeros((1, image.shape[1], side, side), dtype=_stages.dtype_of(fine))
    _stages.fine_logits(net.fine, patch, config)
    return net


def windows_of(coarse: nn.Module, config: C2FConfig, image: Tensor) -> Windows:
    """The windows that a net with this coarse network looks at in an image, on the host."""
    found = C2FNet(coarse, _Nothing(), config).eval().detailed(image).windows
    return Windows(found.origins.cpu(), found.counts.cpu(), found.num.cpu(), config.window)


class _Nothing(nn.Module):
    """A fine network without work: to find out where the windows are."""

    def forward(self, patches: Tensor) -> Tensor:
        """One logit per patch."""
        return patches.new_zeros((len(patches), 1, 1, 1))
