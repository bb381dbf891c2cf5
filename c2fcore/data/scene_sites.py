"""What stands where in a synthetic scene: town blocks, fields, parks and car parks.

A block is a rectangle (u0, u1, v0, v1) of the road frame between streets.
"""

from __future__ import annotations

import numpy as np

from .scene_buildings import building
from .scene_canvas import GROUND, ROAD, WATER, Bools, Canvas, Colour, Floats, fractal
from .scene_objects import BOX_COLOURS, Forest, block, pick, vehicle

Block = tuple[float, float, float, float]
ASPHALT: Colour = (0.33, 0.33, 0.34)
CONCRETE: Colour = (0.63, 0.62, 0.59)
PAINT: Colour = (0.86, 0.86, 0.84)


def pave(
    canvas: Canvas,
    area: Block,
    colour: Colour,
    round_px: float = 0.0,
    over_water: bool = False,
    label: int | None = ROAD,
    only: Bools | None = None,
) -> tuple[tuple[slice, slice], Floats, Floats, Bools] | None:
    """Pave a frame rectangle with worn asphalt or concrete.

    Args:
        canvas: the scene.
        area: what to pave.
        colour: of new pavement.
        round_px: radius of the corners.
        over_water: pave water too (bridges, jetties).
        label: class to write, None for none.
        only: bool [H, W] of the scene; nothing is paved where it is False.

    Returns:
        The image box, u and v over it, and the mask of the pavement; None outside of the image.
    """
    u0, u1, v0, v1 = area
    box = canvas.band(u0, u1, v0, v1)
    if box is None:
        return None
    u, v = canvas.u[box], canvas.v[box]
    du = np.abs(u - (u0 + u1) / 2) - (u1 - u0) / 2 + round_px
    dv = np.abs(v - (v0 + v1) / 2) - (v1 - v0) / 2 + round_px
    edge = np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0)
    edge = (edge - round_px).astype(np.float32)
    wear = 0.05 * canvas.blotch[box] + 0.035 * canvas.grain[box]
    rgb = np.asarray(colour, np.float32) * (1.0 + wear[..., None])
    free = np.ones(u.shape, bool) if over_water else canvas.labels[box] != WATER
    if only is not None:
        free &= only[box]
    canvas.fill(box, edge, rgb, label, free)
    return box, u, v, (edge < 0.0) & free


def paint(
    canvas: Canvas, box: tuple[slice, slice], mask: Bools, colour: Colour = PAINT, worn: float = 0.3
) -> None:
    """Worn paint on pavement where `mask` is set; no label changes."""
    ys, xs = np.nonzero(mask)
    view = canvas.rgb[box]
    fade = 0.85 * (1.0 - worn * (0.5 + 0.5 * canvas.grain[box][ys, xs]))
    spots = view[ys, xs]
    view[ys, xs] = spots + (np.asarray(colour, np.float32) - spots) * fade[:, None]


def place(canvas: Canvas, u: float, v: float, turn: float = 0.0) -> tuple[float, float, float]:
    """Image y, x and heading of a frame position; `turn` 0 looks along +u, pi/2 along +v."""
    y, x = canvas.frame.to_yx(u, v)
    return y, x, canvas.frame.heading(u, v, turn)


def car_park(canvas: Canvas, forest: Forest, area: Block, fullness: float) -> None:
    """Rows of bays with parked cars, aisles between them, a few tree islands and doubles."""
    rng, m = canvas.rng, canvas.ppm
    tone = ASPHALT if rng.random() < 0.75 else CONCRETE
    shade = rng.uniform(0.8, 1.2)
    paved = pave(canvas, area, (tone[0] * shade, tone[1] * shade, tone[2] * shade), 3.0)
    if paved is None:
        return
    box, u, v, mask = paved
    u0, u1, v0, v1 = area
    bay_w, bay_l, aisle = 2.75 * m, 5.2 * m, 6.2 * m
    row, start = 0, v0 + 2.0
    islands = rng.random() < 0.5
    while start + bay_l < v1 - 2.0:
        # Rows come in pairs back to back, an aisle after each pair.
        v_mid = start + bay_l / 2
        lines = (np.abs(v - v_mid) < bay_l / 2) & (np.abs((u - u0 - 3) % bay_w) < 0.75) & mask
        paint(canvas, box, lines & (u > u0 + 3) & (u < u1 - 3))
        busy = np.clip(fullness + rng.normal(0, 0.18), 0.1, 0.97)
        count = int((u1 - u0 - 6) / bay_w)
        for i in range(count):
            u_mid = u0 + 3 + (i + 0.5) * bay_w + rng.normal(0, 0.25)
            turn = np.pi / 2 if (row % 2 == 0) ^ (rng.random() < 0.2) else -np.pi / 2
            y, x, angle = place(canvas, u_mid, v_mid + rng.normal(0, 0.5), turn)
            if canvas.label_at(y, x) != ROAD:
                continue
            if islands and i % 9 == 8:
                forest.plant(canvas, y, x, rng.uniform(1.4, 2.2) * m)
            elif canvas.parking > 0 and rng.random() < busy:
                canvas.parking -= 1
                kind = "van" if rng.random() < 0.08 else "car"
                vehicle(canvas, y, x, angle + rng.normal(0, 0.03), kind, 0.05)
            elif rng.random() < 0.05:
                colour = pick(rng, BOX_COLOURS)
                block(canvas, y, x, angle, (2.6 * m, 1.8 * m), colour, 1.2 * m)
        start += bay_l + (aisle if row % 2 == 1 else 0.6)
        row += 1
    for _ in range(int(rng.integers(0, 3))):  # a stray painted block or arrow on the aisle
        y, x, angle = place(canvas, rng.uniform(u0 + 6, u1 - 6), rng.uniform(v0 + 6, v1 - 6))
        if canvas.label_at(y, x) == ROAD:
            block(canvas, y, x, angle, (4.0 * m, 1.6 * m), PAINT)


def houses(canvas: Canvas, forest: Forest, area: Block) -> None:
    """Detached houses along the v edges of a block, with drives, pools, hedges and trees."""
    rng, m = canvas.rng, canvas.ppm
    u0, u1, v0, v1 = area
    depth = (v1 - v0) / 2
    lot = rng.uniform(15.0, 20.0) * m
    hip = rng.random()
    for side in (-1.0, 1.0):
        for u_mid in np.arange(u0 + lot / 2, u1 - lot / 3, lot):
            edge = v0 if side < 0 else v1
            length = rng.uniform(9.5, 14.0) * m
            width = min(rng.uniform(7.0, 9.5) * m, length)
            set_back = rng.uniform(4.5, 8.0) * m + width / 2
            if set_back + width / 2 > depth or rng.random() < 0.07:
                continue
            uu = u_mid + rng.normal(0, 1.5)
            y, x, angle = place(canvas, uu, edge - side * set_back)
            if canvas.label_at(y, x) not in (GROUND, -1):
                continue
            kind = "hip" if rng.random() < hip else "gable"
            turn = np.pi / 2 if rng.random() < 0.2 and width < lot * 0.8 else 0.0
            if not building(canvas, y, x, angle + turn, length, width, kind, 5.0 * m):
                continue
            drive = uu + (length / 2 + 1.9 * m) * float(rng.choice([-1.0, 1.0]))
            reach = set_back + rng.uniform(0.0, 2.0) * m
            lo, hi = sorted((edge + side * 2.0, edge - side * reach))
            tone = CONCRETE if rng.random() < 0.6 else ASPHALT
            pave(canvas, (drive - 1.6 * m, drive + 1.6 * m, lo, hi), tone)
            if rng.random() < 0.55:
                at = edge - side * rng.uniform(3.0, max(reach / m - 3.0, 3.2)) * m
                y, x, angle = place(canvas, drive, at, float(rng.choice([-1, 1])) * np.pi / 2)
                vehicle(canvas, y, x, angle + rng.normal(0, 0.04), "car")
            back = edge - side * (set_back + width / 2 + rng.uniform(4.0, 7.0) * m)
            y, x, angle = place(canvas, uu + rng.normal(0, 3), back)
            chance = rng.random()
            if abs(back - edge) < depth - 3 * m and chance < 0.12:
                size = (rng.uniform(6, 9) * m, rng.uniform(3.2, 4.5) * m)
                if canvas.claim(y, x, angle, *size, 2.0):
                    block(canvas, y, x, angle, (size[0] + 4, size[1] + 4), CONCRETE)
                    block(canvas, y, x, angle, size, (0.25, 0.62, 0.72))
            elif chance < 0.4 and canvas.claim(y, x, angle, 3.5 * m, 3 * m):  # a shed
                block(canvas, y, x, angle, (3.2 * m, 2.4 * m), pick(rng, BOX_COLOURS), 2 * m)
    woods(canvas, forest, area, rng.uniform(0.15, 0.6), 0.9, 3.4)


def flats(canvas: Canvas, forest: Forest, area: Block) -> None:
    """Long apartment buildings with a strip of parking between them."""
    rng, m = canvas.rng, canvas.ppm
    u0, u1, v0, v1 = area
    v_at = v0 + 9 * m
    while v_at + 6 * m < v1:
        length = min(u1 - u0 - 10, rng.uniform(32.0, 52.0) * m)
        if length > 24:
            y, x, angle = place(canvas, (u0 + u1) / 2 + rng.normal(0, 2), v_at)
            kind = "flat" if rng.random() < 0.7 else "hip"
            building(canvas, y, x, angle, length, rng.uniform(11, 14) * m, kind, 13.0 * m)
        if v_at + 32 * m < v1:
            strip = (u0 + 4, u1 - 4, v_at + 11 * m, v_at + 24 * m)
            car_park(canvas, forest, strip, rng.uniform(0.35, 0.85))
        v_at += 36 * m
    woods(canvas, forest, area, 0.35, 1.6, 3.6)


def works(canvas: Canvas, forest: Forest, area: Block) -> None:
    """Industry or retail: a yard with large flat roofs, lorries, containers, a staff car park."""
    rng, m = canvas.rng, canvas.ppm
    u0, u1, v0, v1 = area
    tone = CONCRETE if rng.random() < 0.5 else ASPHALT
    if pave(canvas, area, tone, 6.0) is None:
        return
    split = v0 + (v1 - v0) * rng.uniform(0.50, 0.62)
    halls = 1 if u1 - u0 < 60 * m else 2
    step = (u1 - u0) / halls
    for i in range(halls):
        length, width = step - rng.uniform(14, 22), (split - v0) - rng.uniform(10, 16)
        if min(length, width) < 14:
            continue
        turn = 0.0 if length >= width else np.pi / 2
        y, x, angle = place(canvas, u0 + (i + 0.5) * step, (v0 + split) / 2)
        long, short = max(length, width), min(length, width)
        building(canvas, y, x, angle + turn, long, short, "flat", rng.uniform(6, 10) * m)
        for k in np.arange(-0.4, 0.4, 5.2 * m / max(length, 1.0)):
            if rng.random() < 0.22:  # lorries at the loading docks
                dock = (v0 + split) / 2 + width / 2 + 7.5 * m
                u_dock = u0 + (i + 0.5) * step + k * length
                y, x, angle = place(canvas, u_dock, dock, np.pi / 2)
                if canvas.label_at(y, x) == ROAD:
                    vehicle(canvas, y, x, angle, "truck")
    rest = (u0 + 8, u1 - 8, split + 12 * m, v1 - 4)
    if rng.random() < 0.6 and rest[3] - rest[2] > 16 * m:
        car_park(canvas, forest, rest, rng.uniform(0.4, 0.9))
    elif rest[3] - rest[2] > 8 * m:
        stacks(canvas, rest)


def stacks(canvas: Canvas, area: Block) -> None:
    """Rows of shipping containers: the doubles of lorries."""
    rng, m = canvas.rng, canvas.ppm
    u0, u1, v0, v1 = area
    for v_at in np.arange(v0 + 3 * m, v1 - 2 * m, 8.5 * m):
        for u_at in np.arange(u0 + 5 * m, u1 - 5 * m, 7.4 * m):
            if rng.random() < 0.4:
                continue
            for k in range(int(rng.integers(1, 3))):
                y, x, angle = place(canvas, u_at, v_at + k * 2.7 * m)
                if canvas.label_at(y, x) != ROAD or not canvas.claim(
                    y, x, angle, 6.2 * m, 2.5 * m, 0.0
                ):
                    continue
                colour = pick(rng, BOX_COLOURS[1:])
                block(canvas, y, x, angle, (6.1 * m, 2.45 * m), colour, 2.6 * m)
        if rng.random() < 0.4:
            y, x, angle = place(canvas, rng.uniform(u0, u1), v_at + 5.8 * m)
            if canvas.label_at(y, x) == ROAD:
                vehicle(canvas, y, x, angle, "truck")


def woods(
    canvas: Canvas, forest: Forest, area: Block, density: float, small: float, large: float
) -> None:
    """Trees and bushes of `small`..`large` metres radius on free ground, in clumps."""
    rng, m = canvas.rng, canvas.ppm
    u0, u1, v0, v1 = area
    spacing = (small + large) * 0.9 * m
    count = int(density * (u1 - u0) * (v1 - v0) / spacing**2)
    hubs = rng.uniform((u0, v0), (u1, v1), (max(count // 12, 2), 2))
    for _ in range(count):
        if rng.random() < 0.8:
            u, v = hubs[int(rng.integers(len(hubs)))] + rng.normal(0, spacing * 1.6, 2)
        else:
            u, v = rng.uniform((u0, v0), (u1, v1))
        if not (u0 < u < u1 and v0 < v < v1):
            continue
        y, x = canvas.frame.to_yx(float(u), float(v))
        if canvas.label_at(y, x) == GROUND:
            forest.plant(canvas, y, x, rng.uniform(small, large) * m)


def field(canvas: Canvas, forest: Forest, area: Block) -> None:
    """A crop field with its rows, tramlines, sometimes bales, and a hedge along one side."""
    rng, m = canvas.rng, canvas.ppm
    u0, u1, v0, v1 = area
    crops: tuple[Colour, ...] = (
        (0.36, 0.44, 0.20),
        (0.48, 0.50, 0.26),
        (0.66, 0.58, 0.36),
        (0.50, 0.40, 0.28),
        (0.28, 0.38, 0.16),
        (0.72, 0.66, 0.44),
    )
    colour = pick(rng, crops)
    paved = pave(
        canvas, area, (float(colour[0]), float(colour[1]), float(colour[2])), 2.0, False, None
    )
    if paved is None:
        return
    box, u, v, mask = paved
    along = u if rng.random() < 0.5 else v
    rows = 0.05 * np.sin(along * 2 * np.pi / rng.uniform(2.6, 5.0))
    patch = 0.13 * fractal(rng, u.shape, 60.0, 3)
    tram = -0.14 * (np.abs((along % (18 * m)) - 4.0) < 0.9)
    free = mask & (canvas.labels[box] == GROUND)
    gain = 1.0 + (rows + patch + tram) * free
    canvas.rgb[box] *= gain[..., None].astype(np.float32)
    if colour[0] > 0.62 and rng.random() < 0.8:  # stubble: bales
        for _ in range(int(rng.integers(6, 22))):
            y, x, angle = place(canvas, rng.uniform(u0 + 6, u1 - 6), rng.uniform(v0 + 6, v1 - 6))
            if canvas.label_at(y, x) == GROUND and canvas.claim(y, x, angle, 4, 4, 1):
                size = (rng.uniform(1.5, 2.6) * m, rng.uniform(1.2, 1.6) * m)
                block(canvas, y, x, rng.uniform(0, 3), size, (0.80, 0.70, 0.42), 1.3 * m)
    if rng.random() < 0.6:
        for v_at in np.arange(v0, v1, 2.6 * m):
            y, x = canvas.frame.to_yx(u0 + rng.normal(0, 1), float(v_at))
            if rng.random() < 0.85 and canvas.label_at(y, x) == GROUND:
                forest.plant(canvas, y, x, rng.uniform(1.1, 2.4) * m)
    if rng.random() < 0.25:
        y, x, angle = place(canvas, rng.uniform(u0, u1), rng.uniform(v0, v1), rng.uniform(0, 6))
        if canvas.label_at(y, x) == GROUND:
            vehicle(canvas, y, x, angle, "van")  # farm machinery
