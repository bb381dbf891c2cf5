"""Drawing surface of the synthetic scenes: noise, road frame, antialiased sprites, cast shadows.

Everything is plain NumPy. Lengths are pixels unless a name says otherwise; positions are
(y, x) with pixel centres at integer coordinates; colours are float32 RGB in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Colour = tuple[float, float, float]
Layer = tuple[Any, Any]  # (mask [h, w], colour: 3 floats or [h, w, 3])
Painter = Callable[[Floats, Floats], list[Layer]]

GROUND, ROAD, BUILDING, TREE, WATER, VEHICLE, SHIP, PLANE = range(8)
SUPERSAMPLE = 3


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Floats:
    """Value noise in -1..1 with features of about `cell` pixels, float32 [H, W].

    Interpolation is written out elementwise (no matrix product), so that the values do not
    depend on the BLAS library or its threads.
    """
    h, w = shape
    gh, gw = int(h / cell) + 3, int(w / cell) + 3
    grid = rng.uniform(-1.0, 1.0, (gh, gw)).astype(np.float32)
    oy, ox = rng.uniform(0.0, 1.0, 2)

    def taps(n: int, offset: float) -> tuple[NDArray[np.int64], Floats]:
        pos = np.arange(n) / cell + offset
        low = pos.astype(np.int64)
        t = (pos - low).astype(np.float32)
        return low, t * t * (3.0 - 2.0 * t)

    iy, ty = taps(h, oy)
    ix, tx = taps(w, ox)
    rows = grid[iy] + (grid[iy + 1] - grid[iy]) * ty[:, None]  # [H, gw]
    left = rows[:, ix]
    return left + (rows[:, ix + 1] - left) * tx[None, :]


def fractal(rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int) -> Floats:
    """Sum of `octaves` value noises, each half the one before in size and strength, about -1..1."""
    total = np.zeros(shape, np.float32)
    amplitude, norm = 1.0, 0.0
    for _ in range(octaves):
        total += np.float32(amplitude) * noise(rng, shape, max(cell, 1.0))
        norm += amplitude
        amplitude *= 0.5
        cell *= 0.5
    return np.asarray(total * np.float32(1.6 / norm), np.float32)


def mix(a: Any, b: Any, t: Any) -> Any:
    """Linear blend a + (b - a) * t; a scalar field t broadcasts over the colour axis."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    t = np.asarray(t, np.float32)
    if t.ndim == 2:
        t = t[..., None]
    return a + (b - a) * t


class Frame:
    """Curved road coordinates (u, v) of the image plane: a rotation followed by two shears.

    Both directions have a closed form, so a street is a band of constant u or v and an object
    can still be put at an exact place in the image.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int], bend: float) -> None:
        self.cy, self.cx = (shape[0] - 1) / 2.0, (shape[1] - 1) / 2.0
        theta = rng.uniform(0.0, 2.0 * np.pi)
        self.cos, self.sin = float(np.cos(theta)), float(np.sin(theta))
        self.wave_u, self.wave_v = rng.uniform(260.0, 420.0, 2)  # px per radian
        self.amp_u, self.amp_v = bend * rng.uniform(0.3, 1.0, 2) * (self.wave_u, self.wave_v)
        self.phase_u, self.phase_v = rng.uniform(0.0, 2.0 * np.pi, 2)

    def to_uv(self, y: Any, x: Any) -> tuple[Any, Any]:
        """Road coordinates of image positions."""
        dy, dx = y - self.cy, x - self.cx
        u, v = self.cos * dx + self.sin * dy, self.cos * dy - self.sin * dx
        u = u + self.amp_u * np.sin(v / self.wave_u + self.phase_u)
        v = v + self.amp_v * np.sin(u / self.wave_v + self.phase_v)
        return u, v

    def to_yx(self, u: float, v: float) -> tuple[float, float]:
        """Image position of road coordinates."""
        v = v - self.amp_v * np.sin(u / self.wave_v + self.phase_v)
        u = u - self.amp_u * np.sin(v / self.wave_u + self.phase_u)
        return (
            float(self.cy + self.sin * u + self.cos * v),
            float(self.cx + self.cos * u - self.sin * v),
        )

    def heading(self, u: float, v: float, angle: float = 0.0) -> float:
        """Image angle (atan2(dy, dx)) of the +u direction at (u, v), plus `angle` in the frame."""
        y0, x0 = self.to_yx(u, v)
        y1, x1 = self.to_yx(u + np.cos(angle), v + np.sin(angle))
        return float(np.arctan2(y1 - y0, x1 - x0))


@dataclass(frozen=True)
class Item:
    """One small object as drawn: class id, centre and size in pixels (before the final crop)."""

    label: int
    y: float
    x: float
    length: float
    width: float


@dataclass
class Window:
    """Pixel box [y0, y1) x [x0, x1) of a sprite before clipping, and its supersampled (u, v)."""

    y0: int
    x0: int
    height: int
    width: int
    u: Floats
    v: Floats


@dataclass
class Canvas:
    """Image, labels and shadows of one scene under construction.

    rgb float32 [H, W, 3] is albedo; shade float32 [H, W] (0 lit, 1 full shadow) is applied once,
    by `light`, so that shadows of different casters never darken a place twice.
    """

    rng: np.random.Generator
    rgb: Floats
    labels: NDArray[np.uint8]
    shade: Floats
    taken: Bools
    frame: Frame
    u: Floats
    v: Floats
    grain: Floats  # fine and coarse noise of the whole scene, the texture of pavement and paint
    blotch: Floats
    ppm: float  # pixels per metre
    sun: tuple[float, float]  # (dy, dx) of the shadow of an object one pixel high
    parking: int = 10**9  # vehicles that car parks may still hold
    items: list[Item] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.labels.shape[0], self.labels.shape[1]

    def inside(self, y: float, x: float, margin: float = 0.0) -> bool:
        """Whether a position lies in the image, or at most `margin` pixels outside."""
        h, w = self.shape
        return -margin <= y <= h - 1 + margin and -margin <= x <= w - 1 + margin

    def label_at(self, y: float, x: float) -> int:
        """Label under a position, -1 outside of the image."""
        iy, ix = round(y), round(x)
        h, w = self.shape
        return int(self.labels[iy, ix]) if 0 <= iy < h and 0 <= ix < w else -1

    def claim(
        self, y: float, x: float, angle: float, length: float, width: float, gap: float = 0.5
    ) -> bool:
        """Reserve a turned rectangle; False (and nothing reserved) if any of it is taken."""
        reach = int(np.hypot(length, width) / 2 + gap) + 2
        y0, x0 = max(round(y) - reach, 0), max(round(x) - reach, 0)
        y1, x1 = (
            min(round(y) + reach + 1, self.shape[0]),
            min(round(x) + reach + 1, self.shape[1]),
        )
        if y0 >= y1 or x0 >= x1:
            return False
        dy = np.arange(y0, y1)[:, None] - y
        dx = np.arange(x0, x1)[None, :] - x
        c, s = np.cos(angle), np.sin(angle)
        box = (np.abs(c * dx + s * dy) <= length / 2 + gap) & (
            np.abs(c * dy - s * dx) <= width / 2 + gap
        )
        view = self.taken[y0:y1, x0:x1]
        if bool((view & box).any()):
            return False
        view |= box
        return True

    def band(self, u0: float, u1: float, v0: float, v1: float) -> tuple[slice, slice] | None:
        """Image box that holds the frame rectangle, None if it misses the image."""
        corners = [
            self.frame.to_yx(u, v) for u in np.linspace(u0, u1, 9) for v in np.linspace(v0, v1, 9)
        ]
        ys, xs = zip(*corners, strict=True)
        pad = 4 + 0.02 * max(u1 - u0, v1 - v0)  # curved edges bulge between the 9 samples
        y0, y1 = max(int(min(ys) - pad), 0), min(int(max(ys) + pad), self.shape[0])
        x0, x1 = max(int(min(xs) - pad), 0), min(int(max(xs) + pad), self.shape[1])
        return (slice(y0, y1), slice(x0, x1)) if y0 < y1 and x0 < x1 else None

    def fill(
        self,
        box: tuple[slice, slice],
        distance: Floats,
        colour: Any,
        label: int | None = None,
        only: Bools | None = None,
    ) -> None:
        """Blend `colour` where the signed distance is negative (one pixel of antialiasing).

        Args:
            box: image box, h x w.
            distance: float [h, w] over that box, in pixels, negative inside.
            colour: 3 floats or [h, w, 3].
            label: class written where the shape covers more than half of the pixel.
            only: bool [h, w]; nothing changes where it is False.
        """
        alpha = np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)
        if only is not None:
            alpha *= only
        self.rgb[box] = mix(self.rgb[box], colour, alpha)
        if label is not None:
            self.labels[box][alpha > 0.5] = label

    def window(self, y: float, x: float, angle: float, reach: float) -> Window | None:
        """Supersampled object coordinates around (y, x), u along `angle`; None if outside."""
        r = int(np.ceil(reach)) + 1
        y0, x0, n = round(y) - r, round(x) - r, 2 * r + 1
        if y0 >= self.shape[0] or x0 >= self.shape[1] or y0 + n <= 0 or x0 + n <= 0:
            return None
        sub = ((np.arange(n * SUPERSAMPLE) + 0.5) / SUPERSAMPLE - 0.5).astype(np.float32)
        dy = (sub + np.float32(y0 - y))[:, None]
        dx = (sub + np.float32(x0 - x))[None, :]
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return Window(y0, x0, n, n, c * dx + s * dy, c * dy - s * dx)

    def cast(self, alpha: Floats, y0: int, x0: int, height: float) -> None:
        """Add the ground shadow of coverage `alpha` [h, w] at (y0, x0), `height` pixels tall."""
        dy, dx = self.sun[0] * height, self.sun[1] * height
        steps = max(int(np.ceil(max(abs(dy), abs(dx)))), 1)
        ends = [(round(dy * k / steps), round(dx * k / steps)) for k in range(1, steps + 1)]
        py, px = abs(ends[-1][0]), abs(ends[-1][1])
        h, w = alpha.shape
        cover = np.zeros((h + 2 * py, w + 2 * px), np.float32)
        for oy, ox in ends:
            part = cover[py + oy : py + oy + h, px + ox : px + ox + w]
            np.maximum(part, alpha, out=part)
        clip = self._clip(y0 - py, x0 - px, h + 2 * py, w + 2 * px)
        if clip is not None:
            box, src = clip
            np.maximum(self.shade[box], cover[src], out=self.shade[box])

    def _clip(
        self, y0: int, x0: int, h: int, w: int
    ) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
        ya, xa = max(y0, 0), max(x0, 0)
        yb, xb = min(y0 + h, self.shape[0]), min(x0 + w, self.shape[1])
        if ya >= yb or xa >= xb:
            return None
        return (slice(ya, yb), slice(xa, xb)), (slice(ya - y0, yb - y0), slice(xa - x0, xb - x0))

    def put(
        self,
        y0: int,
        x0: int,
        alpha: Floats,
        rgb: Floats,
        label: int | None,
        height: float = 0.0,
        lit: float = 0.0,
    ) -> None:
        """Blend a sprite (alpha [h, w], straight colour [h, w, 3]) and cast its shadow.

        lit: share of the shade already lying on the place that the sprite rises out of
        (0 for a car in the shade of a house, 1 for a roof).
        """
        clip = self._clip(y0, x0, *alpha.shape)
        if clip is None:
            return
        box, src = clip
        before = self.shade[box].copy()
        if height > 0.0:
            self.cast(alpha, y0, x0, height)
        a = alpha[src]
        # A caster does not shade itself: its own pixels go back to what others cast on them.
        own = before * np.float32(1.0 - lit)
        self.shade[box] += (own - self.shade[box]) * a
        self.rgb[box] = mix(self.rgb[box], rgb[src], a)
        if label is not None:
            self.labels[box][a > 0.5] = label

    def sprite(
        self,
        y: float,
        x: float,
        angle: float,
        reach: float,
        painter: Painter,
        label: int | None,
        height: float = 0.0,
    ) -> None:
        """Draw `painter`'s layers, supersampled; the label goes where they cover over half."""
        win = self.window(y, x, angle, reach)
        if win is None:
            return
        cover = np.zeros(win.u.shape, bool)
        rgb = np.zeros((*win.u.shape, 3), np.float32)
        for mask, colour in painter(win.u, win.v):
            colour = np.asarray(colour, np.float32)
            rgb[mask] = colour if colour.ndim == 1 else colour[mask]
            cover |= mask
        s, n = SUPERSAMPLE, win.height
        alpha = cover.reshape(n, s, n, s).mean((1, 3), dtype=np.float32)
        rgb = rgb.reshape(n, s, n, s, 3).sum((1, 3)) / np.float32(s * s)
        rgb /= np.maximum(alpha, np.float32(1e-6))[..., None]
        self.put(win.y0, win.x0, alpha, rgb, label, height)

    def light(self, ambient: Colour) -> Floats:
        """Lit image float32 [H, W, 3]: albedo times one in the sun, times `ambient` in shade."""
        return np.asarray(self.rgb * mix((1.0, 1.0, 1.0), ambient, self.shade), np.float32)
