"""Options, parameters and the one fixture that times a job of a provider.

    pytest benchmarks --benchmark-only                    every suite, 1024 x 1024
    pytest benchmarks --benchmark-only --bench-sizes 512,6000 --bench-providers reference,cpu
    pytest benchmarks --benchmark-disable                 each body once, on small images

Results: --benchmark-json FILE, --benchmark-autosave and --benchmark-compare as usual.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# Scripts find this folder's modules beside them; pytest's importlib mode needs the path told.
sys.path.insert(0, str(Path(__file__).parent))

import floors
import inputs
import parity
import providers
from provenance import cpu_model, native_name

SMALL, USUAL = 160, 1024


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("c2fcore benchmarks")
    group.addoption(
        "--bench-sizes",
        default=os.environ.get("C2F_BENCH_SIZES", ""),
        help=f"sides of the images, pixels, as 512,1024; default {USUAL}, {SMALL} with "
        "--benchmark-disable; also C2F_BENCH_SIZES",
    )
    group.addoption(
        "--bench-providers",
        default=os.environ.get("C2F_BENCH_PROVIDERS", ""),
        help="as reference,compiled,cpu; default all that can run, without 'compiled' (it takes "
        "minutes) where --benchmark-disable; also C2F_BENCH_PROVIDERS",
    )
    group.addoption(
        "--bench-threads", type=int, default=0, help="default: what torch takes by itself"
    )


def _listed(config: pytest.Config, option: str) -> list[str]:
    return [word.strip() for word in config.getoption(option).split(",") if word.strip()]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests get a `size` and a `provider` of the module's JOB_OP."""
    config = metafunc.config
    once = config.getoption("benchmark_disable")
    if "size" in metafunc.fixturenames:
        sizes = [int(s) for s in _listed(config, "--bench-sizes")]
        metafunc.parametrize("size", sizes or [SMALL if once else USUAL], scope="module")
    if "provider" in metafunc.fixturenames:
        names = providers.names_of(metafunc.module.JOB_OP)
        wanted = _listed(config, "--bench-providers")
        known = {providers.EAGER, providers.SHARED, providers.COMPILED, *providers.HOST_BACKENDS}
        if unknown := set(wanted) - known:
            raise pytest.UsageError(
                f"--bench-providers takes {', '.join(sorted(known))}, got {', '.join(unknown)}"
            )
        if wanted:
            names = [name for name in names if name in wanted]
        elif once:
            names.remove(providers.COMPILED)
        metafunc.parametrize("provider", names, scope="module")


@pytest.fixture(scope="session", autouse=True)
def threads(request: pytest.FixtureRequest) -> int:
    """Threads of every provider."""
    wanted = request.config.getoption("--bench-threads")
    if wanted:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


@pytest.fixture
def timed(benchmark: Any, threads: int) -> Callable[..., None]:
    """Times a job of a provider, after its answer has been compared with the reference's."""

    def run(job: providers.Job, provider: str, case: inputs.Case, **also: Any) -> None:
        call = providers.call_of(job, provider, case)
        if provider == providers.COMPILED:
            providers.reset_compiler()
            call = providers.call_of(job, provider, case)
        wanted = providers.call_of(job, providers.EAGER, case)()
        height, width = case.size
        error = parity.max_error(job.op, call(), wanted, len(case.truth) * height * width)
        benchmark.group = " ".join((job.op, *(str(v) for v in job.options.values())))
        benchmark.extra_info.update(
            op=job.op,
            provider=provider,
            options={name: str(value) for name, value in job.options.items()},
            shape=list(case.logits.shape),
            size=list(case.size),
            window=case.windows.window,
            stride=case.stride,
            n=case.n,
            dtype=str(case.logits.dtype).removeprefix("torch."),
            content=case.source,
            device=cpu_model(),
            native=native_name(),
            threads=threads,
            bytes=floors.floor_bytes(job, case),
            max_error=error,
            **also,
        )
        if provider == providers.COMPILED:
            call()  # a second call may compile once more
            benchmark.extra_info["graph_breaks"] = providers.graph_breaks()
        benchmark(call)

    return run
