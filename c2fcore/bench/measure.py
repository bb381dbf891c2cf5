"""Times of callables, taken in turn, and what is made of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

Call = Callable[[], Any]

OVERHEAD_CALLS = 2000  # of a block


class Spread(NamedTuple):
    """Median and the 20th and 80th percentile of some samples."""

    median: float
    p20: float
    p80: float


def spread(samples: Sequence[float]) -> Spread:
    """Median and percentiles, interpolated linearly between samples."""
    return Spread(*map(float, np.percentile(samples, (50, 20, 80))))


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times faster, from the ratios of samples taken in the same round."""
    return spread([s / f for s, f in zip(slow, fast, strict=True)])


def interleaved(
    calls: dict[str, Call],
    rounds: int,
    *,
    target_s: float = 0.05,
    device: str = "cpu",
    failed: Callable[[str, Exception], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds per call, `rounds` samples of each callable, taken in turn.

    Whatever else the machine does in a round meets every way alike, which is why ratios are made
    per round. A sample repeats a short callable until it lasts about `target_s`, so that the clock
    and the first, colder call do not count. The order changes from round to round.

    Args:
        calls: what to time, by name; may be none.
        rounds: samples of each.
        target_s: how long a sample should last, seconds; a longer callable runs once.
        device: where the work is done; on "cuda" its events take the time.
        failed: told of a callable that raises, which then has no samples; by default it ends all.
    """
    loops: dict[str, int] = {}
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}

    def attempt(name: str, measured: Callable[[str], None]) -> None:
        try:
            measured(name)
        except Exception as error:
            if failed is None:
                raise
            failed(name, error)
            times.pop(name)

    def count(name: str) -> None:
        loops[name] = _loops(calls[name], target_s, device)

    def sample(name: str) -> None:
        times[name].append(per_call(calls[name], loops[name], device))

    for name in names:
        attempt(name, count)
    with _quiet():
        for turn in range(rounds if names else 0):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                if name in times:
                    attempt(name, sample)
    return times


def per_call(call: Call, loops: int, device: str = "cpu") -> float:
    """Mean seconds of `loops` calls in a row, the device's work included."""
    if torch.device(device).type == "cuda":
        return _per_call_cuda(call, loops, device)
    start = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - start) / loops


def _per_call_cuda(call: Call, loops: int, device: str) -> float:
    """The same between two events of the current stream, which must be idle when it starts."""
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(loops):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / loops


def overhead(call: Call, *, blocks: int, tick: Callable[[], Any] = lambda: None) -> list[float]:
    """Seconds per call in each of several blocks of many calls."""
    per_call(call, OVERHEAD_CALLS // 10)
    found = []
    with _quiet():
        for _ in range(blocks):
            found.append(per_call(call, OVERHEAD_CALLS))
            tick()
    return found


def copy_gbs(device: str = "cpu", mib: int | None = None) -> float:
    """Measured copy bandwidth in GB/s: bytes read and bytes written by Tensor.copy_.

    The median of seven copies between buffers of `mib` MiB, by default 128 or, on a GPU, 1024:
    many times any last-level cache in use, and so long that starting a copy does not count.
    """
    if mib is None:
        mib = 128 if torch.device(device).type == "cpu" else 1024
    source = torch.ones(mib * 2**18, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    times = interleaved({"copy": lambda: target.copy_(source)}, 7, target_s=0.0, device=device)
    return 2 * 4 * source.numel() / spread(times["copy"]).median / 1e9


def _loops(call: Call, target_s: float, device: str) -> int:
    """How often to repeat a callable, judged by its second call."""
    per_call(call, 1, device)
    return max(1, round(target_s / max(per_call(call, 1, device), 1e-7)))


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
