"""The files of a checkpoint: where they are, and what they hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from . import _files

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"
FORMAT: Final = "c2fcore"
FORMAT_VERSION: Final = 1
STAGES: Final = ("coarse", "fine")
SHOWN: Final = 3  # weights an error names


def locate(
    source: str | Path, revision: str | None, token: str | None, local_files_only: bool
) -> tuple[Path, Path]:
    """Paths of config.json and of the weights, downloaded if `source` is no folder.

    Raises:
        FileNotFoundError: they are nowhere.
        ValueError: one cannot be read.
    """
    folder = Path(source)
    if folder.is_dir():
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not os.path.lexists(folder / name):
                deeper = folder / "checkpoint"  # what `c2f train` leaves in the folder of a run
                hint = f"; {deeper} does" if (deeper / name).is_file() else ""
                raise FileNotFoundError(
                    f"from_pretrained: {folder} must hold {name}, got none{hint}"
                )
            if why := _why_unreadable(folder / name):
                raise ValueError(
                    f"from_pretrained: {folder / name} must be a file that can be read, got {why}"
                )
        return folder / CONFIG_FILE, folder / WEIGHTS_FILE
    text, _, tag = str(source).partition("@")
    if tag and revision is not None:
        raise ValueError(
            f"from_pretrained: revision must be given once, got {revision!r} with {source!r}"
        )
    revision = tag or revision
    pinned = revision is not None or local_files_only
    if why := _files.why_no_hub_id(source if isinstance(source, Path) else text, pinned):
        raise FileNotFoundError(
            "from_pretrained: source must be a folder or a hub id 'owner/name', or "
            f"'owner/name@revision', got {str(source)!r}, and {why}"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError(
            f"from_pretrained: {text!r} is no folder, and the hub needs huggingface_hub ({error})"
        ) from error
    try:
        config_path, weights_path = (
            hf_hub_download(
                text, name, revision=revision, token=token, local_files_only=local_files_only
            )
            for name in (CONFIG_FILE, WEIGHTS_FILE)
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"from_pretrained: source must be a folder or a model on the hub, got {text!r}, which "
            f"is no folder here: {reason}"
        ) from error
    return Path(config_path), Path(weights_path)


def _why_unreadable(path: Path) -> str:
    """What keeps a file from being read, "" for nothing; safetensors would call it missing."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        return "a special file"  # such as a pipe: opening it may block for ever
    try:
        path.open("rb").close()
    except OSError as error:
        return str(error.strerror)
    return ""


def describe(path: Path) -> dict[str, Any]:
    """What config.json holds; ValueError where that is no checkpoint's."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"from_pretrained: {path} must be JSON, got {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or "config" not in found:
        raise ValueError(f"from_pretrained: {path} must be a c2fcore checkpoint's, got another")
    if found.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"from_pretrained: {path} must have format_version {FORMAT_VERSION}, "
            f"got {found.get('format_version')!r}"
        )
    return found


@contextmanager
def _told_by_name(path: Path) -> Iterator[None]:
    """Names the file that safetensors cannot read or map into memory."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"from_pretrained: {path} must be a safetensors file, got {error}"
        ) from None


def stages_in(path: Path) -> tuple[str, ...]:
    """The stages that a file holds weights of."""
    from safetensors import safe_open

    with _told_by_name(path), safe_open(str(path), "pt") as weights:
        found = {str(key).partition(".")[0] for key in weights.keys()}  # noqa: SIM118
    return tuple(stage for stage in STAGES if stage in found)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of all stages, by name; ValueError where the file is no checkpoint's."""
    from safetensors.torch import load_file

    with _told_by_name(path):
        weights = load_file(str(path))
    strange = [key for key in weights if key.partition(".")[0] not in STAGES]
    if strange:
        raise ValueError(
            f"from_pretrained: weights of {path} must be named coarse.* or fine.*, "
            f"got {', '.join(strange[:SHOWN])}"
        )
    return weights
