"""Rows of results: one JSON object per line, a folder per device, a file per suite.

A row is {"suite", "case", "result", "error", "origin"}: `case` says what was measured and makes the
row's identity, `result` the figures, `error` why there are none, `origin` the provenance. A file
holds the latest row of each case. benchmarks/demands.py writes flatter ones, a file at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FOLDER = Path("benchmarks") / "results"


def make(
    suite: str,
    case: dict[str, Any],
    origin: dict[str, Any],
    result: dict[str, Any] | None = None,
    error: str = "",
) -> Row:
    """A row; one without figures has an error."""
    return {
        "suite": suite,
        "case": case,
        "result": result or {},
        "error": error,
        # The load as it was at this row, not at the start of the run.
        "origin": {**origin, "load": round(os.getloadavg()[0], 2)},
    }


def key(row: Row) -> str:
    """Identity of a row: rows of the same key measure the same thing."""
    if "demand" in row:
        return json.dumps(["demand", row["demand"], row["backend"], row["size"], row["large"]])
    return json.dumps([row["suite"], row["case"]], sort_keys=True)


def read(path: Path) -> list[Row]:
    """Rows of a file, or of every .jsonl file of a folder.

    Raises:
        ValueError: a line is no row.
        FileNotFoundError: no such file or folder.
    """
    if path.is_dir():
        return [row for file in sorted(path.glob("*.jsonl")) for row in read(file)]
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            key(row)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: must be a row of results, {error}") from error
        found.append(row)
    return found


def merge(path: Path, new: Iterable[Row]) -> None:
    """Writes rows into a file; those of the same case are replaced."""
    held = {key(row): row for row in read(path)} if path.exists() else {}
    held.update((key(row), row) for row in new)
    write(path, held.values())


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes a file of rows, in one move.

    By means of its own: `compare` lays this folder over the package of older commits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.resolve()  # of a symbolic link the file that it names
    arriving = path.with_suffix(".new")
    arriving.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arriving.replace(path)


def rounded(value: float) -> float:
    """`value` with five significant digits: rows are read by people, too."""
    return float(f"{value:.5g}")
