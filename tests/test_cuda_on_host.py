"""The CUDA kernels on the CPU: an op's own tests, where backend "cuda" is an emulator.

tests/cuda_on_host compiles kernels/cuda with a C++ compiler; its emulator runs the threads of a
block as fibers, in varying order, and fails where threads meet in different barriers or not at all.
All tests of one op:

    C2F_CUDA_ON_HOST=build/cuda_on_host/<module> pytest tests/test_count_windows.py --backend cuda
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "cuda_on_host"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(os.environ.get("C2F_CUDA_ON_HOST")), reason="runs in that process"),
]

OPS = ("count_windows", "select_windows")


def _run(command: list[str], **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=HERE.parent,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.fixture(scope="module")
def module() -> str:
    """Path of the emulator's module, compiled where sources are newer."""
    pybind11 = pytest.importorskip("pybind11")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if not any(shutil.which(name, path=path) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler")
    cmake = shutil.which("cmake", path=path)
    if cmake is None:
        pytest.skip("no cmake")
    if not (BUILD / "CMakeCache.txt").exists():
        options = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *(["-GNinja"] if shutil.which("ninja", path=path) else []),
        ]
        _run([cmake, "-S", str(HERE / "cuda_on_host"), "-B", str(BUILD), *options], PATH=path)
    _run([cmake, "--build", str(BUILD), "--parallel", str(os.cpu_count() or 1)], PATH=path)
    (found,) = BUILD.glob("_cuda_on_host*.so")
    return str(found)


@pytest.mark.parametrize("op", OPS)
def test_samples_of(op: str, module: str) -> None:
    _run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *(str(HERE / f"test_{op}.py"), "--backend", "cuda"),
        ],
        C2F_CUDA_ON_HOST=module,
        C2F_REQUIRE="cuda",
    )
