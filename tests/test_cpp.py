"""kernels/common and vectors of kernels/cpu from C++ (tests/cpp), run by ctest; read by nvcc."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tests" / "cpp"
# Tools that came with the environment, then those of the machine.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _run(*command: str) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": PATH},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def _ctest(folder: Path, *options: str) -> None:
    cmake, ctest = shutil.which("cmake", path=PATH), shutil.which("ctest", path=PATH)
    if cmake is None or ctest is None:
        pytest.skip("no cmake")
    generator = ["-GNinja"] if shutil.which("ninja", path=PATH) else []
    _run(cmake, "-S", str(SOURCE), "-B", str(folder), *generator, *options)
    _run(cmake, "--build", str(folder))
    _run(ctest, "--test-dir", str(folder), "--output-on-failure", "--no-tests=error")


def test_by_ctest(tmp_path: Path) -> None:
    if not any(shutil.which(name, path=PATH) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler")
    _ctest(tmp_path)


def test_by_ctest_on_arm(tmp_path: Path) -> None:
    """NEON, emulated where the processor is another one."""
    compiler = shutil.which("aarch64-linux-gnu-g++", path=PATH)
    emulator = shutil.which("qemu-aarch64-static", path=PATH) or shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user-static (Debian's names)")
    _ctest(
        tmp_path,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        # Not -static: Debian's libubsan.a wants what was linked before it.
        f"-DCMAKE_CROSSCOMPILING_EMULATOR={emulator};-L;/usr/aarch64-linux-gnu",
    )


@pytest.mark.slow
def test_nvcc_reads_it(tmp_path: Path) -> None:
    """As host and as device code, without a warning."""
    nvcc = shutil.which("nvcc", path=PATH)
    if nvcc is None:
        pytest.skip("no nvcc")
    includes = [f'#include "{path}"' for path in sorted((ROOT / "kernels" / "common").glob("*.h"))]
    unit = tmp_path / "common.cu"
    unit.write_text(
        "\n".join(
            [
                *includes,
                f'#include "{SOURCE / "test_common.cpp"}"',
                "__global__ void device_side(float* out, long long i) {",
                "  const c2f::CubicTap cubic = c2f::cubic_tap(i, 0.5f, 8);",
                "  const c2f::BilinearTap tap = c2f::bilinear_tap(i, 0.25f, 4);",
                "  c2f::GroupBest best;",
                "  best.add(0, true, c2f::to_float(c2f::to_f16(out[0])));",
                "  out[1] = cubic.w[0] + tap.w1 + c2f::addition_of(best, out[2]).value;",
                "}",
            ]
        )
    )
    target = ["-std=c++17", "-fmad=false", "-Werror", "all-warnings", "-arch=sm_90"]
    _run(nvcc, *target, "--ptx", str(unit), "-o", str(tmp_path / "common.ptx"))
