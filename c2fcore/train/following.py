"""Commands that go on from a trained stage, with what its own command needed to run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from .command import build_parser, dumped, shipped_configs, with_shipped

# What of stage 1 holds for stage 2: where the data are, what fits this machine, how long a trial
# takes. What makes the network good (recipe, balance, loss) is each stage's own.
_SHARED: Final = ("data", "augment", "trainer")


def after(stage: str, arguments: Sequence[str], checkpoint: Path, out: str) -> list[list[str]]:
    """Commands that are likely to come next, as arguments of `c2f`.

    Args:
        stage: "coarse" or "fine", which was trained.
        arguments: with which.
        checkpoint: that was exported.
        out: for a run of stage 2.

    Raises:
        OSError, ValueError, argparse.ArgumentError: a configuration was changed since.
    """
    parser = build_parser(stage)
    parser.exit_on_error = False
    arguments = with_shipped(stage, arguments)
    config = parser.parse_args(arguments)
    if stage == "fine":
        return _after_fine(config, checkpoint)
    kept, names = [], []
    shipped = {f"--config={path}": name for name, path in shipped_configs(stage).items()}
    for option in arguments:
        name = shipped.get(option, option.removeprefix("--config="))
        both = option in shipped and name in shipped_configs("fine")
        if both or (option.startswith("--config=") and _is_shared(Path(name))):
            kept.append(option)
            names += ["--config", name]
    without = _shared(parser, parser.parse_args([*kept, "--data.root=", "--out="]))
    places = ["--data.root", config.data.root, "--out", out, "--coarse", str(checkpoint)]
    trusted = ["--trust_code", "true"] if ":" in config.coarse else []
    changed = [
        f"--{key}={_text(value)}"
        for key, value in _shared(parser, config).items()
        if value != without[key] and key != "data.root"
    ]
    return [["train", "fine", *names, *places, *trusted, *changed]]


def _after_fine(config: Any, checkpoint: Path) -> list[list[str]]:
    trusted = ["--trust-code"] if config.trust_code or ":" in config.fine else []
    trained = ["--checkpoint", str(checkpoint), *trusted]
    predict = ["predict", "IMAGE", "-o", "out", *trained]
    split = config.data.val
    if split in (None, "none"):
        return [predict]
    given = [] if split == "val" else ["--split", split]
    return [["eval", config.data.root, *given, *trained], predict]


def _is_shared(file: Path) -> bool:
    """Whether a configuration says nothing of one stage alone."""
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    return isinstance(found, Mapping) and found.keys() <= {*_SHARED}


def _shared(parser: Any, config: Any) -> dict[str, Any]:
    """Values by option."""
    values = yaml.safe_load(dumped(parser, config))
    return {f"{group}.{key}": v for group in _SHARED for key, v in values[group].items()}


def _text(value: Any) -> str:
    """As the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)
