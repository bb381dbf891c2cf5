"""extract_patches: cut, zoomed and normalised windows of a uint8 image."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from c2fcore.bench import inputs
from c2fcore.bench.ways import Job

JOB_OP = "extract_patches"


@pytest.mark.parametrize("zoom", [1, 2, 4])
def test_extract_patches(timed, way, size, zoom):
    timed(Job(JOB_OP, {"zoom": zoom}), way, inputs.make_case(size))


def test_extract_patches_network_layout(timed, way, size):
    """From an interleaved image to what a bfloat16 network in channels_last wants."""
    case = inputs.make_case(size)
    interleaved = dataclasses.replace(case, image=inputs.as_layout(case.image, "channels_last"))
    options = {"zoom": 2, "dtype": torch.bfloat16, "channels_last": True}
    timed(Job(JOB_OP, options), way, interleaved, layout="channels_last")
