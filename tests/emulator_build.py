"""Compiles tests/cuda_on_host: the emulator of the CUDA kernels, and what goes with it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "cuda_on_host"


def run(command: list[str], **environment: str) -> None:
    """From the root of the repository; what it says is the failure."""
    done = subprocess.run(
        command, cwd=HERE.parent, env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]


@cache
def path_of(name: str) -> str:
    """_cuda_on_host, _cuda_jit_on_host or libcuda, compiled anew where sources are newer."""
    _build()
    return str(next(path for path in sorted(BUILD.glob(f"{name}.*")) if not path.is_symlink()))


@cache
def _build() -> None:
    pybind11 = pytest.importorskip("pybind11")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if not any(shutil.which(name, path=path) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler")
    cmake = shutil.which("cmake", path=path)
    if cmake is None:
        pytest.skip("no cmake")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes test
        if not (BUILD / "CMakeCache.txt").exists():
            options = [
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                *(["-GNinja"] if shutil.which("ninja", path=path) else []),
            ]
            run([cmake, "-S", str(HERE / "cuda_on_host"), "-B", str(BUILD), *options], PATH=path)
        run([cmake, "--build", str(BUILD), "--parallel", str(os.cpu_count() or 1)], PATH=path)
