"""Reading images people have, writing label maps they can use."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from . import _files

Pixels = npt.NDArray[np.uint8]

# Pillow refuses images above 179 Mpx as decompression bombs; one aerial mosaic is easily larger.
_MAX_PIXELS = 4_000_000_000
_lock = threading.Lock()
_befores: list[int | None] = []  # limits that were found, the first one below


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


def read_rgb(path: str | Path) -> Pixels:
    """An image file (PNG, JPEG, TIFF, ...) as uint8 RGB [H, W, 3].

    Grey and palette images become RGB, alpha is dropped, the camera's orientation is applied. What
    Pillow cannot decode (16-bit or many-band TIFF) is read by rasterio where it is installed: first
    three bands (or the first one, if there are fewer), each stretched from its 2nd to its 98th
    percentile over 8 bits; what the file declares as no data is left out of that, and black.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or is no image that can be read; the message names it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"image must exist, got {path}")
    if path.is_dir():
        raise ValueError(f"image must be a file, got the folder {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"image must not be empty, got {path} of 0 bytes")
    try:
        with no_size_limit(), Image.open(path) as image:
            return as_rgb(image)
    except UnidentifiedImageError:
        return _read_with_rasterio(path)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"image must be readable, got {path}: {error}") from error


def as_rgb(image: Image.Image) -> Pixels:
    """A Pillow image as `read_rgb` returns it."""
    if image.mode.startswith(("I", "F")):
        return _stretch(np.asarray(image)[None].astype(np.float32))
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def size_of(path: Path) -> tuple[int, int] | None:
    """(H, W) by the file's head, as stored; None if it cannot be read."""
    unreadable = suppress(OSError, SyntaxError, ValueError, EOFError)
    with unreadable, no_size_limit(), Image.open(path) as image:
        return image.height, image.width
    with suppress(ImportError, OSError), _opened_by_rasterio(path) as source:
        return source.height, source.width
    return None


def write_png(path: Path, pixels: Pixels) -> None:
    """Writes labels [H, W] (8-bit grey, the value is the class id) or RGB [H, W, 3]."""
    with _files.whole(path) as partial:
        Image.fromarray(np.ascontiguousarray(pixels)).save(partial, format="PNG")


@contextmanager
def _opened_by_rasterio(path: Path) -> Iterator[Any]:
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            yield source


def _read_with_rasterio(path: Path) -> Pixels:
    try:
        import rasterio
    except ImportError:
        raise ValueError(
            f"image must be a PNG, JPEG or 8-bit TIFF, got {path}; for 16-bit or many-band TIFF: "
            f"pip install 'c2fcore[scene]'"
        ) from None
    try:
        with _opened_by_rasterio(path) as source:
            bands = source.read([1, 2, 3] if source.count >= 3 else [1], masked=True)
    except rasterio.errors.RasterioError as error:
        raise ValueError(f"image must be readable, got {path}: {error}") from error
    if bands.dtype == np.uint8:
        return np.ascontiguousarray(
            np.broadcast_to(bands.data.transpose(1, 2, 0), (*bands.shape[1:], 3))
        )
    return _stretch(bands.astype(np.float32).filled(np.nan))


def _stretch(bands: npt.NDArray[np.float32]) -> Pixels:
    """Bands [1 or 3, H, W] as uint8 RGB, each stretched between its 2nd and 98th percentile."""
    stretched = np.zeros((*bands.shape[1:], 3), dtype=np.uint8)
    for channel in range(3):
        band = bands[min(channel, len(bands) - 1)]
        known = band[np.isfinite(band)]
        low, high = np.percentile(known, (2, 98)) if len(known) else (0.0, 1.0)
        unit = (np.nan_to_num(band, nan=low) - low) / max(high - low, 1e-6)
        stretched[..., channel] = (np.clip(unit, 0, 1) * 255).round()
    return stretched
