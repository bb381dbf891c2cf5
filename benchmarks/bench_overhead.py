"""Cost of a call: each op on 16 x 16 pixels, and on an empty batch, where no kernel runs."""

from __future__ import annotations

import pytest

from c2fcore.bench.provenance import cpu_model
from c2fcore.bench.tiny import tiny_calls

JOB_OP = "select_windows"  # its ways: those of every op, without peers


@pytest.mark.parametrize("batch", [1, 0], ids=["tiny", "empty"])
@pytest.mark.parametrize("name", list(tiny_calls("reference")))
def test_overhead(benchmark, way, name, batch, threads):
    if way == "compiled":
        pytest.skip("guards and graph breaks are the compiler's, not an op's")
    call = tiny_calls(way, batch)[name]
    call()
    benchmark.group = f"overhead {name} {'tiny' if batch else 'empty'}"
    benchmark.extra_info.update(way=way, threads=threads, device=cpu_model())
    benchmark(call)
