"""Writes benchmarks/results/triton-kernels.md: what compiled Triton kernels take, without a GPU.

    python benchmarks/kernel_table.py           # compiles for sm_80, sm_90 and sm_100: minutes
    python benchmarks/kernel_table.py --sm 90   # prints one architecture, writes nothing

Registers, shared memory and spills are those of the compiled machine code. Bytes are counted from
the launches, not measured: what the programs of an op ask of the memory system, each byte once per
program, against the floor, each input read once and each output written once.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from triton_cases import ARCHITECTURES, Case, plan

from c2fcore.kernels.triton import _compile
from c2fcore.kernels.triton._cell_counts import bin_grid

TABLE = Path(__file__).parent / "results" / "triton-kernels.md"
REGISTERS = 65536  # of a multiprocessor, on all of these architectures
PROGRAM_OUTPUTS = ("labels_ptr", "counts_ptr", "origins_ptr", "num_ptr")


class Bytes(NamedTuple):
    """Bytes an op cannot avoid, bytes its launches ask for, and why those are more."""

    floor: int
    asked: int
    reason: str


class Row(NamedTuple):
    """An op on a typical input."""

    name: str
    case: Any
    plan: Callable[[Any], list[Any]]
    count: Callable[[Any, list[Any]], Bytes]


def windows_bytes(case: Case, launches: list[Any]) -> Bytes:
    """count_windows and select_windows. Evaluation of mixed cells depends on the data: left out."""
    args = launches[0].args
    seg, bins = args["seg_ptr"], args["bins_ptr"]
    tensors = [launch.args.get(name) for launch in launches for name in PROGRAM_OUTPUTS]
    out = sum(_size(t) for t in tensors if t is not None)
    read = _size(seg)
    reasons = [f"bins written and read, {2 * _size(bins) / 1e6:.2f} MB"]
    if case.classes and case.low != case.full:
        step = case.window if case.strategy == "all" else case.stride
        grid = bin_grid(case.op, seg, case.full, case.full, case.window, step, True)
        points = [_source_points(axis, case.low) for axis in grid]
        read = read * points[0] * points[1] // case.low**2
        share = read / _size(seg)
        reasons.insert(0, f"borders of tiles read from both sides ({share:.2f}x, L2 mostly)")
    return Bytes(_size(seg) + out, read + out + 2 * _size(bins), "; ".join(reasons))


def _source_points(axis: Any, small: int) -> int:
    """Source rows (or columns) read by the tiles along an axis, added up."""
    edges = axis.edges()
    scale = np.float32(small) / np.float32(axis.size)
    at = scale * (np.arange(axis.size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    taps = np.minimum(np.maximum(at, 0).astype(np.int64), small - 1)
    starts = [*edges[:-1][:: axis.tile_bins], edges[-1]]
    tiles = [(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True) if b > a]
    return int(sum(min(taps[b - 1] + 1, small - 1) - taps[a] + 1 for a, b in tiles))


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


F16 = torch.float16
COUNT = {"op": "count_windows", "labels": False}
ROWS = [
    Row("count_windows 512, x4 fp32", Case(**COUNT), plan, windows_bytes),
    Row("count_windows 512, own size fp32", Case(low=512, **COUNT), plan, windows_bytes),
    Row("count_windows 6000, x4 fp32", Case(low=1500, full=6000, **COUNT), plan, windows_bytes),
    Row(
        "count_windows 6000, x4 fp16 channels_last",
        Case(low=1500, full=6000, dtype=F16, channels_last=True, **COUNT),
        plan,
        windows_bytes,
    ),
    Row(
        "count_windows 6000, own size fp16",
        Case(low=6000, full=6000, dtype=F16, **COUNT),
        plan,
        windows_bytes,
    ),
    Row("select_windows cover 512, x4 fp32, labels", Case(), plan, windows_bytes),
    Row(
        "select_windows top 1024, x4 fp32, labels",
        Case(low=256, full=1024, strategy="top"),
        plan,
        windows_bytes,
    ),
    Row(
        "select_windows cover 6000, x4 fp16, labels",
        Case(low=1500, full=6000, dtype=F16),
        plan,
        windows_bytes,
    ),
    Row(
        "select_windows all 6000, label map uint8",
        Case(classes=0, dtype=torch.uint8, full=6000, strategy="all", labels=False),
        plan,
        windows_bytes,
    ),
]


def lines(architectures: tuple[int, ...]) -> Iterator[str]:
    """The table, line by line."""
    yield "# Triton kernels: resources and bytes"
    yield ""
    yield (
        f"Written by `python benchmarks/kernel_table.py` with triton {_version('triton')}. Nothing "
        "here was measured: no GPU has run these kernels."
    )
    yield ""
    yield (
        "16 classes, window 128, stride 32, n = 32, one image. *Programs* is the grid; *fit* is "
        "how many of them a multiprocessor holds by registers alone; *stack* is bytes of spilled "
        "registers a thread."
    )
    yield ""
    yield "| op and input | kernel | sm | programs | warps | registers | fit | shared B | stack B |"
    yield "|--|--|--|--|--|--|--|--|--|"
    for row in ROWS:
        for launch in row.plan(row.case):
            for sm in architectures:
                taken = _compile.resources(launch, sm)
                fit = REGISTERS // (-(-taken.registers // 8) * 8 * 32 * taken.warps)
                yield (
                    f"| {row.name} | {launch.kernel.__name__.strip('_')} | {sm} | {launch.grid} | "
                    f"{taken.warps} | {taken.registers} | {fit} | {taken.shared} | {taken.stack} |"
                )
    yield ""
    yield "| op and input | launches | floor MB | asked MB | ratio | why more |"
    yield "|--|--|--|--|--|--|"
    for row in ROWS:
        launches = row.plan(row.case)
        found = row.count(row.case, launches)
        yield (
            f"| {row.name} | {len(launches)} | {found.floor / 1e6:.2f} | {found.asked / 1e6:.2f} | "
            f"{found.asked / found.floor:.2f} | {found.reason} |"
        )


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sm", type=int, choices=ARCHITECTURES)
    chosen = parser.parse_args().sm
    if chosen:
        for line in lines((chosen,)):
            print(line, flush=True)
        return
    text = "\n".join(lines(ARCHITECTURES)) + "\n"
    TABLE.write_text(text, encoding="utf-8")
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
