"""CUDA kernels compiled when they are first needed: NVRTC and launches, both through CuPy.

The module _cuda_jit is _cuda_prebuilt without its kernels: it checks a call, plans the launches and
hands each one to the Launcher here, with the kernel's name. It serves where no kernels were built,
and wherever C2F_JIT=1 asks for it: edit kernels/cuda, run again.

What was compiled is kept in C2F_CACHE_DIR, by default ~/.cache/c2fcore, until it has not been used
for 30 days or 1024 others have been used since. The structs that kernels
take (kernels/cuda/*_args.h, kernels/common) are compiled into the module, too: after a change of
those, build it again (`make build`); one whose size does not fit is refused.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ._errors import first_line

_log = logging.getLogger("c2fcore")

_OPTIONS = ("-std=c++17", "-fmad=false", "-default-device")  # as cmake/cuda.cmake tells nvcc
# Bytes of dynamic shared memory that need no opt-in: 48 KiB less at most 2 KiB of static memory.
_PLAIN_SHARED = 46 << 10
_MOST_BLOCKS = 2**31 - 1
# Limits of the disk cache: each edit of a header leaves a whole new set of files behind.
_KEPT_SECONDS = 30 * 86400
_KEPT_FILES = 1024
_KEPT_NAME = re.compile(r"[a-z_]+-[0-9a-f]{64}\.bin")


class Kernel(NamedTuple):
    """An instantiation of a kernel.

    Attributes:
        op: names the header, kernels/cuda/<op>.cuh.
        name: in C++, within namespace c2f::cuda.
        bytes: size of its one argument in the module that launches it.
    """

    op: str
    name: str
    bytes: int


def wanted() -> bool:
    """Whether C2F_JIT=1 asks for these kernels even where others were built."""
    return os.environ.get("C2F_JIT", "").lower() in ("1", "true", "on", "yes")


def missing() -> str:
    """Why nothing can be compiled and launched on this machine, "" if it can."""
    if importlib.util.find_spec("cupy") is None:
        major = (torch.version.cuda or "13").split(".")[0]
        return f"CuPy is not installed: pip install 'c2fcore[cuda{major}]'"
    try:
        from cupy.cuda import nvrtc, runtime

        nvrtc.getVersion()
    except Exception as error:  # a broken installation may raise anything
        return f"CuPy or its NVRTC does not load: {first_line(error)}"
    try:
        devices = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        return f"CuPy sees no CUDA device: {first_line(error)}"
    return "" if devices else "CuPy sees no CUDA device"


def source(kernel: Kernel) -> str:
    """The program of one kernel."""
    return f"""#include "cuda/{kernel.op}.cuh"
using namespace c2f;
using namespace c2f::cuda;
template <class Function> struct ArgumentOf;
template <class Args> struct ArgumentOf<void(Args)> {{ using Type = Args; }};
static_assert(sizeof(ArgumentOf<decltype({kernel.name})>::Type) == {kernel.bytes},
              "the argument has another size than in module _cuda_jit: build that again");
"""


def compiled(kernel: Kernel, capability: int) -> tuple[str, bytes]:
    """A kernel's name in its machine code, and that code; from the disk if it is there.

    Args:
        kernel: what to compile.
        capability: compute capability of the GPU, 90 for 9.0. One that NVRTC does not know yet
            gets PTX, which the driver compiles on.

    Raises:
        RuntimeError: NVRTC refuses the source; the text ends with its log.
    """
    target = _target(capability)
    path = _path(kernel, target)
    found = _read(path)
    if found is None:
        # Before, not after: somebody is waiting and may want to know why.
        _log.info("%s: compiling %s for %s, once; takes seconds", kernel.op, kernel.name, target)
        found = _compile(kernel, target)
        _write(path, *found)
    return found


def key(kernel: Kernel, target: str) -> str:
    """Changes whenever the machine code might: with any header, option or version."""
    from cupy.cuda import nvrtc

    digest = hashlib.sha256(f"{nvrtc.getVersion()} {target} {_OPTIONS}\n".encode())
    digest.update(f"{kernel.name}\n{source(kernel)}".encode())
    for folder in ("common", "cuda"):
        for path in sorted((_kernels() / folder).rglob("*")):
            if path.is_file() and path.suffix in (".h", ".cuh", ""):  # nvrtc/ has names without
                digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


class Launcher:
    """Launches kernels by name; what the module _cuda_jit is given."""

    def __init__(self, gpu: Callable[[], Any], compile: Callable[..., tuple[str, bytes]]) -> None:
        """`gpu` makes what stands for the machine (Cupy), `compile` is `compiled`."""
        self._gpu, self._compile = functools.cache(gpu), compile
        self._functions: dict[tuple[int, str, str], int] = {}
        self._compiling = threading.Lock()
        self._allowed: dict[int, int] = {}  # dynamic shared memory of functions, beyond plain
        self._allowing = threading.Lock()

    def missing(self) -> str:
        """Why it cannot launch anything, "" if it can."""
        return missing()

    def __call__(
        self,
        op: str,
        name: str,
        blocks: int,
        threads: int,
        shared: int,
        arguments: int,
        size: int,
        device: int,
        stream: int,
    ) -> None:
        """Starts a kernel that takes one struct by value.

        Args:
            op: of the kernel.
            name: of the kernel.
            blocks: along x.
            threads: of a block, along x.
            shared: dynamic shared memory of a block, bytes.
            arguments: address of an array that holds the struct's address.
            size: of the struct, bytes.
            device: index.
            stream: handle.

        Raises:
            RuntimeError: the kernel does not compile, or CUDA refuses the launch.
        """
        if blocks > _MOST_BLOCKS:
            raise RuntimeError(f"{op}: {name}: more blocks than a launch can have, got {blocks}")
        gpu = self._gpu()
        try:
            before = gpu.enter(device)
            try:
                function = self._functions.get((device, op, name))
                if function is None:
                    function = self._load(gpu, device, Kernel(op, name, size))
                if shared > self._allowed.get(function, _PLAIN_SHARED):
                    self._allow(gpu, function, shared)
                gpu.launch(function, blocks, threads, shared, stream, arguments)
            finally:
                gpu.leave(before)
        except gpu.Error as error:
            raise RuntimeError(f"{op}: {name}: {first_line(error)}") from error

    def _load(self, gpu: Any, device: int, kernel: Kernel) -> int:
        """The function of a kernel on a device, compiled by the first thread that asks for one."""
        key = (device, kernel.op, kernel.name)
        with self._compiling:
            if key not in self._functions:
                lowered, code = self._compile(kernel, gpu.capability(device))
                self._functions[key] = gpu.load(code, lowered)
            return self._functions[key]

    def _allow(self, gpu: Any, function: int, shared: int) -> None:
        """Raises a function's limit. It never falls: another thread may be about to launch more."""
        with self._allowing:
            if shared > self._allowed.get(function, _PLAIN_SHARED):
                gpu.allow_shared(function, shared)
                self._allowed[function] = shared


class Cupy:
    """What is asked of CuPy to run a kernel. Modules stay loaded as long as the process."""

    def __init__(self) -> None:
        """On a machine with a GPU."""
        from cupy.cuda import Device, driver, runtime

        self.Error = (driver.CUDADriverError, runtime.CUDARuntimeError)
        self._device, self._driver, self._runtime = Device, driver, runtime
        self._ready = threading.local()

    def enter(self, device: int) -> int:
        """Makes a device current in this thread; returns the one that was."""
        before: int = self._runtime.getDevice()
        if before != device:
            self._runtime.setDevice(device)
        ready = self._ready.__dict__.setdefault("devices", set())
        if device not in ready:
            # Driver calls need a current context in this thread; the runtime creates it at its
            # first call.
            self._runtime.memGetInfo()
            ready.add(device)
        return before

    def leave(self, before: int) -> None:
        """Goes back to another device."""
        if self._runtime.getDevice() != before:
            self._runtime.setDevice(before)

    def capability(self, device: int) -> int:
        """90 for compute capability 9.0."""
        return int(self._device(device).compute_capability)

    def load(self, code: bytes, name: str) -> int:
        """A function of machine code, for the current device."""
        function: int = self._driver.moduleGetFunction(self._driver.moduleLoadData(code), name)
        return function

    def allow_shared(self, function: int, size: int) -> None:
        """Lets a function use so many bytes of dynamic shared memory."""
        attribute = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._driver.funcSetAttribute(function, attribute, size)

    def launch(
        self, function: int, blocks: int, threads: int, shared: int, stream: int, arguments: int
    ) -> None:
        """Starts a function; `arguments` is the address of an array of pointers to each."""
        grid, block = (blocks, 1, 1), (threads, 1, 1)
        self._driver.launchKernel(function, *grid, *block, shared, stream, arguments, 0)


def _compile(kernel: Kernel, target: str) -> tuple[str, bytes]:
    from cupy.cuda import nvrtc

    folder = _kernels()
    program = nvrtc.createProgram(source(kernel), f"{kernel.op}.cu", (), ())
    include = (f"-I{folder}", f"-I{folder / 'cuda' / 'nvrtc'}")
    try:
        nvrtc.addNameExpression(program, kernel.name)
        try:
            nvrtc.compileProgram(program, (*_OPTIONS, f"-arch={target}", *include))
        except nvrtc.NVRTCError:
            log = nvrtc.getProgramLog(program)
            raise RuntimeError(
                f"{kernel.op}: NVRTC cannot compile {kernel.name} for {target}:\n{log}"
            ) from None
        if log := nvrtc.getProgramLog(program).strip("\0 \n"):
            _log.warning("%s: NVRTC on %s:\n%s", kernel.op, kernel.name, log)
        get = nvrtc.getCUBIN if target.startswith("sm_") else nvrtc.getPTX
        return nvrtc.getLoweredName(program, kernel.name), get(program)
    finally:
        nvrtc.destroyProgram(program)


def _target(capability: int) -> str:
    """The architecture to compile for: the GPU's, or PTX of the last before it that is known."""
    from cupy.cuda import nvrtc

    known = getattr(nvrtc, "getSupportedArchs", lambda: (capability,))()  # not before CuPy 14
    if capability in known:
        return f"sm_{capability}"
    return f"compute_{max((arch for arch in known if arch < capability), default=capability)}"


def _kernels() -> Path:
    spec = importlib.util.find_spec("c2fcore.kernels")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _path(kernel: Kernel, target: str) -> Path:
    """Where it is kept. A user without a home has no such place: nothing can be written there."""
    home = os.path.expanduser("~")
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")
    folder = os.environ.get("C2F_CACHE_DIR") or os.path.join(
        os.devnull if caches.startswith("~") else caches, "c2fcore"
    )
    return Path(folder) / f"{kernel.op}-{key(kernel, target)}.bin"


def _read(path: Path) -> tuple[str, bytes] | None:
    """Name and code of a file; None if there is none, or if it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, held = content[:32], content[32:]
    if hashlib.sha256(held).digest() != checksum:
        _log.info("%s is damaged; compiling again", path)
        return None
    with contextlib.suppress(OSError):  # a folder of another user
        os.utime(path)
    name, _, code = held.partition(b"\n")
    return name.decode(), code


def _write(path: Path, name: str, code: bytes) -> None:
    """Keeps what was compiled, in one move; a folder that cannot be written costs time only."""
    held = name.encode() + b"\n" + code
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # removed on failure, too
            arriving = Path(folder) / path.name
            arriving.write_bytes(hashlib.sha256(held).digest() + held)
            os.replace(arriving, path)
        _drop_old(path.parent)
    except OSError as error:
        _log.info("compiled kernels are not kept: %s", error)


def _drop_old(folder: Path) -> None:
    """Removes what was not used for long; other processes may do so, too, and compile it again."""
    used: list[tuple[float, Path]] = []
    for path in folder.iterdir():
        if _KEPT_NAME.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                used.append((path.stat().st_mtime, path))
    oldest = time.time() - _KEPT_SECONDS
    for place, (when, path) in enumerate(sorted(used, reverse=True)):
        if place >= _KEPT_FILES or when < oldest:
            path.unlink(missing_ok=True)
