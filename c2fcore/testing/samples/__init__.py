"""One list of sample inputs per op: what every backend has to get right.

The tests and a kernel developer's loop (`c2f bench --impl`) read the same lists:

    from c2fcore.testing import samples
    for sample in samples.of("count_windows"):
        args = sample.args(device="cuda")            # fresh tensors, the same numbers every time
        got = ops.count_windows(*args, **sample.options, backend="cuda")

One sample by name: `samples.get("aggregate", "official")`. From the shell:
`pytest tests/test_aggregate.py --backend cuda -k official`. One of any geometry, drawn from a seed:
`samples.drawn("aggregate", 17)`; as many as there is time for: `make fuzz`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

OPS = ("count_windows", "select_windows", "extract_patches", "extract_targets", "aggregate")


@dataclass(frozen=True)
class Sample:
    """Positional arguments and options of one call of a public op."""

    name: str
    make: Callable[[str], tuple[Any, ...]]  # device -> positional arguments
    options: Mapping[str, Any] = field(default_factory=dict)
    loops: bool = False  # small enough for the pure Python oracle
    exact: bool = False  # interpolated logits are exact in float32: labels agree, ties included

    def args(self, device: str = "cpu") -> tuple[Any, ...]:
        """Fresh positional arguments, the same numbers every time."""
        return self.make(device)

    def __str__(self) -> str:
        return self.name


def of(op: str) -> list[Sample]:
    """All samples of an op.

    Raises:
        ValueError: no such op.
    """
    if op not in OPS:
        raise ValueError(f"op must be one of {', '.join(OPS)}, got {op!r}")
    module = import_module(f"{__name__}.{'extract_patches' if op == 'extract_targets' else op}")
    listed: list[Sample] = module.TARGETS if op == "extract_targets" else module.SAMPLES
    assert len({s.name for s in listed}) == len(listed), f"{op}: two samples share a name"
    return listed


def get(op: str, name: str) -> Sample:
    """A sample of an op by name.

    Raises:
        ValueError: no such op, or no sample of that name.
    """
    listed = {sample.name: sample for sample in of(op)}
    if name not in listed:
        near = ", ".join(difflib.get_close_matches(name, listed)) or "none like it"
        raise ValueError(f"{op}: sample must be one of its {len(listed)}, got {name!r} ({near})")
    return listed[name]


def drawn(op: str, seed: int, side: int = 60) -> Sample:
    """A sample drawn from a seed: sizes, strides, layouts, types and options of any kind together.

    Args:
        op: name of the op.
        seed: the same one draws the same sample.
        side: most rows and columns of an image.

    Raises:
        ValueError: no such op.
    """
    if op not in OPS:
        raise ValueError(f"op must be one of {', '.join(OPS)}, got {op!r}")
    draw: Callable[[str, int, int], Sample] = import_module(f"{__name__}.any_geometry").drawn
    return draw(op, seed, side)
