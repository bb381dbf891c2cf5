"""Rings of corners: closed, [points, 2], (x, y)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Corner = tuple[float, float]
Ring = npt.NDArray[np.float64]

DIGITS: Final = 8  # of degrees: a millimetre


def by_pixels(rings: list[Ring], sign: int) -> Iterator[Ring]:
    """The same borders, walked anew: where pixels touch at a corner only, each keeps to itself.

    So every ring is around pixels that share sides, and polygons made of them are valid.
    """
    onward: dict[Corner, list[Corner]] = {}
    for ring in rings:
        corners = [(x, y) for x, y in ring.tolist()]
        for here, there in itertools.pairwise(corners):
            onward.setdefault(here, []).append(there)
    for first in sorted(onward):  # of those left the first is met once: nothing lies before it
        if first not in onward:
            continue
        here, before = first, None
        walked = [here]
        while before is None or here != first:
            others = onward[here]
            there = others[0]
            if len(others) > 1:
                assert before is not None
                (x0, y0), (x, y), (x1, y1) = before, here, others[0]
                turned = ((x - x0) * (y1 - y) - (y - y0) * (x1 - x)) * sign
                there = others[0 if turned > 0 else 1]
            others.remove(there)
            if not others:
                del onward[here]
            before, here = here, there
            walked.append(here)
        yield np.array(walked)


def simple_rings(ring: Ring) -> Iterator[Ring]:
    """A closed ring as rings that meet no corner twice."""
    walked: list[Corner] = []
    places: dict[Corner, int] = {}
    for x, y in ring.tolist():
        first = places.setdefault((x, y), len(walked))
        if first == len(walked):
            walked.append((x, y))
            continue
        yield np.array([*walked[first:], (x, y)])
        for left in walked[first + 1 :]:
            del places[left]
        del walked[first + 1 :]


def area_of(ring: Ring) -> tuple[float, Ring]:
    """Signed area, and that times the centre of mass."""
    origin = ring[0]  # small numbers lose nothing
    (x, y), (x2, y2) = (ring[:-1] - origin).T, (ring[1:] - origin).T
    cross = x * y2 - x2 * y
    area = float(cross.sum() / 2)
    centre = np.array([((x + x2) * cross).sum(), ((y + y2) * cross).sum()]) / 6
    return area, centre + area * origin


def put_into(shells: list[list[Ring]], holes: list[Ring]) -> None:
    """Gives each hole to the innermost shell around it."""
    if len(shells) == 1:
        shells[0] += holes
        return
    low, high = (np.array([end(part[0], axis=0) for part in shells]) for end in (np.min, np.max))
    for hole in holes:
        side = hole[:2].mean(axis=0)  # no shell has a border there: they meet holes at corners
        near = np.flatnonzero((low < side).all(axis=1) & (side < high).all(axis=1))
        around = [shells[i] for i in near if _inside(side, shells[i][0])]
        min(around, key=lambda part: abs(area_of(part[0])[0])).append(hole)


def _inside(point: Ring, ring: Ring) -> bool:
    """Whether a point that is on no border lies in a ring."""
    (x, y), (x2, y2) = ring[:-1].T, ring[1:].T
    beside = (y > point[1]) != (y2 > point[1])
    x, y, x2, y2 = (of[beside] for of in (x, y, x2, y2))
    right = x + (x2 - x) * (point[1] - y) / (y2 - y) > point[0]
    return bool(np.count_nonzero(right) % 2)


def turned(ring: Ring, *, left: bool) -> Ring:
    """Shells turn left, holes right, as RFC 7946 wants it."""
    return ring if (area_of(ring)[0] > 0) == left else ring[::-1]


def cut_at_antimeridian(part: list[Ring]) -> list[list[Ring]]:
    """A polygon as those between -180 and 180 degrees, as RFC 7946, section 3.1.9, wants it.

    Args:
        part: a shell and its holes, whose longitudes go on beyond 180 without a jump.
    """
    west, east = (float(end(part[0][:, 0])) for end in (np.min, np.max))
    turns = range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360))
    if len(turns) == 1:
        return [[(ring - (360.0 * turns[0], 0)).round(DIGITS) for ring in part]]
    found: list[list[Ring]] = []
    for turn in turns:
        rings = _beside(part, 360.0 * turn - 180, 1)
        rings = _beside(rings, 360.0 * turn + 180, -1)
        parts = itertools.chain(*map(simple_rings, rings))
        rings = [(ring - (360.0 * turn, 0)).round(DIGITS) for ring in parts]
        sign = math.copysign(1, area_of(part[0])[0])
        shells = [[ring] for ring in rings if area_of(ring)[0] * sign > 0]
        put_into(shells, [ring for ring in rings if area_of(ring)[0] * sign < 0])
        found += shells
    return found


def _beside(rings: Sequence[Ring], at: float, side: int) -> list[Ring]:
    """What of a polygon lies right (side 1) or left (-1) of x = at."""
    found: list[Ring] = []
    chains: list[list[Ring]] = []  # from the line to the line
    for ring in rings:
        inside = (ring[:-1, 0] - at) * side > 0
        if inside.all():
            found.append(ring)
        elif inside.any():
            first = int(np.argmin(inside))  # is outside
            corners, within = np.roll(ring[:-1], -first, axis=0), np.roll(inside, -first)
            for i, (here, is_in) in enumerate(zip(corners, within, strict=True)):
                there, comes_in = corners[(i + 1) % len(corners)], within[(i + 1) % len(corners)]
                if is_in != comes_in:
                    share = (at - here[0]) / (there[0] - here[0])
                    met = np.array([at, round(here[1] + share * (there[1] - here[1]), DIGITS)])
                    if comes_in:
                        chains.append([met])
                    else:
                        chains[-1].append(met)
                if comes_in:
                    chains[-1].append(there)
    # Along the line ways out and ways in take turns: each goes on at the nearest one inside.
    out, into = (sorted(range(len(chains)), key=lambda i: chains[i][end][1]) for end in (-1, 0))
    onward = dict(zip(out, into, strict=True))
    while onward:
        first, following = onward.popitem()
        walked = [*chains[first]]
        while following != first:
            walked += chains[following]
            following = onward.pop(following)
        found.append(np.array([*walked, walked[0]]))
    return found
