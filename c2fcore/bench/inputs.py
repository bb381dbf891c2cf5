"""Inputs of the benchmarks: realistic class maps, the logits of a coarse network, fine logits.

Realistic means: the class map of a real aerial image or of a synthetic scene, mirrored side by side
to the wanted size. Real maps come from the files that C2F_BENCH_MASKS lists, else from iSAID masks
in the shared data where that is there; without either the scene generator makes them. They matter
because the cost of a fused op depends on how long the borders between classes are; noise is the
worst case, in which every pixel is a border. Everything is a pure function of its arguments and the
seed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .. import ops
from ..data.catalogue import DATASETS
from ..data.masks import MaskDecoder, read_mask
from ..windows import Windows, grid_shape

NUM_CLASSES = 16
SMALL_CLASSES = (1, 8, 9, 10, 11, 14, 15)
WINDOW, N = 128, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_ISAID_MASKS = (
    "val/images/P0003_instance_color_RGB.png",
    "train/images/P0005_instance_color_RGB.png",
)
# Scene classes ground, road, building, tree, water, vehicle, ship, plane as ids of the 16.
_SCENE_IDS = (0, 2, 3, 4, 5, 9, 1, 14)
_SCENE_SIDE, _SCENES = 1024, 2

LOGIT_GAP = 6.0  # of a confident network: logit of the right class above the others


@dataclass(frozen=True)
class Case:
    """Everything that the ops between and after the two networks read, for one image size.

    Attributes:
        truth: uint8 [B, H, W], the class map that all else is made of.
        logits: [B, N, h, w], the coarse answer.
        image: uint8 [B, 3, H, W].
        windows: what `select_windows` ("cover") finds on the logits.
        fine: float32 [B*n, 2, hf, wf], the fine answer for these windows.
        stride: distance s of the candidate windows.
        source: "isaid", "masks", "scene" or "noise".
        small_classes: ids of the small classes C.
        strategy: how windows are chosen.
        edge: which windows stand at the border.
        rule: how answers are merged.
    """

    truth: Tensor
    logits: Tensor
    image: Tensor
    windows: Windows
    fine: Tensor
    stride: int
    source: str
    small_classes: tuple[int, ...] = SMALL_CLASSES
    strategy: str = "cover"
    edge: str = "flush"
    rule: str = "paper"

    @property
    def pixels(self) -> int:
        """Full-size pixels of the batch."""
        return self.truth.numel()

    def to(self, device: str | torch.device) -> Case:
        """The same on another device; the class map stays in host memory."""
        w = self.windows
        windows = Windows(w.origins.to(device), w.counts.to(device), w.num.to(device), w.window)
        tensors = {name: getattr(self, name).to(device) for name in ("logits", "image", "fine")}
        return dataclasses.replace(self, windows=windows, **tensors)

    @property
    def n(self) -> int:
        """Slots for windows per image."""
        return int(self.windows.counts.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Full size (H, W)."""
        return int(self.truth.shape[-2]), int(self.truth.shape[-1])


@functools.lru_cache(maxsize=4)
def make_case(
    size: int | tuple[int, int],
    *,
    content: str = "realistic",
    seed: int = 0,
    reduction: int = 4,
    window: int | None = None,
    n: int = N,
    batch: int = 1,
    num_classes: int = NUM_CLASSES,
    preset: str = "",
) -> Case:
    """Images of `size`, their coarse logits at 1/reduction, windows and fine logits.

    Args:
        size: side, or (H, W), in pixels.
        content: "realistic", or "noise" for pure noise as coarse logits.
        seed: of everything random.
        reduction: full size over the logits' own, rounded up.
        window: side k of a window; candidates stand a quarter of it apart. 128, or half of a
            smaller image, if None.
        n: windows per image.
        batch: images.
        num_classes: classes of the coarse network; ids of the map are taken modulo this.
        preset: "official" for what the authors' released code does: every disjoint window with a
            small-object pixel (`n` is ignored), their merge rule; "paper" for the windows with the
            highest counts; else greedy coverage. Both merge by Eq. 1.
    """
    size = (size, size) if isinstance(size, int) else size
    window = window or min(WINDOW, min(size) // 2)
    stride = max(1, window // 4)
    strategy, edge, rule = "top" if preset == "paper" else "cover", "flush", "paper"
    if preset == "official":
        strategy, edge, rule, stride = "all", "drop", "official", window
        rows, columns = grid_shape(*size, window, stride, edge)
        n = rows * columns
    small = tuple(c for c in SMALL_CLASSES if c < num_classes)
    labels, source = class_map(size)
    flips: list[tuple[int, ...]] = [(), (0,), (1,), (0, 1)]
    one = torch.from_numpy(labels)
    truth = torch.stack([one.flip(flips[b % len(flips)]) for b in range(batch)])
    if num_classes < NUM_CLASSES:
        truth %= num_classes
    if content == "noise":
        source = "noise"
        logits = noise_logits(size, reduction, seed, batch, num_classes)
    else:
        logits = coarse_logits(truth, reduction, seed, num_classes)
    windows = ops.select_windows(
        logits, small, window=window, stride=stride, n=n, size=size, strategy=strategy, edge=edge
    )
    fine = fine_logits(truth, windows, small, seed)
    image = image_of(truth, seed)
    return Case(truth, logits, image, windows, fine, stride, source, small, strategy, edge, rule)


@functools.lru_cache(maxsize=4)
def class_map(size: tuple[int, int]) -> tuple[NDArray[np.uint8], str]:
    """A realistic map of 16 classes, uint8 [H, W], and where it comes from."""
    tiles, source = _real_maps()
    if not tiles:
        tiles, source = _scene_maps(), "scene"
    height = min(t.shape[0] for t in tiles)
    width = min(t.shape[1] for t in tiles)
    rows = []
    for i in range(-(-size[0] // height)):
        row = [
            _mirrored(tiles[(i + j) % len(tiles)][:height, :width], i % 2 == 1, j % 2 == 1)
            for j in range(-(-size[1] // width))
        ]
        rows.append(np.concatenate(row, axis=1))
    whole = np.concatenate(rows, axis=0)
    return np.ascontiguousarray(_busiest_cut(whole, size)), source


def coarse_logits(
    truth: Tensor, reduction: int = 4, seed: int = 0, num_classes: int = NUM_CLASSES
) -> Tensor:
    """float32 logits [B, N, h, w] of a network that has seen `truth` at 1/reduction.

    The one-hot map of the pixel nearest to each centre, softened towards the neighbours, times the
    gap of a confident network, plus noise that is smooth over about eight low-resolution pixels (a
    network's errors come in patches) and a little that is not.
    """
    h, w = (-(-side // reduction) for side in truth.shape[-2:])
    return soft_logits(nearest(truth, h, w), num_classes, seed)


def nearest(truth: Tensor, h: int, w: int) -> Tensor:
    """int64 [B, h, w]: of the class map [B, H, W] the pixel nearest to each centre."""
    height, width = truth.shape[-2:]
    ys = ((torch.arange(h) + 0.5) * height / h).long()
    xs = ((torch.arange(w) + 0.5) * width / w).long()
    return truth[:, ys][:, :, xs].long()


def soft_logits(near: Tensor, num_classes: int, seed: int = 0) -> Tensor:
    """float32 logits [B, N, h, w] of a network whose answer is the class map `near` [B, h, w]."""
    batch, h, w = near.shape
    logits = torch.zeros((batch, num_classes, h, w)).scatter_(1, near[:, None], 1.0)
    soft = F.avg_pool2d(logits, 3, stride=1, padding=1)
    logits.mul_(0.6 * LOGIT_GAP).add_(soft, alpha=0.4 * LOGIT_GAP)
    random = torch.Generator().manual_seed(seed)
    shape = (batch, num_classes, -(-h // 8) + 1, -(-w // 8) + 1)
    logits += F.interpolate(
        torch.randn(shape, generator=random), size=(h, w), mode="bicubic", align_corners=False
    )
    return logits.add_(torch.randn(logits.shape, generator=random), alpha=0.1)


def noise_logits(
    size: tuple[int, int],
    reduction: int = 4,
    seed: int = 0,
    batch: int = 1,
    num_classes: int = NUM_CLASSES,
) -> Tensor:
    """float32 logits [B, N, h, w] of independent normal noise: no two neighbours agree."""
    shape = (batch, num_classes, -(-size[0] // reduction), -(-size[1] // reduction))
    return 2.0 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fine_logits(
    truth: Tensor,
    windows: Windows,
    small_classes: Iterable[int] = SMALL_CLASSES,
    seed: int = 0,
    side: int | tuple[int, int] = 32,
) -> Tensor:
    """float32 logits [B*n, 2, side, side]: the share of small-object pixels, plus noise."""
    k = windows.window
    is_small = torch.zeros(256)
    is_small[list(small_classes)] = 1.0
    crops = torch.stack(
        [
            truth[b, y : y + k, x : x + k]
            for b, row in enumerate(windows.origins.tolist())
            for y, x in row
        ]
    )
    share = F.adaptive_avg_pool2d(is_small[crops.long()][:, None], side)
    random = torch.Generator().manual_seed(seed + 1)
    half = LOGIT_GAP * (share - 0.5) + 0.5 * torch.randn(share.shape, generator=random)
    return torch.cat((-half, half), dim=1)


def image_of(truth: Tensor, seed: int = 0) -> Tensor:
    """uint8 image [B, 3, H, W]: a grey tone per class, plus noise. Times do not depend on it."""
    random = torch.Generator().manual_seed(seed + 2)
    tones = torch.randint(40, 200, (256,), generator=random, dtype=torch.uint8)
    tone = tones[truth.long()]
    grain = torch.randint(
        0, 50, (len(truth), 3, *truth.shape[-2:]), generator=random, dtype=torch.uint8
    )
    return tone[:, None] + grain


def as_layout(tensor: Tensor, layout: str) -> Tensor:
    """The same values [B, C, H, W] in memory as "planar" or "channels_last"."""
    formats = {"planar": torch.contiguous_format, "channels_last": torch.channels_last}
    return tensor.contiguous(memory_format=formats[layout])


def _mirrored(tile: NDArray[np.uint8], down: bool, across: bool) -> NDArray[np.uint8]:
    return tile[:: -1 if down else 1, :: -1 if across else 1]


def _busiest_cut(whole: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The cut (of a few on a grid) with most small-object pixels: small sizes need some, too."""
    (height, width), is_small = size, np.isin(whole, SMALL_CLASSES)
    rest_y, rest_x = whole.shape[0] - height, whole.shape[1] - width
    spots = [(y, x) for y in (0, rest_y // 2, rest_y) for x in (0, rest_x // 2, rest_x)]
    y, x = max(spots, key=lambda s: int(is_small[s[0] : s[0] + height, s[1] : s[1] + width].sum()))
    return whole[y : y + height, x : x + width]


@functools.lru_cache(maxsize=1)
def _real_maps() -> tuple[tuple[NDArray[np.uint8], ...], str]:
    """Class maps of real images and their source; none where there are no files."""
    if listed := os.environ.get("C2F_BENCH_MASKS"):
        return tuple(_read_mask(Path(p)) for p in listed.split(os.pathsep) if p), "masks"
    beside = Path(__file__).resolve().parents[3] / "shared"
    folder = Path(os.environ.get("C2F_SHARED", beside)) / "data" / "isaid"
    paths = [folder / name for name in _ISAID_MASKS]
    found = all(p.is_file() for p in paths)
    return (tuple(_read_mask(p) for p in paths) if found else ()), "isaid"


def _read_mask(path: Path) -> NDArray[np.uint8]:
    """Class ids of a mask in iSAID's colours, or of ids; what is no class counts as background."""
    mask = read_mask(path)
    ids = mask if mask.ndim == 2 else MaskDecoder(DATASETS["isaid"], "rgb")(mask, path)[0]
    return np.where(ids < NUM_CLASSES, ids, 0).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _scene_maps() -> tuple[NDArray[np.uint8], ...]:
    from ..data.scenes import make_scene

    ids = np.array(_SCENE_IDS, np.uint8)
    return tuple(ids[make_scene(seed, _SCENE_SIDE).labels] for seed in range(_SCENES))
