"""Pictures of an answer: colours over an image, windows, panels side by side."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from .config import C2FConfig
from .images import Pixels

_MARGIN_PX = 12
_TITLE_PX = 22
_LEGEND_PX = 26
_PAPER = (250, 250, 248)
_INK = (30, 30, 30)
_WINDOW = (255, 255, 255)
_RIM = (0, 0, 0)
_OPACITY = 0.55
_BRIGHT = 128
_LARGE_PX = 1500  # side of a picture that will be looked at reduced


def default_palette(num_classes: int) -> Pixels:
    """Distinct colours uint8 [num_classes, 3]; class 0 is dark grey."""
    colours = [(64, 64, 64)]
    for c in range(1, num_classes):
        hue = (c * 0.61803398875) % 1.0  # golden ratio steps keep neighbours apart
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (c % 2), 0.95)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return np.array(colours[:num_classes], dtype=np.uint8)


def palette_of(config: C2FConfig) -> Pixels:
    """A colour for each class of a network, uint8 [num_classes, 3]."""
    if config.palette is None:
        return default_palette(config.num_classes)
    return np.array(config.palette, dtype=np.uint8)


def bright_palette(
    config: C2FConfig, colours: Sequence[tuple[int, int, int]] | None = None
) -> Pixels:
    """The network's colours, else `colours`, unless one of a small class is dark: for pictures.

    Dark colours of data sets, such as iSAID's, cannot be told apart, nor from dark objects.
    """
    own = config.palette or colours
    if own and all(max(own[c]) >= _BRIGHT for c in config.small_classes):
        return np.array(own, dtype=np.uint8)
    return default_palette(config.num_classes)


def colourise(labels: Pixels, palette: Pixels) -> Pixels:
    """Label map [H, W] in colours [H, W, 3]; ids without a colour are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    coloured: Pixels = table[labels]
    return coloured


def overlay(image: Pixels, labels: Pixels, palette: Pixels, shown: Sequence[int]) -> Pixels:
    """The classes `shown` in colour over the image; their outlines at full strength."""
    is_shown = np.zeros(256, dtype=np.bool_)
    is_shown[list(shown)] = True
    seen = is_shown[labels]
    blended = np.array(image)  # small objects are few: only their pixels are computed
    colours = colourise(labels[seen], palette).astype(np.float32)
    blended[seen] = ((1 - _OPACITY) * image[seen].astype(np.float32) + _OPACITY * colours).round()
    outline = seen & _edges(labels)
    blended[outline] = colourise(labels[outline], palette)
    return blended


def draw_windows(
    image: Pixels,
    origins: Sequence[tuple[int, int]],
    window: int,
    scale: float = 1.0,
    numbered: bool = True,
) -> Pixels:
    """The image with windows, given by their (y, x), framed and numbered in the order chosen.

    Frames are light with a dark rim, to be told from any ground and from colours of classes, and
    stand around the window, not on it.

    Args:
        image: RGB [H, W, 3].
        origins: of the windows; those of a crop may begin outside.
        window: side in pixels of the image.
        scale: of the picture to the image; lines do not grow with it.
        numbered: False leaves the numbers out.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, _resampling(picture, size))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(11, round(window * scale / 10)))
    line = 1 if max(size) < _LARGE_PX else 2
    boxes = [
        tuple(round(edge * scale) for edge in (x, y, x + window, y + window)) for y, x in origins
    ]
    for out, colour in ((2 * line, _RIM), (line, _WINDOW)):  # no rim crosses a frame
        for left, top, right, bottom in boxes:
            # At the border of the image there is no room around a window.
            first = (max(edge, line) if edge >= 0 else edge for edge in (left, top))
            ends = zip((right, bottom), size, strict=True)
            last = (min(edge, end - line) if edge <= end else edge for edge, end in ends)
            corners = (*(edge - out for edge in first), *(edge - 1 + out for edge in last))
            draw.rectangle(corners, outline=colour, width=line)
    for number, (left, top, _, _) in enumerate(boxes, start=1):
        if numbered:
            place = (left + 3, top + 1)
            draw.text(place, str(number), _WINDOW, font, stroke_width=1, stroke_fill=_RIM)
    return np.asarray(picture)


def _resampling(picture: Image.Image, size: tuple[int, int]) -> Image.Resampling:
    """Enlarged pixels can be told apart; reduced ones are averaged."""
    smaller = picture.width < size[0] or picture.height < size[1]
    return Image.Resampling.NEAREST if smaller else Image.Resampling.LANCZOS


def side_by_side(
    panels: Sequence[tuple[str, Pixels]],
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
    columns: int = 3,
    panel_px: int = 640,
) -> Pixels:
    """Titled panels of one size in a grid, with a legend of colours below.

    Args:
        panels: (title, RGB [H, W, 3]); all are shown at the size of the first, smaller ones
            enlarged without smoothing, so that their pixels can be told apart.
        legend: (name, colour).
        columns: panels per row.
        panel_px: longer side of a panel; larger images are reduced.
    """
    height, width = panels[0][1].shape[:2]
    reduce = min(1.0, panel_px / max(height, width))
    shown = (max(1, round(width * reduce)), max(1, round(height * reduce)))
    rows = -(-len(panels) // columns)
    cell_width, cell_height = shown[0] + _MARGIN_PX, shown[1] + _TITLE_PX + _MARGIN_PX
    font = ImageFont.load_default(size=15)
    sheet_width = columns * cell_width + _MARGIN_PX
    places = _legend_places([font.getlength(name) for name, _ in legend], sheet_width)
    legend_top = rows * cell_height + _MARGIN_PX
    legend_height = places[-1][1] + _LEGEND_PX if places else 0
    sheet = Image.new("RGB", (sheet_width, legend_top + legend_height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (title, pixels) in enumerate(panels):
        left = _MARGIN_PX + index % columns * cell_width
        top = _MARGIN_PX + index // columns * cell_height
        draw.text((left, top), title, fill=_INK, font=font)
        panel = Image.fromarray(np.ascontiguousarray(pixels))
        sheet.paste(panel.resize(shown, _resampling(panel, shown)), (left, top + _TITLE_PX))
    for (name, colour), (left, down) in zip(legend, places, strict=True):
        top = legend_top + down
        draw.rectangle((left, top, left + 14, top + 14), fill=colour, outline=_INK)
        draw.text((left + 20, top - 2), name, fill=_INK, font=font)
    return np.asarray(sheet)


def _legend_places(lengths: Sequence[float], width: int) -> list[tuple[int, int]]:
    """Where names of these lengths begin, (left, down), in as many rows as the width asks for."""
    places: list[tuple[int, int]] = []
    left = down = 0
    for length in lengths:
        needed = 34 + round(length)
        if left and left + needed > width - _MARGIN_PX:
            left, down = 0, down + _LEGEND_PX
        places.append((_MARGIN_PX + left, down))
        left += needed
    return places


def _edges(labels: Pixels) -> npt.NDArray[np.bool_]:
    """True where a pixel's right or lower neighbour has another label."""
    edges = np.zeros(labels.shape, dtype=np.bool_)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1, :] |= labels[:-1, :] != labels[1:, :]
    return edges
