"""What torch.compile leaves as it is: a whole C2FNet, and loops over windows.

A module of its own, imported when something is compiled: torch.compiler.disable imports
torch._dynamo, which takes seconds that a decorator elsewhere would cost everybody.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .pipeline import NO_GRAPH, C2FNet


# A strict torch.export cannot skip a disabled function: it fails, and tells the reason.
@torch.compiler.disable(reason=NO_GRAPH)
def forward(net: C2FNet, image: Tensor, output: str, labels: Tensor | None) -> Tensor:
    """`C2FNet.forward` outside of any graph; says what to compile instead."""
    warnings.warn(
        "C2FNet: torch.compile(net) leaves the network as it is, because how many patches there "
        "are is decided on the host; net.compile(compile=True) gives an engine with both networks "
        "compiled",
        stacklevel=2,
    )
    return net.forward(image, output, labels=labels)


@torch.compiler.disable
def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs) outside of any graph."""
    return function(*args, **kwargs)
