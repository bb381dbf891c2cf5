"""Which GPU backend "auto" tries first: c2fcore/gpu_order.json, from measured rows.

    python benchmarks/gpu_order.py [benchmarks/results]

Of every op that was measured with both backends on a GPU, the faster one at each size. A size is
the number of elements of the op's first tensor, as a call knows it. Rows that differ otherwise
(type, layout, content, options) count alike: the mean is that of the logarithms of their ratios.
Times are those of plain calls; a replay in a graph differs by no more than a call costs the host.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Order = dict[str, dict[str, list[list[Any]]]]
ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "c2fcore" / "gpu_order.json"


def make(rows: Iterable[Row]) -> Order:
    """{device: {op: [[elements, faster backend], ...]}}, by ascending size."""
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        case = row.get("case", {})
        if case.get("device") != "cuda" or not row.get("result"):
            continue
        if case["op"] != "glue" and case["provider"] in ("cuda", "triton"):
            same = {name: value for name, value in case.items() if name != "provider"}
            of = [row["origin"]["device"], case["op"], row["result"]["elements"], same]
            times[json.dumps(of, sort_keys=True)][case["provider"]] = row["result"]["ms"][0]
    ratios: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for key, of in times.items():
        if len(of) == 2:
            device, op, elements, _ = json.loads(key)
            ratios[device, op, elements].append(math.log(of["triton"] / of["cuda"]))
    order: Order = {}
    for (device, op, elements), found in sorted(ratios.items()):
        faster = "cuda" if sum(found) >= 0 else "triton"
        order.setdefault(device, {}).setdefault(op, []).append([elements, faster])
    return order


def read(folder: Path) -> list[Row]:
    """The rows of the op suite, of every device."""
    files = sorted(folder.glob("*/ops.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def text(order: Order) -> str:
    """As the file holds it."""
    return json.dumps(order, indent=1) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benchmarks" / "results"
    found = make(read(folder))
    TARGET.write_text(text(found))
    print(f"{TARGET}: {sum(map(len, found.values()))} ops on {len(found)} devices")
