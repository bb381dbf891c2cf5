"""Calling an op on a sample, and comparing answers exactly, except where a decision is a toss."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from c2fcore import Windows, ops
from c2fcore.testing import samples
from c2fcore.testing.samples import Sample


def call(op: str, sample: Sample, backend: str, device: str = "cpu", **more: Any) -> Any:
    """The op's answer on the CPU."""
    args = sample.args(device)
    answer = getattr(ops, op)(*args, **{**sample.options, **more}, backend=backend)
    return to_device(answer, "cpu")


def drawn(op: str, few: range) -> list[Sample]:
    """Samples drawn from seeds, of at most C2F_SIDE pixels."""
    side = int(os.environ.get("C2F_SIDE", "60"))
    return [samples.drawn(op, seed, side) for seed in seeds(few)]


def seeds(few: range) -> range:
    """Those of C2F_SEEDS=FIRST:END, or `few`."""
    first, _, end = os.environ.get("C2F_SEEDS", f"{few.start}:{few.stop}").partition(":")
    return range(int(first), int(end))


def to_device(answer: Any, device: str) -> Any:
    """A tensor or Windows on another device."""
    if isinstance(answer, Windows):
        return Windows(*(t.to(device) for t in answer[:3]), answer.window)
    return answer.to(device)


def flat(args: Iterable[Any]) -> list[Tensor]:
    """The tensors among arguments, those of Windows included."""
    out: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            out.append(arg)
        elif isinstance(arg, Windows):
            out += arg[:3]
    return out


def bits(x: Tensor) -> Tensor:
    """The bit pattern: NaN equals itself, 0 and -0 differ."""
    as_int = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.detach().contiguous().view(as_int)


def assert_same_bits(got: Any, want: Any) -> None:
    for g, w in zip(flat([got]), flat([want]), strict=True):
        assert g.dtype == w.dtype
        assert g.shape == w.shape
        assert torch.equal(bits(g), bits(w))


def assert_repeatable(op: str, sample: Sample, backend: str, device: str, threads: Any) -> None:
    """Bit-equal the second time and with any number of threads; inputs stay as they were."""
    args = sample.args(device)
    before = [bits(t).clone() for t in flat(args)]
    answers = []
    # PyTorch splits vectors between threads where it likes; that is not the reference's to promise.
    # On a GPU there are none of the host's; the emulator's blocks and threads take turns otherwise.
    for count in (1, 1, 2, 3) if backend == "cpu" else (2, 2):
        threads(count)
        answers.append(getattr(ops, op)(*args, **sample.options, backend=backend))
    for other in answers[1:]:
        assert_same_bits(other, answers[0])
    for tensor, was in zip(flat(args), before, strict=True):
        assert torch.equal(bits(tensor), was), f"{op} wrote into its input"


def assert_labels(got: Tensor, want: Tensor, excused: Tensor) -> None:
    """Labels agree wherever they are defined, and nearly everywhere they are."""
    assert got.dtype == torch.uint8
    assert got.shape == want.shape
    wrong = (got != want) & ~excused
    assert not wrong.any(), (
        f"{int(wrong.sum())} labels differ, first at {wrong.nonzero()[0].tolist()}: "
        f"got {int(got[wrong][0])}, want {int(want[wrong][0])}"
    )
