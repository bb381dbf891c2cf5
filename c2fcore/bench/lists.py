"""Options that list values by commas."""

from __future__ import annotations


def words(text: str) -> list[str]:
    """What stands between commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers by commas.

    Raises:
        ValueError: something else, or below 1.
    """
    try:
        found = [int(word) for word in words(text)]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(f"--{option} must be whole numbers from 1 by commas, got {text!r}")
    return found


def floats(option: str, text: str) -> list[float]:
    """Positive numbers by commas.

    Raises:
        ValueError: something else.
    """
    try:
        found = [float(word) for word in words(text)]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise ValueError(f"--{option} must be positive numbers by commas, got {text!r}")
    return found


def sizes(text: str) -> list[tuple[int, int]]:
    """Sides, or HEIGHTxWIDTH, by commas.

    Raises:
        ValueError: something else.
    """
    found = []
    for word in words(text):
        try:
            sides = [int(side) for side in word.split("x")]
        except ValueError:
            sides = []
        if len(sides) not in (1, 2) or min(sides) < 1:
            raise ValueError(f"--sizes must be sides from 1 or HEIGHTxWIDTH, got {word!r}")
        found.append((sides[0], sides[-1]))
    if not found:
        raise ValueError("--sizes must name at least one size, got none")
    return found
