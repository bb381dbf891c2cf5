"""What the PTX instructions do that Triton emits for these kernels; see ptx_machine.

Each function takes the machine, what follows the instruction's name, its operands, and the threads.
Approximate ones (ex2.approx, div.full) may be off by APPROXIMATE_ULPS either way, as on a GPU, save
where they are exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

U: dict[int, Any] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
S: dict[int, Any] = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
F: dict[int, Any] = {16: np.float16, 32: np.float32, 64: np.float64}
APPROXIMATE_ULPS = 2
OPERATIONS: dict[str, Callable[[Any, list[str], Sequence[str], Any], None]] = {}

Array = NDArray[Any]


def operation(run: Any) -> Any:
    """Enters a function under its name, less the underscore that Python's own words need."""
    OPERATIONS[run.__name__.rstrip("_")] = run
    return run


def width(register: str) -> int:
    """Bits of a register, by its name."""
    found = re.match(r"%([a-z]+)", register)
    return {"p": 1, "rs": 16, "r": 32, "rd": 64, "f": 32}[found.group(1) if found else ""]


def _bits(kind: str) -> int:
    return int(kind[1:])


def _get(machine: Any, name: str, m: Any, kind: str) -> Array:
    """An operand as numbers of a PTX type."""
    if kind == "pred":
        return machine.get(name, m, 8).astype(bool)
    if kind == "bf16":
        return (machine.get(name, m, 16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    bits = _bits(kind)
    value = machine.get(name, m, bits)
    return value.view({"f": F, "s": S}.get(kind[0], U)[bits])


def _put(machine: Any, name: str, m: Any, value: Array, kind: str) -> None:
    if kind == "bf16":
        value = _bfloat16(value)
    if value.dtype != bool:  # of a wider register the rest: the sign, or zeros
        if value.dtype.kind == "i" and name != "_":
            value = value.astype(S[max(width(name), 8)])
        value = value.view(U[8 * value.dtype.itemsize])
    machine.put(name, m, value)


def _bfloat16(value: Array) -> Array:
    bits = value.astype(np.float32).view(np.uint32).astype(np.uint64)
    even = (bits + np.uint64(0x7FFF) + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
    return np.where(np.isnan(value), 0x7FFF, even).astype(np.uint16)


def _one_nan(value: Array) -> Array:
    """Arithmetic in float32 knows one NaN, whose sign bit is not set."""
    return np.where(np.isnan(value), np.uint32(0x7FFFFFFF).view(np.float32), value)


def _approximate(value: Array) -> Array:
    exact = ~np.isfinite(value) | (np.frexp(value)[0] == 0.5) | (value == 0)
    off = np.arange(value.size) * 7919 % (2 * APPROXIMATE_ULPS + 1) - APPROXIMATE_ULPS
    off = np.where(exact | (np.abs(value) < 1e-37), 0, off).astype(np.int32)
    return (value.view(np.int32) + off).view(np.float32)


def _truncated(x: Array, y: Array) -> Array:
    """Integer division towards zero; by zero all bits are set."""
    safe = np.where(y == 0, 1, y).astype(x.dtype)
    if x.dtype.kind == "u":
        found = x // safe
    else:
        found = np.abs(x) // np.abs(safe)
        found = np.where((x < 0) != (safe < 0), -found, found)
    return np.where(y == 0, -1, found).astype(x.dtype)


def _binary(name: str, run: Callable[[Array, Array], Array]) -> None:
    def both(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
        kind = parts[-1]
        if kind.endswith("x2"):
            kind, pairs = kind[:-2], [machine.get(a, m, 32).view(U[16]) for a in args[1:3]]
            value = run(*(p.view({"f": F, "s": S, "u": U}[kind[0]][16]) for p in pairs))
            machine.put(args[0], m, value.view(np.uint32))
            return
        value = run(_get(machine, args[1], m, kind), _get(machine, args[2], m, kind))
        if "relu" in parts:
            value = np.maximum(value, 0)
        if "sat" in parts:
            value = np.clip(value, 0, 1)
        if kind == "f32":
            value = _one_nan(value)
        _put(machine, args[0], m, value, kind)

    OPERATIONS[name] = both


for _name, _run in {
    "add": np.add, "sub": np.subtract, "min": np.fmin, "max": np.fmax,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "rem": lambda x, y: x - _truncated(x, y) * y,
}.items():  # fmt: skip
    _binary(_name, _run)


def _unary(name: str, run: Callable[[Array], Array]) -> None:
    def one(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
        kind = parts[-1]
        if kind == "f16x2":
            pair = machine.get(args[1], m, 32).view(np.float16)
            machine.put(args[0], m, run(pair).view(np.uint32))
            return
        _put(machine, args[0], m, run(_get(machine, args[1], m, kind)), kind)

    OPERATIONS[name] = one


for _name, _one in {"not": np.invert, "neg": np.negative, "abs": np.abs}.items():
    _unary(_name, _one)


@operation
def div(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    kind = parts[-1]
    x, y = (_get(machine, a, m, kind) for a in args[1:3])
    value = x / y if kind == "f32" else _truncated(x, y)
    _put(machine, args[0], m, _approximate(value) if "full" in parts else value, kind)


@operation
def ex2(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    value = np.exp2(_get(machine, args[1], m, "f32").astype(np.float64)).astype(np.float32)
    _put(machine, args[0], m, _approximate(value), "f32")


@operation
def fma(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    x, y, z = (_get(machine, a, m, "f32").astype(np.longdouble) for a in args[1:4])
    _put(machine, args[0], m, _one_nan((x * y + z).astype(np.float32)), "f32")


@operation
def mul(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    kind = parts[-1]
    x, y = (_get(machine, a, m, kind) for a in args[1:3])
    bits = _bits(kind)
    if "hi" in parts and bits == 64:  # NumPy has no numbers of 128 bits; Python's have no end
        high = [a * b >> 64 for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        machine.put(args[0], m, np.array(high, x.dtype).view(np.uint64))
        return
    if "wide" in parts or "hi" in parts:
        product = _wide(x) * _wide(y)
        value = product if "wide" in parts else product >> product.dtype.type(bits)
        machine.put(args[0], m, value.view(U[2 * bits]))
        return
    _put(machine, args[0], m, _one_nan(x * y) if kind == "f32" else x * y, kind)


@operation
def mad(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    kind = parts[-1]
    x, y = (_get(machine, a, m, kind) for a in args[1:3])
    if "wide" in parts:
        x, y = _wide(x), _wide(y)
        kind = f"{kind[0]}{2 * _bits(kind)}"
    _put(machine, args[0], m, x * y + _get(machine, args[3], m, kind), kind)


def _wide(value: Array) -> Array:
    return value.astype((S if value.dtype.kind == "i" else U)[16 * value.dtype.itemsize])


@operation
def shl(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    bits = _bits(parts[-1])
    x, by = machine.get(args[1], m, bits), machine.get(args[2], m, 32)
    value = x << np.minimum(by, bits - 1).astype(x.dtype)
    machine.put(args[0], m, np.where(by >= bits, 0, value).astype(x.dtype))


@operation
def shr(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    bits = _bits(parts[-1])
    x, by = _get(machine, args[1], m, parts[-1]), machine.get(args[2], m, 32)
    value = x >> np.minimum(by, bits - 1).astype(x.dtype)
    if x.dtype.kind == "u":
        value = np.where(by >= bits, 0, value).astype(x.dtype)
    machine.put(args[0], m, value.view(U[bits]))


@operation
def selp(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    bits = _bits(parts[-1])
    first, second = (machine.get(a, m, bits) for a in args[1:3])
    machine.put(args[0], m, np.where(machine.register(args[3])[m], first, second))


@operation
def setp(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    compare, kind = parts[0], parts[-1]
    if kind == "f16x2":
        x, y = (machine.get(a, m, 32).view(np.float16).reshape(-1, 2) for a in args[1:3])
        for i, name in enumerate(args[0].split("|")):
            machine.put(name.strip(), m, _compared(compare, x[:, i], y[:, i]))
        return
    x, y = (_get(machine, a, m, kind) for a in args[1:3])
    machine.put(args[0], m, _compared(compare, x, y))


def _compared(how: str, x: Array, y: Array) -> Array:
    nan = np.isnan(x) | np.isnan(y) if x.dtype.kind == "f" else np.zeros(x.shape, bool)
    if how in ("num", "nan"):
        return nan if how == "nan" else ~nan
    names = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
    found = getattr(np, names.get(how[:2], {"eq": "equal", "ne": "not_equal"}.get(how[:2], "")))
    answer: Array = found(x, y)
    return answer | nan if how.endswith("u") else answer & ~nan


@operation
def cvt(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    *how, to, given = parts
    if to in ("bf16x2", "f16x2"):
        pair = [_get(machine, a, m, "f32") for a in (args[2], args[1])]
        half = _bfloat16 if to == "bf16x2" else lambda v: v.astype(np.float16).view(np.uint16)
        both = np.stack([half(v) for v in pair], 1)
        machine.put(args[0], m, both.view(np.uint32)[:, 0])
        return
    value = _get(machine, args[1], m, given)
    for mode, rounded in (("rpi", np.ceil), ("rmi", np.floor), ("rzi", np.trunc)):
        if mode in how:
            value = rounded(value)
    if to == "bf16":
        _put(machine, args[0], m, value, to)
        return
    target = {"f": F, "s": S}.get(to[0], U)[_bits(to)]
    if to[0] != "f" and value.dtype.kind == "f":
        limits = np.iinfo(target)
        wide = np.nan_to_num(value.astype(np.float64), nan=0.0)
        value = np.clip(wide, float(limits.min), float(limits.max))
    _put(machine, args[0], m, value.astype(target), to)


@operation
def mov(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    if parts[-1] == "pred":
        machine.put(args[0], m, _get(machine, args[1], m, "pred"))
        return
    bits = _bits(parts[-1])
    if args[0].startswith("{"):
        names = _names(args[0])
        value = machine.get(args[1], m, bits).copy().view(U[bits // len(names)])
        for name, column in zip(names, value.reshape(m.size, -1).T):
            machine.put(name, m, column)
    elif args[1].startswith("{"):
        names = _names(args[1])
        value = np.stack([machine.get(name, m, bits // len(names)) for name in names], 1)
        machine.put(args[0], m, value.view(U[bits])[:, 0])
    else:
        machine.put(args[0], m, machine.get(args[1], m, bits))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.strip("{} ").split(",")]


@operation
def ld(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    bits = _bits(parts[-1])
    if parts[0] == "param":
        name, _, offset = args[1].strip("[] ").partition("+")
        kind, value = machine.args[name]
        number = int(np.float32(value).view(np.uint32)) if kind == "f32" else int(value)
        number >>= 8 * int(offset or 0)
        machine.put(args[0], m, np.full(m.size, number & ((1 << bits) - 1), U[bits]))
        return
    names = _names(args[0])
    found = machine.load(parts[0], args[1], m, bits // 8 * len(names))
    for name, column in zip(names, found.view(U[bits]).T):
        _put(machine, name, m, np.ascontiguousarray(column), parts[-1])


@operation
def st(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    values = [machine.get(name, m, _bits(parts[-1])) for name in _names(args[1])]
    machine.store(parts[0], args[0], m, np.stack(values, 1).view(np.uint8))


@operation
def atom(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    assert parts[-2:] == ["add", "u32"]
    machine.atomic_add(args[1], m, machine.get(args[2], m, 32))


# Warps act together: their 32 lanes are a row.


@operation
def bar(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    """bar.warp.sync: lanes are in step anyway."""
    assert parts == ["warp", "sync"]


@operation
def shfl(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    x, by, limit = (machine.get(a, m, 32).reshape(-1, 32).astype(np.int64) for a in args[1:4])
    lane = np.arange(32)
    clamp, fixed = limit & 31, (limit >> 8) & 31
    last = (lane & fixed) | (clamp & ~fixed)
    other = {"bfly": lane ^ by, "up": lane - by, "down": lane + by}.get(
        parts[1], (lane & fixed) | (by & ~fixed)
    )
    inside = other >= last if parts[1] == "up" else other <= last
    value = np.take_along_axis(x, np.where(inside, other, lane), 1)
    machine.put(args[0], m, value.reshape(-1).astype(np.uint32))


@operation
def redux(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    run = {
        **{"add": np.add, "min": np.minimum, "max": np.maximum},
        **{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
    }[parts[1]]
    value = _get(machine, args[1], m, parts[-1]).reshape(-1, 32)
    machine.put(args[0], m, np.repeat(run.reduce(value, 1, value.dtype), 32).view(np.uint32))


def _rows(machine: Any, text: str, m: Any, matrix: int, row: int) -> tuple[str, Any]:
    """Address of a row of an 8 x 8 matrix, of which lane 8 * matrix + row has it: one a warp."""
    first = m.reshape(-1, 32)[:, 8 * matrix + row]
    return text, first


def _rows_together(machine: Any, text: str, m: Any, matrices: int, passes: int) -> None:
    """Counts the passes of an instruction that began at `passes`: all lanes' rows at once."""
    if not machine.watched:
        lanes = m[m % 32 < 8 * matrices]
        machine.passes = passes
        machine.count_passes("shared", machine.address(text, lanes, 32), lanes, 16)


@operation
def stmatrix(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    passes = machine.passes
    for i, name in enumerate(_names(args[1])):
        value = machine.get(name, m, 32).view(np.uint16).reshape(-1, 8, 8)
        if "trans" in parts:
            value = value.transpose(0, 2, 1)
        for row in range(8):
            text, lanes = _rows(machine, args[0], m, i, row)
            line = np.ascontiguousarray(value[:, row]).view(np.uint8)
            machine.store("shared", text, lanes, line)
    _rows_together(machine, args[0], m, len(_names(args[1])), passes)


@operation
def ldmatrix(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    passes = machine.passes
    for i, name in enumerate(_names(args[0])):
        rows = []
        for row in range(8):
            text, lanes = _rows(machine, args[1], m, i, row)
            rows.append(machine.load("shared", text, lanes, 16).view(np.uint16))
        value = np.stack(rows, 1)
        if "trans" in parts:
            value = value.transpose(0, 2, 1)
        machine.put(name, m, np.ascontiguousarray(value).reshape(m.size, 2).view(np.uint32)[:, 0])
    _rows_together(machine, args[1], m, len(_names(args[0])), passes)
