"""What it costs stage 2 to cut its patches and targets out of a batch: unfold against the ops.

"unfold" is the way of the method's authors, written from the description of what their code does:
the coarse answer, the image and the labels are unfolded into all windows at the stride, then the
fullest are kept. They rank the windows of the whole batch together; here each image's, with ties to
the lower index, so that both ways can be compared bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from . import measure, memory, rows

WAYS: Final = ("unfold", "reference", "cpu")
SUITE: Final = "training-windows"
SMALL: Final = (1, 2)


class Batch(NamedTuple):
    """A training batch: float32 image, uint8 labels and coarse answer."""

    image: Tensor  # [B, 3, H, W], normalised
    labels: Tensor  # [B, H, W]
    answer: Tensor  # [B, H, W]


def make_batch(batch: int, size: int) -> Batch:
    """Noise with squares of 12 pixels, three in ten thousand pixels, of two small classes."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((batch, 3, size, size), generator=generator)
    labels = torch.zeros((batch, size, size), dtype=torch.uint8)
    for b in range(batch):
        spots = torch.randint(0, max(1, size - 12), (max(1, 3 * size**2 // 10**4), 2),
                              generator=generator).tolist()  # fmt: skip
        for i, (y, x) in enumerate(spots):
            labels[b, y : y + 12, x : x + 12] = SMALL[i % 2]
    answer = labels.roll((3, 2), (1, 2))  # a coarse network that is a little off
    return Batch(image, labels, answer)


def call_of(
    way: str, batch: Batch, *, window: int, stride: int, n: int
) -> Callable[[], tuple[Tensor, Tensor]]:
    """A call that gives patches [B*n, 3, k, k] and binary targets [B*n, k, k].

    Raises:
        ValueError: another way.
    """
    if way == "unfold":
        return lambda: _unfolded(batch, window, stride, n)
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way}")

    def fused() -> tuple[Tensor, Tensor]:
        windows = ops.select_windows(
            batch.answer, SMALL, window=window, stride=stride, n=n, strategy="top",
            edge="drop", backend=way,
        )  # fmt: skip
        patches = ops.extract_patches(batch.image, windows, backend=way)
        return patches, ops.extract_targets(batch.labels, windows, SMALL, backend=way)

    return fused


def _unfolded(batch: Batch, k: int, stride: int, n: int) -> tuple[Tensor, Tensor]:
    small = torch.tensor(SMALL)

    def windows(maps: Tensor) -> Tensor:
        return F.unfold(maps, k, stride=stride).transpose(1, 2)  # [B, L, C*k*k]

    mask = windows(torch.isin(batch.answer, small).float()[:, None])
    image = windows(batch.image)
    labels = windows(torch.isin(batch.labels, small).float()[:, None])
    order = mask.sum(2).sort(dim=1, descending=True, stable=True).indices[:, :n]
    patches = torch.stack([image[b, order[b]] for b in range(len(order))])
    targets = torch.stack([labels[b, order[b]] for b in range(len(order))])
    return patches.reshape(-1, 3, k, k), targets.reshape(-1, k, k).to(torch.uint8)


def memory_call(way: str, batch: int, size: int, **options: int) -> Callable[[], Any]:
    """The call for `memory.extra_mib`, warmed up."""
    call_of(way, make_batch(1, 2 * options["window"]), **{**options, "n": 1})()
    return call_of(way, make_batch(batch, size), **options)


def measured(
    cases: Iterable[dict[str, int]], origin: dict[str, Any], rounds: int, threads: int
) -> Iterator[rows.Row]:
    """Rows of time and peak memory, every way of a case side by side.

    Args:
        cases: batch, size, window, stride and n.
        origin: provenance.
        rounds: samples of each.
        threads: of torch, in the processes that memory is measured in.

    Raises:
        ValueError: two ways give different answers.
    """
    for case in cases:
        options = {name: case[name] for name in ("window", "stride", "n")}
        data = make_batch(case["batch"], case["size"])
        calls = {name: call_of(name, data, **options) for name in WAYS}
        check(calls)
        times = measure.interleaved(calls, rounds)
        for name in WAYS:
            spread = measure.spread(times[name])
            arguments = {"way": name, **case}
            where = f"{__name__}:memory_call"
            found = {
                "ms": rows.rounded(1e3 * spread.median),
                "ms_p20": rows.rounded(1e3 * spread.p20),
                "ms_p80": rows.rounded(1e3 * spread.p80),
                "times_unfold": rows.rounded(measure.ratio(times["unfold"], times[name]).median),
                "peak_mib": rows.rounded(memory.extra_mib(where, threads, arguments)),
            }
            yield rows.make(SUITE, {**case, "provider": name}, origin, found)


def check(calls: dict[str, Callable[[], tuple[Tensor, Tensor]]]) -> None:
    """All calls give the same bits.

    Raises:
        ValueError: they do not.
    """
    wanted = calls["unfold"]()
    for name, call in calls.items():
        if not all(torch.equal(a, b) for a, b in zip(call(), wanted)):
            raise ValueError(f"{name} must cut the patches that unfold does, got others")
