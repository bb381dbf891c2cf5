"""extract_patches: cut, zoomed and normalised windows of a uint8 image."""

from __future__ import annotations

import dataclasses

import inputs
import parity
import providers
import pytest
import torch
from provenance import cpu_model
from providers import Job

JOB_OP = "extract_patches"


@pytest.mark.parametrize("zoom", [1, 2, 4])
def test_extract_patches(timed, provider, size, zoom):
    timed(Job(JOB_OP, {"zoom": zoom}), provider, inputs.make_case(size))


def test_extract_patches_network_layout(timed, provider, size):
    """From an interleaved image to what a bfloat16 network in channels_last wants."""
    case = inputs.make_case(size)
    interleaved = dataclasses.replace(case, image=inputs.as_layout(case.image, "channels_last"))
    options = {"zoom": 2, "dtype": torch.bfloat16, "channels_last": True}
    timed(Job(JOB_OP, options), provider, interleaved, layout="channels_last")


def test_interpolate_loop(benchmark, size):
    """The peer: one F.interpolate per window."""
    case = inputs.make_case(size)
    side = 2 * case.windows.window
    loop = providers.interpolate_loop(case, side)
    wanted = providers.call_of(Job(JOB_OP, {"zoom": 2}), providers.EAGER, case)()
    used = int(case.windows.num[0])
    error = parity.max_error(JOB_OP, loop(), wanted[:used], size * size)
    benchmark.group = f"{JOB_OP} 2"
    benchmark.extra_info.update(provider="interpolate-loop", max_error=error, device=cpu_model())
    benchmark(loop)
