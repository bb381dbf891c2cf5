"""Label masks from files: exact colours or ids, and what is neither is counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from ..images import UNREADABLE, Pixels, check_file, no_size_limit, read_rgb
from .catalogue import IGNORED, DatasetInfo

RGB: Final = "rgb"
_SPREAD: Final = {"L;2": 85, "L;4": 17}
_LAST_ID: Final = (1 << 16) - 1  # stands for all ids beyond, which no data set has


def read_mask(path: str | Path) -> npt.NDArray[Any]:
    """A mask as on disk: ids [H, W] (grey of 1 to 16 bits, palette), or colours uint8 [H, W, 3].

    Alpha is dropped. A palette file's ids are its palette indices.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no image, or one of floating-point numbers or of colours of 16 bits;
            or no regular file.
    """
    check_file("mask", Path(path))
    try:
        with no_size_limit(), Image.open(path) as image:
            if image.mode.startswith("F"):
                raise ValueError("ids must be integers, got floating-point numbers")
            tiles = str(getattr(image, "tile", ""))
            if image.mode in ("L", "P", "1") or image.mode.startswith("I"):
                # Greys of 2 and 4 bits are spread over 0..255 when they are read.
                spread = next((by for kind, by in _SPREAD.items() if kind in tiles), 1)
                ids = np.asarray(image)
                return ids.astype(np.uint8) if image.mode == "1" else ids // spread
            if ";16" in tiles:  # Pillow would take the upper 8
                raise ValueError("colours, and grey with alpha, must be of 8 bits, got 16")
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"mask must be an image, got {path}") from None
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # missing or not permitted: the system's error names the file
        raise ValueError(f"mask must be readable, got {path}: {error}") from error


class MaskDecoder:
    """Turns masks of a data set into class ids.

    Args:
        info: the data set.
        encoding: "rgb" for colour-coded masks, or one of the data set's encodings of ids.

    Raises:
        ValueError: the data set has no such encoding.
    """

    def __init__(self, info: DatasetInfo, encoding: str) -> None:
        known = [*([RGB] if info.palette else []), *info.encodings]
        if encoding not in known:
            raise ValueError(
                f"{info.name}: encoding must be one of {', '.join(known)}, got {encoding}"
            )
        self.encoding = encoding
        if encoding == RGB:
            codes = {_packed(c): i for i, c in enumerate(info.palette)}
            codes.update((_packed(c), IGNORED) for c in info.ignored_colours)
            self._table = _table(codes, 1 << 24)
        else:
            self._table = _table(info.encodings[encoding], _LAST_ID + 1)

    def __call__(
        self, mask: npt.NDArray[Any], name: str | Path = "mask"
    ) -> tuple[Pixels, dict[str, int]]:
        """Class ids of a mask, and pixel counts of colours or ids that the data set does not have.

        Args:
            mask: what `read_mask` gave.
            name: of the mask, for errors.

        Returns:
            uint8 [H, W], 0..N-1 and 255 for ignored and unknown pixels; the counts by "#rrggbb" or
            id.

        Raises:
            ValueError: a colour-coded mask where ids are expected, or the other way round.
        """
        if self.encoding == RGB:
            if mask.ndim != 3:
                raise ValueError(f"encoding rgb needs colours, got ids in {name}")
            codes = _packed(mask.astype(np.int32))
        else:
            if mask.ndim == 3:
                if not (mask == mask[..., :1]).all():
                    raise ValueError(f"encoding {self.encoding} needs ids, got colours in {name}")
                mask = mask[..., 0]
            wide = mask.astype(np.int64)
            codes = np.where((wide < 0) | (wide > _LAST_ID), _LAST_ID, wide)
        ids = self._table[codes]
        strange = ids < 0
        unknown: dict[str, int] = {}
        if strange.any():
            values, counts = np.unique(codes[strange], return_counts=True)
            unknown = {self._show(int(v)): int(n) for v, n in zip(values, counts, strict=True)}
            ids[strange] = IGNORED
        return ids.astype(np.uint8), unknown

    def _show(self, code: int) -> str:
        return f"#{code:06x}" if self.encoding == RGB else str(code)


def read_pair(
    image: Path, mask: Path, decode: MaskDecoder
) -> tuple[Pixels, Pixels, dict[str, int]]:
    """An image uint8 [H, W, 3], its class ids uint8 [H, W], and counts of unknown values.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: one cannot be read, or they differ in size.
    """
    pixels = read_rgb(image)
    labels, unknown = decode(read_mask(mask), mask)
    if pixels.shape[:2] != labels.shape:
        raise ValueError(
            f"image and mask must have one size, got {pixels.shape[1]} x {pixels.shape[0]} and "
            f"{labels.shape[1]} x {labels.shape[0]} for {image}"
        )
    return pixels, labels, unknown


def _packed(colour: Any) -> Any:
    if isinstance(colour, tuple):
        return (colour[0] << 16) + (colour[1] << 8) + colour[2]
    return (colour[..., 0] << 16) + (colour[..., 1] << 8) + colour[..., 2]


def _table(codes: Mapping[int, int], size: int) -> npt.NDArray[np.int16]:
    """Class of every code; -1 where there is none."""
    table = np.full(size, -1, np.int16)
    for code, class_id in codes.items():
        table[code] = class_id
    return table


def shown(unknown: Mapping[str, int]) -> str:
    """The most frequent unknown values in words."""
    first = sorted(unknown.items(), key=lambda item: -item[1])
    text = ", ".join(f"{value} ({count} px)" for value, count in first[:3])
    return text + (f" and {len(first) - 3} more" if len(first) > 3 else "")


def add_counts(total: dict[str, int], more: Iterable[tuple[str, int]]) -> None:
    """Adds pixel counts of `more` to `total`."""
    for value, count in more:
        total[value] = total.get(value, 0) + count
