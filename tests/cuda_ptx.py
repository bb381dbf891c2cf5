"""Executes the PTX of CUDA kernels without a GPU: ptx_machine, with what nvcc emits and Triton not.

A kernel has one argument, a struct; generic addresses reach it, shared and global memory. Lanes of
a warp may be apart: votes and exchanges are among those that come together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptx_bits import halves, highest
from ptx_machine import Buffer, Fault, Instruction, Machine, Threads, _decoded
from ptx_operations import OPERATIONS, U, _bits, _names, _put

ARGUMENT, SHARED = 0x7D00_0000_0000, 0x7E00_0000_0000  # generic addresses of the struct, of shared
OWN: dict[str, Callable[[Any, list[str], Sequence[str], Any], None]] = {}


class CudaProgram:
    """PTX of one kernel, decoded."""

    params: tuple[tuple[str, str], ...] = ()

    def __init__(self, ptx: str, name: str) -> None:
        head, body = ptx[ptx.index(f".entry {name}(") :].split("{", 1)
        self.name = name
        found = re.search(r"\.maxntid (\d+)", head)
        assert found is not None
        self.threads = int(found[1])
        self.code: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self.variables: dict[str, int] = {}  # in static shared memory, and where
        self.static_shared = 0
        for line in re.sub(r"//.*", "", body[: body.index("\n}")]).splitlines():
            self._read(line.strip(" \t"))
        self.targets = set(self.labels.values())

    def _read(self, line: str) -> None:
        if found := re.match(r"\.shared \.align \d+ \.\w+ ([\w$]+)(?:\[(\d+)\])?;", line):
            self.variables[found[1]] = self.static_shared
            self.static_shared += -(-int(found[2] or 8) // 16) * 16
            return
        assert not line.startswith(".local"), "no kernel has local memory"
        if not line or line.startswith("."):
            return
        while found := re.match(r"(\$[\w$]+):\s*", line):
            self.labels[found[1]] = len(self.code)
            line = line[found.end() :]
        if not re.search(r"\{.*\}", line):  # of an asm statement; else of a vector
            line = line.strip("{}")
        for part in line.split(";"):
            if text := " ".join(part.split()):
                self.code.append(_decoded(text))


class CudaMachine(Machine):
    """One launch; `races` holds those in shared memory, blocks hand on global memory by tickets."""

    def __init__(
        self,
        program: Any,
        blocks: int,
        buffers: Sequence[Buffer],
        argument: bytes,
        dynamic_shared: int,
        watched: bool = True,
        threads: int | None = None,
    ) -> None:
        shared = program.static_shared + dynamic_shared
        super().__init__(program, blocks, buffers, [], shared, watched, threads)
        self.argument = np.frombuffer(argument, np.uint8)
        self.operations = {**OPERATIONS, **OWN}

    def get(self, name: str, m: Threads, bits: int) -> NDArray[Any]:
        if name == "%ntid.x":
            return np.full(m.size, self.threads, U[bits])
        places = {**self.program.variables, f"{self.program.name}_param_0": ARGUMENT}
        if name.endswith("6sharedE"):  # the dynamic shared memory
            return np.full(m.size, self.program.static_shared, U[bits])
        if name in places:
            return np.full(m.size, places[name], U[bits])
        return super().get(name, m, bits)

    def space(self, parts: Sequence[str], text: str, m: Threads) -> str:
        """What an instruction names, or its generic addresses say."""
        if parts[0] in ("global", "shared"):
            return parts[0]
        found = np.unique(self.address(text, m, 64) >> np.uint64(40))
        if found.size > 1:
            raise Fault("generic addresses of several kinds")
        return {ARGUMENT >> 40: "argument", SHARED >> 40: "shared"}.get(int(found[0]), "global")

    def atomic(
        self, run: Any, space: str, text: str, m: Threads, value: NDArray[Any]
    ) -> NDArray[Any]:
        """Applies `run`, one thread after the other; returns what was there."""
        at, me, now = self._where(space, text, m, 4)
        memory, shadow = self._space(space)
        if shadow.writes(at, me, now, np.ones(at.shape, bool), atomic=True):
            self._race(f"{space} atomic on what another thread wrote or read")
        words, before = memory.view(np.uint32), np.empty(m.size, np.uint32)
        with np.errstate(over="ignore"):
            for k, i in enumerate(at[:, 0] // 4):
                before[k] = words[i]
                words[i] = run(words[i], value[k])
        return before

    def _race(self, what: str) -> None:
        if what.startswith("shared"):
            super()._race(what)


def operation(run: Any) -> Any:
    OWN[run.__name__.rstrip("_")] = run
    return run


@operation
def ld(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    names, bits = _names(args[0]), _bits(parts[-1])
    size, space = bits // 8 * len(names), machine.space(parts, args[1], m)
    if space == "argument":
        at = machine.address(args[1], m, 64).astype(np.int64) - ARGUMENT
        found = machine.argument[at[:, None] + np.arange(size)]
    else:
        found = machine.load(space, args[1], m, size)
    for name, column in zip(names, np.ascontiguousarray(found).view(U[bits]).T, strict=True):
        _put(machine, name, m, np.ascontiguousarray(column), parts[-1])


@operation
def st(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    values = [machine.get(name, m, _bits(parts[-1])) for name in _names(args[1])]
    space = machine.space(parts, args[0], m)
    machine.store(space, args[0], m, np.stack(values, 1).view(np.uint8))


@operation
def atom(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    run = {"add u32": np.add, "or b32": np.bitwise_or}[" ".join(parts[-2:])]
    space = "shared" if "shared" in parts else "global"
    machine.put(args[0], m, machine.atomic(run, space, args[1], m, machine.get(args[2], m, 32)))


@operation
def red(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    atom(machine, parts, ["_", *args], m)


@operation
def cvta(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    # An address within shared memory is the low half of its generic one.
    window = np.uint64(SHARED if parts[0] == "shared" else 0)
    machine.put(args[0], m, machine.get(args[1], m, 64) + window)


def _nothing(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    """The order of memory accesses is that of the program."""


OWN |= dict.fromkeys(("griddepcontrol", "membar", "fence"), _nothing)


@operation
def shfl(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    by, lane = machine.get(args[2], m, 32).astype(np.int64), m % 32
    other = {"bfly": lane ^ by, "up": lane - by, "down": lane + by}.get(parts[1], by)
    other = np.where((other < 0) | (other > 31), lane, other)
    from_ = m - lane + other
    if not np.isin(from_, m).all():
        raise Fault("an exchange with a lane that is not here")
    machine.put(args[0].partition("|")[0], m, machine.register(args[1])[from_])


@operation
def vote(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    assert parts[:2] == ["sync", "ballot"]
    votes = machine.register(args[1])[m].astype(np.uint32) << (m % 32).astype(np.uint32)
    of_warp = np.zeros(machine.count // 32, np.uint32)
    np.bitwise_or.at(of_warp, m // 32, votes)
    machine.put(args[0], m, of_warp[m // 32])


@operation
def brev(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    bits = np.unpackbits(machine.get(args[1], m, 32).view(np.uint8).reshape(-1, 4), axis=1)
    # Bytes have their highest bit first, words their lowest byte.
    turned = np.packbits(bits[:, ::-1], axis=1, bitorder="big")
    machine.put(args[0], m, np.ascontiguousarray(turned).view(np.uint32)[:, 0])


@operation
def bfind(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    found = highest(machine.get(args[1], m, 32))
    if "shiftamt" in parts:
        found = np.where(found < 0, -1, 31 - found)
    machine.put(args[0], m, found.astype(np.int32).view(np.uint32))


@operation
def bfi(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    bits, into, first, count = (machine.get(a, m, 32).astype(np.uint64) for a in args[1:5])
    mask = ((np.uint64(1) << count) - np.uint64(1)) << first
    machine.put(args[0], m, ((bits << first) & mask | into & ~mask).astype(np.uint32))


@operation
def rcp(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    assert parts == ["rn", "f32"]
    machine.put(args[0], m, (1 / machine.get(args[1], m, 32).view(np.float32)).view(np.uint32))


@operation
def fma(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    x, y, z = (machine.get(a, m, 32).view(np.float32) for a in args[1:4])
    OPERATIONS["fma"](machine, parts, args, m)
    if parts[0] == "rm":  # rounded down
        found = machine.get(args[0], m, 32).view(np.float32)
        lower = np.nextafter(found, np.float32(-np.inf))
        found = np.where(found > x.astype(np.longdouble) * y + z, lower, found)
        machine.put(args[0], m, found.view(np.uint32))


@operation
def cvt(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    if parts == ["sat", "f32", "f32"]:  # to [0, 1], a NaN to 0
        value = np.nan_to_num(machine.get(args[1], m, 32).view(np.float32), nan=0.0)
        machine.put(args[0], m, np.clip(value, 0, 1).astype(np.float32).view(np.uint32))
        return
    OPERATIONS["cvt"](machine, parts, args, m)


@operation
def max_(machine: Any, parts: list[str], args: Sequence[str], m: Any) -> None:
    if parts[-1] != "bf16x2":
        OPERATIONS["max"](machine, parts, args, m)
        return
    found = np.fmax(*(halves(machine, a, m, "bf16x2") for a in args[1:3]))
    machine.put(args[0], m, (found.view(np.uint32) >> np.uint32(16)).astype(np.uint16).view("u4"))
