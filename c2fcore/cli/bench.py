"""`c2f bench`: what the second look costs on this machine, and what fusing saves."""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch

from .._checks import MOST_THREADS
from .._progress import Bar, tell
from ..bench import (
    charts,
    compare,
    foreign,
    frames,
    measure,
    network_suite,
    op_suite,
    rows,
    scale_suite,
    tables,
    ways,
)
from ..bench.lists import floats, numbers, sizes, words
from ..bench.provenance import device_slug, provenance
from ..images import read_rgb
from ..pipeline import C2FNet
from ..testing import samples
from .bench_options import add_how, add_what, check, given, line_of
from .paths import path_of

_DESCRIPTION: Final = """\
Measures the two-stage network end to end: the coarse network alone, both stages with the unfused
reference, and with every backend that can run here. Batch 1, warmed up, networks and
post-processing. Rows with their provenance go to OUT/DEVICE.
"""
_EPILOG = """\
examples:
  c2f bench                                        demo-sized networks, zoom 1 to 4, every backend
  c2f bench --coarse fcn_hrnet_w18 --sizes 512,896 --n 8,32
  c2f bench --coarse mynets:coarse --fine mynets:fine --device cuda --dtype float16
  c2f bench --op all --sizes 512,1024              op by op, with torch.compile and other libraries
  c2f bench --op aggregate --impl mymodule:fn      a kernel of yours: fn(coarse, fine, windows,
                                                   small_classes, *, size, rule, output)

--impl functions take what the public op takes, less backend, and get every option by name:
help(c2fcore.ops.count_windows) and so on. What they cannot do they refuse by NotImplementedError;
one that is wrong in any other sample is not timed. One sample by itself:
  sample = c2fcore.testing.samples.get("aggregate", NAME); fn(*sample.args(), **sample.options)

Networks are called as function(num_classes, in_channels=3). They need no trained weights: they run
in full, and their answers are replaced by realistic ones of the same shape. A checkpoint's answers
are its own.
"""

_WRONG_SHOWN: Final = 5


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "bench",
        help="frames per second against the unfused path, on this machine",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_what(parser.add_argument_group("what is measured"))
    add_how(parser.add_argument_group("how"))
    parser.add_argument("-o", "--out", type=path_of, default=rows.FOLDER, help="folder of results "
                        "(benchmarks/results)")  # fmt: skip
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table, writes the rows and draws them."""
    check(args)
    if args.charts:
        return _draw(args.charts)
    if args.compare:
        return _compare(args)
    prepare(args)
    folder = args.out / device_slug(args.device)
    if args.impl is not None:
        return _impl(args, folder / "ops.jsonl")
    if args.scale is not None:
        status = finish(_scale(args), tables.scale, folder / "scale.jsonl")
    elif args.op is not None:
        left_out: list[str] = []
        status = finish(_ops(args, left_out), tables.ops, folder / "ops.jsonl", left_out)
    else:
        status = finish(_network(args), tables.network, folder / "network.jsonl")
    if not args.no_charts:
        try:
            _draw(folder)
        except ImportError as error:
            print(error)
    return status


def prepare(args: argparse.Namespace) -> None:
    """Checks what every mode shares, and sets it up.

    Raises:
        ValueError: an option breaks a rule.
    """
    for name in ("rounds", "warmup", "repeats", "threads"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if (args.threads or 0) > MOST_THREADS:
        raise ValueError(f"--threads must be at most {MOST_THREADS}, got {args.threads}")
    if not args.budget > 0:
        raise ValueError(f"--budget must be above 0 seconds, got {args.budget}")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out must be a folder, got the file {args.out}")
    known = [*frames.EVERY, *ways.every()]
    if unknown := [way for way in words(args.ways) if way not in known]:
        listed = ", ".join(dict.fromkeys(known))
        raise ValueError(f"--ways must be among {listed}, got {unknown[0]}")
    if args.scale is not None and "area" in words(args.scale):
        least = scale_suite.AXES["area"].values[0]
        if args.largest < least:
            raise ValueError(f"--largest must be at least {least}, got {args.largest}")
    if args.device.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, got {args.device}")
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device was found")
    args.threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(args.threads)
    if args.masks:
        missing = [name for name in args.masks if not Path(name).is_file()]
        if missing:
            raise ValueError(f"--masks must be files, got {missing[0]}")
        os.environ["C2F_BENCH_MASKS"] = os.pathsep.join(os.path.abspath(m) for m in args.masks)
    # Functions of the user's are looked for in the current folder, after everything else.
    sys.path.append(os.getcwd())
    warnings.filterwarnings("ignore", module=r"torch\..*")


def finish(
    measured: Iterator[rows.Row],
    table: Callable[[list[rows.Row]], str],
    file: Path,
    left_out: Sequence[str] = (),
) -> int:
    """Writes rows as they come, prints the table; 1 if one of them is a failure.

    Args:
        measured: the rows.
        table: of them.
        file: to write.
        left_out: why others have none, once all are measured.

    Raises:
        ValueError: nothing was measured.
    """
    known = {rows.key(row) for row in rows.read(file)} if file.exists() else set()
    found = []
    for row in measured:
        found.append(row)
        rows.merge(file, [row])
    if not found:
        raise ValueError("one of --ways must do this job here, got none that does")
    replaced = sum(rows.key(row) in known for row in found)
    print(table(found))
    for why in dict.fromkeys(left_out):
        print(f"no row where it cannot do the job: {why}")
    print(f"-> {file}: {len(found)} rows" + (f", {replaced} of them replaced" if replaced else ""))
    failed = sum(bool(row["error"]) for row in found)
    if failed:
        tell(f"{failed} of {len(found)} failed; their rows say why")
    return 1 if failed else 0


def _network(args: argparse.Namespace) -> Iterator[rows.Row]:
    specs = [
        network_suite.Spec(
            coarse=args.coarse if args.checkpoint is None else args.checkpoint,
            fine="" if args.checkpoint is not None else args.fine or args.coarse,
            height=height,
            width=width,
            zoom=zoom,
            n=n,
            preset=args.preset,
            dtype=args.dtype,
            channels_last=args.channels_last,
            compile=args.compile,
            device=args.device,
            threads=args.threads,
            image=os.path.abspath(args.image) if args.image is not None else "",
        )
        for (height, width), n, zoom in itertools.product(
            sizes(args.sizes), numbers("n", args.n), floats("zooms", args.zooms)
        )
    ]
    if args.image is not None:  # what every row would fail of is told before any replaces one
        read_rgb(args.image)
    if args.checkpoint is not None:
        C2FNet.from_pretrained(args.checkpoint)
    else:
        network_suite.build_networks(args.coarse, args.fine or args.coarse)
    effort = network_suite.Effort(args.rounds, args.warmup, args.budget, not args.no_memory)
    origin = provenance(args.threads, args.device)
    with Bar(specs, unit="configuration") as bar:
        for spec in bar:
            yield from network_suite.run(
                spec, effort, origin, only=words(args.ways), say=bar.set_description_str
            )


def _impl(args: argparse.Namespace, file: Path) -> int:
    """Checks a stranger's kernel, then times it unless it is wrong where it does not refuse."""
    if args.op not in samples.OPS:
        raise ValueError(f"--op must be one of {', '.join(samples.OPS)} with --impl, got {args.op}")
    function = foreign.load(args.impl)
    if not faulthandler.is_enabled():
        with suppress(AttributeError, OSError, RuntimeError):  # no stderr, or one that is no file
            faulthandler.enable()  # a kernel that ends the process is named at least
    listed = samples.of(args.op)
    wrong: list[str] = []
    refused: dict[str, str] = {}
    verdicts = foreign.check(args.op, function, args.device)
    with Bar(verdicts, total=len(listed), unit="sample", desc=f"checking {args.impl}") as bar:
        for verdict in bar:
            if verdict.refused:
                refused[verdict.sample] = verdict.refused
            if verdict.error:
                wrong.append(verdict.sample)
                if len(wrong) <= _WRONG_SHOWN:
                    bar.write(f"{verdict.sample}: {verdict.error}")
    if more := wrong[_WRONG_SHOWN:]:
        print(f"... and {len(more)} more: {', '.join(more)}")
    if refused:
        why = next(iter(refused.values()))
        print(f"{len(refused)} refused ({why}): {', '.join(refused)}")
    agree = len(listed) - len(wrong) - len(refused)
    print(f"{args.impl}: {agree} of {len(listed)} samples of {args.op} agree")
    if wrong or not agree:
        tell(
            "nothing is timed: a kernel must agree in one sample at least, and in all that it does "
            f"not refuse (NotImplementedError), got {len(wrong)} wrong"
        )
        return 1
    if args.op == "extract_targets":  # no suite of its own
        return 0
    left_out: list[str] = []
    return finish(_ops(args, left_out, {args.impl: function}), tables.ops, file, left_out)


def _ops(
    args: argparse.Namespace,
    left_out: list[str],
    extra: dict[str, Callable[..., Any]] | None = None,
) -> Iterator[rows.Row]:
    """Rows of ops; `left_out` gets why others have none."""
    if args.dtype == frames.AMP:
        raise ValueError("--dtype must be one of tensors with --op, got amp")
    if args.op != "all" and args.op not in op_suite.JOBS:
        raise ValueError(f"--op must be all, {', '.join(op_suite.JOBS)}, got {args.op}")
    names = op_suite.JOBS if args.op == "all" else (args.op,)
    zooms = floats("zooms", args.zooms)
    variants = [v for name in names for v in op_suite.variants(name, zooms)]
    setting = op_suite.Setting(
        device=args.device,
        threads=args.threads,
        rounds=args.rounds,
        dtype=args.dtype,
        layout="channels_last" if args.channels_last else "planar",
    )
    origin = provenance(args.threads, args.device)
    copy_gbs = measure.copy_gbs(args.device)
    jobs = list(itertools.product(numbers("sizes", args.sizes), variants))
    with Bar(jobs, unit="job") as bar:
        for side, variant in bar:
            yield from op_suite.run(
                variant,
                side,
                setting,
                origin,
                copy_gbs,
                only=words(args.ways),
                foreign=extra,
                say=bar.set_description_str,
                left_out=left_out.append,
            )


def _scale(args: argparse.Namespace) -> Iterator[rows.Row]:
    axes = words(args.scale)
    if unknown := [axis for axis in axes or [""] if axis not in scale_suite.AXES]:
        known = ", ".join(scale_suite.AXES)
        raise ValueError(f"--scale must be axes among {known}, got {unknown[0]!r}")
    chosen = words(args.ways) or [ways.EAGER, *ways.backends_of("glue", args.device)]
    origin = provenance(args.threads, args.device)
    top = {"area": args.largest, "threads": os.cpu_count() or 1}
    with Bar(axes, unit="axis") as bar:
        for axis in bar:
            every = scale_suite.AXES[axis].values
            yield from scale_suite.run(
                axis,
                [value for value in every if value <= top.get(axis, value)],
                origin,
                ways=chosen,
                device=args.device,
                threads=args.threads,
                rounds=args.rounds,
                with_memory=not args.no_memory,
                say=bar.set_description_str,
            )


def _compare(args: argparse.Namespace) -> int:
    others = [option for name, option in given(args).items() if name != "compare"]
    if others and all(Path(side).exists() for side in args.compare):
        raise ValueError(f"{others[0]} must come with a commit to measure, got --compare of files")
    a, b = compare.sides(args.compare, line_of(args), args.repeats)
    print(compare.table(a, b))
    return 0


def _draw(folder: Path) -> int:
    for file in charts.draw(rows.read(folder), folder):
        print(f"-> {file}")
    return 0
