"""The chart of `c2f reproduce fig2`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from .._plots import pyplot

Points = Sequence[tuple[float, float]]


def lines(title: str, x_label: str, y_label: str, series: Mapping[str, Points]) -> str:
    """Curves over one axis whose values are placed at equal distances, as sweeps are.

    Args:
        title: above.
        x_label: below the values of x.
        y_label: beside the values of y.
        series: points (x, y) by name; drawn as they come.

    Returns:
        The text of an SVG file.

    Raises:
        ValueError: no point at all.
        ImportError: matplotlib is not installed.
    """
    xs = sorted({x for points in series.values() for x, _ in points})
    if not xs:
        raise ValueError("a chart needs at least one point, got none")
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 4))
    for name, points in series.items():
        axes.plot([xs.index(x) for x, _ in points], [y for _, y in points], marker="o", label=name)
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(axis="y", color="#ddd")
    axes.legend(frameon=False)
    text = io.StringIO()
    figure.savefig(text, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return text.getvalue()
