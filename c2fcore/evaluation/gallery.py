"""Pictures of the tiles or scenes that the second look helped and harmed most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import pictures
from ..images import Pixels, write_png
from .predictor import Predictor
from .runner import Result, UnitScore, answer_of
from .samples import Samples, units_of

_BETTER = (40, 170, 80)
_WORSE = (220, 40, 40)
_PANEL_PX = 480


def choose(result: Result, count: int) -> list[tuple[str, UnitScore]]:
    """The units to show: the best by gain of pooled small-class IoU, and the worst.

    Without a second look that IoU itself decides.

    Args:
        result: with the score of every unit.
        count: how many of the best, and how many of the worst; no unit is shown twice.

    Returns:
        ("best_1", score), ..., ("worst_1", score), ...
    """

    def value(unit: UnitScore) -> float:
        return unit.coarse if result.refined is None else unit.refined - unit.coarse

    known = [unit for unit in result.units if not math.isnan(value(unit))]
    ranked = sorted(known, key=lambda unit: (-value(unit), unit.number))
    best = ranked[:count]
    worst = ranked[::-1][: min(count, len(ranked) - len(best))]
    return [(f"best_{i}", unit) for i, unit in enumerate(best, 1)] + [
        (f"worst_{i}", unit) for i, unit in enumerate(worst, 1)
    ]


def draw(
    predict: Predictor,
    samples: Samples,
    protocol: str,
    chosen: Sequence[tuple[str, UnitScore]],
    folder: Path,
) -> list[Path]:
    """Writes one sheet per chosen unit: image, coarse, refined, truth, and what changed.

    The last panel shows the image in grey; green where the second look put a pixel right, red where
    it put one wrong. Answers are made once more for these few units.

    Args:
        predict: that gave the result.
        samples: it was given on.
        protocol: with which.
        chosen: what `choose` gave.
        folder: where to; made if needed.

    Returns:
        The files.
    """
    units = units_of(samples, protocol)
    config = predict.config
    palette = pictures.bright_palette(config, samples.palette)
    names = config.class_names or samples.class_names
    colours = [(int(red), int(green), int(blue)) for red, green, blue in palette]
    legend = list(zip(names, colours, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for rank, score in chosen:
        pixels, maps = answer_of(predict, samples, units[score.number])
        image: Pixels = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
        labels = {name: found.cpu().numpy() for name, found in maps.items()}
        panels = [("image", image)]
        for stage, value in (("coarse", score.coarse), ("refined", score.refined)):
            if stage in labels:
                shown = pictures.colourise(labels[stage], palette)
                panels.append((f"{stage}, small IoU {100 * value:.1f}", shown))
        panels.append(("truth", pictures.colourise(labels["truth"], palette)))
        if "refined" in labels:
            panels.append(("change: green better, red worse", changes(image, labels)))
        # Small tiles are enlarged, pixel by pixel, so that titles fit and objects can be seen.
        times = max(1, _PANEL_PX // max(image.shape[:2]))
        panels = [(title, panel.repeat(times, 0).repeat(times, 1)) for title, panel in panels]
        files.append(folder / f"{rank}_{score.name}.png")
        write_png(files[-1], pictures.side_by_side(panels, legend, len(panels), _PANEL_PX))
    return files


def clear(folder: Path) -> int:
    """Removes the sheets of an earlier run, whose names may differ; tells how many."""
    earlier = [path for kind in ("best", "worst") for path in folder.glob(f"{kind}_[0-9]*_*.png")]
    for path in earlier:
        path.unlink()
    return len(earlier)


def changes(image: Pixels, labels: dict[str, Pixels]) -> Pixels:
    """The image in pale grey, with what the second look changed for better or worse in colour.

    Args:
        image: RGB [H, W, 3].
        labels: ids [H, W] of "coarse", "refined" and "truth"; 255 in the truth is not judged.

    Returns:
        RGB [H, W, 3].
    """
    grey = 128 + image.mean(2, keepdims=True) / 2
    shown: Pixels = np.repeat(grey, 3, axis=2).astype(np.uint8)
    truth, before, after = (labels[name] for name in ("truth", "coarse", "refined"))
    judged = (before != after) & (truth != 255)
    shown[judged & (after == truth)] = _BETTER
    shown[judged & (before == truth)] = _WORSE
    return shown
