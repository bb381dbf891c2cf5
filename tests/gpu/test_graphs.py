"""Capture in a CUDA graph, replay with other content: what the engine is built on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from availability import need
from compare import assert_same_bits, flat
from glue_inputs import Glue

from c2fcore import Windows, ops
from c2fcore.testing import samples
from c2fcore.testing.samples import Sample

WARMUPS = 3  # compiles, allocates and grows workspaces before the capture


def _other(value: Any) -> Any:
    """Other content of the same shape and meaning: mirrored pixels, windows one pixel on."""
    if isinstance(value, Windows):
        n = value.origins.shape[1]
        num = (value.num - 1).clamp_min(0)
        used = torch.arange(n, device=num.device)[None, :, None] < num[:, None, None]
        origins = torch.where(used, (value.origins - 1).clamp_min(0), 0)
        return Windows(origins, value.counts, num, value.window)
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.uint16:  # few kernels know it
        return value.view(torch.int16).flip(-1, -2).view(torch.uint16)
    return value.flip(-1, -2)


def _captured(run: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = run()
    return graph, answer


def _copy(target: Any, source: Any) -> None:
    for into, value in zip(flat(target), flat(source), strict=True):
        into.copy_(value)


def _writable(args: Any) -> bool:
    """Whether no two elements share memory, as they do in an expanded view; and there are some."""
    tensors = flat(args)
    return all(
        t.numel() and all(step or side == 1 for step, side in zip(t.stride(), t.shape, strict=True))
        for t in tensors
    )


def test_replay_with_changed_content(fused: str, call: tuple[str, Sample]) -> None:
    """A replay sees what its inputs hold then, whatever ran in between; bit for bit as eager."""
    op, sample = call
    need(fused, op)
    first = sample.args("cuda")
    if not _writable(first):
        pytest.skip("an input that cannot be written to, or nothing to do")
    second = tuple(_other(value) for value in first)

    def run(args: tuple[Any, ...]) -> Any:
        return getattr(ops, op)(*args, **sample.options, backend=fused)

    wanted = [run(first), run(second)]
    inputs = sample.args("cuda")
    graph, answer = _captured(lambda: run(inputs))
    for turn in (0, 1, 1, 0):
        _copy(inputs, (first, second)[turn])
        for tensor in flat([answer]):  # an output that a replay does not write keeps this
            tensor.fill_(99)
        graph.replay()
        assert_same_bits(answer, wanted[turn])
        assert_same_bits(run(second), wanted[1])  # an eager call between replays


@pytest.mark.parametrize("strategy", ["cover", "top", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_whole_glue(fused: str, strategy: str, dtype: torch.dtype) -> None:
    """Select, extract and aggregate with the labels handed over, captured as one."""
    need(fused, "select_windows", "extract_patches", "aggregate")
    scenes = [Glue(dtype=dtype, seed=seed, strategy=strategy) for seed in (0, 1, 2)]
    wanted = [scene.run(fused) for scene in scenes]
    static = Glue(dtype=dtype, seed=3, strategy=strategy)
    graph, answer = _captured(lambda: static.run(fused))
    for turn in (0, 1, 2, 1, 0):
        static.take(scenes[turn])
        graph.replay()
        for got, want in zip(flat(answer), flat(wanted[turn]), strict=True):
            assert_same_bits(got, want)


def test_whole_glue_is_three_nodes(fused: str, tmp_path: Path) -> None:
    """One kernel each for selection, extraction and merging: none zeroes or copies anything."""
    need(fused, "select_windows", "extract_patches", "aggregate")
    if fused != "cuda":
        pytest.skip("takes more launches")
    scene = Glue()
    for _ in range(WARMUPS):
        scene.run(fused)
    # Kept, not debugged: torch 2.11 to 2.14 forget at the end of a capture that there is a graph to
    # dump in debug mode, which is the whole process's besides.
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        scene.run(fused)
    graph.debug_dump(str(tmp_path / "graph.dot"))
    text = (tmp_path / "graph.dot").read_text()
    nodes = set(re.findall(r'"(graph_\d+_node_\d+)"\s*\[', text))
    assert len(nodes) == 3, text


def test_two_graphs_at_once(fused: str) -> None:
    """Replays that overlap on two streams share no workspace."""
    need(fused, "select_windows", "extract_patches", "aggregate")
    scenes = [Glue(side=768, seed=seed) for seed in (0, 1)]
    wanted = [scene.run(fused) for scene in scenes]
    graphs = [_captured(lambda scene=scene: scene.run(fused)) for scene in scenes]
    streams = [torch.cuda.Stream() for _ in graphs]
    torch.cuda.synchronize()
    for _ in range(30):
        for stream, (graph, _) in zip(streams, graphs, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    for (_, answer), want in zip(graphs, wanted, strict=True):
        for got, expected in zip(flat(answer), flat(want), strict=True):
            assert_same_bits(got, expected)


def test_graph_replayed_on_another_stream(fused: str) -> None:
    need(fused, "select_windows")
    sample = samples.get("select_windows", "cover-logits-blobs")
    args = sample.args("cuda")

    def run() -> Any:
        return ops.select_windows(*args, **sample.options, backend=fused)

    want = run()
    graph, answer = _captured(run)
    answer.origins.fill_(-1)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        graph.replay()
    torch.cuda.synchronize()
    assert_same_bits(answer, want)
