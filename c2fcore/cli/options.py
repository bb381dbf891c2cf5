"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any

from ..config import EDGES, RULES, STRATEGIES

_OVERRIDES = ("window", "stride", "n", "zoom", "strategy", "edge", "rule", "max_batch", "backend")


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Adds options that change a checkpoint's configuration."""
    change = parser.add_argument_group("change what the checkpoint's configuration says")
    change.add_argument("--window", type=int, help="side of a window, pixels")
    change.add_argument("--stride", type=int, help="distance of candidate windows, pixels")
    change.add_argument("--n", type=int, help="windows per image at most")
    change.add_argument("--zoom", type=float, help="how much larger the fine network sees a window")
    change.add_argument("--strategy", choices=STRATEGIES)
    change.add_argument("--edge", choices=EDGES)
    change.add_argument("--rule", choices=RULES)
    change.add_argument("--max-batch", type=int, help="patches per forward of the fine network")
    change.add_argument("--backend", help="auto, reference, cpu, triton or cuda")


def config_changes(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of C2FConfig that the user wants changed."""
    return {name: getattr(args, name) for name in _OVERRIDES if getattr(args, name) is not None}
