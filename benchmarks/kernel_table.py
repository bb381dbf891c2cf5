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

from triton_cases import ARCHITECTURES, Case, MergeCase, PatchCase, arguments, plan

from c2fcore.kernels.triton import _compile
from c2fcore.kernels.triton._cell_counts import bin_grid

TABLE = Path(__file__).parent / "results" / "triton-kernels.md"
REGISTERS = 65536  # of a multiprocessor, on all of these architectures


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
    """count_windows and select_windows."""
    step = case.window if case.strategy == "all" else case.stride
    seg, bins = (launches[0].args[name] for name in ("seg_ptr", "bins_ptr"))
    grid = bin_grid(case.op, seg, case.full, case.full, case.window, step, True)
    edges = [axis.edges() for axis in grid]
    starts = [
        [*cuts[:-1][:: axis.tile_bins], cuts[-1]] for axis, cuts in zip(grid, edges, strict=True)
    ]
    return windows_traffic(case, _size(bins), starts)


def windows_traffic(case: Case, scratch: int, starts: list[list[int]]) -> Bytes:
    """By the bytes of scratch and where tiles start along both axes, with the axis' end.

    Evaluation of mixed cells depends on the data: left out.
    """
    seg, *rest = arguments(case)
    out = sum(_size(each) for each in rest if isinstance(each, torch.Tensor))
    read = _size(seg)
    reasons = [f"scratch written and read, {2 * scratch / 1e6:.2f} MB"]
    if case.classes and case.low != case.full:
        points = [_points(of_axis, case.full, case.low) for of_axis in starts]
        read = read * points[0] * points[1] // case.low**2
        share = read / _size(seg)
        reasons.insert(0, f"borders of tiles read from both sides ({share:.2f}x, L2 mostly)")
    return Bytes(_size(seg) + out, read + out + 2 * scratch, "; ".join(reasons))


def _points(starts: list[int], full: int, small: int) -> int:
    """Source rows read by the tiles [starts[i], starts[i + 1]) of an axis, added up."""
    scale = np.float32(small) / np.float32(full)
    at = scale * (np.arange(full, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    taps = np.minimum(np.maximum(at, 0).astype(np.int64), small - 1)
    tiles = [(a, b) for a, b in zip(starts[:-1], starts[1:], strict=True) if b > a]
    return int(sum(min(taps[b - 1] + 1, small - 1) - taps[a] + 1 for a, b in tiles))


def patches_bytes(case: PatchCase, launches: list[Any]) -> Bytes:
    """extract_patches and extract_targets, windows apart from each other where they fit."""
    args, constants = launches[0].args, launches[0].constants
    source = args["labels_ptr" if case.op == "extract_targets" else "image_ptr"]
    out = _size(args["targets_ptr" if case.op == "extract_targets" else "patches_ptr"])
    per_pixel = _size(source) // case.full**2
    windows = case.n * case.window**2 * per_pixel
    rows = case.window
    if constants.get("TAPS", 1) > 1:
        rows += (args["strips"].number - 1) * (constants["TAPS"] - 1)
    read = windows * rows // case.window
    reasons = []
    if windows > _size(source):
        reasons.append(f"windows overlap {windows / _size(source):.2f}x at least (L2)")
    if rows > case.window:
        reasons.append(f"strips read their first sources again ({rows / case.window:.2f}x, L2)")
    return Bytes(min(windows, _size(source)) + out, read + out, "; ".join(reasons) or "-")


def patches_traffic(case: PatchCase, tile: tuple[int, int, int]) -> Bytes:
    """By a block's rows, elements of a row and channels of a pixel in it; windows as above."""
    rows, width, group = tile
    source, *_, out = (_size(each) for each in arguments(case) if isinstance(each, torch.Tensor))
    windows = case.n * case.window**2 * source // case.full**2
    if case.op == "extract_targets":
        return Bytes(windows + out, windows + out, "-")
    sources = _sources(case)
    columns, channels = np.divmod(np.arange(len(sources) * group), group)
    elements = sources[columns] * group + channels[:, None]
    read_rows = sum(np.ptp(block) + 1 for block in _blocks(sources, rows))
    read_elements = sum(len(np.unique(block)) for block in _blocks(elements, width))
    again = float(read_rows * read_elements / (case.window**2 * group))
    reason = f"sources on borders of tiles read from both sides ({again:.2f}x, L2 mostly)"
    return Bytes(windows + out, int(windows * again) + out, reason if again > 1 else "-")


def backward_traffic(case: PatchCase, band: tuple[int, int]) -> Bytes:
    """By rows and columns of a warp's band of the image; float32 is written."""
    grad, *_, found = (each for each in arguments(case) if isinstance(each, torch.Tensor))
    out = 4 * found.numel()
    bands = [_sources(case) // size for size in band]
    again = float(np.prod([np.mean([len(set(row)) for row in each.tolist()]) for each in bands]))
    reason = f"outputs on borders of bands read from both sides ({again:.2f}x, L2 mostly)"
    return Bytes(_size(grad) + out, int(_size(grad) * again) + out, reason)


def _sources(case: PatchCase) -> np.ndarray[Any, Any]:
    """[outputs, taps], the positions of a window that outputs are made of along an axis."""
    outputs = round(case.window * case.zoom)
    at = np.arange(outputs)
    if case.mode == "nearest" or outputs == case.window:
        return (at * case.window // outputs)[:, None]
    position = (at + 0.5) * case.window / outputs - 0.5
    taps = np.arange(2) if case.mode == "bilinear" else np.arange(-1, 3)
    found = np.floor(position).astype(np.int64)[:, None] + taps
    return np.clip(found, 0, case.window - 1)


def _blocks(items: np.ndarray[Any, Any], size: int) -> list[np.ndarray[Any, Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def backward_bytes(case: PatchCase, launches: list[Any]) -> Bytes:
    """extract_patches_backward."""
    args, constants = launches[0].args, launches[0].constants
    grad, out = _size(args["grad_ptr"]), _size(args["found_ptr"])
    # A tile reads the outputs of its pixels and those its neighbours' sources share with them.
    block, beyond = constants["BLOCK_Y"], constants["TAPS"] if constants["TAPS"] > 1 else 0
    share = ((block + beyond) / block) ** 2
    reason = f"outputs on borders of tiles read from both sides ({share:.2f}x, L2 mostly)"
    return Bytes(grad + out, int(grad * share) + out, reason)


def merge_bytes(case: MergeCase, launches: list[Any]) -> Bytes:
    """aggregate."""
    constants = launches[0].constants
    if case.output == "labels":
        tile, part = (
            (each.constants["BLOCK_Y"], each.constants["BLOCK_X"])
            for each in (launches[0], launches[-1])
        )
        return merge_traffic(case, tile, part, 1)
    block = constants["ROWS"], constants["BLOCK_X"]
    passes = 1 if constants["KEEP"] or constants["OFFICIAL"] else 2
    rows = _between_rows(case, constants["ROWS"]) if constants["BY_CELL"] else None
    return merge_traffic(case, block, block, passes, rows)


def _between_rows(case: MergeCase, most: int) -> list[int]:
    """Where tiles start that lie between the same two rows of logits."""
    at = np.floor((np.arange(case.full) + 0.5) * case.low / case.full - 0.5)
    cells = np.flatnonzero(np.diff(at, prepend=-2))
    ends = [*cells[1:], case.full]
    return [y for a, b in zip(cells, ends, strict=True) for y in range(a, b, most)] + [case.full]


def merge_traffic(
    case: MergeCase,
    tile: tuple[int, int],
    part: tuple[int, int],
    passes: int,
    rows: list[int] | None = None,
) -> Bytes:
    """By the tiles that find labels or scores, the parts that merge, and passes over the classes.

    `rows` is where the tiles of a column start, and their end, if their heights differ. Evaluation
    of mixed cells and of conflicts depends on the data: left out.
    """
    tensors = [each for each in arguments(case) if isinstance(each, torch.Tensor)]
    coarse, fine, out = (_size(tensors[i]) for i in (0, 1, -1))
    covered = min(case.n * case.window**2, case.full**2)
    starts = [[*range(0, case.full, block), case.full] for block in tile]
    if rows:
        starts[0] = rows
    share = 1.0
    if case.low != case.full:
        share = float(np.prod([_points(of, case.full, case.low) / case.low for of in starts]))
    # A window reaches one part more than it fills; each reads its share and the taps around it.
    side = case.window / case.side
    reached = [case.window / block + 1 for block in part]
    points = [(case.side + 2 * count) / case.side for count in reached] if side != 1 else [1.0, 1.0]
    again = points[0] * points[1]
    reasons = [f"fine logits on borders of tiles ({again:.2f}x, L2)"] if again > 1 else []
    if case.given:
        reasons.append("coarse logits only at conflicts: none counted")
        return Bytes(fine + 2 * covered, int(fine * again) + 2 * covered, "; ".join(reasons))
    if share > 1:
        reasons.insert(0, f"borders of tiles read from both sides ({share:.2f}x, L2 mostly)")
    asked = passes * int(coarse * share) + int(fine * again) + out
    if case.output == "labels":
        asked += 2 * covered
        reasons.append("labels under windows read again and rewritten (L2)")
    if passes > 1:
        reasons.append(f"logits read in each of {passes} passes over the classes (L1, L2)")
    return Bytes(coarse + fine + out, asked, "; ".join(reasons) or "-")


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


F16 = torch.float16
LARGE = {"low": 1500, "full": 6000}
PLANAR = {"zoom": 4.0, "out": torch.float32, "channels_last": False}
BACKWARD = PatchCase(op="extract_patches_backward", dtype=torch.bfloat16, zoom=2.0)
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
    *[
        Row(name, PatchCase(**options), plan, patches_bytes)
        for name, options in (
            ("extract_patches zoom 1, uint8 to bf16, channels_last", {}),
            ("extract_patches zoom 2, uint8 to bf16, channels_last", {"zoom": 2.0}),
            ("extract_patches zoom 4, uint8 to bf16, channels_last", {"zoom": 4.0}),
            ("extract_patches zoom 4, uint8 to fp32, planar", PLANAR),
            ("extract_patches zoom 4 bicubic", {"zoom": 4.0, "mode": "bicubic"}),
            ("extract_patches zoom 2 nearest", {"zoom": 2.0, "mode": "nearest"}),
            ("extract_targets uint8", {"op": "extract_targets"}),
        )
    ],
    Row("extract_patches backward zoom 2, bf16", BACKWARD, plan, backward_bytes),
    *[
        Row(name, MergeCase(**options), plan, merge_bytes)
        for name, options in (
            ("aggregate labels 512, x4 fp32", {}),
            ("aggregate labels 512, x4 fp32, labels given", {"given": True}),
            ("aggregate labels 512, own size fp32", {"low": 512, "side": 128}),
            ("aggregate labels 6000, x4 fp16", {**LARGE, "dtype": F16}),
            (
                "aggregate labels 6000, x4 fp16, labels given",
                {**LARGE, "dtype": F16, "given": True},
            ),
            ("aggregate labels 512 official", {"rule": "official"}),
            ("aggregate probs 512, x4 fp32", {"output": "probs"}),
            ("aggregate probs 512 official", {"output": "probs", "rule": "official"}),
            ("aggregate probs 512, 150 classes", {"output": "probs", "classes": 150}),
            ("aggregate probs 6000, x4 fp16", {**LARGE, "dtype": F16, "output": "probs"}),
        )
    ],
]


def lines(architectures: tuple[int, ...]) -> Iterator[str]:
    """The table, line by line."""
    version = importlib.metadata.version("triton")
    yield "# Triton kernels: resources and bytes"
    yield ""
    yield (
        f"Written by `python benchmarks/kernel_table.py` with triton {version}. Nothing "
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
    yield from byte_lines()


def byte_lines() -> Iterator[str]:
    """Its second part, which needs no compiler."""
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
