"""`c2f bench` as tests run it: one round, without peak memory."""

from __future__ import annotations

from pathlib import Path

from c2fcore.bench import rows
from c2fcore.cli import main


def bench(tmp_path: Path, *options: str) -> tuple[int, list[rows.Row]]:
    common = ("--rounds", "1", "--no-memory", "--device", "cpu")
    if not {"--op", "--scale"} & {*options}:  # whose calls are warmed up as often as they need
        common += ("--warmup", "1")
    status = main(["bench", *common, "-o", str(tmp_path), *options])
    return status, rows.read(next(tmp_path.iterdir()))
