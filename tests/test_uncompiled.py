"""What stays out of compiled graphs, and that nobody pays for it who compiles nothing."""

from __future__ import annotations

import subprocess
import sys

import torch

from c2fcore import Windows, reference


def test_imports_leave_the_compiler_out() -> None:
    """torch._dynamo takes as long to import as all the rest of torch."""
    script = """
import sys, torch
before = set(sys.modules)
import c2fcore, c2fcore.pipeline, c2fcore.cli
print(*{"torch._dynamo", "sympy", "timm", "lightning", "cupy"} & (set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_loops_over_windows_are_not_unrolled() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8, generator=generator)
    origins = torch.tensor([[[0, 0], [32, 16], [64, 64]]], dtype=torch.int32)
    windows = Windows(origins, torch.ones(1, 3, dtype=torch.int32), torch.tensor([3]), 32)
    torch._dynamo.reset()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(reference.extract_patches, backend=backend, dynamic=False)
    found = compiled(image, windows, zoom=2)
    assert torch.equal(found, reference.extract_patches(image, windows, zoom=2))
    nodes = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert any("interpolate" in name for name in nodes)  # the rest is compiled
    assert not any("built-in method stack" in name for name in nodes)
