"""Charts as SVG, by matplotlib: pip install 'c2fcore[plot]'."""

from __future__ import annotations

from typing import Any


def pyplot() -> Any:
    """matplotlib.pyplot, set up so that the same figures give the same file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            f"charts need matplotlib ({error}); pip install 'c2fcore[plot]'"
        ) from error
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "svg.fonttype": "none",  # text stays text: small, and readable by search
            "svg.hashsalt": "c2fcore",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.facecolor": "white",
        }
    )
    return plt
