"""Buildings of the synthetic scenes: shaded gable and hip roofs, flat roofs with furniture."""

from __future__ import annotations

from typing import Any

import numpy as np

from .scene_canvas import BUILDING, Canvas, Floats, noise
from .scene_objects import FLAT_COLOURS, ROOF_COLOURS, block, pick


def _grid(y: float, x: float, angle: float, reach: float) -> tuple[int, int, Floats, Floats]:
    """Top left pixel and pixel-centre object coordinates of a square around (y, x)."""
    r = int(np.ceil(reach)) + 1
    y0, x0 = round(y) - r, round(x) - r
    dy = (np.arange(2 * r + 1) + (y0 - y)).astype(np.float32)[:, None]
    dx = (np.arange(2 * r + 1) + (x0 - x)).astype(np.float32)[None, :]
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return y0, x0, c * dx + s * dy, c * dy - s * dx


def _facing(canvas: Canvas, angle: float, side: Any) -> Any:
    """Brightness of a roof plane that falls towards object angle `side` (0 = +u)."""
    toward_sun = np.arctan2(-canvas.sun[0], -canvas.sun[1])
    return 0.96 + 0.22 * np.cos(angle + side - toward_sun)


def _pitched(
    canvas: Canvas, angle: float, u: Floats, v: Floats, a: float, b: float, hip: bool
) -> Floats:
    """Brightness float32 [h, w] of a gable or hip roof with its ridge along u."""
    light = np.where(v > 0, _facing(canvas, angle, np.pi / 2), _facing(canvas, angle, -np.pi / 2))
    if hip:
        end = np.abs(u) - (a - b) > np.abs(v)
        ends = np.where(u > 0, _facing(canvas, angle, 0.0), _facing(canvas, angle, np.pi))
        light = np.where(end, ends, light)
    courses = 0.035 * np.sin(v * 2.4)
    ridge = 0.10 * np.exp(-((v / 0.8) ** 2))
    return np.asarray(light + courses + ridge, np.float32)


def _furnish(
    canvas: Canvas, y: float, x: float, angle: float, a: float, b: float, dark: bool
) -> None:
    """Roof units, vents and skylights: the size of cars, the label of the roof."""
    rng, m = canvas.rng, canvas.ppm
    c, s = np.cos(angle), np.sin(angle)

    def at(u: float, v: float) -> tuple[float, float]:
        return y + s * u + c * v, x + c * u - s * v

    if rng.random() < 0.45:  # a regular row of skylights
        step = rng.uniform(7, 12) * m
        v = rng.uniform(-0.5, 0.5) * b
        for u in np.arange(-a + 4 * m, a - 4 * m, step):
            block(canvas, *at(u, v), angle, (3.2 * m, 1.5 * m), (0.80, 0.86, 0.90), 0.3)
    for _ in range(int(rng.integers(1, 3 + int(a * b / 260)))):
        u, v = rng.uniform(-0.75, 0.75) * a, rng.uniform(-0.7, 0.7) * b
        size = (rng.uniform(1.5, 4.6) * m, rng.uniform(1.2, 2.4) * m)
        colour = pick(rng, ((0.82, 0.82, 0.82), (0.62, 0.63, 0.64), (0.32, 0.33, 0.35)))
        turn = angle + (np.pi / 2 if rng.random() < 0.3 else 0.0)
        block(canvas, *at(u, v), turn, size, colour, rng.uniform(0.8, 1.8) * m)
    if dark or rng.random() < 0.25:  # round vents
        for _ in range(int(rng.integers(1, 5))):
            u, v = rng.uniform(-0.8, 0.8) * a, rng.uniform(-0.8, 0.8) * b
            block(canvas, *at(u, v), 0.0, (1.4 * m, 1.4 * m), (0.85, 0.85, 0.83), m, True)


def building(
    canvas: Canvas,
    y: float,
    x: float,
    angle: float,
    length: float,
    width: float,
    kind: str,
    height: float,
) -> bool:
    """Draw one building.

    Args:
        canvas: the scene.
        y: row of the centre.
        x: column of the centre.
        angle: direction of the long axis.
        length: footprint along `angle`, pixels.
        width: footprint across, at most `length`.
        kind: "gable", "hip" or "flat".
        height: of the eaves, pixels; sets the shadow.

    Returns:
        False (nothing drawn) if the ground is taken or the place is outside of the image.
    """
    rng = canvas.rng
    a, b = length / 2, width / 2
    if not canvas.inside(y, x, a) or not canvas.claim(y, x, angle, length, width, 2.0):
        return False
    y0, x0, u, v = _grid(y, x, angle, float(np.hypot(a, b)))
    edge = np.maximum(np.abs(u) - a, np.abs(v) - b)
    wing = rng.random() < 0.35 and width > 14
    if wing:  # an L or T: cut one corner out of the rectangle
        cut_u, cut_v = rng.uniform(-0.2, 0.4) * a, rng.uniform(-0.1, 0.3) * b
        side = float(rng.choice([-1.0, 1.0]))
        edge = np.maximum(edge, np.minimum(u - cut_u, side * v - cut_v))
    alpha = np.clip(0.5 - edge, 0.0, 1.0).astype(np.float32)
    grain = noise(rng, alpha.shape, 2.2) * 0.035 + noise(rng, alpha.shape, 14.0) * 0.05
    if kind == "flat":
        colour = pick(rng, FLAT_COLOURS)
        light: Any = np.where(edge > -1.6, 1.14, 1.0)  # parapet
        if rng.random() < 0.35:  # standing seams
            light = light + 0.05 * np.sign(np.sin(u * 2 * np.pi / rng.uniform(3.5, 6.0)))
    else:
        colour = pick(rng, ROOF_COLOURS)
        light = _pitched(canvas, angle, u, v, a, b, kind == "hip")
        if wing:
            split = u > cut_u
            light = np.where(split, light, _pitched(canvas, angle, u, v * 0.9, a, b, True))
    rgb = np.clip(colour * (light + grain)[..., None], 0.0, 1.0).astype(np.float32)
    canvas.put(y0, x0, alpha, rgb, BUILDING, height, lit=1.0)
    if kind == "flat" and not wing and width > 16:
        _furnish(canvas, y, x, angle, a - 2, b - 2, bool(colour.mean() < 0.5))
    elif kind != "flat" and rng.random() < 0.6:  # chimney, or a roof window
        du, dv = rng.uniform(-0.5, 0.5) * a, rng.uniform(-0.35, 0.35) * b
        c, s = np.cos(angle), np.sin(angle)
        tone = (0.42, 0.24, 0.18) if rng.random() < 0.6 else (0.70, 0.78, 0.86)
        size = canvas.ppm * rng.uniform(0.9, 1.6)
        block(canvas, y + s * du + c * dv, x + c * du - s * dv, angle, (size, size), tone, 1.5)
    return True
