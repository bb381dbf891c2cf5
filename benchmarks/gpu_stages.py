"""The stages of `make gpu-check`: what is run, on what, and for how long at most."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from stages import ALONE, NO_GPU, SHARED, Stage

OPS = ("count_windows", "select_windows", "extract_patches", "extract_targets", "aggregate")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
CUDA = Path("/usr/local/cuda")  # where NVIDIA's packages put it, on PATH or not
FOUND = 86  # exit code of a compute-sanitizer that found something
ABSENT = "not part of this version"
# Nearly every sample is a kernel of its own to Triton, seconds to compile.
SHARDS = {
    "test_count_windows.py": 4,
    "test_select_windows.py": 8,
    "test_extract_patches.py": 6,
    "test_aggregate.py": 6,
    "test_drawn.py": 5,
    "test_library.py": 2,
    "gpu": 4,
}
HALF, THREE = ["--dtype", "float16"], ["--sizes", "512,1024,6000"]
ISAID = {"P0003": "val/images", "P0005": "train/images"}  # of the shared data


@dataclass(frozen=True)
class Plan:
    """Where the check works.

    Attributes:
        root: the checkout.
        work: environments, caches, logs.
        out: folder of results; the rows of a device go into a folder of its name there.
        capability: compute capability of the GPU, (major, minor).
    """

    root: Path
    work: Path
    out: Path
    capability: list[int]

    def python(self, environment: str) -> str:
        return str(self.work / environment / "bin" / "python")

    def c2f(self, environment: str) -> str:
        return str(self.work / environment / "bin" / "c2f")

    def tests(self) -> dict[str, str]:
        """The environment of tests: their folder only, the checkout shadows what is installed.

        Their networks are small: torch.compile starts no processes, one per core, for them.
        """
        own = {"PYTHONPATH": str(self.root / "tests"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        return {**self.environment(), **own}

    def shared(self) -> Path:
        """The folder of shared data: C2F_SHARED, or `shared` in or beside the checkout."""
        given = os.environ.get("C2F_SHARED")
        if given:
            return Path(given)
        inside = self.root / "shared"
        return inside if inside.is_dir() else self.root.parent / "shared"

    def environment(self) -> dict[str, str]:
        """What every stage sees."""
        return {
            "C2F_SHARED": str(self.shared()),
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "TRITON_CACHE_DIR": str(self.work / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.work / "inductor"),
            "C2F_CACHE_DIR": str(self.work / "nvrtc"),
            "OMP_NUM_THREADS": "2",
        }


def every_stage(plan: Plan) -> list[Stage]:
    """All stages, those first that others wait for."""
    tests = _tests(plan)
    beside = [*tests, *_warm(plan), *_compiles(plan), *_sanitizers(plan, tests)]
    return [*_install(plan), *beside, *_bench(plan)]


def _install(plan: Plan) -> list[Stage]:
    """First without native modules, in seconds: all but the cuda backend can start with that."""

    def stage(name: str, environment: str, choice: str, limit_s: float, cores: int) -> Stage:
        python, done = plan.python(environment), plan.work / f"{name}.done"
        pip = [python, "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps"]
        table = "import c2fcore, json; print(json.dumps(c2fcore.backends()))"
        fastest = (
            "import c2fcore; t = c2fcore.backends(); print(next(b for b in "
            "('cuda', 'triton', 'reference') if all(t[op][b][0] for op in t)))"
        )
        steps = [
            f"rm -f {shlex.quote(str(done))}",  # of an earlier run: must not pass for this one's
            shlex.join([*pip, "--force-reinstall", str(plan.root)]),
            f"{shlex.join([python, '-c', table])} > {shlex.quote(str(done))}",
            f"{shlex.join([python, '-c', fastest])} > {shlex.quote(str(plan.work / 'fastest'))}",
            shlex.join([plan.c2f(environment), "info"]),
            f"echo {name}: C2F_BUILD={choice} installed into {shlex.quote(environment)}",
        ]
        # For this GPU alone: half the time of nvcc.
        arch = os.environ.get("CUDAARCHS") or "".join(map(str, plan.capability))
        own = {
            "C2F_BUILD": choice,
            "CMAKE_BUILD_PARALLEL_LEVEL": str(cores),
            "CUDAARCHS": arch,
            **_nvcc(),
        }
        return Stage(
            name,
            ["bash", "-c", " && ".join(steps)],
            limit_s,
            cores,
            NO_GPU,
            env={**plan.environment(), **own},
        )

    light = stage("install-python", "python", "none", 120, 1)
    cores = max(1, (os.cpu_count() or 1) // 2)
    full = stage("install", "native", "auto", 330, cores)
    return [light, replace(full, after=("install-python",))]


def _nvcc() -> dict[str, str]:
    """CUDA_HOME for the build, where nothing else says where nvcc is: the usual place."""
    told = any(os.environ.get(name) for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"))
    if told or shutil.which("nvcc") or not (CUDA / "bin" / "nvcc").exists():
        return {}
    return {"CUDA_HOME": str(CUDA)}


def _tests(plan: Plan) -> list[Stage]:
    """The shared test lists of every op and backend, then what only a GPU can show."""
    found = []
    for backend in ("triton", "cuda"):
        for op in (*OPS, "library"):
            # The last op to be ported stands for the operators as a whole, as in that test file.
            ask = "aggregate" if op == "library" else op
            found += _pytest(plan, f"tests-{backend}-{op}", backend, f"test_{op}.py", ask)
        found += _pytest(plan, f"tests-{backend}-drawn", backend, "test_drawn.py", "aggregate")
    # For triton that is a compilation each, which the grid ahead of time has seen.
    found += _pytest(plan, "tests-cuda-kernels", "cuda", "test_every_kernel.py", "aggregate")
    for backend in ("triton", "cuda", "reference"):
        before = tuple(stage.name for stage in found if backend in stage.name)
        found += _pytest(plan, f"tests-{backend}-gpu", backend, "gpu", "count_windows", before)
    # The same kernels, compiled when first needed and launched through CuPy.
    for op in OPS:
        found += _pytest(plan, f"tests-jit-{op}", "cuda", f"test_{op}.py", op, jit=True)
    before = tuple(stage.name for stage in found if "jit" in stage.name)
    found += _pytest(plan, "tests-jit-gpu", "cuda", "gpu", "count_windows", before, jit=True)
    return found


def _pytest(
    plan: Plan,
    name: str,
    backend: str,
    file: str,
    op: str,
    after: tuple[str, ...] = (),
    jit: bool = False,
) -> list[Stage]:
    """A test file (or folder), by several processes where Triton has much to compile."""
    environment = "native" if backend == "cuda" else "python"
    installed = "install" if environment == "native" else "install-python"
    shards = SHARDS.get(file, 1) if backend == "triton" else 1
    command = [plan.python(environment), str(plan.root / "tests" / "gpu_run.py")]
    options = [*_pytest_options(plan), "--backend", backend, "-o", "faulthandler_timeout=100"]
    options.append(str(plan.root / "tests" / file))
    absent = _absent(plan, installed, op, backend)
    found = []
    for number in range(1, shards + 1):
        this = name if shards == 1 else f"{name}-{number}of{shards}"
        record = str(plan.work / "records" / f"{this}.jsonl")
        found.append(
            Stage(
                this,
                [*command, record, "--shard", f"{number}/{shards}", *options],
                300 if file == "gpu" or jit else 240,
                after=(installed, *after),
                env={**plan.tests(), "C2F_REQUIRE": backend, **({"C2F_JIT": "1"} if jit else {})},
                unless=(lambda: absent() or _no_cupy()) if jit else absent,
            )
        )
    return found


def _pytest_options(plan: Plan) -> list[str]:
    """Settings of the checkout, from a working directory that is not the checkout.

    Its addopts name options of pytest-benchmark, which the Python of a GPU need not have.
    """
    ini = plan.root / "pyproject.toml"
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ini), "--rootdir", str(plan.root)]
    return [*options, "-o", "addopts=--import-mode=importlib --strict-markers -ra"]


def _compiles(plan: Plan) -> list[Stage]:
    """Registers, spills and warnings of the machine code: the tests that run the compilers."""
    found = []
    for backend, installed, name in (
        ("triton", "install-python", "test_triton_compile.py"),
        ("cuda", "install", "test_cuda_build.py"),
    ):
        file = plan.root / "tests" / name
        command = [plan.python("native" if backend == "cuda" else "python"), "-m", "pytest"]
        found.append(
            Stage(
                f"ptxas-{backend}",
                [*command, *_pytest_options(plan), str(file)],
                240,
                2,
                NO_GPU,
                after=(installed,),
                env=plan.tests(),
                unless=lambda file=file: "" if file.exists() else ABSENT,  # type: ignore[misc]
            )
        )
    return found


def _sanitizers(plan: Plan, tests: list[Stage]) -> list[Stage]:
    """compute-sanitizer on the sample lists, each call once, without PyTorch's memory pools."""
    tool = shutil.which("compute-sanitizer") or str(CUDA / "bin" / "compute-sanitizer")
    found = []
    for backend, installed in (("triton", "install-python"), ("cuda", "install")):
        absent = _absent(plan, installed, "count_windows", backend)
        python = plan.python("native" if backend == "cuda" else "python")
        for check in TOOLS:
            command = [tool, "--tool", check, "--error-exitcode", str(FOUND), "--print-limit", "30"]
            command += ["--target-processes", "application-only"]
            command += [python, "-m", "pytest", *_pytest_options(plan), "--backend", backend]
            command += [str(plan.root / "tests" / "gpu" / "test_samples.py")]
            if backend == "cuda":  # for triton, a compilation each
                command += [str(plan.root / "tests" / "test_drawn.py")]
            found.append(
                Stage(
                    f"sanitize-{backend}-{check}",
                    command,
                    300,
                    # Behind the tests: their kernels are compiled by then.
                    after=(installed, *(t.name for t in tests if backend in t.name)),
                    env={
                        **plan.tests(),
                        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
                        "C2F_SEEDS": "0:20",
                        "C2F_REQUIRE": backend,
                    },
                    unless=lambda absent=absent: (  # type: ignore[misc]
                        absent() or ("" if Path(tool).exists() else "no compute-sanitizer")
                    ),
                )
            )
    return found


def _warm(plan: Plan) -> list[Stage]:
    """torch.compile of the reference, beside the tests: what is timed later finds it compiled.

    Each writes rows of its own, for nobody: one file is no place for several processes.
    """
    return [
        _rows(plan, f"bench-warm-{op}-{side}",
              ["--op", op, "--sizes", side, *HALF, "--ways", "compiled"],
              240, rounds=1, out=plan.work / "warm" / f"{op}-{side}", gpu=SHARED)
        for op in ("glue", "extract_patches", "aggregate", "count_windows", "select_windows")
        for side in ("512", "1024", "6000")
    ]  # fmt: skip


def _bench(plan: Plan) -> list[Stage]:
    """Rows: what the gates need first, then the rest of the grid, then whole networks."""
    sizes = ["--sizes", "512,896,1024,6000"]
    nhwc, amp = (["--dtype", name, "--channels-last"] for name in ("bfloat16", "amp"))
    hrnet = ["--coarse", "fcn_hrnet_w18", "--no-memory"]
    square, frame = [*hrnet, "--sizes", "512"], [*hrnet, "--zooms", "1"]
    runs = [
        *((f"glue-{n}-fp16", ["--op", "glue", "--sizes", n, *HALF], 120)
          for n in ("512", "1024", "6000")),
        ("extract-fp16", ["--op", "extract_patches", "--zooms", "1,2,4", *HALF, *THREE], 120),
        ("aggregate-fp16", ["--op", "aggregate", *HALF, *THREE], 150),
        ("count-fp16", ["--op", "count_windows", *HALF, *THREE], 120),
        ("select-fp16", ["--op", "select_windows", *HALF, *THREE], 150),
        ("glue-fp32", ["--op", "glue", *sizes], 300),
        ("all-fp32", ["--op", "all", "--zooms", "1,2,4", *sizes], 500),
        ("all-bf16", ["--op", "all", "--zooms", "1,2,4", *nhwc, *sizes], 500),
        ("network-fp32", [*square, "--zooms", "1,2,4"], 200),
        ("network-amp", [*square, *amp, "--zooms", "1,2,4"], 200),
        ("network-compiled",
         [*square, "--zooms", "1", *amp, "--compile", "--ways", "engine,eager-glue"], 480),
    ]  # fmt: skip
    stages = [_rows(plan, f"bench-{name}", *rest) for name, *rest in runs]
    for name, folder in ISAID.items():
        start = plan.shared() / "data" / "isaid" / folder / name
        image, masks = f"{start}.png", f"{start}_instance_color_RGB.png"
        options = [*frame, *amp, "--preset", "cover", "--image", image, "--masks", masks]
        made = _rows(plan, f"bench-network-isaid-{name}", options, 120)
        # Before what is compiled, which takes longest.
        stages.insert(-1, replace(made, unless=functools.partial(_no_file, masks)))
    return stages


def _rows(
    plan: Plan,
    name: str,
    options: list[str],
    limit_s: float,
    rounds: int = 10,
    out: Path | None = None,
    gpu: str = ALONE,
) -> Stage:
    """Rows of `c2f bench`, written one by one: what a limit cuts off is lost, the rest is kept."""
    command = ["bench", "--device", "cuda", "--rounds", str(rounds), "--no-charts", *options]
    command += ["-o", str(out or plan.out)]
    # Where the native modules could not be built, what needs no compiler is still measured.
    have = f"[ -e {shlex.quote(str(plan.work / 'install.done'))} ]"
    either = " || ".join(
        f"c2f={shlex.quote(plan.c2f(environment))}" for environment in ("native", "python")
    )
    # By name: a backend that "auto" passes over is measured, too, and is not taken for another one.
    chosen = f"C2F_BACKEND=$(cat {shlex.quote(str(plan.work / 'fastest'))})"
    return Stage(
        name,
        ["bash", "-c", f'{have} && {either}; {chosen} exec "$c2f" {shlex.join(command)}'],
        limit_s,
        gpu=gpu,
        after=("install",),
        env={**plan.environment(), "C2F_CHECKOUT": str(plan.root)},
    )


def _absent(plan: Plan, installed: str, op: str, backend: str) -> Callable[[], str]:
    """Why the tests of a backend of an op are left out: this version does not have it.

    One that it has and that cannot run here is no such reason: its tests run, and fail.
    """

    def reason() -> str:
        try:
            table = json.loads((plan.work / f"{installed}.done").read_text())
        except (OSError, ValueError):
            return ""
        return ABSENT if table[op].get(backend, [False, ABSENT])[1] == ABSENT else ""

    return reason


def _no_file(path: str) -> str:
    """Why nothing is measured on it."""
    return "" if Path(path).exists() else f"no {path}; set C2F_SHARED"


def _no_cupy() -> str:
    """Why nothing is compiled when first needed: its loader launches through CuPy."""
    return "" if importlib.util.find_spec("cupy") else "this Python has no CuPy"
