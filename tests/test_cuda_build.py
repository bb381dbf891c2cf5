"""The module that nvcc compiles, on any machine: it loads, says why it cannot run, spills nothing.

Skipped where the build left it out; `make test` compiles it wherever nvcc is found.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cuda_resources
import cuda_table
import pytest
import torch

import c2fcore
from c2fcore import _cuda, _native, _triton, ops
from c2fcore.testing import samples

SEG = torch.zeros(1, 8, 8, dtype=torch.uint8)

pytestmark = pytest.mark.skipif(bool(_cuda.on_host()), reason="the emulator takes its place")


@pytest.fixture(scope="module")
def module() -> str:
    """Path of the module."""
    loaded, reason = _native.load("_cuda_prebuilt", "cuda")
    if loaded is None:
        pytest.skip(reason)
    assert loaded.__file__ is not None
    return loaded.__file__


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_reason_without_a_gpu() -> None:
    """Whether it was built or not: the table and the error say the same."""
    for op in samples.OPS:
        ok, reason = c2fcore.backends()[op]["cuda"]
        assert not ok
        assert "driver" in reason or "device" in reason or "not built" in reason
    with pytest.raises(RuntimeError, match="backend 'cuda' cannot run here") as caught:
        ops.count_windows(SEG, (1,), window=2, stride=1, backend="cuda")
    assert c2fcore.backends()["count_windows"]["cuda"][1] in str(caught.value)


def test_loads_alone_and_without_cuda_libraries(module: str) -> None:
    """No torch, no driver, and nothing of CUDA's to find: the runtime is inside."""
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('_cuda_prebuilt', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "assert 'torch' not in sys.modules\n"
        "print(type(module.missing()).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, module], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "str"
    needed = subprocess.run(["ldd", module], text=True, capture_output=True, check=True).stdout
    assert "libcud" not in needed


def test_refuses_cpu_tensors(module: str) -> None:
    """The launch guards memory by itself, whatever Python checked."""
    loaded = _native.load("_cuda_prebuilt", "cuda").module
    counts = torch.zeros(1, 7, 7, dtype=torch.int32)
    with pytest.raises(ValueError, match="count_windows: seg must be on a GPU, got cpu"):
        loaded.count_windows(SEG, bytes(256), 8, 8, 2, 1, True, counts, None, None)


@pytest.fixture(scope="module")
def tool() -> Path:
    found = cuda_resources.cuobjdump()
    if found is None:
        pytest.skip("no cuobjdump: triton brings one")
    return found


def test_no_spills_and_no_stack(module: str, tool: Path) -> None:
    found = cuda_resources.usage(tool, module)
    assert found
    for kernel in found:
        assert kernel.stack == 0, kernel
        assert kernel.local == 0, kernel
        assert kernel.shared <= 48 << 10, kernel
        if kernel.kernel.startswith("windows_kernel"):  # which has dynamic shared memory, too
            assert kernel.shared <= 3 << 10, kernel  # 1 KiB of it is the system's
    per_architecture = {sm: sum(k.sm == sm for k in found) for sm in {k.sm for k in found}}
    assert len(set(per_architecture.values())) == 1, per_architecture


def test_the_committed_table(module: str, tool: Path) -> None:
    """benchmarks/results/cuda-kernels.md is of these kernels.

    Another compiler finds other registers: of those only names, architectures and stacks are
    compared, of modules for fewer architectures only these.
    """
    written = cuda_table.TABLE.read_text(encoding="utf-8").splitlines()
    now = list(cuda_table.lines(tool, module))
    same = any(f"nvcc {cuda_resources.compiler(module)} " in line for line in written)
    architectures = {str(kernel.sm) for kernel in cuda_resources.usage(tool, module)}

    def rows(lines: list[str]) -> list[list[str]]:
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        kept = [row for row in cells if len(row) == 6 and row[1] in architectures]
        return kept if same else [[*row[:2], row[5]] for row in kept]

    assert rows(written) == rows(now), "run benchmarks/cuda_table.py"


# What reads or writes global memory, or may lead past the wait.
TOO_EARLY = (
    "LD",
    "LDG",
    "LDGSTS",
    "ST",
    "STG",
    "ATOM",
    "ATOMG",
    "RED",
    "BRA",
    "BRX",
    "CALL",
    "EXIT",
)


@pytest.mark.skipif(bool(_triton.unfit()), reason=_triton.unfit())
def test_the_committed_launches() -> None:
    """Those of benchmarks/results/cuda-kernels.md are today's; what fits is by its first part."""
    written = cuda_table.TABLE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in written]
    compiled = [
        cuda_resources.Usage(int(sm), kernel, int(registers), int(stack), int(shared), 0)
        for kernel, sm, registers, _, shared, stack in (row for row in cells if len(row) == 6)
        if sm.isdigit()
    ]
    now = list(cuda_table.launch_lines(compiled))
    assert written[-len(now) :] == now, "run benchmarks/cuda_table.py"


@pytest.mark.slow
def test_kernels_launched_early_wait_first(module: str, tool: Path) -> None:
    """A kernel that starts before its predecessor ends touches nothing of its before (gpu.cuh)."""
    found = cuda_resources.beginnings(tool, module, 90)
    early = {name: code for name, code in found.items() if name.startswith("windows_kernel")}
    assert len(early) > 30
    for name, code in early.items():
        assert "ACQBULK" in code, name  # griddepcontrol.wait
        before = {each.split(".")[0] for each in code[: code.index("ACQBULK")]}
        assert not before & set(TOO_EARLY), name


def test_architectures(module: str, tool: Path) -> None:
    code, ptx = cuda_resources.architectures(tool, module)
    assert 90 in code
    assert ptx <= code
    assert ptx
