"""Synthetic aerial scenes with exact labels, for demos, tests and the demo weights.

A scene is a pure function of (seed, size): terrain, streets and blocks, water and
harbours, an airfield, buildings, trees, and small objects of 4 to 30 pixels (vehicles, ships,
planes) among clutter of the same size that carries the label of the surface below it. Shadows
also keep the label of the surface that they fall on. "road" is any paved surface: streets, car
parks, runways, aprons, quays and jetties. "ground" is everything that no other class claims.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .scene_canvas import (
    Canvas,
    Colour,
    Floats,
    Frame,
    fractal,
    mix,
    noise,
)
from .scene_ports import airfield, boats, flood, harbour, rocks, water_level
from .scene_town import town

CLASSES: tuple[str, ...] = (
    "ground",
    "road",
    "building",
    "tree",
    "water",
    "vehicle",
    "ship",
    "plane",
)
SMALL_CLASSES: tuple[int, ...] = (5, 6, 7)
PALETTE: NDArray[np.uint8] = np.array(
    [
        (196, 178, 128),
        (128, 128, 136),
        (214, 92, 60),
        (44, 122, 52),
        (56, 116, 196),
        (255, 214, 10),
        (240, 60, 220),
        (90, 240, 230),
    ],
    dtype=np.uint8,
)
MIN_SIZE = 64
# Smaller scenes are cut out of one of this side: a layout needs room for streets and strips.
_LAYOUT_MIN = 320


# What scenes contain, and how the sensor sees them. Of two numbers one between them is drawn.
_PIXELS_PER_METRE = (1.70, 2.10)  # a car is 4 to 5 m long
_WATER = {"none": 0.34, "harbour": 0.40, "coast": 0.08, "river": 0.10, "lake": 0.08}
_AIRFIELD = 0.5  # probability
_RURAL = 0.3  # probability that fields take the place of most town blocks
_PARKED = (10.0, 85.0)  # cars in car parks, for a scene of 768 x 768
_TRAFFIC = 0.9  # moving vehicles per 100 m of lane
_FULLNESS = (0.35, 0.85)  # share of taken bays, berths and stands
_SATURATION = (0.5, 0.9)  # of colours, 0 is grey
_BLUR_PX = (0.35, 0.75)  # standard deviation of the point spread
_NOISE = (0.004, 0.018)  # standard deviation of the sensor's (image range 0..1)
_HAZE = 0.22  # upper bound of its share


class Scene(NamedTuple):
    """An image and its labels.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        labels: uint8 [H, W], ids 0..7 of `CLASSES`.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def make_scene(seed: int, size: int | tuple[int, int] = 768) -> Scene:
    """Make one scene; the same arguments give the same bytes.

    Args:
        seed: any integer >= 0.
        size: side in pixels, or (height, width); each at least 64, no multiple asked for.

    Raises:
        ValueError: a side is below 64.
    """
    h, w = (size, size) if isinstance(size, int) else size
    if min(h, w) < MIN_SIZE:
        raise ValueError(f"make_scene: size must be at least {MIN_SIZE}, got {min(h, w)}")
    return _make(seed, (h, w))[1]


def _make(seed: int, size: tuple[int, int]) -> tuple[Canvas, Scene]:
    """The scene, and the canvas it was cut from with the list of its small objects."""
    h, w = size
    rng = np.random.default_rng([seed, h, w])
    canvas = _build(rng, (max(h, _LAYOUT_MIN), max(w, _LAYOUT_MIN)))
    y, x = _busiest(canvas.labels, h, w)
    image = _expose(canvas)[y : y + h, x : x + w]
    labels = canvas.labels[y : y + h, x : x + w]
    return canvas, Scene(np.ascontiguousarray(image), np.ascontiguousarray(labels))


def _busiest(labels: NDArray[np.uint8], h: int, w: int) -> tuple[int, int]:
    """Corner of the h x w cut (of a few on a grid) with the most small-object pixels."""
    rest_y, rest_x = labels.shape[0] - h, labels.shape[1] - w
    if rest_y == 0 and rest_x == 0:
        return 0, 0
    small = np.isin(labels, SMALL_CLASSES)
    spots = [(rest_y * i // 4, rest_x * j // 4) for i in range(5) for j in range(5)]
    return max(spots, key=lambda s: int(small[s[0] : s[0] + h, s[1] : s[1] + w].sum()))


def _terrain(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Grass, dry grass and bare soil, float32 [H, W, 3]."""
    dry = np.clip(0.5 + 0.6 * fractal(rng, shape, 150.0, 4) + rng.uniform(-0.3, 0.4), 0, 1)
    green = np.asarray([0.25, 0.33, 0.14], np.float32) * np.float32(rng.uniform(0.9, 1.2))
    rgb = mix(green, (0.50, 0.47, 0.29), dry)
    bare = np.clip(2.5 * (fractal(rng, shape, 90.0, 4) - rng.uniform(0.25, 0.8)), 0, 1)
    rgb = mix(rgb, (0.55, 0.45, 0.34), bare)
    grain = 0.08 * noise(rng, shape, 1.5) + 0.08 * noise(rng, shape, 4.0)
    return np.asarray(rgb * (1.0 + grain + 0.07 * noise(rng, shape, 30.0))[..., None], np.float32)


def _build(rng: np.random.Generator, shape: tuple[int, int]) -> Canvas:
    """Lay out and draw everything up to, but without, light and sensor."""
    h, w = shape
    side = float(min(h, w))
    kind = str(rng.choice(list(_WATER), p=list(_WATER.values())))
    has_field = bool(rng.random() < _AIRFIELD)
    if side < 480 and has_field and kind != "none":  # room for one of them only
        has_field = bool(rng.random() < 0.5)
        kind = "none" if has_field else kind
    rural = bool(rng.random() < _RURAL)
    frame = Frame(rng, shape, bend=0.02 if has_field else 0.09)
    yy, xx = np.mgrid[:h, :w].astype(np.float32)
    u, v = frame.to_uv(yy, xx)
    direction, slant = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.3)
    canvas = Canvas(
        rng=rng,
        rgb=_terrain(rng, shape),
        labels=np.zeros(shape, np.uint8),
        shade=np.zeros(shape, np.float32),
        grain=noise(rng, shape, 1.6),
        blotch=fractal(rng, shape, 40.0, 3),
        taken=np.zeros(shape, bool),
        frame=frame,
        u=np.asarray(u, np.float32),
        v=np.asarray(v, np.float32),
        ppm=float(rng.uniform(*_PIXELS_PER_METRE)),
        sun=(float(np.sin(direction) * slant), float(np.cos(direction) * slant)),
    )
    area = h * w / 768**2
    quiet = not has_field and kind in ("none", "coast", "lake")
    canvas.parking = int((rng.uniform(*_PARKED) + 25.0 * quiet) * area)
    level, quay, at = np.full(shape, -1e3, np.float32), None, 0.0
    if kind != "none":
        at = side * rng.uniform(0.05, 0.28)
        if kind == "harbour":
            middle, reach = rng.uniform(-0.15, 0.15) * side, rng.uniform(0.28, 0.5) * side
            quay = (middle - reach, middle + reach)
        base = "coast" if kind in ("harbour", "coast") else kind
        level = water_level(canvas, base, at, quay)
        flood(canvas, level, quay)
    blocked = np.zeros(shape, bool)
    if has_field:
        start = (
            -0.5 * side * rng.uniform(0.7, 1.0) if kind != "none" else rng.uniform(-0.4, 0) * side
        )
        blocked = airfield(canvas, start, side, float(rng.uniform(*_FULLNESS)))
        canvas.taken |= blocked
    town(
        canvas,
        level,
        blocked,
        rural=rural,
        shore=at if quay else np.inf,
        traffic=_TRAFFIC,
        fullness=_FULLNESS,
    )
    if quay is not None:
        harbour(canvas, at, quay, float(rng.uniform(*_FULLNESS)))
    if kind != "none":
        boats(canvas, level, int(rng.integers(2, 12)))
        rocks(canvas, level)
    return canvas


def _expose(canvas: Canvas) -> NDArray[np.uint8]:
    """Light, atmosphere and sensor: uint8 [H, W, 3]."""
    rng = canvas.rng
    shape = canvas.shape
    dark = rng.uniform(0.28, 0.48)
    ambient: Colour = (dark * 0.88, dark * 0.96, dark * 1.14)
    canvas.shade = _smooth(canvas.shade[..., None], 0.6)[..., 0]
    rgb = canvas.light(ambient)
    grey = rgb.mean(axis=2, keepdims=True)
    rgb = grey + (rgb - grey) * np.float32(rng.uniform(*_SATURATION))
    balance = np.float32(rng.uniform(0.96, 1.05, 3)) * np.float32(rng.uniform(0.85, 1.18))
    rgb = rgb * balance * (1.0 + 0.05 * noise(rng, shape, 400.0))[..., None]
    haze = rng.uniform(0, _HAZE) * (0.8 + 0.2 * noise(rng, shape, 300.0))
    rgb = mix(rgb, rng.uniform((0.60, 0.64, 0.68), (0.72, 0.76, 0.82)), haze)
    rgb = _smooth(np.asarray(rgb, np.float32), float(rng.uniform(*_BLUR_PX)))
    rgb = np.clip(rgb, 0, 1) ** np.float32(rng.uniform(0.82, 1.12))
    sigma = np.float32(rng.uniform(*_NOISE))
    grain = rng.standard_normal((*shape, 3), dtype=np.float32)
    rgb = rgb + sigma * grain * (0.5 + np.sqrt(np.maximum(rgb, 0)))
    return np.asarray(np.clip(np.rint(rgb * 255.0), 0, 255), np.uint8)


def _smooth(image: Floats, sigma: float) -> Floats:
    """Gaussian blur of float32 [H, W, C] with a radius of two pixels, borders repeated."""
    taps = np.exp(-0.5 * (np.arange(-2, 3) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (0, 1):
        pad = [(2, 2) if k == axis else (0, 0) for k in range(3)]
        wide = np.pad(image, pad, mode="edge")
        n = image.shape[axis]
        parts = [wide[k : k + n] if axis == 0 else wide[:, k : k + n] for k in range(5)]
        image = sum((t * p for t, p in zip(taps[1:], parts[1:], strict=True)), taps[0] * parts[0])
    return image
