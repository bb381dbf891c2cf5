"""What only a GPU has: launches, graphs, a cache that must be emptied between calls.

Times here come from events on the current stream. No figure of this module has been taken yet.
"""

from __future__ import annotations

from typing import Any

import torch

from .measure import Call

# Larger than the last-level cache of any GPU in use: writing it evicts everything else.
_FLUSH_BYTES = 512 * 2**20
_COLD_ROUNDS = 20

GRAPH_CALLS = 8  # of `graphed`; each one takes counters of the cuda backend for good


def cold_seconds(call: Call, device: str) -> list[float]:
    """Seconds of single calls whose inputs are not in the cache, one a round.

    The flush is enqueued before each call and lies outside the events, so the host is ahead of the
    device and its launch time hides behind the flush.
    """
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)
    with torch.cuda.device(device):
        pairs = []
        for _ in range(_COLD_ROUNDS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            start.record()
            call()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
    return [float(start.elapsed_time(end)) / 1e3 for start, end in pairs]


def launches(call: Call, device: str) -> int:
    """Kernels, copies and fills that one warm call puts on the device."""
    call()
    torch.cuda.synchronize(device)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize(device)
    return sum(1 for e in profile.events() or [] if str(e.device_type) == "DeviceType.CUDA")


def graphed(call: Call, device: str) -> Call:
    """A replay of GRAPH_CALLS calls captured in one CUDA graph: their time without the host's.

    One call would not do: starting a graph takes the host some microseconds, longer than a GPU
    takes for a small op, and replays in a row would tell that time.

    Raises:
        RuntimeError: the call cannot be captured; it waits for the device somewhere.
    """
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # capture wants warm allocators and compiled kernels
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(GRAPH_CALLS):
                held = call()  # what the call before answered is free for the next one

    def replay() -> Any:
        graph.replay()
        return held

    return replay
