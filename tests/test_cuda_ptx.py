"""The compiled CUDA kernels that label pixels, executed without a GPU: answers, accesses, races.

The emulator of tests/cuda_on_host runs their source; this runs what NVRTC makes of it for sm_90,
instructions by name among it.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import compare
import emulator_build
import numpy as np
import pytest
import torch
from cuda_launches import Launches
from cuda_ptx import CudaMachine, CudaProgram
from ptx_machine import Buffer, Fault

from c2fcore import _cuda, _nvrtc
from c2fcore._classes import class_set
from c2fcore.ops import select_windows
from c2fcore.testing import samples
from c2fcore.testing.agree import assert_agrees

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_cuda.on_host()), reason="runs in that process"),
]
SAMPLES = (
    *("special-x4-16-classes-float32", "special-x4-16-classes-float16", "blobs-wide"),
    *("special-x4-16-classes-bfloat16", "special-x4-channels_last-bfloat16"),
    *("special-x4-channels_last-float16", "logits-x4-ties", "nan-inf-taller"),
    *("logits-f16-channels_last", "labels-int16-planar", "inf-beside-the-border-float16"),
    *("special-own-size-36-float16", "special-own-size-35-float16"),
    *("ties-own-size-channels_last-float16", "noise-own-size", "planar-of-8-x2"),
    *("special-wider-5-columns", "special-wider-7-columns", "logits-flush-on-a-cut"),
)
LABELS = (
    *("paper-labels-nan-inf-fine", "wide-overlaps", "wide-num-0-of-one", "wide-odd-sizes"),
    *("wide-official-float16", "bfloat16-labels", "full-channels_last-f16"),
)


class Workspace(_cuda.Workspace):
    """Memory that is known afterwards."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.kept: list[torch.Tensor] = []

    def scratch(self, name: str, count: int) -> torch.Tensor:
        self.kept.append(torch.full((count,), 0xCD, dtype=torch.uint8))
        return self.kept[-1]

    def tickets(self, count: int) -> torch.Tensor:
        self.kept.append(torch.zeros(count, dtype=torch.int32))
        return self.kept[-1]


@pytest.fixture(scope="module")
def glue() -> Any:
    """The glue of _cuda_jit, for tensors on the CPU, and what it launches."""
    path = emulator_build.path_of("_cuda_jit_on_host")
    module, launches = _cuda.from_file(path), Launches()
    module.set_launcher(launches)
    return module, launches


def _buffer(tensor: torch.Tensor) -> Buffer:
    storage = tensor.untyped_storage()
    place = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
    return Buffer("", np.frombuffer(place, np.uint8), storage.data_ptr())


@cache
def _program(kernel: _nvrtc.Kernel) -> CudaProgram:
    """What NVRTC makes of it."""
    name, ptx = _nvrtc._compile(kernel, "compute_90")
    return CudaProgram(ptx.decode(), name)


def _execute(launches: Launches, *tensors: torch.Tensor) -> None:
    """The kernel that was launched."""
    blocks, argument, shared = launches.launch
    buffers = [_buffer(tensor) for tensor in tensors]
    machine = CudaMachine(_program(launches.kernel), blocks, buffers, argument, shared)
    machine.run()
    assert not machine.races


@pytest.mark.parametrize("name", SAMPLES)
def test_counts(name: str, glue: Any) -> None:
    pytest.importorskip("cupy.cuda", reason="needs CuPy (pip install 'c2fcore[cuda13]')")
    module, launches = glue
    sample = samples.get("count_windows", name)
    want = compare.call("count_windows", sample, "reference")
    seg, classes = sample.args("cpu")
    height, width = sample.options.get("size", seg.shape[-2:])
    counts, workspace = torch.full_like(want, -1), Workspace()
    grid = (height, width, sample.options["window"], sample.options["stride"], True)
    module.count_windows(seg, class_set(classes).table, *grid, counts, None, workspace)
    _execute(launches, seg, counts, *workspace.kept)
    assert torch.equal(counts, want)


@pytest.mark.parametrize("given", [False, True], ids=["found", "given"])
@pytest.mark.parametrize("name", LABELS)
def test_labels(name: str, given: bool, glue: Any) -> None:
    pytest.importorskip("cupy.cuda", reason="needs CuPy (pip install 'c2fcore[cuda13]')")
    module, launches = glue
    sample = samples.get("aggregate", name)
    want = compare.call("aggregate", sample, "reference")
    coarse, fine, windows, classes = sample.args("cpu")
    height, width = sample.options.get("size", coarse.shape[-2:])
    rule, workspace = sample.options.get("rule", "paper"), Workspace()
    labels = torch.full_like(want, 255)
    if given:
        _, labels = select_windows(
            coarse,
            classes,
            window=1,
            stride=1,
            n=1,
            size=(height, width),
            _return_labels=True,
            backend="reference",
        )
    of_windows = windows.origins, windows.num, windows.window
    table = class_set(classes).table
    module.aggregate(
        *(coarse, fine, *of_windows, table, height, width, rule, labels, given, workspace)
    )
    _execute(launches, coarse, fine, windows.origins, windows.num, labels)
    assert_agrees("aggregate", sample, labels, want)


@pytest.mark.parametrize(
    ("access", "address"),
    [
        ("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd1+8]", "global address 0x[0-9a-f]+8"),
        ("st.global.v2.u64 [%rd1+8], {%rd2, %rd3}", "global address 0x[0-9a-f]+8"),
        ("st.shared.v2.b32 [%r1+4], {%r2, %r3}", "shared address 0x4"),
        ("ld.shared.u16 %rs1, [%r1+1]", "shared address 0x1"),
    ],
)
def test_misaligned_accesses_are_refused(access: str, address: str) -> None:
    ptx = f".entry p()\n.maxntid 32, 1, 1\n{{\nld.param.u64 %rd1, [p_param_0];\n{access};\nret;\n}}"
    memory = torch.zeros(16, dtype=torch.int32)
    argument = memory.data_ptr().to_bytes(8, "little")
    machine = CudaMachine(CudaProgram(ptx, "p"), 1, [_buffer(memory)], argument, 16)
    with pytest.raises(Fault, match=address + r" is no multiple of the \d+ bytes accessed"):
        machine.run()
