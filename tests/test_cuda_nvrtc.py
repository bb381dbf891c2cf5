"""The kernels compile at run time, too: NVRTC through CuPy, for GPUs that are not here.

NVRTC has no C++ headers: kernels/cuda/nvrtc holds what the kernels need of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import c2fcore.kernels

cuda = pytest.importorskip("cupy.cuda", reason="needs CuPy (pip install 'c2fcore[cuda13]')")
nvrtc = cuda.nvrtc

pytestmark = pytest.mark.slow

KERNELS = Path(c2fcore.kernels.__file__).parent
KIND = "c2f::cuda::CellKind"
CASES = [  # architecture, an instantiation of every kind
    (80, f"c2f::cuda::windows_kernel<float, 16, {KIND}::kUpsampled>"),
    (90, f"c2f::cuda::windows_kernel<c2f::F16, 0, {KIND}::kOwnSize>"),
    (90, f"c2f::cuda::windows_kernel<unsigned char, 0, {KIND}::kLabels>"),
]


@pytest.mark.parametrize(("sm", "name"), CASES)
def test_compiles(sm: int, name: str) -> None:
    program = nvrtc.createProgram('#include "cuda/windows.cuh"\n', "c2fcore.cu", (), ())
    nvrtc.addNameExpression(program, name)
    options = (
        *("-std=c++17", "-fmad=false", "-default-device", f"-arch=sm_{sm}"),
        *(f"-I{KERNELS}", f"-I{KERNELS / 'cuda' / 'nvrtc'}"),
    )
    try:
        nvrtc.compileProgram(program, options)
        log = nvrtc.getProgramLog(program)
        assert "warning" not in log, log
        assert nvrtc.getLoweredName(program, name)
        assert nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)
