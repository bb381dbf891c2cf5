"""End to end: both networks and everything between and after them, one frame."""

from __future__ import annotations

import pytest
import torch

from c2fcore.bench import frames, network_suite
from c2fcore.bench.provenance import device_name, native_name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    ways = frames.ways_of(metafunc.config.getoption("--bench-device"))
    metafunc.parametrize("way", ways)


@pytest.mark.parametrize("zoom", [1, 2])
def test_network(benchmark, way, size, zoom, threads, device):
    spec = network_suite.Spec(
        "tiny_fcn", "tiny_fcn", size, size, zoom=zoom, device=device, threads=threads
    )
    net, image, about = network_suite.build(spec)
    wanted = frames.call_of(net, image, "reference")()
    call = frames.call_of(net, image, way)
    differing = float((call().to(wanted.device) != wanted).float().mean())
    if way != frames.COARSE:
        assert differing <= network_suite.TIES
    benchmark.group = f"network zoom {zoom}"
    benchmark.extra_info.update(
        way=way,
        shape=list(image.shape),
        dtype=spec.dtype,
        device=device_name(device),
        native=native_name(),
        threads=threads,
        **about,
        max_error=differing if way != frames.COARSE else None,
    )

    def frame() -> torch.Tensor:
        labels = call()
        if labels.is_cuda:
            torch.cuda.synchronize()
        return labels

    benchmark(frame)
