"""A network of all classes as a fine network: it tells small objects from the rest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .outputs import all_logits


class Foreground(nn.Module):
    """One channel for N: the log-odds of the small classes taken together.

    With a copy of the coarse network inside, the second look is that network's own answer to
    windows seen larger. It needs no training, and is where training of stage 2 can start.

    Args:
        network: answers with N logits; only its main logits are read.
        small_classes: distinct ids among the N, not all of them.
    """

    def __init__(self, network: nn.Module, small_classes: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.small_classes = tuple(small_classes)
        if hasattr(network, "stride_multiple"):
            self.stride_multiple: Any = network.stride_multiple

    def forward(self, image: Tensor) -> Tensor:
        """Foreground logits [B, 1, h, w], whose sigmoid is the sum of the small classes' softmax.

        Raises:
            ValueError: a small class that the network does not have, or has been told twice; or
                none but small ones.
        """
        logits = all_logits(self.network(image), "fine network")[0]
        n, small = logits.shape[1], self.small_classes
        others = [c for c in range(n) if c not in small]
        if not 0 < len(small) == len(set(small).intersection(range(n))) < n:
            raise ValueError(
                f"Foreground: small_classes must be some of the network's {n}, each once, got "
                f"{small}"
            )
        inside, outside = (logits[:, list(ids)].logsumexp(1, keepdim=True)
                           for ids in (small, others))  # fmt: skip
        return inside - outside


def foreground_of(network: nn.Module, small_classes: Sequence[int]) -> Foreground:
    """A copy of `network` as a fine network, free to be trained.

    A network that remembers how it was built passes that on, so that a checkpoint can be loaded.
    """
    found = Foreground(copy.deepcopy(network).requires_grad_(), small_classes)
    spec = getattr(network, "c2f_spec", None)
    if spec is not None:
        kwargs = dict(spec["kwargs"])
        kwargs |= {
            "network": spec["name"],
            "classes": kwargs["num_classes"],
            "small_classes": list(small_classes),
            "num_classes": 1,
        }
        remembering: Any = found
        remembering.c2f_spec = {"name": "foreground", "kwargs": kwargs}
    return found
