"""Options that several commands share."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any, Final

import torch

from .. import _backend
from .._progress import tell
from .._stages import step_and_slots
from ..config import EDGES, RULES, STRATEGIES, C2FConfig
from ..data.tiling import boxes
from ..engine import Engine
from ..engine.networks import PRECISIONS
from ..pipeline import C2FNet
from .demo import DEMO_WEIGHTS

_OVERRIDES = ("window", "stride", "n", "zoom", "strategy", "edge", "rule", "max_batch", "backend")
_OPS: Final = ("select_windows", "extract_patches", "aggregate")  # of a second look

LARGE_PX: Final = 4096  # networks see nothing larger at once, unless told to
_MOST_LOOKS: Final = 64  # at a pixel, by tiles that overlap
_LONG_PX: Final = 100_000_000  # twelve times the paper's largest second look, 32 x 512^2

_DEMO_ONLY: Final = (
    "note: these are the networks of `c2f demo`, which know synthetic scenes only; --checkpoint "
    "takes yours (c2f train --help)"
)
WITHOUT_CHECKPOINT: Final = (
    "Without --checkpoint the networks of `c2f demo` are used. They know synthetic scenes "
    "only: good for seeing the tool work, not for results on real images."
)


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Adds options that say which networks are used."""
    parser.add_argument(
        "--checkpoint",
        help="folder written by save_pretrained, or a hub id: owner/name, owner/name@revision",
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="build networks that the checkpoint names as package.module:function",
    )


def add_engine_options(parser: argparse._ArgumentGroup, of: str) -> None:
    """Adds options that say how the networks run; `of` are what they see at once."""
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:1, ... (the first GPU if there is one)",
    )
    parser.add_argument("--batch", type=int, default=1, help=f"{of} at once (1)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="autocast of both networks; auto: bfloat16 where it is faster, on GPUs that have it "
        "and processors with AMX (default: the networks' own)",
    )


def check_tiles(tile: int, overlap: int) -> None:
    """Refuses what cannot be cut, before anything is read.

    Raises:
        ValueError: the tile or the overlap is out of range.
    """
    if 0 < tile <= overlap:
        raise ValueError(
            f"--overlap must be below --tile, got {overlap} and {tile}; small tiles need an "
            "--overlap of their own"
        )
    boxes(1, 1, tile, overlap)
    looks = (tile / (tile - overlap)) ** 2
    if looks > _MOST_LOOKS:
        raise ValueError(
            f"--overlap must leave a pixel in at most {_MOST_LOOKS} tiles, got {overlap} of --tile "
            f"{tile}, which is in {looks:.0f}; small tiles need an --overlap of their own"
        )


def check_second_look(config: C2FConfig, tile: int) -> None:
    """Refuses patches larger than images that are not cut; tells of a second look that takes long.

    Args:
        config: of the network.
        tile: side of what is looked at, where the configuration bounds no number of windows.

    Raises:
        ValueError: the patches are too large.
    """
    patch, most = round(config.window * config.zoom), max(LARGE_PX, tile)
    if patch > most:
        raise ValueError(
            f"--window times --zoom must be at most {most} px, which the fine network sees at "
            f"once, got {config.window} times {config.zoom:g}"
        )
    side = max(tile, config.window)
    _, n = step_and_slots((side, side), config)
    if n * patch**2 > _LONG_PX:
        tell(
            f"note: the second look at an image takes long, at up to {n} windows of {patch} x "
            f"{patch} px; a smaller --zoom, --window or --n takes less"
        )


def engine_of(args: argparse.Namespace, tile: int) -> Engine:
    """The engine that the options above, and those of the configuration, ask for.

    Raises:
        ValueError: no such device is here, or the second look at a tile would not end.
        RuntimeError: the backend cannot run here, or not on the device.
    """
    device = device_named(args.device)
    if args.checkpoint is None:
        tell(_DEMO_ONLY)
    source = DEMO_WEIGHTS if args.checkpoint is None else args.checkpoint
    net = C2FNet.from_pretrained(source, trust_code=args.trust_code).eval()
    net.config = net.config.replace(**config_changes(args))
    check_second_look(net.config, tile)
    _check_backend(net.config.backend, device)
    return net.to(device).compile(batch=args.batch, precision=args.precision)


def device_named(name: str) -> torch.device:
    """A device to compute on.

    Raises:
        ValueError: none of that name is here.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    with suppress(Exception):  # of many kinds; what they say is of torch's own build
        device = torch.device(name)
        if device.type != "meta":  # which holds no values
            # A GPU that is here and fails tells why when it is used.
            if device.type != "cuda" or (device.index or 0) >= gpus:
                torch.empty(0, device=device)
            return device
    raise ValueError(
        f"--device must be one that is here, cpu or one of the {gpus} GPUs found (cuda, cuda:1, "
        f"...), got {name!r}"
    )


def _check_backend(name: str, device: torch.device) -> None:
    """Refuses a backend that would fail with every image."""
    name = _backend.of_process() if name == "auto" else name
    if name != "auto":
        probe = torch.empty(0, dtype=torch.uint8, device=device)
        for op in _OPS:
            _backend.choose(op, name, probe)


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
