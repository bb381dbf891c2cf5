"""`c2f demo`: what the second look gains and what it costs, on scenes with exact truth."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from .. import _native, pictures
from .._clock import STAGES
from .._progress import counted
from ..config import C2FConfig
from ..data import scenes
from ..data.tiling import Box
from ..evaluation import report
from ..evaluation.predictor import TwoStages
from ..evaluation.runner import Result, evaluate
from ..evaluation.samples import Scene, Tile
from ..evaluation.tally import Measures
from ..images import Pixels, write_png
from ..pipeline import C2FNet
from .next_steps import tell_next
from .paths import check_folder, path_of

DEMO_WEIGHTS = Path(__file__).parent.parent / "weights" / "demo"
# Seeds from here on are test scenes: the demo networks were trained and chosen on lower ones.
FIRST_TEST_SEED = 20_000
_GLUE = ("select", "extract", "aggregate")
_GLUE_REPEATS = 5
_MOST_SCENES = 100_000  # takes a day
_CLOSE_UP_PX = 160
_PANEL_PX = 480


class _TestScenes:
    """Scenes as `evaluate` reads them, made one by one."""

    name = "test scenes"
    class_names = scenes.CLASSES
    palette = tuple((int(r), int(g), int(b)) for r, g, b in scenes.PALETTE)

    def __init__(self, seeds: Iterable[int], size: int) -> None:
        tiles = (Tile(str(seed), Box(0, 0, size, size)) for seed in seeds)
        self.scenes = tuple(Scene(tile.name, size, size, (tile,)) for tile in tiles)

    def read(self, scene: Scene, _: Tile) -> tuple[Tensor, Tensor]:
        made = scenes.make_scene(int(scene.name), scene.height)
        return _as_batch(made.image)[0], torch.from_numpy(made.labels)


def add_parser(commands: Any) -> None:
    """Adds the command to the `c2f` parser."""
    parser = commands.add_parser(
        "demo",
        help="what the second look gains and costs, on synthetic scenes with exact truth",
        description=(
            "Segments synthetic aerial scenes that the shipped tiny networks never saw, once with "
            "the coarse network alone and once with the second look, and prints IoU and F1 per "
            "class, the windows looked at, and the time of each stage. Draws the first scene into "
            "OUT/demo.png."
        ),
    )
    parser.add_argument("-o", "--out", type=path_of, default=Path("demo"), help="folder (demo)")
    parser.add_argument("--scenes", type=int, default=6, help="number of scenes (6)")
    parser.add_argument("--size", type=int, default=768, help="side of a scene in pixels (768)")
    parser.add_argument("--seed", type=int, default=0, help="first test scene (0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Scores the scenes, prints the tables, draws the picture."""
    for name, low in (("scenes", 1), ("size", scenes.MIN_SIZE), ("seed", 0)):
        if getattr(args, name) < low:
            raise ValueError(f"--{name} must be at least {low}, got {getattr(args, name)}")
    if args.scenes > _MOST_SCENES:
        raise ValueError(f"--scenes must be at most {_MOST_SCENES}, got {args.scenes}")
    check_folder(args.out, "OUT must be")
    net = C2FNet.from_pretrained(DEMO_WEIGHTS).eval()
    first = FIRST_TEST_SEED + args.seed
    with torch.inference_mode():
        samples = _TestScenes(range(first, first + args.scenes), args.size)
        nothing_more = Measures(boundary=0, sizes=None)
        result = evaluate(TwoStages(net), samples, measures=nothing_more)
        scene = scenes.make_scene(first, args.size)
        _print_scores(net.config, report.summarise(result, samples.class_names), args)
        _print_times(result, _time_glue(net, _as_batch(scene.image)))
        picture = args.out / "demo.png"
        replaced = " (replaced)" if picture.exists() else ""
        write_png(picture, _draw(net, scene))
    print(f"\npicture: {picture}{replaced}")
    tell_next(["predict", "IMAGE", "-o", "out"], ["--help"])
    return 0


def _time_glue(net: C2FNet, image: Tensor) -> dict[str, float]:
    """Median seconds of everything between and after the networks, per backend, taken in turns."""
    times: dict[str, list[float]] = {"reference": []}
    if _native.cpu().module is not None:
        times["cpu"] = []
    given = net.config
    for _ in range(_GLUE_REPEATS):
        for backend, found in times.items():
            net.config = given.replace(backend=backend)
            seconds = net.detailed(image).seconds
            found.append(sum(seconds[stage] for stage in _GLUE))
    net.config = given
    return {backend: median(found) for backend, found in times.items()}


def _print_scores(config: C2FConfig, summary: Mapping[str, Any], args: argparse.Namespace) -> None:
    side = args.size
    count = counted(args.scenes, "scene")
    print(f"\n{count} of {side} x {side} px never seen in training; in percent")
    print(f"{'':<14}{'IoU':^26}{'F1':^26}".rstrip())
    columns = f"{'coarse':>9}{'refined':>9}{'gain':>8}"
    print(f"{'class':<14}{columns}{columns}")
    for row in summary["classes"]:
        _print_row(row["name"] + (" *" if row["small"] else ""), row)
    _print_row("mean small *", summary["means"]["small"])
    _print_row("mean", summary["means"]["all"])
    windows = summary["windows"]
    print(
        f"\n* small classes. {counted(windows['count'], 'window')} of {config.window} px looked at "
        f"({windows['per_tile']:.1f} a scene) at zoom {config.zoom:g}; they cover "
        f"{windows['covered'] or 0:.1%} of the small-object pixels"
    )


def _print_row(name: str, row: Mapping[str, Any]) -> None:
    """IoU and F1, coarse and refined; "-" for a class that is in none of the scenes."""
    cells = [f"{name:<14}"]
    for score in ("iou", "f1"):
        for stage, width in (("coarse", 9), ("refined", 9), ("gain", 8)):
            value, sign = row[stage][score], "+" if stage == "gain" else ""
            # Adding 0.0 makes 0.0 of -0.0.
            text = "-" if value is None else f"{round(100 * value, 1) + 0.0:{sign}.1f}"
            cells.append(f"{text:>{width}}")
    print("".join(cells))


def _print_times(result: Result, glue: dict[str, float]) -> None:
    stages = {
        stage: median(timing.seconds[stage] for timing in result.timings) * 1e3 for stage in STAGES
    }
    total = sum(stages.values())
    print(f"\ntime per scene, {counted(torch.get_num_threads(), 'thread')}, median")
    for stage, value in stages.items():
        print(f"  {stage:<12}{value:9.1f} ms {value / total:6.1%}")
    slow = glue["reference"]
    print(f"\nglue (select + extract + aggregate): reference {slow * 1e3:.1f} ms", end="")
    if "cpu" in glue:
        print(f", cpu {glue['cpu'] * 1e3:.1f} ms: {slow / glue['cpu']:.0f}x faster")
    else:
        print(f"; the cpu kernels are missing here: {_native.cpu().reason}")


def _draw(net: C2FNet, scene: scenes.Scene) -> Pixels:
    """Image, coarse, windows, refined and truth: the whole scene, and a close-up below."""
    answer = net.detailed(_as_batch(scene.image))
    palette = scenes.PALETTE
    windows, window = answer.windows, net.config.window
    origins = [(y, x) for y, x in windows.origins[0, : int(windows.num)].tolist()]
    y, x = _close_up(origins, window, scene.labels.shape)
    side = _CLOSE_UP_PX
    pixels = {
        "coarse": pictures.colourise(answer.coarse_labels[0].numpy(), palette),
        "refined": pictures.colourise(answer.labels[0].numpy(), palette),
        "truth": pictures.colourise(scene.labels, palette),
    }
    near = {key: value[y : y + side, x : x + side] for key, value in pixels.items()}
    crop = scene.image[y : y + side, x : x + side]
    shifted = [(top - y, left - x) for top, left in origins]
    # Drawn at the size they are shown at: lines would hide the objects.
    far_scale, near_scale = (_PANEL_PX / max(image.shape) for image in (scene.image, crop))
    marked = pictures.draw_windows(scene.image, [(y, x)], side, far_scale, numbered=False)
    panels = [
        ("image; the frame is enlarged below", marked),
        ("coarse network: the first look", pixels["coarse"]),
        (f"{len(origins)} windows worth a second look",
         pictures.draw_windows(scene.image, origins, window, far_scale)),
        ("refined: both looks merged", pixels["refined"]),
        ("truth", pixels["truth"]),
        ("close-up", pictures.draw_windows(crop, [], window, near_scale)),
        ("coarse", near["coarse"]),
        ("windows, in the order chosen",
         pictures.draw_windows(crop, shifted, window, near_scale)),
        ("refined", near["refined"]),
        ("truth", near["truth"]),
    ]  # fmt: skip
    legend = list(zip(_TestScenes.class_names, _TestScenes.palette, strict=True))
    return pictures.side_by_side(panels, legend, columns=5, panel_px=_PANEL_PX)


def _close_up(
    origins: list[tuple[int, int]], window: int, shape: tuple[int, ...]
) -> tuple[int, int]:
    """Top left corner of a close-up around the first window, inside the scene."""
    y, x = origins[0] if origins else (0, 0)
    margin = (_CLOSE_UP_PX - window) // 2
    return (
        max(0, min(y - margin, shape[0] - _CLOSE_UP_PX)),
        max(0, min(x - margin, shape[1] - _CLOSE_UP_PX)),
    )


def _as_batch(image: Pixels) -> Tensor:
    """uint8 [H, W, 3] as [1, 3, H, W] without a copy."""
    return torch.from_numpy(image).permute(2, 0, 1)[None]
