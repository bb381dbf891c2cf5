"""CuPy arrays in and out, torch.compile around the ops, launches and allocations of a call."""

from __future__ import annotations

from typing import Any

import compare
import pytest
import torch
from availability import need
from compare import assert_same_bits, flat
from glue_inputs import GLUE, Glue

from c2fcore import Windows, ops
from c2fcore.testing import samples
from c2fcore.testing.agree import assert_agrees

ARRAYS = [
    ("count_windows", "primes-flush"),
    ("count_windows", "logits-x4-ties"),
    ("select_windows", "cover-clusters"),
    ("extract_patches", "normalised"),
    ("extract_patches", "channels_last-zoom-2.0"),
    ("extract_targets", "int64"),
    ("aggregate", "paper-labels-two-channels"),
    ("aggregate", "normalized-probs-one-channel"),
]


def _cupy() -> Any:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if cupy.cuda.runtime.getDeviceCount() == 0:
        pytest.skip("CuPy sees no GPU")
    return cupy


def _as_cupy(cupy: Any, value: Any) -> Any:
    if isinstance(value, Windows):
        return Windows(*(cupy.from_dlpack(t) for t in value[:3]), value.window)
    return cupy.from_dlpack(value) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(("op", "name"), ARRAYS)
def test_cupy(everyone: str, op: str, name: str) -> None:
    cupy = _cupy()
    need(everyone, op)
    sample = samples.get(op, name)
    args = [_as_cupy(cupy, value) for value in sample.args("cuda")]
    got = getattr(ops, op)(*args, **sample.options, backend=everyone)
    parts = got[:3] if isinstance(got, Windows) else (got,)
    assert all(isinstance(part, cupy.ndarray) for part in parts)
    tensors = [torch.from_dlpack(part).cpu() for part in parts]
    back = Windows(*tensors, got.window) if isinstance(got, Windows) else tensors[0]
    assert_agrees(op, sample, back, compare.call(op, sample, "reference"))


def test_cupy_stream(fused: str) -> None:
    """Work on a CuPy stream: the op follows what was written there, without waiting for it."""
    cupy = _cupy()
    need(fused, "count_windows")
    seg = cupy.zeros((1, 64, 64), dtype=cupy.uint8)
    options: dict[str, Any] = {"window": 16, "stride": 16, "backend": fused}
    ops.count_windows(seg, (1,), **options)
    stream = cupy.cuda.Stream(non_blocking=True)
    large = cupy.ones((4000, 4000), dtype=cupy.float32)
    cupy.cuda.Device().synchronize()
    with stream:
        for _ in range(10):
            large = large @ large * 0
        seg += 1 + large[0, 0].astype(cupy.uint8)  # written late
        counts = ops.count_windows(seg, (1,), **options)
        total = int(counts.sum())
    assert total == 64 * 64


def _glue(backend: str) -> Any:
    def glue(logits: torch.Tensor, image: torch.Tensor, fine: torch.Tensor) -> Any:
        height, width = image.shape[2:]
        where: dict[str, Any] = {"size": (height, width), "backend": backend}
        windows = ops.select_windows(logits * 2, (1, 3), window=64, stride=16, n=8, **where)
        patches = ops.extract_patches(image, windows, zoom=2, backend=backend)
        shifted = fine + patches.mean((1, 2, 3))[:, None, None, None] * 0
        return windows, patches, ops.aggregate(logits, shifted, windows, (1, 3), **where)

    return glue


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_glue(fused: str, dynamic: bool) -> None:
    """One graph without breaks around the whole glue, by inductor, the same bits as eager."""
    need(fused, *GLUE)
    scene = Glue(seed=3, batch=1)
    torch._dynamo.reset()
    compiled = torch.compile(_glue(fused), fullgraph=True, dynamic=dynamic)
    args = (scene.logits, scene.image, scene.fine)
    for got, want in zip(flat(compiled(*args)), flat(_glue(fused)(*args)), strict=True):
        assert_same_bits(got, want)


def test_compiled_into_cuda_graphs(fused: str) -> None:
    """A warm-up, a recording and replays, between them eager calls; no scratch is left behind."""
    need(fused, *GLUE)
    scenes = [Glue(seed=seed, batch=1) for seed in (3, 4)]
    torch._dynamo.reset()
    compiled = torch.compile(_glue(fused), fullgraph=True, mode="reduce-overhead")
    for turn in range(8):
        scene = scenes[turn % 2]
        args = (scene.logits, scene.image, scene.fine)
        wanted = flat(_glue(fused)(*args))
        torch.compiler.cudagraph_mark_step_begin()
        for got, want in zip(flat(compiled(*args)), wanted, strict=True):
            assert_same_bits(got, want)
    torch._dynamo.reset()


def _device_events(run: Any) -> list[str]:
    """Names of what a warm call puts on the device: kernels, copies, fills."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    return [e.name for e in profile.events() or [] if str(e.device_type).endswith("CUDA")]


# Counting and selecting together, extraction, merging; the cuda backend counts and selects in one.
LAUNCHES = {
    "count_windows": {"triton": 2, "cuda": 2},
    "select_windows": {"triton": 2, "cuda": 1},
    "extract_patches": {"triton": 1, "cuda": 1},
    "extract_targets": {"triton": 1, "cuda": 1},
    "aggregate": {"triton": 1, "cuda": 1},
}
TYPICAL = {
    "count_windows": "blobs-x4",
    "select_windows": "cover-logits-blobs",
    "extract_patches": "large",
    "extract_targets": "uint8",
    "aggregate": "paper-labels-blobs",
}


@pytest.mark.parametrize("op", samples.OPS)
def test_launches(fused: str, op: str) -> None:
    need(fused, op)
    sample = samples.get(op, TYPICAL[op])
    args = sample.args("cuda")
    events = _device_events(lambda: getattr(ops, op)(*args, **sample.options, backend=fused))
    assert 1 <= len(events) <= LAUNCHES[op][fused], events


@pytest.mark.parametrize("op", samples.OPS)
def test_allocations(fused: str, op: str) -> None:
    """A warm call takes memory for what it returns, and for nothing else."""
    need(fused, op)
    sample = samples.get(op, TYPICAL[op])
    args = sample.args("cuda")

    def run() -> Any:
        return getattr(ops, op)(*args, **sample.options, backend=fused)

    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    answer = run()
    taken = torch.cuda.memory_stats()["allocation.all.allocated"] - before
    assert taken <= len(flat([answer])) + (
        op == "select_windows"
    )  # its empty label map, if counted
