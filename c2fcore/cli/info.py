"""`c2f info`: what this installation can run, and why not the rest."""

from __future__ import annotations

import argparse
import platform
from typing import Any

import torch

from .. import __version__, _native, backends


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "info",
        help="which backends can run here, and why not the others",
        description="Prints versions, the processor's kernels, and which backend can run each op.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    module = _native.cpu().module
    print(f"c2fcore {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"CPU kernels: {module.isa if module else 'none'}, {torch.get_num_threads()} threads")
    print(f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none found'}\n")
    table = backends()
    names = list(next(iter(table.values())))
    width = max(map(len, table)) + 2
    print(f"{'op':<{width}}" + "".join(f"{name:<12}" for name in names))
    reasons: dict[str, set[str]] = {}
    for op, row in table.items():
        print(f"{op:<{width}}" + "".join(f"{'yes' if row[name][0] else '-':<12}" for name in names))
        for name, (_, reason) in row.items():
            if reason:
                reasons.setdefault(name, set()).add(reason)
    for name, why in reasons.items():
        print(f"\n{name}: {'; '.join(sorted(why))}")
    print('\n"auto" takes the leftmost that can run a call; cuda and triton, which no GPU has run')
    print(
        'yet, only when named. To name one: backend="..." per call, c2fcore.use_backend(...) for a'
    )
    print("block of code, C2F_BACKEND=... for a process.")
    return 0
