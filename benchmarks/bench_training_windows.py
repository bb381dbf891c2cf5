"""Patches and targets of a training batch: the ops against the authors' unfold.

pytest benchmarks/bench_training_windows.py --benchmark-only
python benchmarks/bench_training_windows.py --out FILE     rows with peak memory, on a quiet machine
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from c2fcore.bench import provenance, rows, training_suite

# The paper's crop, window and stride; 4 images are its batch on one of four GPUs.
CASES = [
    {"batch": 4, "size": 512, "window": 128, "stride": 32, "n": 32},
    {"batch": 1, "size": 896, "window": 128, "stride": 32, "n": 32},
]


@pytest.mark.parametrize("name", training_suite.WAYS)
def test_training_windows(benchmark, threads, name):
    once = benchmark.disabled
    case = {"batch": 2, "size": 160, "window": 64, "stride": 16, "n": 8} if once else CASES[0]
    data = training_suite.make_batch(case["batch"], case["size"])
    options = {key: case[key] for key in ("window", "stride", "n")}
    calls = {key: training_suite.call_of(key, data, **options) for key in ("unfold", name)}
    training_suite.check(calls)
    benchmark.group = "training windows"
    benchmark.extra_info.update(case, way=name, threads=threads)
    benchmark(calls[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="file of rows to add to")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    origin = provenance.provenance(args.threads)
    for row in training_suite.measured(CASES, origin, args.rounds, args.threads):
        print(row["case"], row["result"])
        rows.merge(args.out, [row])


if __name__ == "__main__":
    main()
