"""torch.compile(net) of a C2FNet: runs it as it is, and says what to compile instead.

A module of its own, imported when that happens: torch.compiler.disable imports torch._dynamo, which
takes seconds that a decorator in `pipeline` would cost everybody.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .pipeline import C2FNet


@torch.compiler.disable
def forward(net: C2FNet, image: Tensor, output: str, labels: Tensor | None) -> Tensor:
    """`C2FNet.forward` outside of any graph."""
    warnings.warn(
        "C2FNet: torch.compile(net) leaves the network as it is, because how many patches there "
        "are is decided on the host; net.compile(compile=True) gives an engine with both networks "
        "compiled",
        stacklevel=2,
    )
    return net.forward(image, output, labels=labels)
