"""Inputs of the benchmarks: realistic class maps, the logits of a coarse network, fine logits.

Realistic means: the class map of a real aerial image (iSAID masks, where the shared data is there)
or of a synthetic scene, mirrored side by side to the wanted size. Real maps matter because the cost
of a fused op depends on how long the borders between classes are; noise is the worst case, in which
every pixel is a border. Everything is a pure function of its arguments and the seed.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from c2fcore import Windows, ops

NUM_CLASSES = 16
SMALL_CLASSES = (1, 8, 9, 10, 11, 14, 15)
WINDOW, N = 128, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Official colours of the iSAID devkit; the position is the class id.
_ISAID_COLORS = (
    (0, 0, 0),
    (0, 0, 63),
    (0, 63, 63),
    (0, 63, 0),
    (0, 63, 127),
    (0, 63, 191),
    (0, 63, 255),
    (0, 127, 63),
    (0, 127, 127),
    (0, 0, 127),
    (0, 0, 191),
    (0, 0, 255),
    (0, 191, 127),
    (0, 127, 191),
    (0, 127, 255),
    (0, 100, 155),
)
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
        source: "isaid", "scene" or "noise".
    """

    truth: Tensor
    logits: Tensor
    image: Tensor
    windows: Windows
    fine: Tensor
    stride: int
    source: str

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
) -> Case:
    """One image of `size`, its coarse logits at 1/reduction, windows and fine logits.

    Args:
        size: side, or (H, W), in pixels.
        content: "realistic", or "noise" for pure noise as coarse logits.
        seed: of everything random.
        reduction: full size over the logits' own, rounded up.
        window: side k of a window; candidates stand a quarter of it apart. 128, or half of a
            smaller image, if None.
        n: windows.
    """
    size = (size, size) if isinstance(size, int) else size
    window = window or min(WINDOW, min(size) // 2)
    stride = max(1, window // 4)
    labels, source = class_map(size)
    truth = torch.from_numpy(labels)[None]
    if content == "noise":
        source = "noise"
        logits = noise_logits(size, reduction, seed)
    else:
        logits = coarse_logits(truth, reduction, seed)
    windows = ops.select_windows(
        logits, SMALL_CLASSES, window=window, stride=stride, n=n, size=size
    )
    fine = fine_logits(truth, windows, seed)
    return Case(truth, logits, image_of(truth, seed), windows, fine, stride, source)


@functools.lru_cache(maxsize=4)
def class_map(size: tuple[int, int]) -> tuple[NDArray[np.uint8], str]:
    """A realistic map of 16 classes, uint8 [H, W], and where it comes from ("isaid" or "scene")."""
    tiles, source = _isaid_maps(), "isaid"
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


def coarse_logits(truth: Tensor, reduction: int = 4, seed: int = 0) -> Tensor:
    """float32 logits [B, N, h, w] of a network that has seen `truth` at 1/reduction.

    The one-hot map of the pixel nearest to each centre, softened towards the neighbours, times the
    gap of a confident network, plus noise that is smooth over about eight low-resolution pixels (a
    network's errors come in patches) and a little that is not.
    """
    batch, height, width = truth.shape
    h, w = -(-height // reduction), -(-width // reduction)
    ys = ((torch.arange(h) + 0.5) * height / h).long()
    xs = ((torch.arange(w) + 0.5) * width / w).long()
    near = truth[:, ys][:, :, xs].long()
    logits = torch.zeros((batch, NUM_CLASSES, h, w)).scatter_(1, near[:, None], 1.0)
    soft = F.avg_pool2d(logits, 3, stride=1, padding=1)
    logits.mul_(0.6 * LOGIT_GAP).add_(soft, alpha=0.4 * LOGIT_GAP)
    random = torch.Generator().manual_seed(seed)
    shape = (batch, NUM_CLASSES, -(-h // 8) + 1, -(-w // 8) + 1)
    logits += F.interpolate(
        torch.randn(shape, generator=random), size=(h, w), mode="bicubic", align_corners=False
    )
    return logits.add_(torch.randn(logits.shape, generator=random), alpha=0.1)


def noise_logits(size: tuple[int, int], reduction: int = 4, seed: int = 0) -> Tensor:
    """float32 logits [1, N, h, w] of independent normal noise: no two neighbours agree."""
    shape = (1, NUM_CLASSES, -(-size[0] // reduction), -(-size[1] // reduction))
    return 2.0 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fine_logits(truth: Tensor, windows: Windows, seed: int = 0, side: int = 32) -> Tensor:
    """float32 logits [B*n, 2, side, side]: the share of small-object pixels, plus noise."""
    k = windows.window
    is_small = torch.zeros(256)
    is_small[list(SMALL_CLASSES)] = 1.0
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
def _isaid_maps() -> tuple[NDArray[np.uint8], ...]:
    """Class maps of the shared iSAID images; empty where the data is not there."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("C2F_SHARED", beside)) / "data" / "isaid"
    paths = [folder / name for name in _ISAID_MASKS]
    return tuple(_read_isaid(p) for p in paths) if all(p.is_file() for p in paths) else ()


def _read_isaid(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    rgb = np.asarray(Image.open(path).convert("RGB")).astype(np.int32)
    packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    labels = np.full(packed.shape, 255, np.uint8)
    for label, (r, g, b) in enumerate(_ISAID_COLORS):
        labels[packed == (r << 16 | g << 8 | b)] = label
    if (labels == 255).any():
        count = int((labels == 255).sum())
        raise ValueError(f"{path.name}: {count} pixels have a colour outside the iSAID palette")
    return labels


@functools.lru_cache(maxsize=1)
def _scene_maps() -> tuple[NDArray[np.uint8], ...]:
    from c2fcore.data.scenes import make_scene

    ids = np.array(_SCENE_IDS, np.uint8)
    return tuple(ids[make_scene(seed, _SCENE_SIDE).labels] for seed in range(_SCENES))
