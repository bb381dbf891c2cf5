"""Options, parameters and the one fixture that times a way to do a job.

    pytest benchmarks --benchmark-only                    every suite, 1024 x 1024
    pytest benchmarks --benchmark-only --bench-sizes 512,6000 --bench-ways reference,cpu
    pytest benchmarks --benchmark-disable                 each body once, on small images

Results: --benchmark-json FILE, --benchmark-autosave and --benchmark-compare as usual.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from c2fcore.bench import contest, floors, inputs, measure, op_suite, ways
from c2fcore.bench.lists import words
from c2fcore.bench.provenance import device_name, native_name

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
        "--bench-ways",
        default=os.environ.get("C2F_BENCH_WAYS", ""),
        help="as reference,compiled,cpu,unfold; default all that can run, without 'compiled' (it "
        "takes minutes) where --benchmark-disable; also C2F_BENCH_WAYS",
    )
    group.addoption("--bench-device", default="cpu", help="where tensors are: cpu (default), cuda")
    group.addoption(
        "--bench-threads", type=int, default=0, help="default: what torch takes by itself"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests get a `size`, and a `way` to do the module's JOB_OP, if it has one."""
    config = metafunc.config
    once = config.getoption("benchmark_disable")
    if "size" in metafunc.fixturenames:
        sizes = [int(s) for s in words(config.getoption("--bench-sizes"))]
        metafunc.parametrize("size", sizes or [SMALL if once else USUAL], scope="module")
    if "way" in metafunc.fixturenames and hasattr(metafunc.module, "JOB_OP"):
        names = ways.names_of(metafunc.module.JOB_OP, config.getoption("--bench-device"))
        wanted = words(config.getoption("--bench-ways"))
        known = {name for op in op_suite.JOBS for name in ways.names_of(op)}
        known |= {name for pair in ways.BACKENDS.values() for name in pair}
        if unknown := set(wanted) - known:
            raise pytest.UsageError(
                f"--bench-ways takes {', '.join(sorted(known))}, got {', '.join(unknown)}"
            )
        if wanted:
            names = [name for name in names if name in wanted]
        elif once:
            names.remove(ways.COMPILED)
        metafunc.parametrize("way", names, scope="module")


@pytest.fixture(scope="session", autouse=True)
def threads(request: pytest.FixtureRequest) -> int:
    """Threads of every way."""
    wanted = request.config.getoption("--bench-threads")
    if wanted:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where the tensors are."""
    name: str = request.config.getoption("--bench-device")
    return name


@pytest.fixture(scope="session")
def copy_gbs(request: pytest.FixtureRequest, device: str, threads: int) -> float:
    """Measured copy bandwidth of the device, GB/s; 0 where nothing is timed."""
    if request.config.getoption("benchmark_disable"):
        return 0.0
    return measure.copy_gbs(device)


@pytest.fixture
def timed(benchmark: Any, threads: int, device: str, copy_gbs: float) -> Callable[..., None]:
    """Times a way to do a job, after its answer has been compared with the reference's."""

    def run(job: ways.Job, way: str, case: inputs.Case, **also: Any) -> None:
        case = case.to(device)
        if way == ways.COMPILED:
            ways.reset_compiler()
        try:
            call = _waiting(ways.call_of(job, way, case), device)
        except NotImplementedError as error:
            pytest.skip(str(error))
        wanted = ways.call_of(job, ways.EAGER, case)()
        error = contest.checked(job, way, case, call(), wanted)
        moved = floors.floor_bytes(job, case)
        benchmark.group = " ".join((job.op, *(str(v) for v in job.options.values())))
        benchmark.extra_info.update(
            op=job.op,
            way=way,
            options={name: str(value) for name, value in job.options.items()},
            shape=list(case.logits.shape),
            size=list(case.size),
            window=case.windows.window,
            stride=case.stride,
            n=case.n,
            dtype=str(case.logits.dtype).removeprefix("torch."),
            content=case.source,
            device=device_name(device),
            native=native_name(),
            threads=threads,
            bytes=moved,
            max_error=error,
            **also,
        )
        if way == ways.COMPILED:
            call()  # a second call may compile once more
            benchmark.extra_info["graph_breaks"] = ways.graph_breaks()
        benchmark(call)
        if copy_gbs:
            gbs = moved / benchmark.stats.stats.median / 1e9
            benchmark.extra_info.update(gbs=gbs, copy_gbs=copy_gbs, share_of_copy=gbs / copy_gbs)

    return run


def _waiting(call: measure.Call, device: str) -> measure.Call:
    """A callable that returns when the device is done."""
    if torch.device(device).type == "cpu":
        return call

    def waited() -> Any:
        answer = call()
        torch.cuda.synchronize()
        return answer

    return waited
