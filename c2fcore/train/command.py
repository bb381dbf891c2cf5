"""`c2f train`: configuration from YAML and command line, then Lightning's Trainer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from typing import Any, Final

from lightning import pytorch as pl
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from .. import _checks, _files
from .._fine_loss import FineLoss
from .._progress import on_terminal, tell
from ..checkpoint import load_coarse
from ..config import C2FConfig
from ..data import loading
from ..data.augment import Augment
from ..models import build, foreground_of
from ..pipeline import C2FNet
from .batches import Tiles
from .parsing import parsed
from .recipe import Recipe, class_weights
from .resuming import check_resumed, check_state, is_begun, way_on
from .running import Lines, RunCheckpoint, StopAtStep, WholeStates, fit, plain_errors
from .tasks import CoarseLoss, CoarseTask, FineTask

STAGES: Final = ("coarse", "fine")
CONFIG_FILE: Final = "train.yaml"
EXPORTED: Final = "checkpoint"
LAST: Final = "last.ckpt"

# Fields of C2FConfig that the coarse checkpoint settles, or the data.
_SETTLED: Final = ("num_classes", "small_classes", "class_names", "palette")
# The paper's, for Lightning. An epoch is the whole run, so steps are what is counted.
_TRAINER: Final[dict[str, Any]] = {
    "max_steps": 80_000,
    "max_epochs": -1,
    "val_check_interval": 4_000,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,  # Tiles shares out its batches itself
}


def shipped_configs(stage: str) -> dict[str, Path]:
    """Configurations that come with the package, by name."""
    folder = Path(str(resources.files(__package__) / "configs" / stage))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def build_parser(stage: str) -> Any:
    """The parser of `c2f train STAGE`.

    Raises:
        ImportError: jsonargparse is not installed.
    """
    import jsonargparse

    names = ", ".join(shipped_configs(stage))
    needed = "--data.root FOLDER --out FOLDER" + ("" if stage == "coarse" else " --coarse FOLDER")
    parser = jsonargparse.ArgumentParser(
        prog=f"c2f train {stage}",
        usage=f"c2f train {stage} [--config FILE] {needed} [options]",
        description=(
            "Stage 1: trains the coarse network on all classes."
            if stage == "coarse"
            else "Stage 2: trains the fine network on windows; the coarse one is frozen."
        ),
        epilog=f"Shipped configurations for --config: {names}. Defaults are the paper's recipe.",
    )
    add = parser.add_argument
    add("--config", action="config", help="YAML file, or the name of a shipped one")
    add("--out", type=str, required=True, help="folder of the run")
    add("--resume", action="store_true", help="go on from OUT/last.ckpt")
    add("--seed", type=int, default=0)
    add("--pretrained", type=bool, default=False, help="ImageNet weights for the new network")
    add("--options", type=dict[str, Any], default={}, help="of the new network")
    if stage == "coarse":
        add("--coarse", type=str, default="fcn_hrnet_w18", help="name or package.module:function")
        add("--mean", type=list[float], default=[0.5, 0.5, 0.5], help="of images in 0..1")
        add("--std", type=list[float], default=[0.5, 0.5, 0.5])
    else:
        add("--coarse", type=str, required=True, help="checkpoint of stage 1")
        add("--fine", type=str, default="fcn_hrnet_w18",
            help="name or package.module:function; coarse starts with a copy of the coarse network "
            "that answers with the log-odds of the small classes, trained or not")  # fmt: skip
        add("--fine_channels", type=int, default=2, help="1, or 2 (background, foreground)")
        add("--trust_code", type=bool, default=False,
            help="the checkpoint may name package.module:function")  # fmt: skip
        add("--preset", type=str, default="fast", help="fast, paper or official")
        add("--c2f", type=dict[str, Any], default={},
            help="C2FConfig where it differs from the preset, such as --c2f.window 64")  # fmt: skip
        add("--train_n", type=int | None, default=None, help="windows per crop in training")
        add("--calibrate", type=int, default=0,
            help="training tiles on which C2FNet.calibrate sets fine_slope and fine_shift at the "
            "end; 0 leaves them")  # fmt: skip
    add("--balance", type=str | list[float], default="none",
        help="classes in the loss: none, sqrt or inverse (frequency), small (the small "
        "classes among each other), or weights")  # fmt: skip
    loss = CoarseLoss if stage == "coarse" else FineLoss
    parser.add_class_arguments(loss, "loss", skip={"class_weights"}, instantiate=False)
    parser.add_class_arguments(Recipe, "recipe", instantiate=False)
    parser.add_class_arguments(Tiles, "data", instantiate=False)
    parser.add_class_arguments(Augment, "augment", skip={"classes"}, instantiate=False)
    ours = {
        "callbacks",
        "default_root_dir",
        "barebones",
        "model_registry",
        "reload_dataloaders_every_n_epochs",
    }
    parser.add_class_arguments(pl.Trainer, "trainer", skip=ours, instantiate=False)
    parser.set_defaults({f"trainer.{key}": value for key, value in _TRAINER.items()})
    return parser


def speaks() -> bool:
    """Whether this process, of those of a run, is the one that tells what came of it."""
    return getattr(rank_zero_only, "rank", 0) == 0


def train(stage: str, arguments: Sequence[str]) -> Path:
    """Trains a stage; returns the folder of the exported checkpoint.

    Args:
        stage: "coarse" or "fine".
        arguments: of the command line; `--help` and `--print_config` print and exit.

    Raises:
        ValueError, TypeError, FileNotFoundError, ImportError: what cannot be, before training.
        ValueError: training cannot go on: a loss that is no number, a tile that cannot be read; or
            another run is at work in the folder.
        KeyboardInterrupt: it was stopped; the message says how to go on.
    """
    parser = build_parser(stage)
    config = parsed(parser, with_shipped(stage, arguments))
    try:
        return _train(stage, parser, config, Path(config.out))
    except KeyboardInterrupt as stopped:
        if stopped.args:
            raise
        raise KeyboardInterrupt(f"at once; {way_on(Path(config.out) / LAST)}") from None


def _train(stage: str, parser: Any, config: Any, out: Path) -> Path:
    last = out / LAST
    if config.resume:
        check_resumed(last, out / CONFIG_FILE, dumped(parser, config))
    elif out.exists() and not out.is_dir():
        raise FileExistsError(f"--out must be a folder, got the file {out}")
    elif (out / EXPORTED).exists() or is_begun(last):
        raise FileExistsError(f"{out} holds a run already; give --resume, or another --out")
    if stage == "fine":
        _checks.integer("train", "calibrate", config.calibrate, 0)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    made = parser.instantiate(config)
    data = Tiles(**made.data)
    if data.workers:
        loading.start()  # while the networks are made
    data.augment, data.seed = Augment(**made.augment, classes=data.small), config.seed
    task = (_coarse_task if stage == "coarse" else _fine_task)(made, data)
    task.seed = config.seed
    if config.resume:
        check_state(last, data, task, made.trainer.max_steps)
    # The coarse network can look again as it is, without a step of training.
    untrained = made.trainer.max_steps == 0 and getattr(made, "fine", None) == "coarse"
    if untrained:
        if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started
            _start(parser, config, out)
            _finish(task, data, config, out)
        return out / EXPORTED
    with plain_errors():
        trainer = _trainer(made.trainer.as_dict(), out, data)
    data.share(trainer.world_size)
    if trainer.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
    held = _files.held(out, "the folder of a run must be written by")
    with held if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            _start(parser, config, out)
        fit(trainer, task, data, last, config.resume)
        best = next(c for c in trainer.checkpoint_callbacks if c.monitor is not None)
        if trainer.is_global_zero:
            _load_best(task, str(best.best_model_path), data.val_split)
            _finish(task, data, config, out)
        trainer.strategy.barrier()
    return out / EXPORTED


def dumped(parser: Any, config: Any) -> str:
    """All options as YAML, for --config: also those that are none where the default is not."""
    return str(parser.dump(config, skip_unset=False))


def _start(parser: Any, config: Any, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = dumped(parser, config)
    _files.write_text(out / CONFIG_FILE, text)
    print(text)


def _finish(task: CoarseTask | FineTask, data: Tiles, config: Any, out: Path) -> None:
    if isinstance(task, FineTask) and config.calibrate:
        task.calibrate(data.plain_tiles(config.calibrate))
    task.export(out / EXPORTED)


def with_shipped(stage: str, arguments: Sequence[str]) -> list[str]:
    """The arguments, with names of shipped configurations as their paths.

    Configurations come first: an option of the command line is meant to win, wherever it stands.

    Raises:
        ValueError: there is no such configuration.
    """
    shipped = shipped_configs(stage)
    configs: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        option, mark, name = argument.partition("=")
        if option != "--config":
            others.append(argument)
        elif not mark and (name := next(rest, "")) == "":
            others.append(argument)  # for the parser to refuse
        else:
            if name not in shipped and not Path(name).exists():
                known = ", ".join(shipped)
                raise ValueError(f"config must be a YAML file or one of {known}, got {name!r}")
            configs.append(f"--config={shipped.get(name, name)}")
    return configs + others


def _coarse_task(made: Any, data: Tiles) -> CoarseTask:
    facts = data.prepared
    # The paper's windows: stage 1 has none, but is scored on images that would hold one.
    config = C2FConfig.preset(
        "paper",
        num_classes=len(facts.class_names),
        small_classes=data.small,
        class_names=facts.class_names,
        palette=facts.palette or None,
        mean=tuple(made.mean),
        std=tuple(made.std),
    )
    network = build(made.coarse, config.num_classes, pretrained=made.pretrained, **made.options)
    loss = CoarseLoss(**made.loss, class_weights=_weights(made, data, config))
    return CoarseTask(network, config, Recipe(**made.recipe), loss)


def _fine_task(made: Any, data: Tiles) -> FineTask:
    coarse, proposed = load_coarse(made.coarse, trust_code=made.trust_code)
    facts = data.prepared
    facts.check_classes(proposed)
    settled = [name for name in _SETTLED if name in made.c2f]
    if settled:
        raise ValueError(f"--c2f must not change what the data settle, got {', '.join(settled)}")
    kept = {name: getattr(proposed, name) for name in ("mean", "std", "scale", "stride_multiple")}
    config = C2FConfig.preset(
        made.preset,
        num_classes=proposed.num_classes,
        small_classes=data.small,
        class_names=facts.class_names,
        palette=facts.palette or None,
        **{**kept, **made.c2f},
    )
    if made.fine == "coarse":
        if made.options or made.pretrained:
            raise ValueError(
                "--fine coarse must come without --options and --pretrained, which make a new "
                f"network, got {made.options} and {made.pretrained}"
            )
        fine: nn.Module = foreground_of(coarse, data.small)
    else:
        fine = build(made.fine, made.fine_channels, pretrained=made.pretrained, **made.options)
    loss = FineLoss(**made.loss, class_weights=_weights(made, data, config))
    return FineTask(C2FNet(coarse, fine, config), Recipe(**made.recipe), loss, made.train_n)


def _weights(made: Any, data: Tiles, config: C2FConfig) -> tuple[float, ...] | None:
    """Of each class in the loss, by --balance."""
    pixels = data.prepared.split(data.train_split).pixels
    return class_weights(made.balance, pixels, config.num_classes, config.small_classes)


def _trainer(options: dict[str, Any], out: Path, data: Tiles) -> Any:
    """Lightning's Trainer with our checkpoints; CSV is the logger unless another is asked for."""
    if options["max_steps"] < 1:
        raise ValueError(f"trainer.max_steps must be at least 1, got {options['max_steps']}")
    every = options["val_check_interval"]
    if isinstance(every, (int, float)) and every <= 0:
        raise ValueError(f"trainer.val_check_interval must be above 0, got {every}")
    if options["limit_train_batches"] is not None or options["overfit_batches"]:
        raise ValueError(  # the next epoch would begin with the same crops
            "trainer.limit_train_batches and trainer.overfit_batches must be left out: the whole "
            "run is one epoch, of trainer.max_steps steps, got "
            f"{options['limit_train_batches']} and {options['overfit_batches']}"
        )
    # The state is kept after a validation: between two batches of a step it would not be whole.
    batches = options["accumulate_grad_batches"]
    whole = every is None or (isinstance(every, int) and every % batches == 0)
    if data.val_split is not None and batches > 1 and not whole:
        raise ValueError(
            f"trainer.val_check_interval must be a multiple of the {batches} batches of a step "
            f"(trainer.accumulate_grad_batches), got {every}"
        )
    if data.val_split is None:
        options["limit_val_batches"] = 0
    validated = options["limit_val_batches"] != 0
    if options["logger"] in (None, True):
        options["logger"] = pl.loggers.CSVLogger(out, name="metrics")
    every = every if isinstance(every, int) else options["max_steps"]
    # The last state is kept after a validation, so that a resumed run knows the best one so far.
    last = {"every_n_epochs": 1} if validated else {"every_n_train_steps": every}
    callbacks: list[pl.Callback] = [
        RunCheckpoint(out, "best", monitor="val/small_iou", mode="max", save_weights_only=True),
        RunCheckpoint(
            out, "last", **last, save_on_train_epoch_end=False, enable_version_counter=False
        ),
        StopAtStep(out / LAST),
    ]
    if options["enable_progress_bar"] is not False and not on_terminal():
        callbacks.append(Lines())
    trainer = pl.Trainer(**options, default_root_dir=out, callbacks=callbacks)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # no other was asked for
        trainer.strategy.checkpoint_io = WholeStates()
    return trainer


def _load_best(task: Any, path: str, val: str | None) -> None:
    """Weights of the best validation; without validation those of the last step stay."""
    import torch

    if not path:
        why = (
            "--data.val names no split" if val is None else "--trainer.val_check_interval says when"
        )
        tell(f"note: no validation ran ({why}): the checkpoint holds the weights of the last step")
        return
    task.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
