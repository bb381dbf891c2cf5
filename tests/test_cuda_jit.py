"""The second loader: glue without kernels, which are compiled and launched by their names.

What NVRTC makes of them: test_cuda_nvrtc.py. Their answers, with the emulator in the place of the
GPU: test_cuda_on_host.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import emulator_build
import pytest
import torch

from c2fcore import _cuda, _native, _nvrtc
from c2fcore._nvrtc import Kernel, Launcher

pytestmark = pytest.mark.skipif(bool(_cuda.on_host()), reason="the emulator takes its place")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def module() -> Any:
    """The glue without kernels."""
    loaded, reason = _native.load("_cuda_jit", "cpu")
    if loaded is None:
        assert reason.startswith("not built"), "what is built has to load"
        pytest.skip(reason)
    return loaded


@pytest.fixture
def nvrtc() -> Any:
    cuda = pytest.importorskip("cupy.cuda", reason="needs CuPy (pip install 'c2fcore[cuda13]')")
    return cuda.nvrtc


# The module.


def test_loads_alone_and_asks_for_nothing_of_cuda(module: Any) -> None:
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('_cuda_jit', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "assert 'torch' not in sys.modules and 'cupy' not in sys.modules\n"
        "print(module.missing())\n"
    )
    command = [sys.executable, "-I", "-c", code, module.__file__]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "no launcher is set"
    needed = subprocess.run(["ldd", module.__file__], text=True, capture_output=True, check=True)
    assert "libcu" not in needed.stdout


@pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="the source tree is not here")
def test_its_sources_include_no_header_of_cuda() -> None:
    listed = (ROOT / "cmake" / "cuda_sources.cmake").read_text().split("C2F_CUDA_KERNELS")[0]
    glue = [word.rstrip(")") for word in listed.split() if word.startswith("csrc/")]
    headers = [*(ROOT / "csrc").rglob("*.h"), *(ROOT / "kernels").rglob("*.h")]
    assert len(glue) > 8
    for path in [*(ROOT / name for name in glue), ROOT / "csrc/cuda/launch_jit.cpp", *headers]:
        for line in path.read_text().splitlines():
            assert not line.startswith("#include <cu"), f"{path}: {line}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_its_tensors_are_those_of_a_gpu(module: Any) -> None:
    counts = torch.zeros(1, 7, 7, dtype=torch.int32)
    seg = torch.zeros(1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="count_windows: seg must be on a GPU, got cpu"):
        module.count_windows(seg, bytes(256), 8, 8, 2, 1, True, counts, None, None)


# Which module is taken.


class Module:
    """Stands for a compiled module."""

    def __init__(self, name: str) -> None:
        self.name, self.launcher = name, None

    def set_launcher(self, launcher: Any) -> None:
        self.launcher = launcher


@pytest.mark.parametrize(
    ("wanted", "built", "jit_missing", "taken"),
    [
        ("", "", "", "_cuda_prebuilt"),
        ("", "", "no CuPy", "_cuda_prebuilt"),
        ("1", "", "", "_cuda_jit"),
        ("", "not built: no nvcc", "", "_cuda_jit"),
        ("", "not built: no nvcc", "no CuPy", "not built: no nvcc; .* when needed: no CuPy"),
        ("1", "", "no CuPy", "C2F_JIT=1 leaves out those that were built; .*: no CuPy"),
    ],
)
def test_which_module_is_taken(
    wanted: str, built: str, jit_missing: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, backend: str) -> Any:
        if name == "_cuda_prebuilt" and built:
            return _native.Native(None, built)
        return _native.Native(Module(name), "")  # type: ignore[arg-type]

    monkeypatch.setenv("C2F_JIT", wanted)
    monkeypatch.setattr(_native, "load", load)
    monkeypatch.setattr(_nvrtc, "missing", lambda: jit_missing)
    found, reason = _cuda._load.__wrapped__()
    if taken.startswith("_cuda"):
        assert reason == ""
        assert found.name == taken
        assert isinstance(found.launcher, Launcher) == (taken == "_cuda_jit")
    else:
        assert found is None
        assert re.match(taken, reason), reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_why_nothing_can_be_compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    torch_cuda = (torch.version.cuda or "13").split(".")[0]
    assert _nvrtc.missing() == f"CuPy is not installed: pip install 'c2fcore[cuda{torch_cuda}]'"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_why_nothing_can_be_launched_here(module: Any, nvrtc: Any) -> None:
    said = _nvrtc.missing()
    assert said.startswith("CuPy sees no CUDA device: cuda"), said
    try:
        module.set_launcher(Launcher(_nvrtc.Cupy, _nvrtc.compiled))
        assert module.missing() == said
    finally:
        module.set_launcher(None)


# Launching.


class Refused(Exception):
    """An error of CUDA's."""


class Gpu:
    """Stands for CuPy: writes down what it is asked for."""

    Error = (Refused,)

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.current, self.refuses = 5, False

    def enter(self, device: int) -> int:
        before, self.current = self.current, device
        return before

    def leave(self, before: int) -> None:
        self.current = before

    def capability(self, device: int) -> int:
        return 80 + 10 * device

    def load(self, code: bytes, name: str) -> int:
        self.calls.append(("load", self.current, code, name))
        return len(self.calls)

    def allow_shared(self, function: int, size: int) -> None:
        self.calls.append(("shared", function, size))

    def launch(self, *arguments: int) -> None:
        if self.refuses:
            raise Refused("CUDA_ERROR_INVALID_VALUE: invalid argument\nmore")
        self.calls.append(("launch", self.current, *arguments))


def compile_at_once(kernel: Kernel, capability: int) -> tuple[str, bytes]:
    return f"_{kernel.name}", f"{capability} {kernel.bytes}".encode()


def launcher() -> tuple[Launcher, Gpu]:
    gpu = Gpu()
    return Launcher(lambda: gpu, compile_at_once), gpu


def test_the_limit_of_shared_memory_never_falls() -> None:
    """It is the function's: another thread may have raised it and not launched yet."""
    start, gpu = launcher()
    for shared in (70_000, 60_000, 70_000, 80_000):
        start("op", "kernel<int>", 7, 256, shared, 0xA0, 24, 0, 0xB0)
    assert [call[2] for call in gpu.calls if call[0] == "shared"] == [70_000, 80_000]
    assert [call[5] for call in gpu.calls if call[0] == "launch"] == [
        70_000,
        60_000,
        70_000,
        80_000,
    ]


def test_a_launch() -> None:
    """Loaded once per device, started with what the glue says; the device is left as it was."""
    start, gpu = launcher()
    for device, shared in ((1, 0), (1, 46 << 10), (0, (46 << 10) + 16)):
        start("op", "kernel<int>", 7, 256, shared, 0xA0, 24, device, 0xB0)
    assert gpu.calls == [
        ("load", 1, b"90 24", "_kernel<int>"),
        ("launch", 1, 1, 7, 256, 0, 0xB0, 0xA0),
        ("launch", 1, 1, 7, 256, 46 << 10, 0xB0, 0xA0),
        ("load", 0, b"80 24", "_kernel<int>"),
        ("shared", 4, (46 << 10) + 16),
        ("launch", 0, 4, 7, 256, (46 << 10) + 16, 0xB0, 0xA0),
    ]
    assert gpu.current == 5


def test_a_launch_that_cuda_refuses() -> None:
    start, gpu = launcher()
    gpu.refuses = True
    with pytest.raises(RuntimeError, match=r"^op: k: CUDA_ERROR_INVALID_VALUE: invalid argument$"):
        start("op", "k", 1, 32, 0, 0, 8, 0, 0)
    assert gpu.current == 5
    with pytest.raises(RuntimeError, match="op: k: more blocks than a launch can have, got 2147"):
        start("op", "k", 2**31, 32, 0, 0, 8, 0, 0)


def test_threads_wait_for_one_compilation() -> None:
    gpu, begun = Gpu(), threading.Barrier(4)
    compiled = []

    def compile_slowly(kernel: Kernel, capability: int) -> tuple[str, bytes]:
        compiled.append(kernel.name)
        threading.Event().wait(0.05)
        return compile_at_once(kernel, capability)

    start = Launcher(lambda: gpu, compile_slowly)

    def call() -> None:
        begun.wait()
        start("op", "k", 1, 32, 0, 0, 8, 0, 0)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(call) for _ in range(4)]:
            future.result()
    assert compiled == ["k"]
    assert [call[0] for call in gpu.calls] == ["load", *["launch"] * 4]


_ON_THE_DOUBLE = """
import ctypes, pathlib, sys
from c2fcore import _nvrtc
gpu = _nvrtc.Cupy()
function = gpu.load(pathlib.Path("code").read_bytes(), sys.argv[1])
gpu.allow_shared(function, 60000)
struct = (ctypes.c_ubyte * 4)(1, 2, 254, 255)
arguments = (ctypes.c_void_p * 1)(ctypes.addressof(struct))
gpu.launch(function, 70000, 256, 60000, 0xABC, ctypes.addressof(arguments))
"""


@pytest.mark.slow
def test_what_cupy_asks_of_the_driver(
    nvrtc: Any, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy's own calls, with NVRTC's own machine code, on a driver that writes them down."""
    monkeypatch.setenv("C2F_CACHE_DIR", str(tmp_path / "cache"))
    kernels = map(Kernel._make, module.kernels())
    name, code = _nvrtc.compiled(next(k for k in kernels if k.op == "extract_targets"), 90)
    (tmp_path / "code").write_bytes(code)
    (tmp_path / "libcuda.so.1").symlink_to(emulator_build.path_of("libcuda"))
    calls = tmp_path / "calls"
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{tmp_path}{os.pathsep}{os.environ.get('LD_LIBRARY_PATH', '')}",
        "C2F_DRIVER_CALLS": str(calls),
        "C2F_ARGUMENT_BYTES": "4",
    }
    command = [sys.executable, "-c", _ON_THE_DOUBLE, name]
    done = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert calls.read_text().splitlines() == [
        "load \x7fELF",
        f"function {name}",
        f"attribute {name} 8 60000",
        f"launch {name} (70000 1 1) (256 1 1) 60000 0xabc 0 0102feff",
    ]
