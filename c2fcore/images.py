"""Reading images people have, writing label maps they can use."""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from . import _files
from .data.tiling import Box, boxes

Pixels = npt.NDArray[np.uint8]

# Pillow refuses images above 179 Mpx as decompression bombs; one aerial mosaic is easily larger.
_MAX_PIXELS = 4_000_000_000
_ALL_PX = 2048 * 2048  # up to here percentiles are of all pixels, above of a sample of as many
_SAMPLE_COUNT, _SAMPLE_PX = 32, 64
_SCAN_PX = 1024
_ORIENTATION, _PHOTOMETRIC, _SAMPLES, _GDAL_NODATA = 274, 262, 277, 42113  # TIFF tags
_WHITE_IS_0 = 0
_PLAIN = (_WHITE_IS_0, 1, 2, 3)  # values of the second; 1: black is 0, RGB, palette
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_LOG = logging.getLogger(__name__)
_lock = threading.Lock()
_befores: list[int | None] = []  # limits that were found, the first one below


class Stretch(NamedTuple):
    """Which values of each band become 0 and 255.

    Attributes:
        low: per band, what becomes 0; with all that is below.
        high: per band, what becomes 255; with all that is above.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, read: Callable[[Box], npt.NDArray[np.float32]], height: int, width: int) -> Stretch:
        """From the 2nd to the 98th percentile of each band, over the whole image.

        Of an image above 2048 x 2048 px those are of an even sample, 32 x 32 windows of 64 px, so
        that nothing but them is read and kept. Where they hold no data at all, what is found first.

        Args:
            read: the bands [C, h, w] of a part of the image, NaN where there is no data.
            height: of the image.
            width: of the image.
        """
        known = _known(map(read, _sample(height, width)))
        if not any(map(len, known)):
            rest = (read(box) for box in boxes(height, width, _SCAN_PX))
            found = next((part for part in rest if np.isfinite(part).any()), None)
            known = known if found is None else _known([found])
        ends = [np.percentile(band, (2, 98)) if len(band) else (0.0, 1.0) for band in known]
        return cls(tuple(float(low) for low, _ in ends), tuple(float(high) for _, high in ends))

    def __call__(self, bands: npt.NDArray[np.float32]) -> Pixels:
        """Bands [C, H, W] as uint8 [H, W, C]; NaN is 0."""
        stretched = np.empty((*bands.shape[1:], len(bands)), dtype=np.uint8)
        for channel, (band, low, high) in enumerate(zip(bands, self.low, self.high, strict=True)):
            unit = np.clip(np.nan_to_num(band, nan=low), low, high) - low
            stretched[..., channel] = (unit / ((high - low) or 1.0) * 255).round()
        return stretched


def _known(parts: Iterable[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
    """Of each band the finite values in all parts."""
    found = [[band[np.isfinite(band)] for band in part] for part in parts]
    return [np.concatenate(band) for band in zip(*found, strict=True)]


def _sample(height: int, width: int) -> list[Box]:
    """What tells the values of an image: all of it, or windows spread evenly over it."""
    if height * width <= _ALL_PX:
        return [Box(0, 0, height, width)]
    side, count = _SAMPLE_PX, _SAMPLE_COUNT
    rows, columns = (
        np.linspace(0, max(size - side, 0), min(count, -(-size // side))).astype(int).tolist()
        for size in (height, width)
    )
    return [Box(y, x, min(y + side, height), min(x + side, width)) for y in rows for x in columns]


@contextmanager
def no_size_limit() -> Iterator[None]:
    """Lets Pillow open images as large as aerial mosaics are.

    The limit is the process's: of threads at once the first lifts it, the last sets it again.
    """
    with _lock:
        _befores.append(Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = _MAX_PIXELS
    try:
        yield
    finally:
        with _lock:
            before = _befores.pop()
            if not _befores:
                Image.MAX_IMAGE_PIXELS = before


class Picture(NamedTuple):
    """An image as networks see it.

    Attributes:
        pixels: uint8 RGB [H, W, 3].
        known: bool [H, W], False where there is no data; None if there is some everywhere.
    """

    pixels: Pixels
    known: npt.NDArray[np.bool_] | None


def check_file(what: str, path: Path) -> None:
    """Refuses what is there and no regular file: opening a pipe waits for a writer.

    Raises:
        ValueError: it is a folder, a pipe or a device.
    """
    if path.is_dir():
        raise ValueError(f"{what} must be a file, got the folder {path}")
    if path.exists() and not path.is_file():
        raise ValueError(f"{what} must be a file, got {path}, which is a pipe or a device")


def read(path: str | Path) -> Picture:
    """An image file (PNG, JPEG, TIFF, ...).

    Grey and palette images become RGB, alpha is dropped, the camera's orientation is applied. TIFF
    is read as scenes are, where rasterio is installed: of many bands the first three, or the only
    one. More than 8 bits are stretched over 8, band by band, as `Stretch` does; what the file
    declares as no data is left out of that, and black. No data is what is transparent, by the mask
    or the nodata value of a TIFF, or NaN.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no regular file, is empty or no image that can be read; the message
            names it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"image must exist, got {path}")
    check_file("image", path)
    if path.stat().st_size == 0:
        raise ValueError(f"image must not be empty, got {path} of 0 bytes")
    if _is_for_rasterio(path) and (found := _read_with_rasterio(path)):
        return found
    try:
        # Given its name, Pillow maps the file into memory, and garbles a TIFF to be turned.
        with no_size_limit(), path.open("rb") as file, Image.open(file) as image:
            if _is_cropped(image):
                raise UnidentifiedImageError
            _tell_what_is_lost(path, image)
            return picture_of(image)
    except UnidentifiedImageError:
        raise ValueError(
            f"image must be a JPEG, 8-bit PNG or TIFF, got {path}; for more bits or bands: "
            f"pip install 'c2fcore[scene]'"
        ) from None
    except UNREADABLE as error:
        raise ValueError(f"image must be readable, got {path}: {error}") from error


def _tell_what_is_lost(path: Path, image: Image.Image) -> None:
    """Frames after the first, and the orientation where EXIF, which holds it, is damaged."""
    count = 1
    with suppress(*UNREADABLE):  # a later one
        count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":  # of a camera, with previews
        _LOG.warning("note: %s has %d images: the first is read", path, count)
    with _lock, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with suppress(*UNREADABLE):
            Image.Exif().load(image.info.get("exif", b""))
    if found:
        why = str(found[0].message).strip()
        _LOG.warning(
            "note: %s: its EXIF is damaged, and may not tell which way is up: %s", path, why
        )


def read_rgb(path: str | Path) -> Pixels:
    """The pixels that `read` finds."""
    return read(path).pixels


def picture_of(image: Image.Image) -> Picture:
    """A Pillow image as `read` returns it."""
    upright = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        band = np.asarray(upright, dtype=np.float32)
        nodata = _declared_nodata(image)
        if nodata is not None:
            band = np.where(band == nodata, np.float32(np.nan), band)
        stretch = Stretch.of(lambda box: band[None, box.y0 : box.y1, box.x0 : box.x1], *band.shape)
        pixels, known = stretch(band[None]), np.isfinite(band)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_0:
            pixels = np.where(known[..., None], 255 - pixels, pixels)
        return _picture(pixels.repeat(3, axis=2), known)
    pixels = np.asarray(upright.convert("RGB"))
    if "A" not in upright.getbands() and "transparency" not in upright.info:
        return Picture(pixels, None)
    return _picture(pixels, np.asarray(upright.convert("RGBA"))[..., 3] != 0)


def _picture(pixels: Pixels, known: npt.NDArray[np.bool_]) -> Picture:
    return Picture(np.ascontiguousarray(pixels), None if known.all() else known)


def size_of(path: Path) -> tuple[int, int] | None:
    """(H, W) by the file's head, as stored; None if it cannot be read."""
    if not path.is_file():  # opening a pipe waits for a writer
        return None
    with suppress(*UNREADABLE), no_size_limit(), Image.open(path) as image:
        return image.height, image.width
    with suppress(ImportError, ValueError):
        from . import _raster

        with _raster.open_quietly(path) as source:
            return source.height, source.width
    return None


def write_png(path: Path, pixels: Pixels, **texts: str) -> None:
    """Writes labels [H, W] (8-bit grey, the value is the class id) or RGB [H, W, 3].

    Args:
        path: to write.
        pixels: to write.
        **texts: by keyword, to be found by `text_of_png`.
    """
    about = PngInfo()
    for key, text in {"Software": _files.SOFTWARE, **texts}.items():
        about.add_text(key, text)
    with _files.whole(path) as partial:
        Image.fromarray(np.ascontiguousarray(pixels)).save(partial, format="PNG", pnginfo=about)


def text_of_png(path: Path, key: str = "Software") -> str | None:
    """What a PNG says: by default, what wrote it."""
    with suppress(*UNREADABLE), no_size_limit(), Image.open(path) as image:
        text = image.info.get(key)
        return text if isinstance(text, str) else None
    return None


def _declared_nodata(image: Image.Image) -> np.float32 | None:
    """What GDAL's tag of a TIFF says is no data."""
    text = getattr(image, "tag_v2", {}).get(_GDAL_NODATA)
    if not isinstance(text, str):
        return None
    largest = float(np.finfo(np.float32).max)  # GDAL, too, takes what lies beyond for that
    with suppress(ValueError):
        value = float(text.strip("\0 "))
        held: np.float32 = np.float32(
            value if math.isinf(value) else np.clip(value, -largest, largest)
        )
        return held
    return None


def _is_cropped(image: Image.Image) -> bool:
    """Whether Pillow would take the upper 8 of 16 bits, or the first of two bands."""
    if image.mode == "L":
        return bool(getattr(image, "tag_v2", {}).get(_SAMPLES, 1) > 1)
    return image.mode.startswith(("RGB", "LA")) and ";16" in str(getattr(image, "tile", ""))


def _is_for_rasterio(path: Path) -> bool:
    """Whether a file is none of Pillow's, or a TIFF with the values of which GDAL does the same."""
    try:
        with no_size_limit(), Image.open(path) as image:
            tags = getattr(image, "tag_v2", {})
            plain = tags.get(_ORIENTATION, 1) == 1 and tags.get(_PHOTOMETRIC) in _PLAIN
            return _is_cropped(image) or (plain and image.mode != "1")
    except UnidentifiedImageError:
        return True
    except UNREADABLE:
        return False


def _read_with_rasterio(path: Path) -> Picture | None:
    try:
        from . import _raster
    except ImportError:
        return None
    with _raster.Raster(path) as raster:
        return _picture(*raster.read(Box(0, 0, raster.height, raster.width)))
