"""Two sets of rows side by side: result files, or commits measured by the harness of this checkout.

What is told is the ratio of the medians and how much samples and runs scatter; what follows from it
is left to the reader.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .._progress import Bar, counted
from . import rows
from .provenance import ROOT
from .rows import Row
from .tables import columns

# What a commit is measured with: the code of this checkout lies over the commit's own.
_HARNESS = (
    "bench",
    "testing",
    "cli/bench.py",
    "cli/bench_options.py",
    "cli/paths.py",
    "_errors.py",
    "_plots.py",
    "_progress.py",
)
_CHILD = """\
import argparse, sys
# An editable installation lends a commit the modules that it lacks: this checkout's.
own = [f for f in sys.meta_path if "_editable___c2fcore_" not in getattr(f, "__module__", "")]
sys.meta_path[:] = own
from c2fcore.cli import bench
parser = argparse.ArgumentParser()
bench.add_parser(parser.add_subparsers())
args = parser.parse_args(["bench", *sys.argv[1:]])
sys.exit(args.run(args))
"""


class Side(NamedTuple):
    """One side of a comparison.

    Attributes:
        name: file, folder or commit, as it was given.
        runs: rows of each run.
    """

    name: str
    runs: list[list[Row]]


class Change(NamedTuple):
    """One case on both sides.

    Attributes:
        case: in words.
        before: median cost of A, milliseconds or the demand's unit.
        after: of B.
        ratio: after over before; NaN where that was 0.
        noise: relative scatter of that ratio: half the distance of the 20th and the 80th
            percentile of each side, or half the distance of its runs if that is more, combined as
            independent errors.
    """

    case: str
    before: float
    after: float
    ratio: float
    noise: float


def sides(
    names: Sequence[str],
    options: Sequence[str],
    repeats: int,
    say: Callable[[str], None] = print,
) -> list[Side]:
    """Reads files and folders; measures commits, in turn: A B B A ...

    Args:
        names: two files, folders or commits.
        options: of `c2f bench`, for commits.
        repeats: runs of each commit.
        say: told what is going on.

    Raises:
        ValueError: neither a file, nor a folder with rows, nor a commit.
        RuntimeError: a commit does not build, or its measurement stops.
    """
    found = [Side(name, []) for name in names]
    commits = [side for side in found if not Path(side.name).exists()]
    for side in found:
        if Path(side.name).exists():
            side.runs.append(rows.read(Path(side.name)))
    hashes = {side.name: _commit(side.name) for side in commits}
    build = "cpu" if torch.device(_device(options)).type == "cpu" else "auto"
    with tempfile.TemporaryDirectory() as scratch, _ended_by_sigterm():
        trees = {commit: Path(scratch) / commit for commit in hashes.values()}
        try:
            for commit, tree in trees.items():
                say(f"{commit[:10]}: checking out and building (C2F_BUILD={build})")
                _check_out(commit, tree, build)
            for turn in range(repeats if commits else 0):
                for side in commits if turn % 2 == 0 else commits[::-1]:
                    say(f"{side.name}: run {turn + 1} of {repeats}")
                    out = Path(scratch) / f"run-{found.index(side)}-{turn}"
                    side.runs.append(_measured(trees[hashes[side.name]], options, out))
        finally:
            for tree in trees.values():
                if tree.exists():
                    _git("worktree", "remove", "--force", str(tree))
    for side in found:
        if not any(side.runs):
            raise ValueError(f"--compare {side.name}: must hold rows of results, got none")
    return found


def changes(a: Side, b: Side) -> list[Change]:
    """Every case that has figures on both sides, in A's order."""
    before, after = _costs(a), _costs(b)
    found = []
    for key, (case, *first) in before.items():
        if key not in after:
            continue
        _, *second = after[key]
        cost_a, scatter_a = _cost_and_scatter(first)
        cost_b, scatter_b = _cost_and_scatter(second)
        noise = (scatter_a**2 + scatter_b**2) ** 0.5
        ratio = cost_b / cost_a if cost_a else math.nan
        found.append(Change(case, cost_a, cost_b, ratio, noise))
    return found


def table(a: Side, b: Side) -> str:
    """The comparison for the terminal, with what both sides were measured on."""
    found = changes(a, b)
    lines = [
        (c.case, f"{c.before:.4g}", f"{c.after:.4g}", f"{c.ratio:.3f}", f"{c.noise:.1%}")
        for c in found
    ]
    text = columns(("case", "A", "B", "B / A", "noise"), lines)
    only = [len(_costs(x).keys() - _costs(y).keys()) for x, y in ((a, b), (b, a))]
    notes = [f"{counted(count, 'case')} in {name} only" for count, name in zip(only, "AB") if count]
    origins = "\n".join(f"{name}: {side.name}, {_origin(side)}" for name, side in zip("AB", (a, b)))
    return "\n".join([
        text,
        origins,
        *notes,
        "noise: scatter of the ratio, from samples (20th to 80th percentile) and repeated runs",
        *_cautions(a, b),
    ])  # fmt: skip


def _cautions(*both: Side) -> list[str]:
    """What the noise does not hold: a drift of the machine, and what else it had to do."""
    found = []
    if any(len(side.runs) < 2 for side in both):
        found.append(
            "note: one run of a side: noise is without the drift of the machine between the sides "
            "(commits are measured in turn by --repeats 2 or more)"
        )
    origins = [row.get("origin", row) for side in both for run in side.runs for row in run]
    busy = [o for o in origins if o["load"] > o.get("cores", math.inf)]
    if busy:
        worst = max(busy, key=lambda origin: float(origin["load"]))
        found.append(
            f"note: load up to {worst['load']:g} on {counted(worst['cores'], 'core')}: times are "
            "of a machine that had other work, too"
        )
    return found


def _costs(side: Side) -> dict[str, tuple[Any, ...]]:
    """By key: the case in words, then (median, p20, p80) of every run."""
    found: dict[str, tuple[Any, ...]] = {}
    for run in side.runs:
        for row in run:
            cost = _cost(row)
            if cost is not None:
                key = rows.key(row)
                found[key] = (*found.get(key, (_words(row),)), cost)
    return found


def _cost(row: Row) -> tuple[float, float, float] | None:
    if row["error"]:
        return None
    if "demand" in row:
        return row["value"], row["p20"], row["p80"]
    ms = row["result"].get("ms")
    if ms is None:
        return None
    if isinstance(ms, dict):
        return ms["median"], ms["p20"], ms["p80"]
    return ms[0], ms[1], ms[2]


def _cost_and_scatter(runs: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    medians = [median for median, _, _ in runs]
    cost = statistics.median(medians)
    within = statistics.median((high - low) / 2 for _, low, high in runs)
    between = (max(medians) - min(medians)) / 2
    return cost, max(within, between) / abs(cost) if cost else 0.0


def _words(row: Row) -> str:
    if "demand" in row:
        return str(row["text"])
    return " ".join(
        f"{v:g}" if isinstance(v, float) else str(v)
        for k, v in row["case"].items()
        if v not in ("", {}, False, None) and k not in ("device", "threads", "classes", "layout")
    )


def _origin(side: Side) -> str:
    origins = [row.get("origin", row) for run in side.runs for row in run]
    first = origins[0]
    loads = [origin["load"] for origin in origins]
    dirty = " with changes" if first["dirty"] else ""
    return (
        f"commit {first['commit'][:10]}{dirty}, {first['device']}, "
        f"{counted(first['threads'], 'thread')}, "
        f"torch {first['torch']}, {first['native']}, load {min(loads):g} to {max(loads):g}, "
        f"{counted(len(side.runs), 'run')}"
    )


def _commit(name: str) -> str:
    try:
        return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except (OSError, subprocess.CalledProcessError):
        raise ValueError(
            f"--compare {name}: must be a file or folder of results, or a commit of this checkout"
        ) from None


def _device(options: Sequence[str]) -> str:
    """The device that `c2f bench` is told to measure on."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return str(parser.parse_known_args(options)[0].device)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Checkouts are taken away again when the process is asked to end, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_out(commit: str, where: Path, build: str) -> None:
    """A checkout of a commit with its kernels built and the harness of this one."""
    _git("worktree", "add", "--detach", str(where), commit)
    # An editable installation finds the kernels of another tree; a link finds these.
    if not (where / "c2fcore" / "kernels").exists():
        (where / "c2fcore" / "kernels").symlink_to(where / "kernels")
    command = [sys.executable, "setup.py", "-q", "build_native", "--inplace"]
    environment = {**os.environ, "C2F_BUILD": os.environ.get("C2F_BUILD") or build}
    last = ""
    with subprocess.Popen(
        command,
        cwd=where,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as building:
        assert building.stdout is not None
        for line in Bar(building.stdout, unit="step", desc=f"building {commit[:10]}"):
            last = line.strip() or last
    if building.returncode:
        raise RuntimeError(f"--compare: {commit[:10]} does not build: {last or 'no output'}")
    package = ROOT / "c2fcore"
    for name in _HARNESS:
        if (package / name).is_dir():
            shutil.copytree(package / name, where / "c2fcore" / name, dirs_exist_ok=True)
        else:
            shutil.copy2(package / name, where / "c2fcore" / name)


def _measured(tree: Path, options: Sequence[str], out: Path) -> list[Row]:
    """Rows of one run of `c2f bench` on the package of a tree."""
    # Functions of the user's are looked for in the current folder, after everything else.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree), os.getcwd()))}
    command = [sys.executable, "-c", _CHILD, *options, "-o", str(out)]
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, stdout=subprocess.PIPE, text=True, check=False
        )
    files = list(out.glob("*/*.jsonl"))
    if not files:
        raise RuntimeError(f"--compare: measuring {tree.name[:10]} ended with {done.returncode}")
    found = [row for file in files for row in rows.read(file)]
    for row in found:  # the harness lies over the tree, which is not a change of what is measured
        row["origin"]["dirty"] = False
    return found


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
