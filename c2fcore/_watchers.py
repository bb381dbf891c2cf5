"""What may have to see every call of an op, and how torch says that it is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# Dispatch modes, functorch transforms and torch.jit.trace. These functions are private: where torch
# lacks one, every call is dispatched.
_functorch = getattr(torch._C, "_functorch", None)
modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)
transforms: Callable[[], Any] = getattr(_functorch, "peek_interpreter_stack", lambda: True)
all_transforms: Callable[[], Any] = getattr(_functorch, "get_interpreter_stack", lambda: None)
tracing: Callable[[], bool] = getattr(torch._C, "_is_tracing", lambda: True)


def watched() -> bool:
    """Whether calls have to go through the dispatcher, whatever tensors they are given."""
    compiling = torch.compiler.is_compiling()
    return compiling or modes() != 0 or transforms() is not None or tracing()
