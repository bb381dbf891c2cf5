"""The finished tiles of a scene, in a folder beside its target, so that a stopped run can go on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from PIL import Image

from .. import _files
from ..engine import Engine
from ..images import UNREADABLE, Pixels, no_size_limit, write_png

_OPTIONS_FILE: Final = "options.json"
_PART: Final = re.compile(r"tile(\d+)_(\d+)windows\.png")
# Of a configuration what changes no label: how it is computed, and how it is shown.
_FREE: Final = frozenset(
    ("max_batch", "channels_last", "backend", "ignore_index", "class_names", "palette")
)


class Part(NamedTuple):
    """A finished tile.

    Attributes:
        path: a PNG with the labels it speaks for, 255 where there is no data.
        windows: that were looked at.
    """

    path: Path
    windows: int


class Parts:
    """Every finished tile is a file by itself, there only when whole: whatever ends a run.

    Attributes:
        folder: beside the target, hidden.
        done: finished tiles by their number.
    """

    def __init__(self, target: Path) -> None:
        """Looks at what an earlier run left."""
        target = Path(os.path.realpath(target))  # on the disk to which the labels will be moved
        self.folder = target.with_name(f".{target.name}.tiles")
        self.done: dict[int, Part] = {}
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if found := _PART.fullmatch(path.name):
                    self.done[int(found[1])] = Part(path, int(found[2]))

    @contextmanager
    def held(self, options: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Iterator[None]:
        """Makes the folder, and keeps other runs out of it, where the file system can.

        What is in it is kept with `resume`, else removed. It goes where no tile was finished.

        Raises:
            ValueError: the folder cannot be made, another run is at work in it, it goes on from
                other options, or nobody said whether to go on.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"target must be in a folder to write into, got {self.folder.parent}: {error}"
            ) from None
        with _files.held(self.folder, "target must be written by"):
            self._begin(options, resume, overwrite)
            try:
                yield
            except BaseException:
                if not self.done:  # nothing to go on from
                    self.remove()
                raise

    def _begin(self, options: Mapping[str, Any], resume: bool, overwrite: bool) -> None:
        wanted = json.loads(json.dumps(options))
        if self.done and resume:
            self._check_options(wanted)
            return
        if self.done and not overwrite:
            raise ValueError(
                f"a run that was stopped left {len(self.done)} tiles in {self.folder}; resume goes "
                "on from there; overwrite starts again"
            )
        for path in self.folder.iterdir():
            path.unlink()
        self.done = {}
        _files.write_text(self.folder / _OPTIONS_FILE, json.dumps(wanted, indent=1))

    def _check_options(self, wanted: Mapping[str, Any]) -> None:
        try:
            found = json.loads((self.folder / _OPTIONS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"resume needs the options of the run to go on from, got {error}; overwrite starts "
                "again"
            ) from None
        check_same(found, wanted)

    def add(self, index: int, labels: Pixels, windows: int) -> None:
        """Writes a finished tile."""
        path = self.folder / f"tile{index:06d}_{windows}windows.png"
        write_png(path, labels)
        self.done[index] = Part(path, windows)

    def labels(self, index: int) -> Pixels:
        """What a finished tile says.

        Raises:
            ValueError: the file was damaged, as when the power failed.
        """
        path = self.done[index].path
        try:
            with no_size_limit(), Image.open(path) as image:
                return np.asarray(image)
        except UNREADABLE as error:
            raise ValueError(
                f"finished tiles must be readable, got {path}: {error}; remove it, and resume goes "
                "on with that tile"
            ) from error

    def remove(self) -> None:
        """Removes the folder."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


def check_same(
    found: Mapping[str, Any], wanted: Mapping[str, Any], asked: str = "resume", where: str = ""
) -> None:
    """Refuses to go on, as the option `asked` wants it, with others than those it began with.

    Args:
        found: options it began with.
        wanted: options of today.
        asked: the option that wants it to go on.
        where: they were found, if it is not plain.

    Raises:
        ValueError: there are others; it names all that differ.
    """
    pairs = {
        name: (json.dumps(wanted.get(name)), json.dumps(found.get(name)))
        for name in sorted({*wanted, *found})
    }
    # As text, in which NaN equals NaN.
    others = [f"{name} {new}, not {old}" for name, (new, old) in pairs.items() if new != old]
    if others:
        raise ValueError(
            f"{asked} must go on with the options it began with, got {'; '.join(others)}"
            f"{where and f' in {where}'}; overwrite starts again"
        )


def network_options(engine: Engine) -> dict[str, Any]:
    """What of an engine decides the labels: its configuration, precision, weights."""
    networks = engine.networks
    config = {k: v for k, v in networks.config.to_dict().items() if k not in _FREE}
    return {
        **config,
        "precision": str(networks.precision),
        "size_multiple": getattr(networks.coarse, "stride_multiple", None),
        "weights": _digest(engine),
    }


def file_options(path: str | Path, kind: str = "scene") -> dict[str, Any]:
    """What tells a file from another one, or from a changed one; it may lie elsewhere now.

    Names of the options begin with `kind`.

    Of an address that rasterio knows a digest: it may hold a password.
    """
    if not os.path.exists(path):
        return {kind: hashlib.sha256(str(path).encode()).hexdigest()[:16]}
    stat = os.stat(path)
    return {
        kind: Path(path).name,
        f"{kind}_bytes": stat.st_size,
        f"{kind}_modified": str(np.datetime64(stat.st_mtime_ns, "ns")),
    }


def _digest(engine: Engine) -> str:
    found = hashlib.sha256()
    for network in (engine.networks.coarse, engine.networks.fine):
        for name, tensor in sorted(network.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            found.update(raw.numpy())
    return found.hexdigest()[:16]
