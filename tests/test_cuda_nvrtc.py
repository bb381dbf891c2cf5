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
CASES = [  # architecture, header, an instantiation of every kind
    (80, "windows", f"c2f::cuda::windows_kernel<float, 16, {KIND}::kUpsampled>"),
    (90, "windows", f"c2f::cuda::windows_kernel<c2f::F16, 0, {KIND}::kOwnSize>"),
    (90, "windows", f"c2f::cuda::windows_kernel<unsigned char, 0, {KIND}::kLabels>"),
    (80, "extract_patches", "c2f::cuda::extract_patches_kernel<unsigned char, 2>"),
    (90, "extract_patches", "c2f::cuda::extract_patches_kernel<c2f::BF16, 4>"),
    (90, "extract_patches_backward", "c2f::cuda::extract_patches_backward_kernel<float>"),
    (80, "extract_targets", "c2f::cuda::extract_targets_kernel<short>"),
    (80, "aggregate", "c2f::cuda::aggregate_labels_kernel<float, 16>"),
    (90, "aggregate", "c2f::cuda::aggregate_probs_kernel<16>"),
    (90, "aggregate", "c2f::cuda::aggregate_probs_any_kernel"),
]


@pytest.mark.parametrize(("sm", "header", "name"), CASES)
def test_compiles(sm: int, header: str, name: str) -> None:
    program = nvrtc.createProgram(f'#include "cuda/{header}.cuh"\n', "c2fcore.cu", (), ())
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
