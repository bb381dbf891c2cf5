"""Writes benchmarks/results/instructions.md: how much the kernels of both GPU backends execute.

    python benchmarks/instructions.py                               # some minutes
    python benchmarks/instructions.py aggregate --backend triton    # prints rows, writes nothing

Kernels are compiled for sm_90 and executed without a GPU, by the machine of the tests, which counts
instructions of PTX. Launches are those that are planned for the whole call; where its blocks are
alike, only the first of them are executed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import cuda_compiled
import triton_compiled
from kernel_table import ROWS, backward_bytes, merge_bytes, patches_bytes, windows_bytes
from triton_cases import AnyCase, Case, MergeCase, PatchCase, arguments, launches_of, plan

from c2fcore import ops
from c2fcore.testing.samples.inputs import generator, grid_logits

TABLE = Path(__file__).parent / "results" / "instructions.md"
BACKENDS = ("triton", "cuda")
SMALL = (1, 8, 9)
CLOCK = 1.755e9  # of an H200, Hz
MULTIPROCESSORS = 132  # a pass of a warp's memory access each, every clock
SCHEDULERS = MULTIPROCESSORS * 4  # an instruction of a warp each, every clock
COPY = 4.3e12  # bytes a second
FLOORS = {
    **dict.fromkeys(("count_windows", "select_windows"), windows_bytes),
    **dict.fromkeys(("extract_patches", "extract_targets"), patches_bytes),
    "extract_patches_backward": backward_bytes,
    "aggregate": merge_bytes,
}


class Input(NamedTuple):
    """A call, and how much of it is executed.

    Attributes:
        name: as in the table.
        case: the call.
        fine: answers of the fine network: "random", those that "agree" with the labels, "none".
        part: the first of so many parts of the blocks are executed.
    """

    name: str
    case: AnyCase
    fine: str = "random"
    part: int = 1

    def outputs(self) -> tuple[int, str]:
        """How many the executed part of the call makes, and of what."""
        op, tensors = self.case.op, [a for a in arguments(self.case) if isinstance(a, Tensor)]
        if isinstance(self.case, Case):
            return self.case.full**2 // self.part, "pixels"
        # What comes in first, or goes out last.
        count = tensors[0 if op == "extract_patches_backward" else -1].numel() // self.part
        if isinstance(self.case, MergeCase):
            return count, "scores" if self.case.output == "probs" else "pixels"
        return count, "pixels" if op == "extract_targets" else "elements of patches"

    def floor(self) -> float:
        """Bytes of the executed part, each input read once and each output written once."""
        return FLOORS[self.case.op](self.case, plan(self.case)).floor / self.part


class Counts(NamedTuple):
    """What warps executed.

    Attributes:
        issued: instructions.
        passes: of these through the memory pipe.
    """

    issued: int
    passes: int


def counted(each: Input, backend: str) -> tuple[Counts, list[Any]]:
    """What a backend executes for an input; its arguments, afterwards."""
    args = filled(each)
    if backend == "cuda":
        cuda = cuda_compiled.Executed(each.part, watched=False)
        cuda.call(each.case.op, *args)
        return Counts(cuda.issued, cuda.passes), args
    triton = triton_compiled.Executed(90, each.part, watched=False)
    for launch in launches_of(each.case, args, _scratch):
        triton.run(launch)
    return Counts(triton.issued, triton.passes), args


def _scratch(name: str, dtype: torch.dtype, count: int) -> Tensor:
    return cuda_compiled.aligned(count * dtype.itemsize).view(dtype).zero_()


def _on_gpu(like: Tensor) -> Tensor:
    """Zeros of the same shape and strides that begin where a GPU's tensors do."""
    if not like.numel():
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    last = sum((n - 1) * step for n, step in zip(like.shape, like.stride(), strict=True))
    return _scratch("", like.dtype, last + 1).as_strided(like.shape, like.stride())


def filled(each: Input) -> list[Any]:
    """Arguments of a call. Sums of their contents are exact: answers are the same everywhere."""
    case, args = each.case, list(arguments(each.case))
    for i, arg in enumerate(args):
        if isinstance(arg, Tensor):
            args[i] = _on_gpu(arg)
    source = args[0]
    if source.dtype == torch.uint8:
        source.random_(256, generator=generator(0))
    elif case.op == "extract_patches_backward":
        source.copy_(grid_logits(source.shape, seed=0))
    else:
        source.copy_(_blobs(*source.shape))
    if isinstance(case, Case):
        return args
    origins, num = args[2:4] if isinstance(case, MergeCase) else args[1:3]
    along = case.full // case.window
    for i in range(case.n):  # side by side
        origins[0, i] = torch.tensor([i // along, i % along]) * case.window
    num.fill_(0 if each.fine == "none" else case.n)
    if isinstance(case, MergeCase):
        _fill_merge(each, args)
    return args


def _blobs(batch: int, classes: int, height: int, width: int) -> Tensor:
    """Logits of regions about 32 of them wide."""
    low = grid_logits((batch, classes, -(-height // 32), -(-width // 32)), seed=0, levels=129)
    high = torch.nn.functional.interpolate(low, scale_factor=32, mode="bilinear")
    return high[:, :, :height, :width]


def _fill_merge(each: Input, args: list[Any]) -> None:
    """The fine logits, and the labels, if they are given."""
    case, (coarse, fine, origins) = each.case, args[:3]
    _, labels = ops.select_windows(
        coarse, SMALL, window=case.full, stride=1, n=1, size=(case.full, case.full),
        backend="reference", _return_labels=True,
    )  # fmt: skip
    if case.given:
        args[9].copy_(labels)
    if each.fine != "agree":
        fine.copy_(grid_logits(fine.shape, seed=1, levels=33))
        return
    small = torch.isin(labels, torch.tensor(SMALL, dtype=torch.uint8))[0]
    for i, (y, x) in enumerate(origins[0].tolist()):
        window = small[y : y + case.window, x : x + case.window].float()[None, None]
        share = torch.nn.functional.avg_pool2d(window, case.window // case.side)[0, 0]
        fine[i] = torch.stack([2 - 4 * share, 4 * share - 2])


F16 = torch.float16
COUNT = Case(op="count_windows", labels=False, small=SMALL)
# Both backends' tiles fill whole rows of it, and whole parts of 48.
LARGE = COUNT._replace(low=1536, full=6144)
# More windows than a program of Triton's has registers for.
MANY = Case(dtype=torch.uint8, classes=0, low=2048, full=2048, labels=False, small=SMALL)
BACKWARD = PatchCase("extract_patches_backward", dtype=torch.float32, zoom=2.0, n=16, full=512)
LABELS = MergeCase(n=16, small=SMALL)
GIVEN = LABELS._replace(given=True)
SCORES = LABELS._replace(output="probs", rule="normalized")
LARGER = SCORES._replace(low=256, full=1024)
INPUTS = [
    Input("count_windows 512, x4 fp32", COUNT),
    Input(
        "count_windows 512, x4 fp16 channels_last", COUNT._replace(dtype=F16, channels_last=True)
    ),
    Input("count_windows 512, own size fp32", COUNT._replace(low=512)),
    Input("count_windows 512, own size fp16", COUNT._replace(low=512, dtype=F16)),
    Input("count_windows 6144, x4 fp32", LARGE, part=48),
    Input("count_windows 6144, x4 fp16", LARGE._replace(dtype=F16), part=48),
    Input(
        "count_windows 6144, x4 fp16, with labels", LARGE._replace(dtype=F16, labels=True), part=48
    ),
    Input(
        "count_windows 6144, x4 fp16 channels_last, with labels",
        LARGE._replace(dtype=F16, channels_last=True, labels=True),
        part=48,
    ),
    Input("select_windows cover 512, x4 fp32, labels", Case(small=SMALL)),
    Input("select_windows cover 2048, label map uint8", MANY),
    *[
        Input(row.name, row.case, part=8)
        for row in ROWS
        if row.case.op in ("extract_patches", "extract_targets")
    ],
    Input("extract_patches backward zoom 2, bf16 to fp32", BACKWARD, part=4),
    Input("aggregate labels 512, labels given, random answers", GIVEN, part=4),
    Input("aggregate labels 512, labels given, answers agree", GIVEN, "agree", part=4),
    Input("aggregate labels 512, random answers", LABELS),
    Input("aggregate labels 512, answers agree", LABELS, "agree"),
    # All of it: cuda's first blocks are those of the windows.
    Input(
        "aggregate labels 4096, x4 fp16, answers agree",
        LABELS._replace(dtype=F16, low=1024, full=4096),
        "agree",
    ),
    Input("aggregate probs 512, x4 fp32", SCORES, part=4),
    Input("aggregate probs 512, x4 fp32, answers agree", SCORES, "agree", part=4),
    Input("aggregate probs 512, x4 fp16", SCORES._replace(dtype=F16), part=4),
    Input("aggregate probs 512 paper", SCORES._replace(rule="paper"), part=4),
    Input("aggregate probs 512 official", SCORES._replace(rule="official"), part=4),
    Input("aggregate probs 1024, x4 fp32, no window", LARGER, "none", part=8),
    Input("aggregate probs 1024, x4 fp16, no window", LARGER._replace(dtype=F16), "none", part=8),
]


def versions() -> dict[str, str]:
    """Of the compilers: other ones make other instructions."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram("", "empty.cu", (), ())
    nvrtc.compileProgram(program, ("--gpu-architecture=compute_90",))
    found = re.search(r"V([\d.]+)", nvrtc.getPTX(program).decode())
    assert found is not None
    return {"triton": f"triton {importlib.metadata.version('triton')}", "cuda": f"NVRTC {found[1]}"}


def head() -> Iterator[str]:
    """What stands above the rows."""
    yield "# Instructions of both GPU backends"
    yield ""
    yield (
        "Counted, not measured: no GPU has run these kernels. Written by `python "
        f"benchmarks/instructions.py` with {' and '.join(versions().values())}, for sm_90."
    )
    yield ""
    yield (
        "*Executed* is every instruction of PTX, once for each warp that comes to it, as the "
        "tests' machine for PTX goes through the kernels; *per 32* is that per 32 outputs, one of "
        "each lane. It stands for the machine code's, which has rather fewer: moves and arithmetic "
        "of addresses fuse or vanish. A division counts as what it becomes, 10 to 25. *Passes* are "
        "those of memory accesses, at most: of global memory the lines of 128 bytes that a warp "
        "touches; of shared memory the words that it needs of its busiest bank, 128 bytes' worth "
        "of lanes at a time. *Bytes* are the floor per 32 outputs: each input read once, each "
        "output written once."
    )
    yield ""
    yield (
        "*Issue / bytes* is the time to issue these instructions over the time to move these bytes "
        f"on an H200, taken to have {SCHEDULERS} schedulers that issue one each at "
        f"{CLOCK / 1e9} GHz, and to copy {COPY / 1e12} TB/s: above 1, instructions take longer. "
        f"*Pass / bytes* is the same of the passes, taken to be one a clock in each of "
        f"{MULTIPROCESSORS} multiprocessors. *Issue us* is the time to issue, of the whole call. "
        "Latency, occupancy, launches (a call of less than some microseconds waits for them), "
        "bytes read twice, and other units that take several clocks an instruction are not in it."
    )
    yield ""
    yield (
        "16 classes, three of them small; window 128, stride 32; 32 windows are extracted, 16 side "
        "by side merged; coarse and fine logits are a quarter of what they become, float32, but "
        "where it says otherwise. Regions of a class are about 32 logits wide: 8 to 9 % of the "
        "cells between four logits have corners of several classes. *Part*: launches are planned "
        "for the whole call; of their blocks the first are executed, which make that part of the "
        "outputs."
    )
    yield ""
    columns = ("op and input", "part", "outputs", "backend", "executed", "passes")
    more = ("per 32", "passes per 32", "bytes", "issue / bytes", "pass / bytes", "issue us")
    yield "| " + " | ".join((*columns, *more)) + " |"
    yield "|--" * len((*columns, *more)) + "|"


def line(each: Input, backend: str, found: Counts) -> str:
    """A row of the table."""
    count, of = each.outputs()
    issued, passes, floor = (32 * n / count for n in (*found, each.floor()))
    issuing, passing = issued / SCHEDULERS / CLOCK, passes / MULTIPROCESSORS / CLOCK  # seconds
    moving = floor / COPY
    cells = (
        each.name, f"1/{each.part}" if each.part > 1 else "all", f"{count} {of}", backend, *found,
        f"{issued:.1f}", f"{passes:.2f}", f"{floor:.1f}",
        f"{issuing / moving:.2f}", f"{passing / moving:.2f}",
        f"{1e6 * issuing * each.part * count / 32:.2f}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="parts of the names of inputs")
    parser.add_argument("--backend", choices=BACKENDS)
    args = parser.parse_args()
    text = list(head())
    for each in INPUTS:
        if not args.names or any(name in each.name for name in args.names):
            for backend in BACKENDS if args.backend is None else (args.backend,):
                text.append(line(each, backend, counted(each, backend)[0]))
                print(text[-1], flush=True)
    if not args.names and args.backend is None:
        TABLE.write_text("\n".join(text) + "\n", encoding="utf-8")
        print(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
