"""`c2f info`: what this installation can run, and why not the rest."""

from __future__ import annotations

import argparse
import platform
from typing import Any

import torch

from .. import __version__, _backend, _cuda, _gpu_order, _native, _self_check, backends
from .._progress import counted

_CHOICE = """
"auto" takes the leftmost that can run a call. No GPU has run cuda and triton yet: it takes them
for tensors on a GPU, and only after they have agreed with the reference there, in each process
(c2f info --check does that now). To name one: backend="..." per call, c2fcore.use_backend(...) for
a block of code, C2F_BACKEND=... for a process."""


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "info",
        help="which backends can run here, and why not the others",
        description="Prints versions, the processor's kernels, and which backend can run each op.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help='compare the GPU backends with the reference now, as "auto" does before it takes one',
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    chosen = _backend.of_process()
    module = _native.cpu().module
    print(f"c2fcore {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    print(
        f"CPU kernels: {module.isa if module else 'none'}, "
        f"{counted(torch.get_num_threads(), 'thread')}"
    )
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none found"
    compiler = _cuda.compiled_by()
    print(f"GPU: {name}" + (f"; kernels of cuda compiled by {compiler}" if compiler else "") + "\n")
    if args.check and not _check():
        print("No GPU backend can run here: nothing to compare.\n")
    table = backends()
    names = list(next(iter(table.values())))
    width = max(map(len, table)) + 2
    print(f"{'op':<{width}}" + "".join(f"{name:<12}" for name in names))
    reasons: dict[str, set[str]] = {}
    for op, row in table.items():
        words = [("by name" if why else "yes") if ok else "-" for ok, why in row.values()]
        print(f"{op:<{width}}" + "".join(f"{word:<12}" for word in words))
        for name, (_, reason) in row.items():
            if reason:
                reasons.setdefault(name, set()).add(reason)
    for name, why in reasons.items():
        print(f"\n{name}: {'; '.join(sorted(why))}")
    print(_CHOICE)
    if chosen != "auto":
        print(f'\nC2F_BACKEND={chosen} is set here: that is what "auto" takes.')
    return 0


def _check() -> bool:
    """Compares every GPU backend that can run; whether there is any."""
    found = False
    for op in backends():
        for name in _gpu_order.CUDA_FIRST if torch.cuda.is_available() else ():
            if not _backend.missing(op, name):
                found = True
                why = _self_check.why_not(op, name, torch.cuda.current_device())
                print(f"{op}: {name} {'differs: ' + why if why else 'agrees with the reference'}")
    return found
