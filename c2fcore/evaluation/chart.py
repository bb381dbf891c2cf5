"""A small line chart as SVG text, for `c2f reproduce fig2`: no plotting library needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

_WIDTH: Final = 640
_HEIGHT: Final = 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 90
_COLOURS: Final = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")

Points = Sequence[tuple[float, float]]


def lines(title: str, x_label: str, y_label: str, series: Mapping[str, Points]) -> str:
    """Curves over one axis whose values are placed at equal distances, as sweeps are.

    Args:
        title: above.
        x_label: below the values of x.
        y_label: above the values of y.
        series: points (x, y) by name; drawn as they come.

    Returns:
        The text of an SVG file.

    Raises:
        ValueError: no point at all.
    """
    xs = sorted({x for points in series.values() for x, _ in points})
    ys = [y for points in series.values() for _, y in points]
    if not xs:
        raise ValueError("a chart needs at least one point, got none")
    low, high = min(ys), max(ys)
    margin = max(1e-9, 0.1 * (high - low) or 0.1 * abs(high) or 1.0)
    low, high = low - margin, high + margin
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(xs) - 1)
    place = {x: _LEFT + i * step for i, x in enumerate(xs)}

    def height(y: float) -> float:
        return _TOP + (high - y) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def text(x: float, y: float, words: str, anchor: str = "middle") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

    bottom = _HEIGHT - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        text(_WIDTH / 2, 18, title),
        text(8, _TOP - 8, y_label, "start"),
        text(_WIDTH / 2, bottom + 38, x_label),
    ]
    for i in range(5):
        y = low + (high - low) * i / 4
        parts.append(f'<path d="M{_LEFT} {height(y):.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(text(_LEFT - 8, height(y) + 4, f"{y:.1f}", "end"))
    parts += [text(place[x], bottom + 18, f"{x:g}") for x in xs]
    for i, (name, points) in enumerate(series.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        path = " ".join(f"{place[x]:.1f},{height(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{place[x]:.1f}" cy="{height(y):.1f}" r="3.5" fill="{colour}"/>'
            for x, y in points
        ]
        left, below = _LEFT + 190 * (i % 3), bottom + 62 + 18 * (i // 3)
        parts.append(f'<rect x="{left}" y="{below - 10}" width="12" height="12" fill="{colour}"/>')
        parts.append(text(left + 18, below, name, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"
