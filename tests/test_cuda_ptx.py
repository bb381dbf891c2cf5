"""The compiled CUDA kernels that count, executed without a GPU: answers, accesses, shared races.

The emulator of tests/cuda_on_host runs their source; this runs what NVRTC makes of it for sm_90,
instructions by name among it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import compare
import numpy as np
import pytest
import torch
from cuda_ptx import CudaMachine, CudaProgram
from ptx_machine import Buffer
from test_cuda_on_host import BUILD, build

from c2fcore import _cuda, _nvrtc
from c2fcore._classes import class_set
from c2fcore.testing import samples

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_cuda.on_host()), reason="runs in that process"),
]
SAMPLES = (
    *("special-x4-16-classes-float32", "special-x4-16-classes-float16", "blobs-wide"),
    *("logits-x4-ties", "nan-inf-taller", "logits-f16-channels_last", "labels-int16-planar"),
)


class Launches:
    """Stands for the launcher of _cuda_jit, and keeps what it is asked for."""

    def missing(self) -> str:
        return ""

    def __call__(
        self, op: str, name: str, blocks: int, threads: int, shared: int, *rest: int
    ) -> None:
        arguments, size, *_ = rest
        struct = ctypes.c_uint64.from_address(arguments).value
        self.kernel = _nvrtc.Kernel(op, name, size)
        self.launch = blocks, ctypes.string_at(struct, size), shared


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
    build("_cuda_jit_on_host")
    (path,) = BUILD.glob("_cuda_jit_on_host*.so")
    module, launches = _cuda.from_file(str(path)), Launches()
    module.set_launcher(launches)
    return module, launches


def _buffer(tensor: torch.Tensor) -> Buffer:
    storage = tensor.untyped_storage()
    place = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
    return Buffer("", np.frombuffer(place, np.uint8), storage.data_ptr())


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
    _, ptx = _nvrtc._compile(launches.kernel, "compute_90")
    buffers = [_buffer(tensor) for tensor in (seg, counts, *workspace.kept)]
    blocks, argument, shared = launches.launch
    machine = CudaMachine(CudaProgram(ptx.decode()), blocks, buffers, argument, shared)
    machine.run()
    assert not machine.races
    assert torch.equal(counts, want)
