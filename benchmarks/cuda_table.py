"""Writes benchmarks/results/cuda-kernels.md: CUDA kernels, compiled and launched without a GPU.

    make build C2F_BUILD=cuda && python benchmarks/cuda_table.py

Registers, shared memory and spills are those of nvcc's machine code, launches those of the module
_cuda_jit, which plans as _cuda_prebuilt does. Bytes are counted from the launches, not measured, as
kernel_table.py counts those of Triton's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import cuda_resources

from c2fcore import _cuda, _native

TABLE = Path(__file__).parent / "results" / "cuda-kernels.md"
REGISTERS = 65536  # of a multiprocessor, on both architectures
SHARED = {80: 164 << 10, 90: 228 << 10}  # bytes of a multiprocessor
THREADS = 256  # of a block, unless a launch says otherwise
TILE_PIXELS = 1024  # that aggregate merges at once


def by_registers(kernel: cuda_resources.Usage, threads: int = THREADS) -> int:
    """Blocks that a multiprocessor holds."""
    return REGISTERS // (-(-kernel.registers // 8) * 8 * threads)


def fit(kernel: cuda_resources.Usage, threads: int, dynamic: int) -> int:
    """Blocks that a multiprocessor holds, by registers, shared memory and threads."""
    # 1 KiB of a block's is the system's, which nvcc counts from sm_90 on, where there is more.
    static = kernel.shared + 1024 if kernel.sm < 90 else max(kernel.shared, 1024)
    shared = static + dynamic
    by_shared = SHARED[kernel.sm] // (-(-shared // 128) * 128)
    return min(by_registers(kernel, threads), by_shared, 2048 // threads)


def lines(tool: Path, module: str) -> Iterator[str]:
    """The table, line by line, but for the launches."""
    yield "# CUDA kernels: resources, launches and bytes"
    yield ""
    yield (
        "Written by `python benchmarks/cuda_table.py` from the module as nvcc "
        f"{cuda_resources.compiler(module)} compiled it. Nothing here was measured: no GPU has run "
        "these kernels."
    )
    yield ""
    yield (
        "*Fit* is how many blocks of 256 threads a multiprocessor holds by registers alone; "
        "*shared* is what every block has, beside what a launch asks for by the size of its tiles."
    )
    yield ""
    yield "| kernel | sm | registers | fit | shared B | stack B |"
    yield "|--|--|--|--|--|--|"
    for kernel in sorted(cuda_resources.usage(tool, module), key=lambda k: (k.kernel, k.sm)):
        yield (
            f"| {kernel.kernel} | {kernel.sm} | {kernel.registers} | {by_registers(kernel)} | "
            f"{kernel.shared} | {kernel.stack} |"
        )


def launch_lines(usage: list[cuda_resources.Usage]) -> Iterator[str]:
    """Its second part; of kernels that are not in `usage` it is not said how many blocks fit."""
    import cuda_launches
    import kernel_table  # with Triton, which may be missing or unfit

    yield ""
    yield (
        "One launch each: 16 classes, window 128, stride 32, n = 32, one image. *Fit* is by "
        "registers, shared memory and threads, of which 2048 fill a multiprocessor. The "
        "floor is each input read once and each output written once; *asked* is what the blocks "
        "ask of the memory system, each byte once per block."
    )
    yield ""
    yield (
        "| op and input | kernel | blocks | threads | dynamic shared B | fit sm_80 | fit sm_90 | "
        "floor MB | asked MB | ratio | why more |"
    )
    yield "|--|--|--|--|--|--|--|--|--|--|--|"
    compiled = {(kernel.kernel, kernel.sm): kernel for kernel in usage}
    for row in kernel_table.ROWS:
        launches, scratch = cuda_launches.planned(row.case)
        threads, (blocks, struct, dynamic) = launches.threads, launches.launch
        name = cuda_resources.named(launches.kernel.name)
        found = [compiled.get((name, sm)) for sm in SHARED]
        fits = " | ".join("?" if k is None else str(fit(k, threads, dynamic)) for k in found)
        counted = _traffic(row.case, launches.kernel.name, struct, scratch)
        floor, asked, reason = counted
        taken = f"{blocks} | {threads} | {dynamic} | {fits} | {floor / 1e6:.2f} | {asked / 1e6:.2f}"
        yield f"| {row.name} | {name} | {taken} | {asked / floor:.2f} | {reason} |"


def _traffic(case: Any, kernel: str, struct: bytes, scratch: int) -> Any:
    """Bytes of a launch."""
    import emulator_build  # which knows the structs
    import kernel_table

    probes = _cuda.from_file(emulator_build.path_of("_cuda_on_host"))
    if case.op == "extract_patches_backward":
        return kernel_table.backward_traffic(case, probes.backward_band(struct))
    if isinstance(case, kernel_table.PatchCase):
        tile = probes.patch_tile(struct) if case.op == "extract_patches" else (1, 1, 1)
        return kernel_table.patches_traffic(case, tile)
    if isinstance(case, kernel_table.Case):
        axes = probes.bin_axes(struct)
        starts = [
            [axis.bin_start(min(t * axis.tile_bins, axis.bins)) for t in range(axis.tiles + 1)]
            for axis in axes
        ]
        return kernel_table.windows_traffic(case, scratch, starts)
    height, width, width_log2 = probes.merge_tile(struct)
    part = min(height, TILE_PIXELS >> width_log2), min(width, 1 << width_log2)
    passes = {"official": 1, "normalized": 2, "paper": 3}[case.rule] if "any" in kernel else 1
    return kernel_table.merge_traffic(case, (height, width), part, passes)


def main() -> None:
    tool = cuda_resources.cuobjdump()
    loaded, reason = _native.load("_cuda_prebuilt", "cuda")
    if tool is None or loaded is None or loaded.__file__ is None:
        raise SystemExit(reason or "no cuobjdump: triton brings one")
    usage = cuda_resources.usage(tool, loaded.__file__)
    text = [*lines(tool, loaded.__file__), *launch_lines(usage)]
    TABLE.write_text("\n".join(text) + "\n", encoding="utf-8")
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
