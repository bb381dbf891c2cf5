"""What a figure has to say about where it comes from."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__, _cuda, _native
from .rows import FOLDER

# The checkout that this package stands in. An installed package has none: C2F_CHECKOUT names it.
ROOT = Path(os.environ.get("C2F_CHECKOUT") or Path(__file__).resolve().parents[2])


def provenance(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Commit, versions, device, load and time of a measurement."""
    return {
        "commit": os.environ.get("C2F_COMMIT") or _git("rev-parse", "HEAD"),
        # Of a run that writes its own rows these are no change to what it measures.
        "dirty": bool(_git("status", "--porcelain", "-uno", "--", ".", f":!{FOLDER.as_posix()}")),
        "c2fcore": __version__,
        "native": native_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda or "",
        "cuda_kernels": _cuda.compiled_by() if torch.device(device).type == "cuda" else "",
        "system": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_name(device: str = "cpu") -> str:
    """The name of a device as its maker gives it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_model()


def device_slug(device: str = "cpu") -> str:
    """Name of a machine class as a folder: the GPU, or processor and cores."""
    if torch.device(device).type == "cuda":
        return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    name = re.sub(r"\((R|TM|tm|r)\)|CPU|Processor|@.*", " ", cpu_model())
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {os.cpu_count()} cores".lower()).strip("-")


def native_name() -> str:
    """Which build of the CPU kernels runs, or why none does."""
    module = _native.cpu().module
    return str(module.__name__).rsplit(".", 1)[-1] if module is not None else _native.cpu().reason


def _git(*arguments: str) -> str:
    if not (ROOT / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
