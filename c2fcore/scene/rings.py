"""Rings of corners: closed, [points, 2], (x, y)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Corner = tuple[float, float]
Ring = npt.NDArray[np.float64]

DIGITS: Final = 8  # of degrees: a millimetre


def around_pixels(rings: Iterable[Ring], rows: int) -> Iterator[Ring]:
    """An object's borders, walked anew: where pixels touch at a corner only, each keeps to itself.

    So every ring is around pixels that share sides, and polygons made of them are valid.

    Args:
        rings: shells with a positive area, holes with a negative one.
        rows: of a strip; rings of neighbouring strips meet along y = rows, 2 rows, ...
    """
    onward: dict[Corner, list[Corner]] = {}
    for here, there in _sides(rings, rows):
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
                turned = (x - x0) * (y1 - y) - (y - y0) * (x1 - x)
                there = others[0 if turned > 0 else 1]
            others.remove(there)
            if not others:
                del onward[here]
            before, here = here, there
            walked.append(here)
        yield _without_straight(np.array(walked))


def _sides(rings: Iterable[Ring], rows: int) -> Iterator[tuple[Corner, Corner]]:
    """From corner to corner, without what two strips have in common: it is inside the object."""
    shared: dict[float, list[tuple[float, float]]] = {}
    for ring in rings:
        for (x, y), (x2, y2) in itertools.pairwise(ring.tolist()):
            if y == y2 and y % rows == 0:
                shared.setdefault(y, []).append((x, x2))
            else:
                yield (x, y), (x2, y2)
    for y, along in shared.items():
        left = int(min(map(min, along)))
        ways = np.zeros(int(max(map(max, along))) - left, dtype=np.int8)  # 1 right, -1 left
        for x, x2 in along:  # those of both strips cancel each other
            low, high = sorted((int(x) - left, int(x2) - left))
            ways[low:high] += 1 if x < x2 else -1
        ends = np.flatnonzero(np.diff(ways, prepend=0, append=0)).tolist()
        for low, high in itertools.pairwise(ends):
            if ways[low]:
                here, there = (float(low + left), y), (float(high + left), y)
                yield (here, there) if ways[low] > 0 else (there, here)


def _without_straight(ring: Ring) -> Ring:
    """A closed ring without corners that it does not turn at."""
    onward = np.diff(ring, axis=0)
    (x, y), (x0, y0) = onward.T, np.roll(onward, 1, axis=0).T
    corners = ring[:-1][x * y0 != y * x0]
    return np.concatenate([corners, corners[:1]])


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


def moments_of(ring: Ring) -> Ring:
    """Signed area, and that times the centre of mass: [3]."""
    origin = ring[0]  # small numbers lose nothing
    (x, y), (x2, y2) = (ring[:-1] - origin).T, (ring[1:] - origin).T
    cross = x * y2 - x2 * y
    area = cross.sum() / 2
    middle = np.array([((x + x2) * cross).sum(), ((y + y2) * cross).sum()]) / 6
    return np.array([area, *(middle + area * origin)])


def area_of(ring: Ring) -> float:
    """Signed area."""
    return float(moments_of(ring)[0])


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
        min(around, key=lambda part: abs(area_of(part[0]))).append(hole)


def _inside(point: Ring, ring: Ring) -> bool:
    """Whether a point that is on no border lies in a ring."""
    (x, y), (x2, y2) = ring[:-1].T, ring[1:].T
    beside = (y > point[1]) != (y2 > point[1])
    x, y, x2, y2 = (of[beside] for of in (x, y, x2, y2))
    right = x + (x2 - x) * (point[1] - y) / (y2 - y) > point[0]
    return bool(np.count_nonzero(right) % 2)


def turned(ring: Ring, *, left: bool) -> Ring:
    """Shells turn left, holes right, as RFC 7946 wants it."""
    return ring if (area_of(ring) > 0) == left else ring[::-1]


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
        sign = math.copysign(1, area_of(part[0]))
        shells = [[ring] for ring in rings if area_of(ring) * sign > 0]
        put_into(shells, [ring for ring in rings if area_of(ring) * sign < 0])
        found += shells
    return found


def _beside(rings: Sequence[Ring], at: float, side: int) -> list[Ring]:
    """What of a polygon lies right (side 1) or left (-1) of x = at."""
    found: list[Ring] = []
    chains: list[list[Ring]] = []
    for ring in rings:
        inside = (ring[:-1, 0] - at) * side > 0
        if inside.all():
            found.append(ring)
        elif inside.any():
            chains += _chains(ring, inside, at)
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


def _chains(ring: Ring, inside: npt.NDArray[np.bool_], at: float) -> list[list[Ring]]:
    """The parts of a ring that are inside, each from the line x = at to the line."""
    first = int(np.argmin(inside))  # is outside
    corners, within = np.roll(ring[:-1], -first, axis=0), np.roll(inside, -first)
    following = zip(np.roll(corners, -1, axis=0), np.roll(within, -1), strict=True)
    found: list[list[Ring]] = []
    for here, is_in, (there, comes_in) in zip(corners, within, following, strict=True):
        if is_in != comes_in:
            share = (at - here[0]) / (there[0] - here[0])
            met = np.array([at, round(here[1] + share * (there[1] - here[1]), DIGITS)])
            if comes_in:
                found.append([met])
            else:
                found[-1].append(met)
        if comes_in:
            found[-1].append(there)
    return found
