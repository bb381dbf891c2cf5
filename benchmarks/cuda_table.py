"""Writes benchmarks/results/cuda-kernels.md: what nvcc made of the CUDA kernels, without a GPU.

make build C2F_BUILD=cuda && python benchmarks/cuda_table.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import cuda_resources

from c2fcore import _native

TABLE = Path(__file__).parent / "results" / "cuda-kernels.md"
REGISTERS = 65536  # of a multiprocessor, on both architectures
THREADS = 256  # of a block, in all kernels so far


def lines(tool: Path, module: str) -> Iterator[str]:
    """The table, line by line."""
    yield "# CUDA kernels: resources"
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
        fit = REGISTERS // (-(-kernel.registers // 8) * 8 * THREADS)
        yield (
            f"| {kernel.kernel} | {kernel.sm} | {kernel.registers} | {fit} | {kernel.shared} | "
            f"{kernel.stack} |"
        )


def main() -> None:
    tool = cuda_resources.cuobjdump()
    loaded, reason = _native.load("_cuda_prebuilt", "cuda")
    if tool is None or loaded is None or loaded.__file__ is None:
        raise SystemExit(reason or "no cuobjdump: triton brings one")
    TABLE.write_text("\n".join(lines(tool, loaded.__file__)) + "\n", encoding="utf-8")
    print(f"wrote {TABLE}")


if __name__ == "__main__":
    main()
