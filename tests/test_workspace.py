"""Scratch of the GPU backends: what is kept between calls, on a device only said to be there."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from c2fcore import _cuda, _triton

GPU = torch.device("cuda", 0)


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What PyTorch answers: the current stream, whether it captures, whose memory it gives."""
    state = SimpleNamespace(stream=7, capturing=False, pool=(0, 0), segments=[])

    def fresh(make: Any) -> Any:
        def allocate(*size: int, dtype: torch.dtype, device: Any) -> torch.Tensor:
            tensor: torch.Tensor = make(*size, dtype=dtype)
            state.segments.append(
                {
                    "address": tensor.data_ptr(),
                    "total_size": tensor.nbytes,
                    "segment_pool_id": state.pool,
                    "kept alive": tensor,
                }
            )
            return tensor

        return allocate

    monkeypatch.setattr(torch, "empty", fresh(torch.empty))
    monkeypatch.setattr(torch, "zeros", fresh(torch.zeros))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state.capturing)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=state.stream)
    )
    done = SimpleNamespace(record=lambda stream: None, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda: done)
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: state.segments)
    monkeypatch.setattr(_triton, "_held", _triton._PerThread())
    return state


def _scratch(numel: int = 100, name: str = "bins") -> torch.Tensor:
    return _triton.workspace(GPU, name, torch.int32, numel)


def test_kept_per_stream_and_name_and_grown(allocator: SimpleNamespace) -> None:
    first = _scratch()
    assert _scratch(50) is first
    assert _scratch(name="mixed") is not first
    larger = _scratch(101)
    assert larger.numel() == 101
    assert _scratch() is larger
    allocator.stream = 8
    assert _scratch() is not larger


def test_a_captured_graph_has_its_own(allocator: SimpleNamespace) -> None:
    kept = _scratch()
    allocator.capturing = True
    assert _scratch() is not kept
    assert _scratch() is not _scratch()
    allocator.capturing = False
    assert _scratch() is kept


def test_memory_of_graphs_to_come_is_not_kept(
    allocator: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile(mode="reduce-overhead") warms up with it, and captures nothing meanwhile."""
    monkeypatch.setitem(
        sys.modules,
        "torch._inductor.cudagraph_trees",
        ModuleType("torch._inductor.cudagraph_trees"),
    )
    workspace = _cuda.Workspace(GPU)
    allocator.pool = (0, 3)
    assert _scratch() is not _scratch()
    assert workspace.tickets(3) is not workspace.tickets(3)
    assert workspace._of_graphs.take(3) is None
    allocator.pool = (0, 0)
    assert _scratch() is _scratch()
    assert workspace.tickets(3) is workspace.tickets(3)
