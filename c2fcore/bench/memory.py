"""Peak memory of a call above its inputs, in a process of its own.

The child runs `module:function(**arguments)`, which makes the inputs, warms up and returns the call
to be measured. In host memory the peak of the resident set is the kernel's own (VmHWM), reset after
the inputs stand, so that it counts every allocation of the call, whoever makes it, and nothing
before it. On a GPU it is what torch's allocator held at most.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import inputs, ways

_CHILD_ENV = {
    # Freed blocks go back to the system at once, so that memory left over from making the inputs
    # cannot hide what the call takes.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
_CHILD = "from c2fcore.bench.memory import main; main()"


def extra_mib(make: str, threads: int, arguments: dict[str, Any]) -> float:
    """Peak MiB above the inputs of one call, measured in a fresh process.

    Args:
        make: "module:function" that gives the call.
        threads: of torch.
        arguments: of that function, by name, as JSON can hold them.

    Raises:
        RuntimeError: the process failed; its last line of output is the message.
    """
    command = [sys.executable, "-W", "ignore", "-c", _CHILD]
    command.append(json.dumps({"make": make, "threads": threads, "arguments": arguments}))
    # Not from the current folder, which may hold a c2fcore without its kernels. Folders that were
    # put on the path by hand (networks of the user's) are passed on.
    path = os.pathsep.join([os.path.abspath(p) for p in sys.path if p])
    environment = {**os.environ, **_CHILD_ENV, "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            command, env=environment, cwd=elsewhere, capture_output=True, text=True, check=False
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"memory of {make}: {lines[-1]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def glue_call(way: str, size: int, device: str = "cpu", **case: Any) -> Callable[[], Any]:
    """The whole glue on an image of `size`; `case` are arguments of `inputs.make_case`."""
    job = ways.Job("glue", {})
    # Libraries, thread pools and caches that a first call sets up are not the call's memory.
    ways.call_of(job, way, inputs.make_case(64, **{**case, "n": 2}).to(device))()
    return ways.call_of(job, way, inputs.make_case(size, **case).to(device))


def peak_above(call: Callable[[], Any]) -> float:
    """MiB that the peak of a call lay above what was there before it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        if held:  # inputs on the GPU: so is the work
            return (torch.cuda.max_memory_allocated() - held) / 2**20
    _trim()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    result = call()
    peak = _status("VmHWM")
    del result
    return peak - before


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _trim() -> None:
    # With another C library the thresholds in the environment have to do.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def main() -> None:
    """The child: prints the MiB of the call that its argument describes."""
    wanted = json.loads(sys.argv[-1])
    torch.set_num_threads(wanted["threads"])
    module, _, function = wanted["make"].partition(":")
    call = getattr(importlib.import_module(module), function)(**wanted["arguments"])
    print(json.dumps(peak_above(call)))
