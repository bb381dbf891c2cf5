"""A kernel from elsewhere: checked on the shared sample lists, then timed beside ours."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from .. import ops
from .._errors import first_line, reason
from ..testing import agree, samples
from ..windows import Windows
from .ways import defaults_of


class Verdict(NamedTuple):
    """What became of one sample.

    Attributes:
        sample: its name.
        error: "" if the answer agrees with the reference's, else what is wrong.
        refused: why the function does not take it: it raised NotImplementedError.
    """

    sample: str
    error: str
    refused: str = ""


def load(name: str) -> Callable[..., Any]:
    """The function "module:function".

    Raises:
        ValueError: not of that form, or not to be imported.
        TypeError: not callable.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(f"--impl must be module:function, got {name!r}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # a stranger's module may do anything
        raise ValueError(
            f"--impl {name}: must be importable, got {type(error).__name__}: {error}"
        ) from error
    if not callable(found):
        raise TypeError(f"--impl {name}: must be callable, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def check(op: str, function: Callable[..., Any], device: str = "cpu") -> Iterator[Verdict]:
    """Asks a function every sample of an op, and compares with the reference.

    Args:
        op: name of a public op.
        function: takes what the op takes, less `backend`, every option by name; tensors are on
            `device`.
        device: "cpu" or "cuda".
    """
    defaults = defaults_of(op)
    for sample in samples.of(op):
        args = sample.args(device)
        before = [t.clone() for t in _tensors(args)]
        error = refused = ""
        try:
            got = _on_host(function(*args, **{**defaults, **sample.options}))
            want = getattr(ops, op)(*sample.args(), **sample.options, backend="reference")
            agree.assert_agrees(op, sample, got, want)
            if not all(_same(t, was) for t, was in zip(_tensors(args), before)):
                raise agree.Differs("it wrote into its input")
        except NotImplementedError as failure:
            refused = first_line(failure) or "NotImplementedError"
        except (Exception, SystemExit) as failure:  # a stranger's code may raise anything
            said = first_line if isinstance(failure, agree.Differs) else reason
            error = said(failure)
        yield Verdict(sample.name, error, refused)


def _on_host(answer: Any) -> Any:
    if isinstance(answer, torch.Tensor):
        return answer.cpu()
    if isinstance(answer, tuple):
        return tuple(t.cpu() if isinstance(t, torch.Tensor) else t for t in answer)
    return answer


def _tensors(args: tuple[Any, ...]) -> list[torch.Tensor]:
    found = []
    for arg in args:
        if isinstance(arg, torch.Tensor):
            found.append(arg)
        elif isinstance(arg, Windows):
            found += [arg.origins, arg.counts, arg.num]
    return found


def _same(tensor: torch.Tensor, was: torch.Tensor) -> bool:
    if tensor.is_floating_point():
        return bool(((tensor == was) | (tensor.isnan() & was.isnan())).all())
    return torch.equal(tensor, was)
