"""Rasters of any size, read window by window as networks see them (GeoTIFF, VRT, COG, ...)."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError

from .data.tiling import Box
from .images import Stretch

_LOG = logging.getLogger(__name__)
RAW: Final = "raw"
# Some of rasterio's functions pass on GDAL's own errors; a failure without one is a SystemError.
ERRORS: Final = (RasterioError, CPLE_BaseError, SystemError)
_ROUNDED: Final = {"int32", "uint32", "int64", "uint64"}  # by float32, from 2^24 on


class Seen(NamedTuple):
    """A part of a raster.

    Attributes:
        pixels: [H, W, C] for the networks, any strides.
        known: bool [H, W], False where the file has no data.
    """

    pixels: npt.NDArray[Any]
    known: npt.NDArray[np.bool_]


class Raster:
    """A raster file, open for reading; one thread at a time reads, any may close.

    Values of 8 bits are passed on as they are, of fewer bits spread from black to white, others
    stretched over 8 bits: one `Stretch` for the whole file, whatever is read of it. Grey of which 0
    is white is turned around, unless bands or a range were chosen. A pixel has data if any of its
    bands has: by the file's mask, alpha band or nodata value, by `nodata`, and not NaN or infinite.
    Where a band of more than 8 bits has none it is 0.

    Attributes:
        name: what messages call it.
        source: the open dataset of rasterio.
        height: in pixels.
        width: in pixels.
        bands: numbers of the bands read, from 1.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        bands: Sequence[int] | None = None,
        channels: int = 3,
        value_range: tuple[float, float] | str | None = None,
        nodata: float | None = None,
    ) -> None:
        """Opens a file.

        Args:
            path: anything that rasterio opens.
            bands: numbers from 1, in the order of the channels. None: the first `channels` that are
                no alpha; for three channels one grey band, or a palette's colours, will do.
            channels: that the networks need.
            value_range: values that become 0 and 255, in all bands; None: see above; "raw": the
                networks get the values themselves.
            nodata: a value that means no data, besides what the file declares.

        Raises:
            ValueError: no raster that can be read, a band that is not there, or a bad range.
        """
        self.name = str(path)
        self._nodata = nodata
        self._lock = threading.Lock()
        self.source = open_quietly(path)
        if pages := len(self.source.subdatasets):
            _LOG.warning("note: %s has %d images: the first is read", self.name, pages)
        try:
            self.height, self.width = self.source.height, self.source.width
            self._set_bands(bands, channels)
            self._set_values(value_range, bands is None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Raster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file, once it is not being read."""
        with self._lock:
            self.source.close()

    def read(self, box: Box) -> Seen:
        """A part of the raster.

        Raises:
            ValueError: the file cannot be read there.
        """
        values, known = self._values(box)
        seen: npt.NDArray[np.bool_] = np.any(known, axis=0)
        if self._colours is not None:
            return Seen(self._colours[values[0]], seen)
        if self._stretch is not None:
            pixels = self._stretch(np.where(known, values, np.float32(np.nan)))
        else:
            pixels = np.where(known, values, 0) if values.dtype != np.uint8 else values
            pixels = pixels.transpose(1, 2, 0)
        if self._negative:
            pixels = np.where(seen[..., None] | self._all_bytes, 255 - pixels, pixels)
        return Seen(pixels.repeat(3, axis=2) if self._grey else pixels, seen)

    def _values(self, box: Box) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Values [C, h, w], and which of them are data."""
        window = ((box.y0, box.y1), (box.x0, box.x1))
        try:
            with self._lock, rasterio.Env():
                values = self._read(window)
                known = self._mask(window)
        except ERRORS as error:
            raise ValueError(
                f"image must be readable, got {self.name} at rows {box.y0} to {box.y1 - 1}, "
                f"columns {box.x0} to {box.x1 - 1}: {error.__cause__ or error}"
            ) from error
        if self._nodata is not None:
            with np.errstate(over="ignore"):  # one that float32 does not hold
                known &= values != self._nodata
        if self._dtype is not None:
            values = values.astype(self._dtype, copy=False)
        if values.dtype.kind == "f":
            known &= np.isfinite(values)
        return values, known

    def _read(self, window: Any) -> npt.NDArray[Any]:
        # Integers that float32 rounds are compared with a value for no data as they are.
        exact = self._nodata is not None and self._kinds <= _ROUNDED
        dtype = None if exact else self._dtype
        if len(self._kinds) == 1:
            found: npt.NDArray[Any] = self.source.read(self.bands, window=window, out_dtype=dtype)
            return found
        # Bands of a VRT may differ in dtype; rasterio reads such bands only one by one.
        each = [self.source.read(b, window=window, out_dtype=dtype) for b in self.bands]
        return np.stack(each)  # in a dtype that holds all of them

    def _mask(self, window: Any) -> npt.NDArray[np.bool_]:
        """Which values [C, h, w] the file calls data."""
        with ExitStack() as quiet:
            if self._shadowed:  # rasterio warns that alpha is ignored; it is read below
                quiet.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore", NodataShadowWarning)
            found: npt.NDArray[np.bool_] = self.source.read_masks(self.bands, window=window) != 0
        if self._alpha is not None:
            found &= self.source.read(self._alpha, window=window) != 0
        return found

    def _set_bands(self, bands: Sequence[int] | None, channels: int) -> None:
        count = self.source.count
        if not count:
            inside = self.source.subdatasets
            hint = f"; it holds others, such as {inside[0]}" if inside else ""
            raise ValueError(f"image must have bands, got {self.name} without any{hint}")
        self._grey = False
        if bands is None:
            colour = [b for b in self.source.indexes if not self._is_alpha(b)]
            if channels == 3 and len(colour) == 2:
                raise ValueError(
                    f"image must have one band or at least three, got {self.name} with 2; which to "
                    "show as what is told by c2f scene --bands 1,2,1, or bands=(1, 2, 1)"
                )
            self._grey = channels == 3 and len(colour) == 1
            bands = colour[: 1 if self._grey else channels]
            if len(bands) < (1 if self._grey else channels):
                every = ",".join(map(str, self.source.indexes))
                hint = f" and alpha; --bands {every} takes that as one" if count == channels else ""
                raise ValueError(
                    f"image must have the {channels} bands that the networks need, got {self.name} "
                    f"with {len(colour)}{hint}"
                )
        elif not bands or not all(1 <= band <= count for band in bands):
            raise ValueError(
                f"bands must be in 1..{count}, of which {self.name} has {count}, got "
                f"{', '.join(map(str, bands)) or 'none'}"
            )
        self.bands = tuple(int(band) for band in bands)
        self._kinds = {self.source.dtypes[band - 1] for band in self.bands}
        if any("complex" in kind for kind in self._kinds):
            kinds = ", ".join(sorted(self._kinds))
            raise ValueError(f"bands must hold real numbers, got {self.name} of {kinds}")
        alpha = next(filter(self._is_alpha, self.source.indexes), None)
        # A band that was asked for is no alpha, whatever the file says. GDAL's masks include alpha
        # by themselves only in files of 2 or 4 bands of 8 or 16 bits without a mask or a nodata
        # value (gdalwarp -dstalpha writes floats); elsewhere `_mask` reads it.
        heeded = all(MaskFlags.alpha in self.source.mask_flag_enums[b - 1] for b in self.bands)
        self._alpha = None if alpha in self.bands or heeded else alpha
        self._shadowed = alpha is not None and any(v is not None for v in self.source.nodatavals)
        self._all_bytes = self._kinds == {"uint8"}

    def _is_alpha(self, band: int) -> bool:
        return bool(self.source.colorinterp[band - 1] == ColorInterp.alpha)

    def _set_values(self, value_range: tuple[float, float] | str | None, usual: bool) -> None:
        """How values become pixels; `usual`: of bands that nobody chose."""
        as_they_are = value_range == RAW or (value_range is None and self._all_bytes)
        self._dtype = None if as_they_are else "float32"
        self._colours: npt.NDArray[np.uint8] | None = None
        # MINISWHITE is inverted as viewers and Pillow do; GDAL leaves that to its callers.
        shown = self.source.tags(ns="IMAGE_STRUCTURE")
        negative = usual and value_range is None and self._grey
        self._negative = negative and shown.get("MINISWHITE") == "YES"
        self._stretch: Stretch | None = None
        if as_they_are:
            palette = self.source.colorinterp[self.bands[0] - 1] == ColorInterp.palette
            if value_range is None and usual and self._grey and palette:
                self._colours = np.zeros((256, 3), dtype=np.uint8)
                for value, colour in self.source.colormap(self.bands[0]).items():
                    self._colours[value] = colour[:3]
            elif value_range is None and not palette and (bits := self._fewest_bits()) < 8:
                self._dtype = "float32"
                ends = (0.0,) * len(self.bands), (2.0**bits - 1,) * len(self.bands)
                self._stretch = Stretch(*ends)
        elif value_range is None:
            self._stretch = Stretch.of(self._sampled, self.height, self.width)
        else:
            self._stretch = Stretch(*((end,) * len(self.bands) for end in _checked(value_range)))

    def _fewest_bits(self) -> int:
        """Of a value of bytes: 1 of black and white, 4 of some scans."""
        about = (self.source.tags(band, ns="IMAGE_STRUCTURE") for band in self.bands)
        return min(int(tags.get("NBITS", 8)) for tags in about)

    def _sampled(self, box: Box) -> npt.NDArray[np.float32]:
        values, known = self._values(box)
        return np.where(known, values, np.float32(np.nan))


def open_quietly(path: str | Path, mode: str = "r", **options: Any) -> Any:
    """A dataset of rasterio, georeferenced or not.

    Raises:
        ValueError: rasterio cannot open it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path, mode, **options)
    except UnicodeEncodeError:  # of a file system that takes any bytes
        raise ValueError(f"names of rasters must be UTF-8, got {str(path)!a}") from None
    except ERRORS as error:
        raise ValueError(f"image must be readable, got {path}: {error}") from error


def _checked(value_range: tuple[float, float] | str) -> tuple[float, float]:
    if isinstance(value_range, str) or len(value_range) != 2:
        raise ValueError(f"value_range must be (low, high), 'raw' or None, got {value_range!r}")
    low, high = map(float, value_range)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"value_range must be two numbers, low < high, got {low:g} and {high:g}")
    return low, high
