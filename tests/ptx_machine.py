"""Executes PTX without a GPU: compiled Triton kernels, thread by thread, memory and races checked.

The interpreter of Triton runs a kernel's source; what the compiler makes of it, which lane holds
what, the exchange through shared memory, predicates of redundant threads, barriers, vector loads,
contracted multiply-adds, is only in the machine code. This runs PTX, one step before that. NumPy
arrays hold a register of all threads of all blocks; of the threads that can go on, those with the
lowest program counter go together, so that branches meet again.

A fault is raised for an access outside the buffers, or misaligned, and for a barrier that some
threads of a block never reach. Races are collected: accesses to one byte, one of them a write, by
different threads (shared memory: warps) with no barrier between them, or by different blocks.
Not modelled: caches, the order of blocks, how long anything takes; but how many instructions the
warps execute is counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ptx_bits import OPERATIONS
from ptx_operations import U, width

Bytes = NDArray[np.uint8]
Threads = NDArray[np.intp]  # numbers of threads
BASE = 0x7F00_0000_0000  # of addresses: those cut to 32 bits are faults
MOST_STEPS = 5_000_000


class Fault(AssertionError):
    """The program did what a GPU would not forgive."""


# Instructions of machine code that stand for one of PTX where these are many: read off what nvcc 13
# makes of each for sm_90, on the way that is taken where nothing overflows.
COSTS = {
    **dict.fromkeys(("div.u32", "rem.u32"), 20),
    **dict.fromkeys(("div.s32", "rem.s32"), 25),
    **dict.fromkeys(("div.rn.f32", "rcp.rn.f32"), 10),
}


class Instruction(NamedTuple):
    """`@!predicate operation arguments`; `cost`: instructions of machine code, about."""

    text: str
    predicate: str
    negated: bool
    operation: str
    args: tuple[str, ...]
    cost: int


class Buffer(NamedTuple):
    """Global memory of one tensor, at an address as aligned as the tensor's own."""

    name: str
    data: Bytes
    address: int


class Program:
    """PTX of one kernel, decoded."""

    def __init__(self, ptx: str) -> None:
        head, body = ptx[ptx.index(".visible .entry") :].split("{", 1)
        self.name = head.split("(")[0].split()[-1]
        found = re.search(r"\.reqntid (\d+)", head)
        assert found is not None
        self.threads = int(found.group(1))
        self.params = re.findall(r"\.param \.(\w+) .*?(\w+_param_\d+)", head)
        body = re.sub(r"//.*", "", body[: body.index("$L__func_end")])
        body = re.sub(r"(?m)^\s*\.(loc|reg|pragma).*$", "", body)
        self.code: list[Instruction] = []
        self.labels: dict[str, int] = {}
        for part in body.split(";"):
            text = " ".join(part.replace("::cta", "").split()).lstrip("{} ")
            while found := re.match(r"(\$[\w$]+):\s*", text):
                self.labels[found.group(1)] = len(self.code)
                text = text[found.end() :].lstrip("{ ")
            if text:
                self.code.append(_decoded(text))
        self.targets = set(self.labels.values())


def _decoded(text: str) -> Instruction:
    found = re.match(r"(?:@(!?)(%p\d+) )?(\S+) ?(.*)", text)
    assert found is not None
    negated, predicate, operation, rest = found.groups()
    args = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest)
    args = tuple(a.strip() for a in args)
    cost = COSTS.get(operation, 1)
    return Instruction(text, predicate or "", bool(negated), operation, args, cost)


class Shadow:
    """Who last wrote and read each byte, and how many barriers that block had passed."""

    def __init__(self, size: int, threads: int, together: int) -> None:
        self.threads, self.together = threads, together
        self.writer = np.full(size, -1, np.int64)
        self.reader = np.full(size, -1, np.int64)
        self.written, self.read = np.zeros((2, size), np.int64)
        self.atomic = np.zeros(size, bool)

    def _apart(self, other: Any, since: Any, me: Any, now: Any) -> Any:
        strangers = (other >= 0) & (other // self.together != me // self.together)
        return strangers & ((other // self.threads != me // self.threads) | (since == now))

    def reads(self, at: Any, me: Any, now: Any) -> bool:
        race = self._apart(self.writer[at], self.written[at], me, now).any()
        self.reader[at], self.read[at] = me, now
        return bool(race)

    def writes(self, at: Any, me: Any, now: Any, changes: Any, atomic: bool) -> bool:
        race = self._apart(self.writer[at], self.written[at], me, now) & changes
        race &= ~(self.atomic[at] & atomic)
        race |= self._apart(self.reader[at], self.read[at], me, now)
        self.writer[at], self.written[at], self.atomic[at] = me, now, atomic
        return bool(race.any())


class Unwatched:
    """Stands for a Shadow where races are not asked for, and time and memory are."""

    def reads(self, *_: Any) -> bool:
        return False

    def writes(self, *_: Any, atomic: bool) -> bool:
        return False


class Machine:
    """One launch. Buffers are changed in place.

    Args:
        threads: of a block; as many as the program allows, unless it says.

    Attributes:
        races: that were seen, if they are watched for.
        issued: instructions executed so far, each once for every warp of which threads come to it,
            predicate or not; lanes that are apart come to it one after the other. A division
            counts as what it becomes.
        passes: of these instructions through the memory pipe, as `_passes` has it; counted where
            races are not watched for.
    """

    operations = OPERATIONS

    def __init__(
        self,
        program: Program,
        blocks: int,
        buffers: Sequence[Buffer],
        args: Sequence[float],
        shared: int,
        watched: bool = True,
        threads: int | None = None,
    ) -> None:
        self.program, self.blocks, self.threads = program, blocks, threads or program.threads
        self.count = blocks * self.threads
        self.thread = np.tile(np.arange(self.threads, dtype=np.uint32), blocks)
        self.block = np.repeat(np.arange(blocks, dtype=np.uint32), self.threads)
        self.registers: dict[str, NDArray[Any]] = {}
        # Pointers to scratch that these kernels do not ask for come last.
        self.args = {
            name: (kind, value)
            for (kind, name), value in zip(program.params, [*args, 0, 0, 0], strict=False)
        }
        self.buffers = sorted(buffers, key=lambda buffer: buffer.address)
        self.addresses = np.array([b.address for b in self.buffers], np.uint64)
        self.sizes = np.array([b.data.size for b in self.buffers], np.int64)
        padded = [np.append(b.data, np.zeros(-b.data.size % 8, np.uint8)) for b in self.buffers]
        self.starts = np.cumsum([0, *(p.size for p in padded)])[:-1]
        self.memory = np.concatenate([np.zeros(0, np.uint8), *padded])
        self.shared_bytes = max(shared, 16)
        # Negative numbers in one block, positive ones in the next, and no two beside each other
        # equal: one of them hides no omission.
        place = np.arange(self.shared_bytes)
        beside = np.where(place % 2 == 0, place // 2, 0).astype(np.uint8)
        poison = np.uint8([[0xCD], [0x7B]]) + beside
        self.shared = np.resize(poison, blocks * self.shared_bytes)
        self.epoch = np.zeros(blocks, np.int64)
        self.global_shadow: Shadow | Unwatched = Unwatched()
        self.shared_shadow: Shadow | Unwatched = Unwatched()
        if watched:
            self.global_shadow = Shadow(self.memory.size, self.threads, 1)
            self.shared_shadow = Shadow(self.shared.size, self.threads, 32)
        self.races: set[str] = set()
        self.issued = self.passes = 0
        self.watched = watched
        self.here = ""

    def run(self) -> None:
        """Runs every thread to its end.

        Raises:
            Fault: see the module.
        """
        try:
            with np.errstate(all="ignore"):
                self._run()
        except Fault as fault:
            raise Fault(f"{self.program.name}: {fault}, at: {self.here}") from None
        for buffer, start in zip(self.buffers, self.starts, strict=True):
            buffer.data[:] = self.memory[start : start + buffer.data.size]

    def _run(self) -> None:
        end = len(self.program.code)
        counter = np.zeros(self.count, np.int64)
        waits = np.zeros(self.count, bool)
        for _ in range(MOST_STEPS):
            ready = (counter < end) & ~waits
            if not ready.any():
                if not waits.any():
                    return
                at_barrier = waits.reshape(self.blocks, -1)
                some = at_barrier.any(1)
                if not at_barrier[some].all():
                    raise Fault("a barrier that threads of the block have left")
                self.epoch[some] += 1
                waits[:] = False
                continue
            now = int(counter[ready].min())
            self._straight(np.flatnonzero(ready & (counter == now)), now, counter, waits)
        raise Fault("no end")

    def _straight(self, threads: Threads, now: int, counter: Any, waits: Any) -> None:
        """Runs `threads` from instruction `now` to a branch, a barrier, a place others jump to."""
        code, targets = self.program.code, self.program.targets
        warps = 1 + np.count_nonzero(np.diff(threads // 32))
        while now < len(code):
            step = code[now]
            self.here = step.text
            self.issued += warps * step.cost
            chosen = threads
            if step.predicate:
                chosen = threads[self.register(step.predicate)[threads] != step.negated]
            now += 1
            if step.operation in ("bra", "bra.uni", "ret", "bar.sync"):
                counter[threads] = now
                if step.operation == "bar.sync":
                    waits[chosen] = True
                else:
                    target = self.program.labels.get(step.args[0]) if step.args else len(code)
                    counter[chosen] = target
                return
            if chosen.size:
                kind, *parts = step.operation.split(".")
                if kind not in self.operations:
                    raise Fault("an instruction that this machine does not have")
                self.operations[kind](self, parts, step.args, chosen)
            if now in targets:
                break
        counter[threads] = now

    # Registers hold bits; operations look at them as numbers.

    def register(self, name: str) -> NDArray[Any]:
        if name not in self.registers:
            bits = width(name)
            self.registers[name] = np.zeros(self.count, bool if bits == 1 else U[bits])
        return self.registers[name]

    def get(self, name: str, m: Threads, bits: int) -> NDArray[Any]:
        """An operand of the threads `m`, as unsigned numbers of `bits`."""
        special = {"%tid.x": self.thread, "%ctaid.x": self.block}
        if name in special:
            return special[name][m]
        if name.startswith("%"):
            value = self.register(name)[m]
            return value if value.dtype == bool else value.astype(U[bits], copy=False)
        if name.startswith("0f"):
            return np.full(m.size, int(name[2:], 16), np.uint32)
        if name.startswith("global_smem"):
            name = name.partition("+")[2] or "0"
        return np.full(m.size, int(name.rstrip("U"), 0) & ((1 << bits) - 1), U[bits])

    def put(self, name: str, m: Threads, value: NDArray[Any]) -> None:
        if name != "_":
            register = self.register(name)
            register[m] = value.astype(register.dtype, copy=False)

    def address(self, text: str, m: Threads, bits: int) -> NDArray[Any]:
        base, _, offset = text.strip("[] ").partition("+")
        return self.get(base.strip(), m, bits) + U[bits](int(offset or 0) & ((1 << bits) - 1))

    # Memory, as [threads, bytes].

    def load(self, space: str, text: str, m: Threads, size: int) -> Bytes:
        at, me, now = self._where(space, text, m, size)
        memory, shadow = self._space(space)
        if shadow.reads(at, me, now):
            self._race(f"{space} read of what another thread wrote")
        return memory[at]

    def store(self, space: str, text: str, m: Threads, value: Bytes) -> None:
        at, me, now = self._where(space, text, m, value.shape[1])
        memory, shadow = self._space(space)
        if shadow.writes(at, me, now, memory[at] != value, atomic=False):
            self._race(f"{space} write to what another thread wrote or read")
        memory[at] = value
        if (memory[at] != value).any():
            self._race(f"{space} write of different values at once")

    def atomic_add(self, text: str, m: Threads, value: NDArray[np.uint32]) -> None:
        at, me, now = self._where("global", text, m, 4)
        if self.global_shadow.writes(at, me, now, np.ones(at.shape, bool), atomic=True):
            self._race("atomic on what another thread wrote or read")
        np.add.at(self.memory.view(np.uint32), at[:, 0] // 4, value)

    def _space(self, space: str) -> tuple[Bytes, Shadow | Unwatched]:
        if space == "shared":
            return self.shared, self.shared_shadow
        return self.memory, self.global_shadow

    def _where(self, space: str, text: str, m: Threads, size: int) -> tuple[Any, Any, Any]:
        """Bytes in the flat memory; the threads and their blocks' epochs, to go with them."""
        if space == "shared":
            address = self.address(text, m, 32).astype(np.int64)
            wrong = address + size > self.shared_bytes
            at = address + self.block[m].astype(np.int64) * self.shared_bytes
        else:
            address = self.address(text, m, 64)
            i = np.maximum(np.searchsorted(self.addresses, address, "right") - 1, 0)
            inside = (address - self.addresses[i]).astype(np.int64)
            wrong = (inside < 0) | (inside + size > self.sizes[i])
            at = self.starts[i] + inside
        misaligned = address % address.dtype.type(size) != 0
        if (wrong | misaligned).any():
            k = int(np.flatnonzero(wrong | misaligned)[0])
            what = "outside" if wrong[k] else f"no multiple of the {size} bytes accessed"
            raise Fault(
                f"{space} address {int(address[k]):#x} is {what}, "
                f"thread {self.thread[m[k]]} of block {self.block[m[k]]}"
            )
        if not self.watched:
            self.count_passes(space, address, m, size)
        now = self.epoch[self.block[m]]
        return at[:, None] + np.arange(size), m.astype(np.int64)[:, None], now[:, None]

    def count_passes(self, space: str, address: NDArray[Any], m: Threads, size: int) -> None:
        self.passes += _passes(space, address.astype(np.int64), m, size)

    def _race(self, what: str) -> None:
        self.races.add(f"{self.program.name}: {what}, at: {self.here}")


def _passes(space: str, address: NDArray[np.int64], m: Threads, size: int) -> int:
    """Of an access through the memory pipe, 128 bytes each: its warps', one after the other.

    Global memory: the lines of 128 bytes that a warp touches. Shared memory: as many lanes at once
    as ask for 128 bytes; of each such group, the words that it needs of its busiest bank.
    """
    if space != "shared":
        return np.unique(m // 32 << 40 | address // 128).size
    together = min(32, 128 // size)
    words = address[:, None] // 4 + np.arange(max(size // 4, 1))
    group = np.broadcast_to((m // together)[:, None], words.shape)
    needed = np.unique(group << 32 | words)
    _, busy = np.unique(needed >> 32 << 5 | needed & 31, return_counts=True)
    group_of = np.unique(needed >> 32 << 5 | needed & 31) >> 5
    first = np.flatnonzero(np.diff(group_of, prepend=-1))
    return int(np.maximum.reduceat(busy, first).sum())
