"""Runs of `c2f train` that take seconds."""

from __future__ import annotations

from pathlib import Path

SMALL = ["--options.width=4", "--data.batch_size=2", "--data.workers=0", "--augment.crop=32",
         "--trainer.max_steps=6", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu",
         "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
         "--trainer.logger=false"]  # fmt: skip
COARSE = ["--coarse=tiny_fcn", "--recipe.lr=0.05", *SMALL]
FINE = ["--fine=tiny_fcn", "--c2f.window=32", "--c2f.stride=16", "--c2f.n=2", *SMALL]


def coarse(data: Path, out: Path, *more: str) -> list[str]:
    return ["train", "coarse", f"--data.root={data}", f"--out={out}", *COARSE, *more]


def fine(data: Path, run: Path, out: Path, *more: str) -> list[str]:
    given = [f"--data.root={data}", f"--out={out}", f"--coarse={run / 'checkpoint'}"]
    return ["train", "fine", *given, *FINE, *more]
