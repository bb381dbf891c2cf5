"""`c2f bench`: what the second look costs on this machine, and what fusing saves."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch

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
from .paths import path_of

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
        description=(
            "Measures the two-stage network end to end: the coarse network alone, both stages with "
            "the unfused reference, and with every backend that can run here. Batch 1, warmed up, "
            "networks and post-processing. Rows with their provenance go to OUT/DEVICE."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what(parser.add_argument_group("what is measured"))
    _add_how(parser.add_argument_group("how"))
    parser.add_argument("-o", "--out", type=path_of, default=rows.FOLDER, help="folder of results "
                        "(benchmarks/results)")  # fmt: skip
    parser.set_defaults(run=run)


def _add_what(what: argparse._ArgumentGroup) -> None:
    what.add_argument("--coarse", default="tiny_fcn", help="network by name or module:function "
                      "(tiny_fcn)")  # fmt: skip
    what.add_argument("--fine", help="likewise; the same as --coarse if not given")
    what.add_argument("--checkpoint", help="a trained pair instead: folder or hub id")
    what.add_argument("--sizes", default="512", help="sides, or HEIGHTxWIDTH, by commas (512)")
    what.add_argument("--zooms", default="1,2,3,4", help="of the patches (1,2,3,4)")
    what.add_argument("--n", default="32", help="windows per image (32)")
    what.add_argument("--preset", default="paper", help="paper (default), fast, official, or "
                      "cover: as few of the paper's windows as cover what its 32 do")  # fmt: skip
    what.add_argument("--image", default="", help="segment this file; its size counts")
    what.add_argument("--masks", nargs="+", metavar="FILE", help="class maps to make answers from, "
                      "in iSAID's colours or ids; else those that C2F_BENCH_MASKS lists, else "
                      "iSAID masks in ../shared/data beside a checkout, else synthetic scenes; "
                      "rows say which")  # fmt: skip
    what.add_argument("--op", help="time an op instead: all, glue, or an op's name")
    what.add_argument("--impl", metavar="MODULE:FUNCTION", help="with --op: check a kernel of "
                      "yours against the reference on the shared samples, then time it beside "
                      "ours")  # fmt: skip
    what.add_argument("--scale", nargs="?", const=",".join(scale_suite.AXES), metavar="AXES",
                      help="how cost grows: area, n, classes, batch, threads (all)")  # fmt: skip
    what.add_argument("--largest", type=int, default=12000, help="side of the largest image of "
                      "--scale area (12000)")  # fmt: skip
    what.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two result files or folders, "
                      "or two commits of this checkout, which are then measured in turn with the "
                      "other options given")  # fmt: skip
    what.add_argument("--charts", type=path_of, metavar="FOLDER",
                      help="only draw the charts of the rows in FOLDER")  # fmt: skip


def _add_how(how: argparse._ArgumentGroup) -> None:
    how.add_argument("--ways", default="", help="only these: reference, cpu, compiled, ...")
    how.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    how.add_argument("--dtype", default="float32", choices=list(network_suite.DTYPES),
                     help="of the networks; amp is autocast to bfloat16")  # fmt: skip
    how.add_argument("--channels-last", action="store_true", help="memory format")
    how.add_argument("--compile", action="store_true", help="compile both networks")
    how.add_argument("--threads", type=int, help="of torch; what it takes by itself")
    how.add_argument("--rounds", type=int, default=10, help="samples of each way (10)")
    how.add_argument("--warmup", type=int, default=2, help="calls before them (2)")
    how.add_argument("--budget", type=float, default=20.0, help="seconds for the rounds of one "
                     "configuration; at least 3 are made (20)")  # fmt: skip
    how.add_argument("--repeats", type=int, default=2, help="runs of each commit of --compare (2)")
    how.add_argument("--no-charts", action="store_true", help="leave out the charts")
    how.add_argument("--no-memory", action="store_true", help="leave out the peak memory")


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table, writes the rows and draws them."""
    if args.charts:
        return _draw(args.charts)
    if args.compare:
        return _compare(args)
    prepare(args)
    folder = args.out / device_slug(args.device)
    if args.impl is not None:
        return _impl(args, folder / "ops.jsonl")
    if args.scale:
        status = finish(_scale(args), tables.scale, folder / "scale.jsonl")
    elif args.op:
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
    for name in ("rounds", "warmup", "repeats"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    known = [*frames.EVERY, *ways.every()]
    if unknown := [way for way in words(args.ways) if way not in known]:
        listed = ", ".join(dict.fromkeys(known))
        raise ValueError(f"--ways must be among {listed}, got {unknown[0]}")
    if args.scale and "area" in words(args.scale):
        least = scale_suite.AXES["area"].values[0]
        if args.largest < least:
            raise ValueError(f"--largest must be at least {least}, got {args.largest}")
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
            coarse=args.checkpoint or args.coarse,
            fine="" if args.checkpoint else args.fine or args.coarse,
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
            image=os.path.abspath(args.image) if args.image else "",
        )
        for (height, width), n, zoom in itertools.product(
            sizes(args.sizes), numbers("n", args.n), floats("zooms", args.zooms)
        )
    ]
    if args.image:  # what every row would fail of is told before any replaces one
        read_rgb(args.image)
    if args.checkpoint:
        C2FNet.from_pretrained(args.checkpoint)
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
        raise ValueError(f"--impl needs --op, one of {', '.join(samples.OPS)}, got {args.op}")
    function = foreign.load(args.impl)
    listed = samples.of(args.op)
    wrong: list[str] = []
    refused: dict[str, str] = {}
    with Bar(foreign.check(args.op, function, args.device), total=len(listed)) as bar:
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
    if unknown := [axis for axis in axes if axis not in scale_suite.AXES]:
        known = ", ".join(scale_suite.AXES)
        raise ValueError(f"--scale must be axes among {known}, got {unknown[0]}")
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
    a, b = compare.sides(args.compare, _options(args), args.repeats)
    print(compare.table(a, b))
    return 0


def _options(args: argparse.Namespace) -> list[str]:
    """The command line that measures the same, for a run of a commit."""
    found = ["--no-charts", "--no-memory"]
    for name in ("coarse", "fine", "checkpoint", "sizes", "zooms", "n", "preset", "image", "op",
                 "scale", "largest", "ways", "device", "dtype", "threads", "rounds", "warmup",
                 "budget"):  # fmt: skip
        value = getattr(args, name)
        if name in ("image", "checkpoint") and value and Path(value).exists():
            value = os.path.abspath(value)  # measured in another folder
        if value not in (None, ""):
            found += [f"--{name}", str(value)]
    for name in ("channels_last", "compile"):
        found += [f"--{name.replace('_', '-')}"] if getattr(args, name) else []
    return [*found, *(["--masks", *map(os.path.abspath, args.masks)] if args.masks else [])]


def _draw(folder: Path) -> int:
    for file in charts.draw(rows.read(folder), folder):
        print(f"-> {file}")
    return 0
