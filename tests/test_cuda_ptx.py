"""The compiled CUDA kernels, executed without a GPU: answers, memory accesses, races.

The emulator of tests/cuda_on_host runs their source; this runs what NVRTC makes of it for sm_90,
instructions by name among it. C2F_CUDA_COMPILED=all runs every sample of every op (minutes),
C2F_SEEDS=FIRST:END those drawn from seeds besides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import compare
import numpy as np
import pytest
import torch
from cuda_compiled import Compiled, buffer_of
from cuda_ptx import CudaMachine, CudaProgram
from like_reference import assert_like_reference
from ptx_machine import Fault, _passes

from c2fcore import _cuda, ops
from c2fcore.testing import samples
from c2fcore.testing.agree import assert_agrees
from c2fcore.testing.samples import Sample

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_cuda.on_host()), reason="runs in that process"),
]
COUNTS = (
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
    *("wide-official-float16", "bfloat16-labels", "full-channels_last-f16", "many-windows"),
)
PROBS = (
    *("paper-probs-overlaps", "normalized-probs-nan-inf-fine", "official-probs-two-channels"),
    *("bfloat16-probs", "every-class-paper-probs", "256-classes"),
    *("wide-normalized-probs-2-classes", "wide-paper-probs-7-classes"),
)


def _chosen(op: str) -> list[Sample]:
    names = {"count_windows": COUNTS, "aggregate": (*LABELS, *PROBS)}.get(op)
    if os.environ.get("C2F_CUDA_COMPILED") == "all":
        return samples.of(op)
    if names is None:  # the largest takes seconds
        return [sample for sample in samples.of(op) if sample.name != "large"]
    return [samples.get(op, name) for name in names]


CASES = [(op, sample) for op in samples.OPS for sample in _chosen(op)]
CASES += [(op, sample) for op in samples.OPS for sample in compare.drawn(op, range(0))]


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    pytest.importorskip("cupy.cuda", reason="needs CuPy (pip install 'c2fcore[cuda13]')")
    return Compiled()


@pytest.fixture
def machine(compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiled]:
    """Backend "cuda" runs on CPU tensors, by the machine."""
    compiled.install(monkeypatch)
    compiled.races.clear()
    yield compiled
    _cuda.missing.cache_clear()


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("op", "sample"), CASES, ids=[f"{op}-{s}" for op, s in CASES])
def test_compiled_sample(machine: Compiled, op: str, sample: Sample) -> None:
    assert_like_reference(op, sample, "cuda")
    assert not machine.races


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("name", LABELS)
def test_merging_given_labels(machine: Compiled, name: str) -> None:
    sample = samples.get("aggregate", name)
    coarse, fine, windows, classes = sample.args()
    size = sample.options.get("size", coarse.shape[-2:])
    grid = {"window": 1, "stride": 1, "n": 1, "size": size, "backend": "reference"}
    _, labels = ops.select_windows(coarse, classes, **grid, _return_labels=True)
    options = {**sample.options, "backend": "cuda"}
    got = ops.aggregate(coarse, fine, windows, classes, **options, _labels=labels)
    assert_agrees("aggregate", sample, got, compare.call("aggregate", sample, "reference"))
    assert not machine.races


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
    machine = CudaMachine(CudaProgram(ptx, "p"), 1, [buffer_of(memory)], argument, 16)
    with pytest.raises(Fault, match=address + r" is no multiple of the \d+ bytes accessed"):
        machine.run()


def test_instructions_are_counted_warp_by_warp() -> None:
    """Of two warps one is apart for one instruction; a false predicate saves none.

    A division counts as many.
    """
    ptx = """.entry p()
.maxntid 64, 1, 1
{
mov.u32 %r1, %tid.x;
setp.lt.u32 %p1, %r1, 40;
@%p1 bra $both;
add.u32 %r1, %r1, 1;
$both:
@%p1 add.u32 %r1, %r1, 1;
@!%p1 add.u32 %r1, %r1, 1;
div.u32 %r1, %r1, 3;
ret;
}"""
    machine = CudaMachine(CudaProgram(ptx, "p"), 3, [], b"", 16, watched=False)
    machine.run()
    assert machine.issued == 3 * (2 * 3 + 1 + 2 * 3 + 2 * 20)


@pytest.mark.parametrize(
    ("space", "size", "step", "wanted"),
    [
        ("global", 4, 4, 1),  # neighbours
        ("global", 16, 16, 4),
        ("global", 4, 128, 32),  # a line each
        ("global", 1, 0, 1),  # all the same
        ("shared", 4, 4, 1),
        ("shared", 4, 0, 1),
        ("shared", 4, 8, 2),  # every second bank
        ("shared", 4, 128, 32),  # one bank
        ("shared", 2, 2, 1),  # two lanes a word
        ("shared", 16, 16, 4),
        ("shared", 8, 8, 2),
        ("shared", 8, 16, 4),  # of 16 lanes two each meet in a bank
    ],
)
def test_passes_of_an_access(space: str, size: int, step: int, wanted: int) -> None:
    lanes = np.arange(32)
    assert _passes(space, 4096 + step * lanes, lanes, size) == wanted
    twice = np.arange(64)  # warps one after the other, whatever each of them asks for
    assert _passes(space, 4096 + step * (twice % 32), twice, size) == 2 * wanted
