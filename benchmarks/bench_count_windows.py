"""count_windows: small-object pixels of every window, from quarter-resolution logits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from c2fcore.bench import inputs
from c2fcore.bench.ways import Job

JOB_OP = "count_windows"


@pytest.mark.parametrize("content", ["realistic", "noise"])
def test_count_windows(timed, way, size, content):
    timed(Job(JOB_OP, {}), way, inputs.make_case(size, content=content))


@pytest.mark.parametrize("layout", ["planar", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_count_windows_half(timed, way, size, dtype, layout):
    case = inputs.make_case(size)
    logits = inputs.as_layout(case.logits.to(dtype), layout)
    timed(Job(JOB_OP, {}), way, dataclasses.replace(case, logits=logits), layout=layout)
