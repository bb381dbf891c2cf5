"""Evaluating the settings of a table one after the other, each stored as soon as it is done."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .. import _files
from . import distributed

_ERRORS: Final = (ValueError, TypeError, OSError, RuntimeError, ImportError)


@dataclass
class Sweep:
    """What is done, what failed, and what nobody gave a checkpoint for.

    Attributes:
        folder: where each setting's summary is kept, one JSON file each.
        done: summaries by name of the setting.
        missing: why a setting has none.
        failed: those of them that were tried.
    """

    folder: Path
    done: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def run(
        self,
        name: str,
        prepare: Callable[[], tuple[Mapping[str, Any], Callable[[], Mapping[str, Any]]]],
        tell: Callable[[str], None],
    ) -> None:
        """Evaluates a setting, unless it was evaluated before with the same inputs.

        A failure is kept in `missing` and does not end the sweep.

        Args:
            name: of the setting.
            prepare: gives everything the summary depends on, as JSON holds it, and a function that
                makes the summary.
            tell: says what happens.
        """
        path = self.folder / f"{slug(name)}.json"
        try:
            inputs, evaluate = prepare()
            wanted = json.loads(json.dumps(inputs))
            earlier = _read(path)
            if earlier is not None and earlier.get("inputs") == wanted:
                tell(f"{name}: kept from {path}")
                self.done[name] = earlier["summary"]
                return
            tell(f"{name}: evaluated anew, its inputs have changed" if earlier else f"{name}:")
            summary = evaluate()
        except _ERRORS as error:
            tell(f"{name}: failed: {error}")
            self.missing[name] = f"failed: {error}"
            self.failed.append(name)
            return
        if distributed.rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"setting": name, "inputs": wanted, "summary": summary}, indent=1)
            _files.write_text(path, text + "\n")
        self.done[name] = summary


def fingerprint(path: str | Path) -> Any:
    """What changes when files in a folder or below do: names, sizes, times; a hub id is itself."""
    if not Path(path).is_dir():
        return str(path)
    digest = hashlib.sha256()
    # Folders that are linked to hold data, too.
    files = (Path(at) / name for at, _, names in os.walk(path, followlinks=True) for name in names)
    for file in sorted(filter(Path.is_file, files)):
        stat = file.stat()
        place = os.fsencode(file.relative_to(path))
        digest.update(place + f"\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return [str(path), digest.hexdigest()]


def slug(name: str) -> str:
    """A name as a file name: letters, digits, points and hyphens; + is spelled out."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name.replace("+", " plus ")).strip("-")


def _read(path: Path) -> dict[str, Any] | None:
    """An earlier summary; a damaged file counts as none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "summary" in found else None
