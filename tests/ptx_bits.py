"""PTX instructions on the bits of words, and on words as two halves; see ptx_operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptx_operations import OPERATIONS as OPERATIONS
from ptx_operations import _compared, operation


@operation
def bfe(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    """A field of bits; of a signed one, its highest bit in all above."""
    signed, bits = parts[-1][0] == "s", int(parts[-1][1:])
    x = machine.get(args[1], m, bits).astype(np.uint64)
    first, count = (machine.get(a, m, 32).astype(np.uint64) for a in args[2:4])
    one, all_ = np.uint64(1), ~np.uint64(0)
    assert (count > 0).all()
    assert (first + count <= bits).all()
    mask = all_ >> (np.uint64(64) - count)
    value = x >> first & mask
    if signed:
        value = np.where(value >> (count - one) & one == one, value | ~mask, value)
    machine.put(args[0], m, value.astype({32: np.uint32, 64: np.uint64}[bits]))


@operation
def popc(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    assert parts == ["b32"]
    x = machine.get(args[1], m, 32)
    bits = np.unpackbits(x.view(np.uint8).reshape(m.size, 4), axis=1)
    machine.put(args[0], m, bits.sum(1).astype(np.uint32))


def highest(x: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The number of the highest bit that is set, -1 without one."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64) - 1


@operation
def clz(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    assert parts == ["b32"]
    machine.put(args[0], m, (31 - highest(machine.get(args[1], m, 32))).astype(np.uint32))


@operation
def shf(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    """Two words shifted as one of 64 bits, of which the high (l) or the low one (r) is left."""
    assert parts[1:] == ["wrap", "b32"]
    low, high, by = (machine.get(name, m, 32).astype(np.uint64) for name in args[1:4])
    both, by = high << np.uint64(32) | low, by & np.uint64(31)
    value = both << by >> np.uint64(32) if parts[0] == "l" else both >> by
    machine.put(args[0], m, (value & np.uint64(0xFFFFFFFF)).astype(np.uint32))


@operation
def prmt(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    assert parts == ["b32"]
    x, y, how = (machine.get(a, m, 32) for a in args[1:4])
    given = np.stack([x, y], 1).view(np.uint8)
    picks = (how[:, None] >> np.uint32(4) * np.arange(4, dtype=np.uint32)) & np.uint32(15)
    found = np.take_along_axis(given, (picks & 7).astype(np.intp), 1)
    found = np.where(picks & 8, np.where(found & 0x80, 0xFF, 0), found).astype(np.uint8)
    machine.put(args[0], m, np.ascontiguousarray(found).view(np.uint32)[:, 0])


@operation
def lop3(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    assert parts == ["b32"]
    x, y, z = (machine.get(name, m, 32) for name in args[1:4])
    value, table = np.zeros_like(x), int(args[4], 0)
    for i in range(8):
        if table >> i & 1:
            value |= (x if i & 4 else ~x) & (y if i & 2 else ~y) & (z if i & 1 else ~z)
    machine.put(args[0], m, value)


def halves(machine: Any, name: str, m: Any, kind: str) -> NDArray[np.float32]:
    """A word of two as numbers."""
    bits = machine.get(name, m, 32).view(np.uint16)
    if kind == "bf16x2":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(np.float16).astype(np.float32)


@operation
def set_(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    """All bits of a half where it holds."""
    assert parts[1] == "u32"
    x, y = (halves(machine, a, m, parts[2]) for a in args[1:3])
    found = np.where(_compared(parts[0], x, y), 0xFFFF, 0).astype(np.uint16)
    machine.put(args[0], m, found.view(np.uint32))
