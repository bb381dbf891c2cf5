"""`c2f reproduce`: a table of the paper, its figures beside ours."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import _files
from .._progress import tell
from ..evaluation import chart, distributed, published, report, tables
from ..evaluation.sweep import Sweep, fingerprint, slug
from ..evaluation.tables import Setting, Table
from ..evaluation.tally import Measures
from .evaluate import (
    about,
    add_scoring_options,
    device_of,
    measures_of,
    predictor_of,
    samples_of,
    score,
)
from .options import add_config_options, config_changes
from .paths import check_folder, path_of

_ROWS = "rows"
_RUNS = "runs"


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "reproduce",
        help="a table of the paper from your checkpoints, the paper's figures beside yours",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Evaluates what a table of the paper compares, and prints it in the paper's layout.\n"
            "Run it again to go on after an interruption: rows that are done are kept.\n\n"
            + "\n".join(f"  {name}  {_what(name)}" for name in tables.names())
        ),
        epilog=(
            "examples:\n"
            "  c2f reproduce table2 --data data/isaid --checkpoint my_net -o tables\n"
            "  c2f reproduce table2 --data data/isaid --checkpoint runs/coarse/checkpoint \\\n"
            "      --train paper -o tables           # trains stage 2 for every zoom first\n"
            "  c2f reproduce table4 --data data/isaid --row FCN-HRNetW18=net1 HRNetW48=net2 -o t\n"
            "  c2f reproduce table5 --data Potsdam=data/potsdam Vaihingen=data/vaihingen \\\n"
            "      --row Potsdam=net1 Vaihingen=net2 -o tables"
        ),
    )
    parser.add_argument("table", choices=tables.names())
    parser.add_argument("--data", nargs="+", required=True, metavar="[ROW=]FOLDER",
                        help="to evaluate on, for all rows or one")  # fmt: skip
    parser.add_argument("--checkpoint", help="for all rows without one of their own; the sweeps "
                        "change its window, stride, zoom or n")  # fmt: skip
    parser.add_argument("--row", nargs="+", default=[], metavar="ROW=CHECKPOINT",
                        help="checkpoint of one row")  # fmt: skip
    parser.add_argument("--sweep", nargs="+", default=[], metavar="FIELD=V,V",
                        help="other values than the table's, such as zoom=1,2")  # fmt: skip
    parser.add_argument("--train", metavar="CONFIG", help="checkpoints are of stage 1: train stage "
                        "2 for each row by this configuration of `c2f train fine`")  # fmt: skip
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="options of "
                        "`c2f train fine`, such as trainer.max_steps=2000")  # fmt: skip
    parser.add_argument("--trust-code", action="store_true", help="build networks that a "
                        "checkpoint names as package.module:function")  # fmt: skip
    parser.add_argument("-o", "--out", type=path_of, required=True, help="folder to write into; "
                        "tables in it are brought up to date")  # fmt: skip
    add_scoring_options(parser)
    add_config_options(parser)
    parser.set_defaults(run=run)


def _what(name: str) -> str:
    title: str = published.paper()["tables"][name]["title"]
    return title.partition(": ")[2]


def run(args: argparse.Namespace) -> int:
    """Brings a table up to date and prints it."""
    plan = _Plan(args)
    check_folder(plan.folder / _ROWS, "OUT must be")
    with distributed.process_group(plan.device):
        plan.work()
        if distributed.rank() == 0:
            plan.tell()
    failed = plan.sweep.failed
    if failed and distributed.rank() == 0:
        first = plan.sweep.missing[failed[0]]
        tell(
            f"c2f reproduce: {len(failed)} of {len(plan.table.settings)} rows failed, run it again "
            f"to try them anew: {failed[0]} {first}"
        )
    return 1 if failed else 0


class _Plan:
    """What is to be evaluated for a table, with what."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        sweep = {key: _values(key, text) for key, text in _pairs("--sweep", args.sweep).items()}
        self.rows = _pairs("--row", args.row)
        self.table = tables.table(args.table, sweep, list(self.rows))
        self.changes = config_changes(args)
        doubled = [key for key in self.table.sweep if key in self.changes]
        if doubled:
            raise ValueError(
                f"{args.table} varies {doubled[0]}: give --sweep {doubled[0]}=..., got "
                f"--{doubled[0]} {self.changes[doubled[0]]}"
            )
        self.data = _data(args.data, self.table)
        self.measures: Measures = measures_of(args)
        self.options = [f"--{key}={value}" for key, value in _pairs("--set", args.set).items()]
        if self.options and not args.train:
            raise ValueError(f"--set is for --train, got {args.set[0]} without it")
        if args.train and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("--train works in one process, got several: train by "
                             "`torchrun -m c2fcore train fine`, then give --row")  # fmt: skip
        if not self.rows and not args.checkpoint:
            raise ValueError("--checkpoint or --row must say what to evaluate, got neither")
        self.device = device_of(args)
        self.folder: Path = args.out / args.table
        if self.folder.exists() and not (self.folder / _ROWS).is_dir() and (
            not self.folder.is_dir() or any(self.folder.iterdir())
        ):  # fmt: skip
            raise FileExistsError(f"{self.folder} must be new or of `c2f reproduce`, got another")
        self.sweep = Sweep(self.folder / _ROWS)

    def work(self) -> None:
        """Evaluates every setting that has a checkpoint and data."""
        for setting in self.table.settings:
            checkpoint = self.rows.get(setting.name, self.args.checkpoint)
            root = self.data.get(setting.name, self.data.get(""))
            if checkpoint is None:
                self.sweep.missing[setting.name] = "no checkpoint given"
            elif root is None:
                self.sweep.missing[setting.name] = "no data given"
            else:
                prepare = partial(self._prepare, setting, checkpoint, root)
                self.sweep.run(setting.name, prepare, _say)

    def _prepare(self, setting: Setting, checkpoint: str, root: Path) -> Any:
        """What a summary depends on, and how it is made; trains stage 2 first if asked to."""
        args = self.args
        if args.train:
            checkpoint = str(self._trained(setting, checkpoint, root))
        changes = {**self.changes, **setting.changes}
        inputs = {
            "checkpoint": fingerprint(checkpoint),
            "changes": changes,
            "data": fingerprint(root),
            "device": self.device.type,
            **{key: getattr(args, key) for key in ("split", "encoding", "tile", "overlap",
               "unknown", "protocol", "limit", "absent", "boundary", "sizes", "no_sizes", "amp",
               "batch")},
        }  # fmt: skip

        def summary() -> Mapping[str, Any]:
            predict = predictor_of(args, checkpoint, self.device, changes)
            if self.table.sweep and not predict.refines:
                raise ValueError(
                    f"{self.table.name} needs checkpoints of both stages, got stage 1 alone in "
                    f"{checkpoint}; --train CONFIG trains stage 2"
                )
            samples = samples_of(args, root, predict)
            result = score(args, predict, samples, self.measures)
            facts = about(predict, checkpoint, samples, args.protocol, self.measures)
            return report.summarise(result, samples.class_names, args.absent, facts)

        return inputs, summary

    def _trained(self, setting: Setting, coarse: str, root: Path) -> Path:
        """The checkpoint of stage 2 trained for a setting; goes on with an interrupted run."""
        from ..train.command import EXPORTED, LAST, train
        from ..train.resuming import is_begun

        out = self.folder / _RUNS / slug(setting.name)
        options = [
            f"--config={self.args.train}",
            f"--data.root={root}",
            f"--coarse={coarse}",
            *(f"--c2f.{key}={value}" for key, value in setting.changes.items()),
            *self.options,
        ]
        wanted = {"options": options, "coarse": fingerprint(coarse), "data": fingerprint(root)}
        record = out.with_name(f"{out.name}.json")  # the name may end in .5
        if record.is_file():
            earlier = json.loads(record.read_text(encoding="utf-8"))
            now = json.loads(json.dumps(wanted))
            if changed := [name for name in now if earlier.get(name) != now[name]]:
                raise ValueError(f"{out} was trained with other {' and '.join(changed)}: give "
                                 f"another -o, got options {' '.join(options)}")  # fmt: skip
        if (out / EXPORTED).is_dir():
            return out / EXPORTED
        out.parent.mkdir(parents=True, exist_ok=True)
        _files.write_text(record, json.dumps(wanted, indent=1) + "\n")
        resume = ["--resume"] if is_begun(out / LAST) else []
        try:
            return train("fine", [*options, f"--out={out}", *resume])
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"while training {setting.name}; run it again to go on"
            ) from None

    def tell(self) -> None:
        """Writes the table and prints it."""
        text = tables.markdown(self.table, self.sweep.done, self.sweep.missing)
        rows = tables.rows_of(self.table, self.sweep.done)
        written = {"table.md": text, "table.json": json.dumps(rows, indent=1) + "\n"}
        if self.table.name == "fig2" and (curves := _curves(self.table, rows)):
            axes = ("patches per image", "mean IoU of the small classes")
            try:
                written["fig2.svg"] = chart.lines(self.table.title, *axes, curves)
            except ImportError as error:
                tell(f"note: no fig2.svg: {error}")
        print(f"\n{text}")
        for name, content in written.items():
            there = (self.folder / name).exists()
            _files.write_text(self.folder / name, content)
            print(f"-> {self.folder / name}{' (brought up to date)' if there else ''}")


def _curves(
    table: Table, rows: Sequence[Mapping[str, Any]]
) -> dict[str, list[tuple[float, float]]]:
    """Mean IoU of the small classes by n; none where the data hold no small object."""
    ours = {row["line"]: row for row in rows if row["figures of"] == "ours"}
    points = [
        (float(setting.changes["n"]), ours[setting.name][published.MEAN])
        for setting in table.settings
        if published.MEAN in ours[setting.name]
    ]
    if not points:
        return {}
    series = {"second look": points}
    alone = ours[tables.COARSE_ALONE].get(published.MEAN)
    if alone is not None:
        series[tables.COARSE_ALONE] = [(x, alone) for x, _ in points]
    return series


def _say(text: str) -> None:
    if distributed.rank() == 0:
        print(text, flush=True)


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in given:
        name, mark, value = item.partition("=")
        if not mark or not name or not value:
            raise ValueError(f"{option} must be NAME=VALUE, got {item!r}")
        if name in found:
            raise ValueError(f"{option} must name each once, got {name} twice")
        found[name] = value
    return found


def _values(key: str, text: str) -> list[float | int]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--sweep must be numbers with commas, got {key}={text}") from None
    return [int(value) if value.is_integer() else value for value in found]


def _data(given: Sequence[str], table: Table) -> dict[str, Path]:
    """Folder by name of the row; "" for all others."""
    known = [setting.name for setting in table.settings]
    found: dict[str, Path] = {}
    for item in given:
        name, mark, value = item.partition("=")
        if not mark or name not in known:
            name, value = "", item
        if name in found:
            raise ValueError(f"--data must be one folder for {name or 'all rows'}, got {item}, too")
        found[name] = Path(value)
    for folder in found.values():
        if not folder.is_dir():
            raise FileNotFoundError(f"--data must be a folder (of {'; '.join(known)} one may be "
                                    f"named, as ROW=FOLDER), got {folder}")  # fmt: skip
    return found
