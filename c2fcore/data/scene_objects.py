"""Objects of the synthetic scenes: vehicles, ships, planes, trees, buildings and their doubles.

A "double" is clutter with the size and look of a small object (container, roof unit, hay bale);
it keeps the label of the surface that it stands on. Sizes are metres until `canvas.ppm` turns
them into pixels; +u is the front of an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from .scene_canvas import (
    BUILDING,
    PLANE,
    SHIP,
    TREE,
    VEHICLE,
    WATER,
    Canvas,
    Colour,
    Floats,
    Item,
    Layer,
    fractal,
    noise,
)

GLASS: Colour = (0.10, 0.13, 0.17)
CAR_COLOURS: tuple[Colour, ...] = (
    (0.93, 0.93, 0.92),
    (0.88, 0.88, 0.86),
    (0.70, 0.71, 0.72),
    (0.55, 0.56, 0.58),
    (0.34, 0.35, 0.37),
    (0.14, 0.14, 0.16),
    (0.20, 0.21, 0.24),
    (0.62, 0.10, 0.10),
    (0.40, 0.08, 0.10),
    (0.12, 0.22, 0.50),
    (0.30, 0.42, 0.60),
    (0.16, 0.34, 0.24),
    (0.72, 0.62, 0.44),
    (0.80, 0.66, 0.16),
)
CAR_ODDS = np.array([17, 9, 12, 9, 9, 9, 7, 6, 4, 6, 4, 3, 3, 2]) / 100.0
BOX_COLOURS: tuple[Colour, ...] = (
    (0.90, 0.90, 0.88),
    (0.86, 0.87, 0.88),
    (0.62, 0.64, 0.66),
    (0.22, 0.34, 0.56),
    (0.56, 0.16, 0.12),
    (0.85, 0.66, 0.18),
    (0.24, 0.42, 0.30),
)
ROOF_COLOURS: tuple[Colour, ...] = (
    (0.56, 0.27, 0.19),
    (0.62, 0.36, 0.25),
    (0.36, 0.25, 0.21),
    (0.33, 0.33, 0.35),
    (0.44, 0.43, 0.42),
    (0.26, 0.28, 0.33),
    (0.50, 0.42, 0.34),
)
FLAT_COLOURS: tuple[Colour, ...] = (
    (0.74, 0.73, 0.70),
    (0.85, 0.85, 0.84),
    (0.58, 0.57, 0.55),
    (0.44, 0.44, 0.45),
    (0.55, 0.60, 0.66),
    (0.62, 0.55, 0.47),
)


def pick(rng: np.random.Generator, colours: Sequence[Colour], jitter: float = 0.04) -> Floats:
    """One of the colours, a little off, more in brightness than in hue."""
    base = np.asarray(colours[int(rng.integers(len(colours)))], np.float32)
    off = rng.normal(0.0, jitter) + rng.normal(0.0, 0.35 * jitter, 3)
    return np.clip(base + off, 0.03, 0.97).astype(np.float32)


def box(u: Any, v: Any, u0: float, u1: float, half: float) -> Any:
    """Mask of the rectangle u0..u1 by -half..half."""
    return (u >= u0) & (u <= u1) & (np.abs(v) <= half)


def capsule(u: Any, v: Any, a: float, b: float, power: float = 4.0) -> Any:
    """Mask of a superellipse with half axes a, b: a rectangle with round corners for power 4."""
    return np.abs(u / a) ** power + np.abs(v / b) ** power <= 1.0


def _car(colour: Floats, a: float, b: float, sun: float, u: Floats, v: Floats) -> list[Layer]:
    body = capsule(u, v, a, b)
    side = np.clip(0.94 + 0.10 * sun * v / b, 0.7, 1.1)[..., None]
    return [
        (body, np.clip(colour * side, 0.0, 1.0)),
        (body & (u > 0.72 * a), colour * 0.88),
        (box(u, v, 0.16 * a, 0.44 * a, 0.82 * b), GLASS),
        (box(u, v, -0.78 * a, -0.58 * a, 0.76 * b), GLASS),
        (box(u, v, -0.56 * a, 0.14 * a, 0.70 * b), np.clip(colour * 1.08 + 0.03, 0.0, 1.0)),
    ]


def _truck(
    colour: Floats, cab: Floats, a: float, b: float, split: float, u: Floats, v: Floats
) -> list[Layer]:
    load = box(u, v, -a, split - 0.05 * a, b)
    rib = np.where(np.sin(u * 2.1) > 0.6, 0.93, 1.0)[..., None]
    return [
        (load, colour * rib),
        (load & (np.abs(v) > 0.82 * b), colour * 0.84),
        (box(u, v, split - 0.06 * a, split, 0.5 * b), (0.16, 0.16, 0.17)),
        (box(u, v, split, a, 0.94 * b), cab),
        (box(u, v, a - 0.13 * a, a - 0.04 * a, 0.84 * b), GLASS),
    ]


def _bus(colour: Floats, a: float, b: float, u: Floats, v: Floats) -> list[Layer]:
    body = capsule(u, v, a, b, 8.0)
    return [
        (body, colour),
        (body & (np.abs(v) > 0.8 * b), colour * 0.8),
        (box(u, v, 0.86 * a, 0.96 * a, 0.8 * b), GLASS),
        (box(u, v, -0.62 * a, -0.34 * a, 0.5 * b), np.clip(colour * 0.7 + 0.22, 0, 1)),
        (box(u, v, 0.16 * a, 0.30 * a, 0.35 * b), colour * 0.72),
    ]


def vehicle(
    canvas: Canvas, y: float, x: float, angle: float, kind: str = "any", gap: float = 0.4
) -> bool:
    """Draw one vehicle: "car", "van", "truck", "bus" or "any". False if the place is taken."""
    rng, m = canvas.rng, canvas.ppm
    if kind == "any":
        kind = str(rng.choice(["car", "van", "truck", "bus"], p=[0.76, 0.11, 0.09, 0.04]))
    lengths = {"car": (3.9, 5.0), "van": (5.2, 6.4), "truck": (8.0, 12.5), "bus": (9.5, 12.5)}
    widths = {"car": (1.9, 2.2), "van": (2.1, 2.4), "truck": (2.5, 2.9), "bus": (2.5, 2.9)}
    heights = {"car": 1.5, "van": 2.3, "truck": 3.4, "bus": 3.1}
    length, width = rng.uniform(*lengths[kind]) * m, rng.uniform(*widths[kind]) * m
    if not canvas.inside(y, x, length) or not canvas.claim(y, x, angle, length, width, gap):
        return False
    a, b = length / 2, width / 2
    colour = np.asarray(CAR_COLOURS[int(rng.choice(len(CAR_COLOURS), p=CAR_ODDS))], np.float32)
    colour = np.clip(colour + rng.normal(0, 0.02, 3), 0.05, 0.97).astype(np.float32)
    side = -np.sign(np.cos(angle) * canvas.sun[0] - np.sin(angle) * canvas.sun[1])
    if kind == "truck":
        split = a - rng.uniform(0.2, 0.32) * length
        paint = partial(_truck, pick(rng, BOX_COLOURS), colour, a, b, split)
    elif kind == "bus":
        paint = partial(_bus, pick(rng, BOX_COLOURS), a, b)
    else:
        paint = partial(_car, colour, a, b, float(side))
    canvas.sprite(y, x, angle, a + b, paint, VEHICLE, heights[kind] * m)
    canvas.items.append(Item(VEHICLE, y, x, length, width))
    return True


def _hull(u: Any, v: Any, a: float, b: float) -> Any:
    bow = np.clip((u + 0.1 * a) / (1.1 * a), 0.0, 1.0)
    stern = np.clip((-u - 0.7 * a) / (0.3 * a), 0.0, 1.0)
    half = b * (1.0 - bow**2.2) * (1.0 - 0.18 * stern)
    return (np.abs(u) <= a) & (np.abs(v) <= half)


def _boat(
    deck: Floats, hull: Floats, style: int, a: float, b: float, u: Floats, v: Floats
) -> list[Layer]:
    layers: list[Layer] = [
        (_hull(u, v, a, b), hull),
        (_hull(u / 0.92, v / 0.74, a, b), deck),
    ]
    white = (0.95, 0.95, 0.94)
    if style == 0:  # cruiser: cabin with a windscreen
        layers += [
            (capsule(u + 0.12 * a, v, 0.42 * a, 0.60 * b), white),
            (box(u, v, 0.20 * a, 0.32 * a, 0.5 * b), GLASS),
            (box(u, v, -0.44 * a, -0.36 * a, 0.45 * b), (0.35, 0.37, 0.40)),
        ]
    elif style == 1:  # sailing boat: boom and mast seen from above, dark cockpit
        layers += [
            (capsule(u + 0.55 * a, v, 0.28 * a, 0.42 * b), (0.48, 0.38, 0.28)),
            (box(u, v, -0.55 * a, 0.22 * a, 0.13 * b + 0.25), (0.22, 0.28, 0.48)),
        ]
    elif style == 2:  # open boat: dark well with thwarts
        layers += [
            (_hull(u / 0.82, v / 0.62, a, b), hull * 0.45),
            (box(u, v, -0.1 * a, 0.02 * a, 0.55 * b), deck),
        ]
    else:  # coaster: hatches forward, bridge aft
        layers += [
            (box(u, v, -0.36 * a, -0.04 * a, 0.52 * b), hull * 0.7 + 0.12),
            (box(u, v, 0.04 * a, 0.36 * a, 0.52 * b), hull * 0.7 + 0.12),
            (box(u, v, -0.80 * a, -0.48 * a, 0.62 * b), white),
            (box(u, v, -0.54 * a, -0.48 * a, 0.6 * b), GLASS),
        ]
    return layers


def _wake(canvas: Canvas, y: float, x: float, angle: float, a: float, b: float) -> None:
    """White trail behind a moving boat; it is water and keeps the label."""
    long = canvas.rng.uniform(2.5, 5.0) * a
    win = canvas.window(y - np.sin(angle) * long / 2, x - np.cos(angle) * long / 2, angle, long)
    if win is None:
        return
    # Pixel centres; u counts from just before the stern.
    u, v = win.u[1::3, 1::3] - long / 2 + 0.6 * a, win.v[1::3, 1::3]
    back = np.clip(-u / long, 0.0, 1.0)
    arm = np.exp(-(((np.abs(v) - b - 0.22 * long * back) / (0.7 + 1.4 * back)) ** 2))
    core = np.exp(-((v / (0.8 * b + 1.5 * back)) ** 2)) * (back > 0)
    foam = np.clip(0.7 * arm + 0.8 * core, 0, 1) * (1.0 - back) ** 1.3 * (u < 0) * (back < 1)
    foam = foam * (0.75 + 0.35 * noise(canvas.rng, foam.shape, 2.0))
    at = np.clip(np.arange(win.height) + win.y0, 0, canvas.shape[0] - 1)
    to = np.clip(np.arange(win.width) + win.x0, 0, canvas.shape[1] - 1)
    foam = foam * (canvas.labels[np.ix_(at, to)] == WATER)
    rgb = np.broadcast_to(np.asarray((0.90, 0.93, 0.94), np.float32), (*foam.shape, 3))
    canvas.put(win.y0, win.x0, np.clip(foam, 0, 0.9).astype(np.float32), rgb, None)


def ship(
    canvas: Canvas, y: float, x: float, angle: float, length: float, moving: bool = False
) -> bool:
    """Draw one boat, `length` in pixels. False if the place is taken."""
    rng = canvas.rng
    width = length * rng.uniform(0.27, 0.36) + 0.6
    gap = 3.0 if moving else 0.4
    if not canvas.inside(y, x, length) or not canvas.claim(y, x, angle, length, width, gap):
        return False
    style = int(rng.choice(4, p=[0.5, 0.2, 0.12, 0.18]))
    style = 2 if length < 10 else style
    hulls: tuple[Colour, ...] = (
        (0.92, 0.92, 0.90),
        (0.88, 0.89, 0.90),
        (0.14, 0.20, 0.36),
        (0.42, 0.12, 0.10),
        (0.30, 0.32, 0.34),
    )
    decks: tuple[Colour, ...] = ((0.90, 0.89, 0.86), (0.74, 0.66, 0.54), (0.80, 0.82, 0.84))
    hull = pick(rng, hulls[:2] if rng.random() < 0.6 else hulls)
    if moving:
        _wake(canvas, y, x, angle, length / 2, width / 2)
    paint = partial(_boat, pick(rng, decks), hull, style, length / 2, width / 2)
    canvas.sprite(y, x, angle, length / 2 + 1, paint, SHIP, 0.10 * length + 0.8)
    canvas.items.append(Item(SHIP, y, x, length, width))
    return True


def _aircraft(
    colour: Floats, accent: Floats, jet: bool, a: float, span: float, u: Floats, v: Floats
) -> list[Layer]:
    r = (0.085 if jet else 0.105) * a * 1.25
    nose = np.clip((u - 0.55 * a) / (0.45 * a), 0, 1)
    tail = np.clip((-u - 0.1 * a) / (0.9 * a), 0, 1)
    fuselage = (np.abs(u) <= a) & (np.abs(v) <= r * np.sqrt(1 - nose**2) * (1 - 0.65 * tail) + 0.2)
    w = np.abs(v)
    sweep, chord, lead = (0.45, 0.40 * a, 0.28 * a) if jet else (0.04, 0.34 * a, 0.34 * a)
    front = lead - sweep * w
    wing = (w <= span / 2) & (u <= front) & (u >= front - chord * (1 - 0.55 * w / (span / 2)))
    tip = -0.72 * a - sweep * w
    plane_tail = (w <= 0.18 * span) & (u <= tip) & (u >= tip - 0.20 * a) & (u >= -1.02 * a)
    layers: list[Layer] = [(wing, colour * 0.93), (plane_tail, colour * 0.90)]
    if jet:
        engine = (np.abs(w - 0.17 * span) <= 0.07 * a + 0.2) & (np.abs(u - 0.16 * a) <= 0.17 * a)
        layers.append((engine, (0.50, 0.52, 0.55)))
    else:
        layers.append((wing & (w > 0.42 * span), accent))
    layers += [
        (fuselage, colour),
        (box(u, v, -0.98 * a, -0.62 * a, 0.10 * r + 0.35), accent),
        (box(u, v, 0.66 * a if jet else 0.30 * a, 0.80 * a if jet else 0.44 * a, 0.7 * r), GLASS),
    ]
    return layers


def plane(canvas: Canvas, y: float, x: float, angle: float, length: float) -> bool:
    """Draw one aircraft, `length` in pixels. False if the place is taken."""
    rng = canvas.rng
    jet = bool(rng.random() < (0.75 if length > 20 else 0.3))
    ratio = rng.uniform(0.88, 1.02) if jet else rng.uniform(1.05, 1.25)
    length = min(length, 30.0 / ratio)
    span = length * ratio
    if not canvas.inside(y, x, length) or not canvas.claim(y, x, angle, length, span, 1.0):
        return False
    colours: tuple[Colour, ...] = ((0.93, 0.93, 0.93), (0.88, 0.89, 0.91), (0.72, 0.74, 0.76))
    accents: tuple[Colour, ...] = ((0.65, 0.12, 0.12), (0.12, 0.22, 0.52), (0.85, 0.85, 0.85))
    paint = partial(_aircraft, pick(rng, colours, 0.015), pick(rng, accents), jet, length / 2, span)
    canvas.sprite(y, x, angle, max(length, span) / 2 + 1, paint, PLANE, 0.9 * canvas.ppm)
    canvas.items.append(Item(PLANE, y, x, length, span))
    return True


def block(
    canvas: Canvas,
    y: float,
    x: float,
    angle: float,
    size: tuple[float, float],
    colour: Any,
    height: float = 0.0,
    round_: bool = False,
) -> None:
    """Clutter: a plain box or disc in pixels that keeps the label below it."""
    a, b = size[0] / 2, size[1] / 2

    def paint(u: Floats, v: Floats) -> list[Layer]:
        base = np.asarray(colour, np.float32)
        mask = capsule(u, v, a, b, 2.0) if round_ else box(u, v, -a, a, b)
        top = mask & (np.abs(v) < 0.7 * b) & (np.abs(u) < 0.86 * a)
        return [(mask, base * 0.88), (top, np.clip(base * 1.06, 0, 1))]

    canvas.sprite(y, x, angle, a + b, paint, None, height)


class Forest:
    """A bank of tree crowns of one scene, stamped with a tint of their own."""

    def __init__(self, canvas: Canvas, count: int = 18) -> None:
        rng = canvas.rng
        norm = np.hypot(*canvas.sun) + 1e-6
        sy, sx = -canvas.sun[0] / norm, -canvas.sun[1] / norm
        self.bank: list[tuple[float, Floats, Floats]] = []
        base = np.asarray((0.17, 0.27, 0.10), np.float32) * np.float32(rng.uniform(0.85, 1.25))
        base *= np.asarray((rng.uniform(0.8, 1.35), 1.0, rng.uniform(0.8, 1.1)), np.float32)
        for radius in np.linspace(1.1, 4.6, count) * canvas.ppm:
            n = 2 * int(np.ceil(radius + 2)) + 1
            yy, xx = np.mgrid[:n, :n].astype(np.float32) - (n - 1) / 2
            rough = fractal(rng, (n, n), max(radius * 0.7, 2.0), 3)
            r = np.hypot(yy, xx) / radius * (1.0 + 0.20 * rough)
            alpha = np.clip((1.0 - r) * radius * 0.9 + 0.5, 0.0, 1.0).astype(np.float32)
            shine = (yy * sy + xx * sx) / radius * 0.26
            lumps = 0.30 * fractal(rng, (n, n), max(radius * 0.45, 2.0), 2)
            light = np.clip(1.0 + shine + lumps, 0.35, 1.8).astype(np.float32)
            yellow = np.asarray((0.05, 0.05, 0.0), np.float32)
            rgb = base * light[..., None] + yellow * lumps[..., None]
            self.bank.append((float(radius), alpha, np.clip(rgb, 0.02, 1).astype(np.float32)))

    def plant(self, canvas: Canvas, y: float, x: float, radius: float) -> bool:
        """Put the crown nearest to `radius` pixels; False where small objects or roofs stand."""
        if not canvas.inside(y, x, radius) or canvas.label_at(y, x) == BUILDING:
            return False
        rng = canvas.rng
        sizes = [entry[0] for entry in self.bank]
        r, alpha, rgb = self.bank[int(np.argmin(np.abs(np.array(sizes) - radius)))]
        if not canvas.claim(y, x, 0.0, 1.1 * r, 1.1 * r, 0.0):
            return False
        turn = int(rng.integers(2))
        tint = np.asarray((rng.uniform(0.85, 1.3), 1.0, 1.0), np.float32)
        tint *= np.float32(rng.uniform(0.75, 1.3))
        if turn:  # mirrored across the diagonal: the shading of a crown is soft enough for it
            alpha, rgb = alpha.T, rgb.transpose(1, 0, 2)
        n = alpha.shape[0] // 2
        canvas.put(round(y) - n, round(x) - n, alpha, rgb * tint, TREE, 1.0 * r, lit=0.7)
        return True
