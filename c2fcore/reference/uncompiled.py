"""Functions that stay out of compiled graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")


def uncompiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """torch.compiler.disable, without importing torch._dynamo before something is compiled."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling():
            from .. import _compiled

            answer: _R = _compiled.call(function, *args, **kwargs)
            return answer
        return function(*args, **kwargs)

    return run
