"""Streets of the synthetic scenes and the use of the blocks between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .scene_canvas import GROUND, ROAD, Bools, Canvas, Floats
from .scene_objects import Forest, vehicle
from .scene_sites import (
    ASPHALT,
    Block,
    car_park,
    field,
    flats,
    houses,
    paint,
    pave,
    place,
    woods,
    works,
)


@dataclass(frozen=True)
class Street:
    """A piece of street between two junctions: the line u or v = at, from run[0] to run[1]."""

    at: float
    along_u: bool
    lanes: int
    run: tuple[float, float]

    def area(self, half: float, ends: float = 0.0) -> Block:
        """The frame rectangle of a strip `half` wide on each side."""
        lo, hi = self.run[0] - ends, self.run[1] + ends
        side = (self.at - half, self.at + half)
        return (lo, hi, *side) if self.along_u else (*side, lo, hi)

    def spot(self, run: float, off: float) -> tuple[float, float]:
        """(u, v) at `run` along the street, `off` to the side."""
        return (run, self.at + off) if self.along_u else (self.at + off, run)


def _surface(canvas: Canvas, street: Street, shade: float, free: Bools) -> None:
    """Asphalt, wheel tracks and lane marks of one street."""
    m, lanes = canvas.ppm, street.lanes
    half = (lanes * 1.65 + 0.6) * m
    tone = (ASPHALT[0] * shade, ASPHALT[1] * shade, ASPHALT[2] * shade)
    paved = pave(canvas, street.area(half, half), tone, over_water=True, only=free)
    if paved is None:
        return
    box, u, v, mask = paved
    off, run = (v - street.at, u) if street.along_u else (u - street.at, v)
    wear = 0.07 * np.cos(off * 2 * np.pi / (1.65 * m)) * mask
    canvas.rgb[box] *= (1.0 - wear)[..., None].astype(np.float32)
    if lanes < 2:
        return
    # Marks stop short of the junctions at both ends.
    mask &= (run > street.run[0] + 7 * m) & (run < street.run[1] - 7 * m)
    dash = run % (9 * m) < 4 * m
    for k in range(1, lanes):
        near = np.abs(off - (k - lanes / 2) * 3.3 * m) < 0.5
        paint(canvas, box, near & mask & (dash | (2 * k == lanes and lanes > 2)), worn=0.7)
    if lanes > 2:
        paint(canvas, box, (np.abs(np.abs(off) - half + 0.7 * m) < 0.4) & mask, worn=0.7)


def _crossings(canvas: Canvas, at: tuple[float, float], half: tuple[float, float]) -> None:
    """Zebra crossings and stop lines on the four arms of a junction."""
    rng, m = canvas.rng, canvas.ppm
    reach = 10 * m
    box = canvas.band(
        at[0] - half[0] - reach,
        at[0] + half[0] + reach,
        at[1] - half[1] - reach,
        at[1] + half[1] + reach,
    )
    if box is None:
        return
    du, dv = canvas.u[box] - at[0], canvas.v[box] - at[1]
    road = canvas.labels[box] == ROAD
    for along, across, arm, road_half in (
        (du, dv, half[0], half[1]),
        (dv, du, half[1], half[0]),
    ):
        if road_half < 4 or rng.random() < 0.4:
            continue
        side = float(rng.choice([-1.0, 1.0]))
        zone = np.abs(side * along - arm - 2.5 * m) < 1.5 * m
        zebra = zone & (across % (1.3 * m) < 0.65 * m) & (np.abs(across) < road_half - 1)
        paint(canvas, box, zebra & road)


def _traffic(canvas: Canvas, street: Street, rate: float, kerb: bool) -> None:
    """Moving vehicles in their lanes; with `kerb`, parked ones along one side."""
    rng, m, lanes = canvas.rng, canvas.ppm, street.lanes
    start, stop = street.run
    base = 0.0 if street.along_u else np.pi / 2
    for lane in range(lanes):
        off = (lane - (lanes - 1) / 2) * 3.3 * m
        back = 0.0 if (lane >= lanes / 2) == street.along_u else np.pi
        for run in rng.uniform(start, stop, rng.poisson(rate * (stop - start) / (100 * m))):
            y, x, angle = place(canvas, *street.spot(run, off + rng.normal(0, 0.5)), base + back)
            if canvas.label_at(y, x) == ROAD:
                vehicle(canvas, y, x, angle + rng.normal(0, 0.02), gap=1.5)
    if kerb and lanes == 2:
        side = float(rng.choice([-1.0, 1.0])) * 2.9 * m
        for run in np.arange(start + 9 * m, stop - 9 * m, 6.4 * m):
            y, x, angle = place(canvas, *street.spot(run, side), base)
            if rng.random() < 0.3 and canvas.label_at(y, x) == ROAD:
                vehicle(canvas, y, x, angle, "car")


def _lines(rng: np.random.Generator, reach: float, rural: bool) -> list[tuple[float, int]]:
    """Street lines (position, lanes; 0 lanes is a mere boundary) from -reach to reach."""
    lines: list[tuple[float, int]] = []
    at = -reach - rng.uniform(0, 150)
    odds = (0.5, 0.12, 0.33, 0.05) if rural else (0.18, 0.10, 0.63, 0.09)
    while at < reach:
        lines.append((at, int(rng.choice([0, 1, 2, 4], p=odds))))
        at += rng.uniform(130, 270) if rural else rng.uniform(110, 210)
    return lines


def town(
    canvas: Canvas,
    level: Floats,
    blocked: Bools,
    *,
    rural: bool,
    shore: float,
    traffic: float,
    fullness: tuple[float, float],
) -> None:
    """Streets, then the blocks between them, then traffic and trees by the road.

    Args:
        canvas: the scene.
        level: distance to the shore, float32 [H, W], positive in the water.
        blocked: bool [H, W], where nothing may be built.
        rural: fields instead of town blocks.
        shore: no street is laid at u beyond this.
        traffic: moving vehicles per 100 m of lane.
        fullness: range of the share of taken parking bays.
    """
    rng, m = canvas.rng, canvas.ppm
    reach = float(np.hypot(*canvas.shape)) / 2 + 40
    across, along = _lines(rng, reach, rural), _lines(rng, reach, rural)
    if shore < np.inf:  # keep a street clear of the quay
        across = [line for line in across if line[0] < shore - 24 * m]
    land = (level < -6.0) & ~blocked
    # A river may be bridged along u; nothing else is built on water.
    bridged = (land | (level >= -6.0)) & ~blocked if float(level.max()) < 90 else land
    keep = 0.9 if rural else 0.87
    streets: list[Street] = []
    for lines, others, along_u in ((across, along, False), (along, across, True)):
        for at, lanes in lines:
            for (a, _), (b, _) in pairwise(others):
                if lanes and rng.random() < (keep if lanes < 4 else 1.0):
                    streets.append(Street(at, along_u, lanes, (a, b)))
    walks = float(rng.choice([0.0, 1.8, 2.4])) * m
    for street in streets:
        if walks and street.lanes > 1:
            half = (street.lanes * 1.65 + 0.6) * m + walks
            free = bridged if street.along_u else land
            pave(canvas, street.area(half), (0.58, 0.57, 0.55), over_water=True, only=free)
    shade = rng.uniform(0.8, 1.3)
    for street in streets:
        _surface(canvas, street, shade, bridged if street.along_u else land)
    for ua, lanes_u in across:
        for va, lanes_v in along:
            if lanes_u > 1 and lanes_v > 1 and rng.random() < 0.6:
                _crossings(canvas, (ua, va), (lanes_u * 1.65 * m, lanes_v * 1.65 * m))
    forest = Forest(canvas)
    for (ua, la), (ub, lb) in pairwise(across):
        for (va, ma), (vb, mb) in pairwise(along):
            pad = [n * 1.65 * m + (3.2 * m if n else 1.0) for n in (la, lb, ma, mb)]
            area = (ua + pad[0], ub - pad[1], va + pad[2], vb - pad[3])
            _block(canvas, forest, area, rural, fullness)
    rate = traffic * rng.uniform(0.5, 1.3)
    for street in streets:
        _traffic(canvas, street, rate, not rural and rng.random() < 0.25)
        if street.lanes > 1 and rng.random() < 0.35:
            off = float(rng.choice([-1.0, 1.0])) * (street.lanes * 1.65 + 3.6) * m
            for run in np.arange(*street.run, rng.uniform(8, 14) * m):
                y, x = canvas.frame.to_yx(*street.spot(float(run), off))
                if canvas.label_at(y, x) == GROUND and rng.random() < 0.8:
                    forest.plant(canvas, y, x, rng.uniform(1.6, 3.0) * m)


def _block(
    canvas: Canvas, forest: Forest, area: Block, rural: bool, fullness: tuple[float, float]
) -> None:
    """Give one block of land its use."""
    rng = canvas.rng
    u0, u1, v0, v1 = area
    spots = [
        canvas.label_at(*canvas.frame.to_yx(u, v))
        for u in np.linspace(u0, u1, 6)
        for v in np.linspace(v0, v1, 6)
    ]
    seen = [s for s in spots if s >= 0]
    if not seen or min(u1 - u0, v1 - v0) < 16:
        return
    if sum(s != GROUND for s in seen) > 0.12 * len(seen):  # shore, or beside the airfield
        woods(canvas, forest, area, rng.uniform(0.05, 0.5), 1.4, 4.4)
        return
    odds = (0.14, 0.03, 0.10, 0.48, 0.15, 0.10) if rural else (0.36, 0.15, 0.20, 0.02, 0.13, 0.14)
    use = int(rng.choice(6, p=odds))
    if canvas.parking <= 0 and use in (1, 5):
        use = 0 if not rural else 4
    if use == 0:
        houses(canvas, forest, area)
    elif use == 1:
        flats(canvas, forest, area)
    elif use == 2:
        works(canvas, forest, area)
    elif use == 3:
        field(canvas, forest, area)
    elif use == 4:
        woods(canvas, forest, area, float(rng.choice([0.15, 0.5, 1.1, 2.5])), 1.2, 4.6)
    else:
        inset = 2 * canvas.ppm
        inner = (u0 + inset, u1 - inset, v0 + inset, v1 - inset)
        car_park(canvas, forest, inner, float(rng.uniform(*fullness)))
