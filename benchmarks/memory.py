"""Peak memory of the whole glue above its inputs, in a process of its own.

`python benchmarks/memory.py --provider cpu --size 6000` prints one JSON object. The peak of the
resident set is the kernel's own (VmHWM), reset after the inputs stand, so that it counts every
allocation of the call, whoever makes it, and nothing before it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import inputs
import providers
import torch

_CHILD_ENV = {
    # Freed blocks go back to the system at once, so that memory left over from making the inputs
    # cannot hide what the call takes.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}


def extra_mib(provider: str, size: int, threads: int) -> dict[str, Any]:
    """Peak MiB above the inputs of one glue call, measured in a fresh process.

    Raises:
        RuntimeError: the process failed; its last line of output is the message.
    """
    command = [sys.executable, "-W", "ignore", __file__]
    command += ["--provider", provider, "--size", str(size), "--threads", str(threads)]
    done = subprocess.run(
        command, env={**os.environ, **_CHILD_ENV}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"memory of {provider}: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peak_above(call: providers.Call) -> tuple[float, float]:
    """(MiB resident before the call, MiB that its peak lay above)."""
    gc.collect()
    _trim()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    result = call()
    peak = _status("VmHWM")
    del result
    return before, peak - before


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--provider", required=True)
    parser.add_argument("--size", type=int, required=True, help="side of the image, pixels")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    job = providers.Job("glue", {})
    # Libraries, thread pools and caches that a first call sets up are not the call's memory.
    providers.call_of(job, args.provider, inputs.make_case(64, n=2))()
    case = inputs.make_case(args.size)
    before, extra = peak_above(providers.call_of(job, args.provider, case))
    print(json.dumps({"provider": args.provider, "before_mib": before, "extra_mib": extra}))


if __name__ == "__main__":
    main()
