"""Water with its shores, harbours and boats, and airfields with parked planes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .scene_buildings import building
from .scene_canvas import GROUND, ROAD, WATER, Bools, Canvas, Colour, Floats, fractal, mix, noise
from .scene_objects import BOX_COLOURS, block, pick, plane, ship, vehicle
from .scene_sites import ASPHALT, CONCRETE, Block, paint, pave, place


def water_level(canvas: Canvas, kind: str, at: float, quay: tuple[float, float] | None) -> Floats:
    """Signed distance to the shore, float32 [H, W], positive in the water.

    Args:
        canvas: the scene.
        kind: "coast" (water where u > at), "river" (a band around u = at) or "lake" (around it).
        at: where the shore, or the middle of the water, lies along u.
        quay: v range in which the shore of a coast is a straight wall.
    """
    rng = canvas.rng
    u, v = canvas.u, canvas.v
    wobble = 26.0 * fractal(rng, canvas.shape, 170.0, 4)
    if kind == "river":
        half = rng.uniform(24.0, 52.0)
        level = half - np.abs(u - at - 45.0 * np.sin(v / rng.uniform(110, 190))) + 0.45 * wobble
    elif kind == "lake":
        size = min(canvas.shape) * rng.uniform(0.17, 0.27)
        centre = rng.uniform(-0.15, 0.15) * min(canvas.shape)
        level = size - np.hypot((u - at) * rng.uniform(0.8, 1.3), v - centre) + wobble
    else:
        level = u - at
        bay = wobble - 10.0 + 22.0 * np.sin(v / 120.0)
        if quay is not None:
            # The natural shore takes over within 60 px of each end of the wall.
            inside = np.maximum(quay[0] - v, v - quay[1])
            level = level + bay * np.clip(inside / 60.0, 0.0, 1.0)
        else:
            level = level + bay
    return np.asarray(level, np.float32)


def flood(canvas: Canvas, level: Floats, quay: tuple[float, float] | None) -> None:
    """Paint water, its beach or bank, ripples and wave caps from the shore distance."""
    rng = canvas.rng
    shape = canvas.shape
    everything = (slice(None), slice(None))
    beach: tuple[Colour, ...] = ((0.76, 0.70, 0.56), (0.58, 0.54, 0.44), (0.44, 0.44, 0.34))
    sand = pick(rng, beach)
    reach = rng.uniform(4.0, 16.0)
    natural = np.ones(shape, np.float32)
    if quay is not None:
        natural = ((canvas.v < quay[0]) | (canvas.v > quay[1])).astype(np.float32)
    strand = np.clip((level + reach) / (0.5 * reach), 0, 1) * natural
    canvas.rgb = mix(canvas.rgb, sand * (1 + 0.06 * noise(rng, shape, 2.0))[..., None], strand)
    deeps: tuple[Colour, ...] = (
        (0.05, 0.16, 0.22),
        (0.09, 0.20, 0.19),
        (0.06, 0.13, 0.20),
        (0.13, 0.20, 0.17),
        (0.05, 0.22, 0.29),
    )
    deep = pick(rng, deeps, 0.012)
    shoal = deep * 1.35 + np.asarray([0.03, 0.07, 0.05], np.float32)
    depth = np.clip(level / rng.uniform(18.0, 60.0) + 0.2 * fractal(rng, shape, 80.0, 3), 0, 1)
    angle = rng.uniform(0, np.pi)
    yy, xx = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    run = xx * np.float32(np.cos(angle)) + yy * np.float32(np.sin(angle))
    phase = run * np.float32(2 * np.pi / rng.uniform(5.0, 9.0))
    chop = np.sin(phase + 4.0 * fractal(rng, shape, 22.0, 2))
    amount = rng.uniform(0.01, 0.05)
    wave = amount * chop * (0.6 + 0.4 * noise(rng, shape, 60.0))
    wave += 0.03 * noise(rng, shape, 1.8) + 0.05 * fractal(rng, shape, 120.0, 2)
    rgb = mix(shoal, deep, depth) * (1.0 + 2.2 * wave)[..., None] + 0.12 * wave[..., None]
    if rng.random() < 0.45:  # wave caps
        caps = (fractal(rng, shape, 5.0, 2) > 0.95) & (chop > 0.1) & (level > 12)
        white = caps * np.clip(fractal(rng, shape, 90.0, 2), 0.0, 0.6)
        rgb = mix(rgb, (0.82, 0.86, 0.87), white)
    surf = np.exp(-((level - 1.0) ** 2) / 3.0) * (0.35 + 0.35 * noise(rng, shape, 7.0)) * natural
    rgb = mix(rgb, (0.86, 0.88, 0.86), np.clip(surf, 0, 0.6))
    canvas.fill(everything, -level, rgb, WATER)
    canvas.taken |= (level > -2.0) & (level < 2.0)


def _free_water(canvas: Canvas, y: float, x: float, reach: float) -> bool:
    """Whether a small cross around (y, x) is all water (or outside of the image)."""
    arms = ((0, 0), (reach, 0), (-reach, 0), (0, reach), (0, -reach))
    return all(canvas.label_at(y + dy, x + dx) in (WATER, -1) for dy, dx in arms)


def boats(canvas: Canvas, level: Floats, count: int) -> None:
    """Boats at anchor or under way on open water, and buoys."""
    rng = canvas.rng
    h, w = canvas.shape
    drift = rng.uniform(0, 2 * np.pi)  # boats at anchor lie into the same wind
    for _ in range(count * 6):
        if count <= 0:
            break
        y, x = rng.uniform(0, h), rng.uniform(0, w)
        if level[int(y), int(x)] < 18 or not _free_water(canvas, y, x, 10):
            continue
        moving = bool(rng.random() < 0.4)
        angle = rng.uniform(0, 2 * np.pi) if moving else drift + rng.normal(0, 0.25)
        count -= ship(canvas, y, x, angle, float(rng.uniform(8, 30)), moving)
    for _ in range(int(rng.integers(0, 12))):
        y, x = rng.uniform(0, h), rng.uniform(0, w)
        if level[int(y), int(x)] > 8:
            tone = pick(rng, ((0.85, 0.30, 0.15), (0.92, 0.92, 0.90), (0.85, 0.75, 0.2)))
            block(canvas, y, x, 0.0, (rng.uniform(2, 3.5),) * 2, tone, 1.0, True)


def harbour(canvas: Canvas, at: float, quay: tuple[float, float], fullness: float) -> None:
    """A quay wall at u = at with sheds and jetties, boats in the berths of both sides."""
    rng, m = canvas.rng, canvas.ppm
    v0, v1 = quay
    deep = rng.uniform(14.0, 22.0) * m
    paved = pave(canvas, (at - deep, at + 2, v0 - 6, v1 + 6), CONCRETE, over_water=True)
    if paved is None:
        return
    box, u, _, mask = paved
    paint(canvas, box, (np.abs(u - at) < 1.0) & mask, (0.42, 0.41, 0.39))
    wood = pick(rng, ((0.52, 0.45, 0.36), (0.64, 0.62, 0.58), (0.44, 0.40, 0.35)))
    tone = (float(wood[0]), float(wood[1]), float(wood[2]))
    length = rng.uniform(42.0, 66.0) * m
    pitch = rng.uniform(29.0, 36.0) * m
    for v_at in np.arange(v0 + pitch * 0.5, v1 - pitch * 0.3, pitch):
        half = rng.uniform(1.2, 1.7) * m
        end = at + length * rng.uniform(0.7, 1.0)
        pave(canvas, (at - 1, end, v_at - half, v_at + half), tone, over_water=True)
        if rng.random() < 0.5:  # a T head
            pave(canvas, (end - 2 * half, end, v_at - 7 * m, v_at + 7 * m), tone, over_water=True)
        for side in (-1.0, 1.0):
            size = rng.uniform(13.0, 24.0)  # boats of a jetty side are of one class of length
            u_at = at + 6.0 * m
            while u_at < end - 3 * m:
                boat = float(np.clip(size * rng.uniform(0.75, 1.2), 8, 30))
                beam = boat * 0.33 + 1.6
                if rng.random() < fullness:
                    turn = np.pi / 2 * side * float(rng.choice([-1, 1], p=[0.75, 0.25]))
                    off = side * (half + 1.5 + boat / 2)
                    y, x, angle = place(canvas, u_at, v_at + off, turn)
                    if canvas.label_at(y, x) == WATER:
                        ship(canvas, y, x, angle + rng.normal(0, 0.03), boat)
                elif rng.random() < 0.4:  # an empty berth with its finger pier
                    lo, hi = sorted((v_at + side * half, v_at + side * (half + boat * 0.8)))
                    pave(canvas, (u_at - 1, u_at + 1, lo, hi), tone, over_water=True)
                u_at += beam
        for k in np.arange(at + 5 * m, end, 9 * m):  # bollards, lockers and crates on the jetty
            y, x, angle = place(canvas, float(k), float(v_at))
            if rng.random() < 0.5:
                block(canvas, y, x, angle, (1.6 * m, 0.9 * m), pick(rng, BOX_COLOURS), 1.0)
    for v_at in np.arange(v0 + 12 * m, v1 - 12 * m, 26 * m):
        chance = rng.random()
        y, x, angle = place(canvas, at - deep * 0.62, float(v_at), np.pi / 2)
        if chance < 0.45:
            long, short = rng.uniform(14, 20) * m, deep * 0.5
            building(canvas, y, x, angle, long, min(short, long), "gable", 6 * m)
        elif chance < 0.7:
            block(canvas, y, x, angle, (6 * m, 2.4 * m), pick(rng, BOX_COLOURS), 2.5 * m)
    quayside = np.arange(v0 + 4, v1 - 4, 3.2 * m)
    for v_at in quayside:
        y, x, angle = place(canvas, at - 4.2 * m, float(v_at) + rng.normal(0, 0.4))
        if rng.random() < 0.3 and canvas.label_at(y, x) == ROAD:
            vehicle(canvas, y, x, angle + (np.pi if rng.random() < 0.5 else 0), "car")
        elif rng.random() < 0.12:
            y, x, angle = place(canvas, at - 1.2 * m, float(v_at))
            block(canvas, y, x, angle, (1.2 * m, 1.2 * m), pick(rng, BOX_COLOURS), 1.0)


def airfield(canvas: Canvas, start: float, span: float, fullness: float) -> Bools:
    """Runway, taxiway, apron, hangars and planes in the strip start <= u <= start + 118 m.

    Returns:
        bool [H, W], the ground that the airfield keeps free of anything else.
    """
    rng, m = canvas.rng, canvas.ppm
    width = 118.0 * m
    keep: Bools = (canvas.u > start - 4) & (canvas.u < start + width)
    keep &= canvas.labels != WATER
    grass = np.asarray([0.40, 0.45, 0.24], np.float32) * rng.uniform(0.85, 1.15)
    mown = 1.0 + 0.10 * fractal(rng, canvas.shape, 90.0, 4)
    mown += 0.03 * np.sign(np.sin(canvas.u * 2 * np.pi / (14 * m)))
    canvas.rgb = mix(canvas.rgb, grass * mown[..., None], keep.astype(np.float32) * 0.8)
    reach = float(np.hypot(*canvas.shape))
    middle, half = start + 17 * m, rng.uniform(10.0, 13.0) * m
    tone = ASPHALT if rng.random() < 0.6 else CONCRETE
    runway = pave(canvas, (middle - half, middle + half, -reach, reach), tone)
    shift = rng.uniform(-0.2, 0.2) * span
    if runway is not None:
        box, u, v, mask = runway
        du = np.abs(u - middle)
        smear = np.clip(1.4 - du / (0.45 * half), 0, 1) * 0.22
        smear = smear * (0.6 + 0.4 * noise(rng, u.shape, 50.0)) * mask
        canvas.rgb[box] *= (1.0 - smear)[..., None].astype(np.float32)
        paint(canvas, box, (du < 0.5 * m) & (v % (30 * m) < 18 * m) & mask)
        paint(canvas, box, (np.abs(du - half + 1.2 * m) < 0.5 * m) & mask)
        keys = (np.abs(v - shift) < 9 * m) & (du > 1.5 * m) & (du < half - 2 * m)
        paint(canvas, box, keys & ((du % (2.6 * m)) < 1.3 * m) & mask)
        aim = (np.abs(np.abs(v - shift) - 40 * m) < 8 * m) & (np.abs(du - 0.45 * half) < 1.6 * m)
        paint(canvas, box, aim & mask)
    taxi = start + 46 * m
    lanes: list[Block] = [(taxi - 4 * m, taxi + 4 * m, -reach, reach)]
    for v_at in (shift - span * 0.42, shift + span * 0.12, shift + span * 0.5):
        lanes.append((middle, taxi + 12 * m, v_at - 4 * m, v_at + 4 * m))
    for lane in lanes:
        paved = pave(canvas, lane, tone)
        if paved is not None:
            box, u, v, mask = paved
            across = (
                u - (lane[0] + lane[1]) / 2 if lane is lanes[0] else v - (lane[2] + lane[3]) / 2
            )
            clear = np.abs(u - middle) > half if lane is not lanes[0] else mask
            paint(canvas, box, (np.abs(across) < 0.5) & mask & clear, (0.82, 0.68, 0.22))
    length = span * rng.uniform(0.45, 0.75)
    apron = (taxi + 2 * m, start + width - 16 * m, shift - length / 2, shift + length / 2)
    _apron(canvas, apron, fullness)
    for v_at in np.arange(apron[2] + 14 * m, apron[3] - 10 * m, 31 * m):
        y, x, angle = place(canvas, start + width - 7 * m, float(v_at), np.pi / 2)
        if rng.random() < 0.75:
            kind = "flat" if rng.random() < 0.4 else "gable"
            building(canvas, y, x, angle, rng.uniform(20, 28) * m, 15 * m, kind, 9 * m)
    for _ in range(int(rng.integers(0, 3))):  # taxiing, or lined up
        u_at, v_at = (taxi, middle)[int(rng.integers(2))], rng.uniform(-0.5, 0.5) * span
        y, x, angle = place(canvas, float(u_at), v_at, float(rng.choice([-1, 1])) * np.pi / 2)
        if canvas.label_at(y, x) == ROAD:
            plane(canvas, y, x, angle, float(rng.uniform(14, 30)))
    return keep


def _apron(canvas: Canvas, area: Block, fullness: float) -> None:
    """Concrete slabs with planes in rows, lead-in lines, tugs, tankers and their doubles."""
    rng, m = canvas.rng, canvas.ppm
    u0, u1, v0, v1 = area
    paved = pave(canvas, area, CONCRETE, 2.0)
    if paved is None:
        return
    box, u, v, mask = paved
    slab = rng.uniform(7.0, 11.0) * m
    joints = ((u % slab) < 0.8) | ((v % slab) < 0.8)
    paint(canvas, box, joints & mask, (0.40, 0.40, 0.38), 0.6)
    stains = np.clip(fractal(rng, u.shape, 30.0, 3) - 0.25, 0, 1) * 0.35 * mask
    canvas.rgb[box] *= (1.0 - stains)[..., None].astype(np.float32)
    rows = 1 if u1 - u0 < 48 * m else 2
    usual: Any = rng.uniform(14.0, 27.0)
    for row in range(rows):
        u_at = u0 + (u1 - u0) * (row + 0.62) / (rows + 0.15)
        turn = np.pi if rng.random() < 0.6 else 0.0
        v_at = v0 + 12.0
        while v_at < v1 - 12.0:
            length = float(np.clip(usual * rng.uniform(0.75, 1.25), 12, 30))
            if rng.random() < fullness:
                spot = (u_at + rng.normal(0, 1), v_at + length * 0.6)
                y, x, angle = place(canvas, *spot, turn + rng.normal(0, 0.06))
                line = (np.abs(v - spot[1]) < 0.5) & (np.abs(u - u_at) < 16) & mask
                paint(canvas, box, line, (0.82, 0.68, 0.22))
                if canvas.label_at(y, x) == ROAD:
                    plane(canvas, y, x, angle, length)
            v_at += length * 1.2 + rng.uniform(2, 6)
    for _ in range(int(rng.integers(3, 10))):
        y, x, angle = place(canvas, rng.uniform(u0, u1), rng.uniform(v0, v1), rng.uniform(0, 6))
        if canvas.label_at(y, x) != ROAD:
            continue
        if rng.random() < 0.5:
            vehicle(canvas, y, x, angle, str(rng.choice(["car", "van", "truck"])), 2.0)
        elif canvas.claim(y, x, angle, 5, 5, 1.0):
            colour = pick(rng, BOX_COLOURS)
            block(canvas, y, x, angle, (rng.uniform(2, 4) * m, 1.6 * m), colour, 1.2 * m)


def rocks(canvas: Canvas, level: Floats) -> None:
    """Boulders along a natural shore."""
    rng = canvas.rng
    ys, xs = np.nonzero((level > -9) & (level < 5) & np.isin(canvas.labels, (GROUND, WATER)))
    if len(ys) == 0:
        return
    for k in rng.integers(len(ys), size=int(rng.integers(0, 40))):
        size = rng.uniform(2.5, 7.0)
        tone = pick(rng, ((0.55, 0.53, 0.49), (0.42, 0.40, 0.37), (0.66, 0.63, 0.57)))
        shape = (size, size * rng.uniform(0.6, 1.0))
        block(canvas, float(ys[k]), float(xs[k]), rng.uniform(0, 3), shape, tone, 1.5, True)
