"""Reading what users have, writing what they can use, drawing what they would look at."""

from __future__ import annotations

import itertools
import os
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scenes_on_disk import write

import c2fcore
from c2fcore import C2FConfig, images, pictures
from c2fcore.data.masks import read_mask
from c2fcore.images import read_rgb, size_of, write_png

RGB = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_lossless_files_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"image{suffix}"
    Image.fromarray(RGB).save(file)
    assert np.array_equal(read_rgb(file), RGB)


def test_jpeg_is_read(tmp_path: Path) -> None:
    smooth = np.full((16, 24, 3), (30, 120, 200), dtype=np.uint8)
    Image.fromarray(smooth).save(tmp_path / "image.jpg", quality=95)
    read = read_rgb(tmp_path / "image.jpg")
    assert read.shape == (16, 24, 3)
    assert np.abs(read.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "image.tif"
    image = Image.fromarray(RGB).convert(mode)
    image.save(file)
    assert np.array_equal(read_rgb(file), np.asarray(image.convert("RGB")))


def test_16_bit_grey_is_stretched(tmp_path: Path) -> None:
    ramp = np.linspace(1000, 5000, 64 * 64, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "image.tif")
    read = read_rgb(tmp_path / "image.tif")
    assert read.shape == (64, 64, 3)
    assert read.min() == 0
    assert read.max() == 255
    assert np.array_equal(read[..., 0], read[..., 2])
    assert (np.diff(read[..., 0].ravel().astype(int)) >= 0).all()


def _geotiff(path: Path, bands: npt.NDArray[Any], **profile: Any) -> Path:
    rasterio = pytest.importorskip("rasterio", reason="reads what Pillow cannot: c2fcore[scene]")
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    where = rasterio.Affine(0.3, 0, 500000, 0, -0.3, 5400000)
    with rasterio.open(
        path, "w", "GTiff", **shape, crs="EPSG:32633", transform=where, **profile
    ) as f:
        f.write(bands)
    return path


def _within_percentiles(band: npt.NDArray[Any]) -> npt.NDArray[Any]:
    low, high = np.percentile(band, (2, 98))
    return (((band - low) / (high - low)).clip(0, 1) * 255).round()


@pytest.mark.parametrize(
    ("dtype", "count", "kind"),
    [
        *itertools.product([np.uint16, np.int16, np.float32], [1, 3, 4, 8], ["MINISBLACK"]),
        *itertools.product([np.uint16], [3, 4], ["RGB"]),
    ],
)
def test_many_bands_of_16_bits(tmp_path: Path, dtype: type, count: int, kind: str) -> None:
    """Of those called RGB Pillow alone would take the upper 8 bits."""
    bands = np.random.default_rng(1).integers(0, 5000, (count, 37, 53)).astype(dtype)
    read = read_rgb(_geotiff(tmp_path / "image.tif", bands, photometric=kind))
    for channel in range(3):
        wanted = _within_percentiles(bands[channel if count >= 3 else 0].astype(np.float32))
        assert np.abs(read[..., channel] - wanted).max() <= 1


def test_no_data_is_black_and_does_not_count(tmp_path: Path) -> None:
    bands = np.random.default_rng(1).integers(3000, 5000, (4, 37, 53)).astype(np.uint16)
    bands[:, :20] = 0
    read = read_rgb(_geotiff(tmp_path / "image.tif", bands, nodata=0))
    assert not read[:20].any()
    wanted = _within_percentiles(bands[0, 20:].astype(np.float32))
    assert np.abs(read[20:, :, 0] - wanted).max() <= 1


@pytest.mark.parametrize("way", ["alpha", "palette", "key", "mask", "nodata", "nan"])
def test_where_there_is_data(tmp_path: Path, way: str) -> None:
    if way in ("mask", "nodata", "nan"):
        pytest.importorskip("rasterio", reason="reads what Pillow cannot: c2fcore[scene]")
    wanted = np.ones(RGB.shape[:2], np.bool_)
    wanted[:, :4] = False
    path, given = tmp_path / "image.tif", np.maximum(RGB, 1) * wanted[..., None]
    if way == "alpha":
        alpha = np.where(wanted, 100, 0).astype(np.uint8)[..., None]
        Image.fromarray(np.concatenate([given, alpha], 2)).save(path := path.with_suffix(".png"))
    elif way in ("palette", "key"):
        coded = Image.fromarray(wanted.astype(np.uint8))
        if way == "palette":
            coded.putpalette([0, 0, 0, 255, 255, 255])
        coded.save(path := path.with_suffix(".png"), transparency=0)
    elif way == "mask":
        write(path, given.transpose(2, 0, 1), wanted)
    elif way == "nodata":
        write(path, given.transpose(2, 0, 1), nodata=0)
    else:
        floats = np.where(wanted[..., None], given, np.nan).astype(np.float32)
        write(path, floats.transpose(2, 0, 1))
    known = images.read(path).known
    assert known is not None
    assert np.array_equal(known, wanted)
    Image.fromarray(RGB).save(tmp_path / "whole.png")
    assert images.read(tmp_path / "whole.png").known is None


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_two_bands(tmp_path: Path, dtype: type, interleave: str) -> None:
    """Nobody knows what to show; unless the second one is alpha."""
    bands = np.random.default_rng(1).integers(1, 250, (2, 37, 53)).astype(dtype)
    path = _geotiff(tmp_path / "image.tif", bands, interleave=interleave)
    with pytest.raises(ValueError, match=r"one band or at least three, got .* with 2; .* --bands"):
        images.read(path)
    bands[1, :20] = 0
    found = images.read(_geotiff(path, bands, interleave=interleave, alpha="yes"))
    assert found.known is not None
    assert np.array_equal(found.known, bands[1] != 0)


def test_what_pillow_would_crop_needs_rasterio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _geotiff(tmp_path / "image.tif", np.zeros((3, 37, 53), np.uint16), photometric="RGB")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.delitem(sys.modules, "c2fcore._raster", raising=False)
    monkeypatch.delattr(c2fcore, "_raster", raising=False)
    with pytest.raises(ValueError, match=r"8-bit PNG or TIFF, got .*pip install 'c2fcore\[scene"):
        images.read(path)


@pytest.mark.parametrize("installed", [True, False])
def test_no_data_of_a_tiff_that_pillow_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """One band of 16 bits: the same with and without rasterio."""
    if not installed:
        monkeypatch.setitem(sys.modules, "rasterio", None)
        monkeypatch.delitem(sys.modules, "c2fcore._raster", raising=False)
        monkeypatch.delattr(c2fcore, "_raster", raising=False)
    band = np.random.default_rng(1).integers(3000, 5000, (37, 53)).astype(np.uint16)
    band[:20] = 0
    Image.fromarray(band).save(tmp_path / "image.tif", tiffinfo={42113: "0"})
    read = read_rgb(tmp_path / "image.tif")
    assert not read[:20].any()
    assert np.abs(read[20:, :, 0] - _within_percentiles(band[20:].astype(np.float32))).max() <= 1
    if not installed:
        Image.fromarray(band).save(tmp_path / "image.tif", tiffinfo={42113: "nonsense"})
        assert read_rgb(tmp_path / "image.tif")[20:].min() > 100


def test_values_of_any_range_are_stretched(tmp_path: Path) -> None:
    """Radiances of some 1e-9, infinities, and no data beyond float32, all without a warning."""
    largest = np.finfo(np.float32).max
    small = np.linspace(1e-9, 2e-9, 101, dtype=np.float32)
    for ends, nodata in (
        ((-np.inf, np.inf), "inf"),
        ((-largest, largest), "0"),
        ((-largest, 3e-9), "-1.7976931348623157e+308"),
    ):
        row = np.r_[np.float32(ends[0]), small, np.float32(ends[1])]
        Image.fromarray(row[None]).save(tmp_path / "a.tif", tiffinfo={42113: nodata})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = read_rgb(tmp_path / "a.tif")[0, :, 0].astype(int)
        assert (found[0], found[51]) == (0, pytest.approx(127, abs=3))
        assert found[-1] == (0 if nodata == "inf" else 255)
        assert (np.diff(found[:-1]) >= 0).all()


def test_five_bands_of_8_bits_are_not_stretched(tmp_path: Path) -> None:
    bands = np.random.default_rng(1).integers(90, 120, (5, 37, 53), dtype=np.uint8)
    read = read_rgb(
        _geotiff(
            tmp_path / "image.tif",
            bands,
            compress="deflate",
            tiled=True,
            blockxsize=16,
            blockysize=16,
        )
    )
    assert np.array_equal(read, bands[:3].transpose(1, 2, 0))


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "P", "I;16", "F"])
@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_camera_orientation_is_applied(tmp_path: Path, name: str, kind: str) -> None:
    bits = np.array(RGB[..., 0], dtype=np.float32 if kind == "F" else np.uint16)
    image = Image.fromarray(bits) if kind in ("I;16", "F") else Image.fromarray(RGB).convert(kind)
    assert image.mode == kind
    name = "image.tif" if kind == "F" else name  # PNG holds none
    image.save(tmp_path / name)
    stored = read_rgb(tmp_path / name)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / name, exif=exif)
    assert np.array_equal(read_rgb(tmp_path / name), np.rot90(stored, -1))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"image must exist, got .*none\.png"):
        read_rgb(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"must be a file, got the folder"):
        read_rgb(tmp_path)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ValueError, match=r"must not be empty, got .*empty\.png of 0 bytes"):
        read_rgb(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"got .*text\.png"):
        read_rgb(tmp_path / "text.png")
    file = tmp_path / "cut.png"
    Image.fromarray(RGB).save(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"must be readable, got .*cut\.png"):
        read_rgb(file)


def test_a_head_that_promises_too_much(tmp_path: Path) -> None:
    """Pillow's error of decompression bombs is of no usual kind."""
    path = tmp_path / "bomb.png"
    write_png(path, np.zeros((4, 4), np.uint8))
    whole = path.read_bytes()
    kind = b"IHDR" + struct.pack(">II", 2**31 - 1, 2**31 - 1) + whole[24:29]
    path.write_bytes(whole[:12] + kind + struct.pack(">I", zlib.crc32(kind)) + whole[33:])
    with pytest.raises(ValueError, match=r"got .*bomb.png: .*exceeds limit"):
        images.read(path)
    assert images.size_of(path) is None
    assert images.text_of_png(path) is None
    with pytest.raises(ValueError, match=r"got .*bomb.png: .*exceeds limit"):
        read_mask(path)


def test_a_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    """Opening a pipe waits until somebody writes, so a folder that holds one must not be stuck."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    sizes: list[Any] = []
    reader = threading.Thread(target=lambda: sizes.append(size_of(pipe)), daemon=True)
    reader.start()
    reader.join(20)
    assert sizes == [None]
    with pytest.raises(ValueError, match=r"must be a file, got .*pipe\.png, which is a pipe"):
        read_rgb(pipe)


def test_labels_keep_every_id(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_png(tmp_path / "labels.png", labels)
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), labels)


def test_overlay_colours_only_what_is_shown() -> None:
    labels = np.zeros((8, 8), dtype=np.uint8)
    labels[2:6, 2:6] = 3
    labels[7, 7] = 2
    image = np.full((8, 8, 3), 100, dtype=np.uint8)
    palette = pictures.default_palette(4)
    shown = pictures.overlay(image, labels, palette, shown=[3])
    assert (shown[labels != 3] == 100).all()
    assert (shown[3, 3] != 100).any()
    assert np.array_equal(shown[5, 5], palette[3])  # outline


def test_palette_colours_are_distinct() -> None:
    assert len({tuple(c) for c in pictures.default_palette(64).tolist()}) == 64


def test_dark_colours_of_small_classes_are_not_for_pictures() -> None:
    def palette(blue: int) -> list[list[int]]:
        config = C2FConfig.preset(
            "fast",
            num_classes=2,
            small_classes=(1,),
            palette=((0, 0, 0), (0, 0, blue)),
        )
        return pictures.bright_palette(config).tolist()

    assert palette(128) == [[0, 0, 0], [0, 0, 128]]
    assert palette(127) == pictures.default_palette(2).tolist()


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_frames_stand_around_windows(scale: float) -> None:
    """What is in a window is seen whole; but for one at the border, which has no room around it."""
    image = np.full((80, 80, 3), 90, dtype=np.uint8)
    framed = pictures.draw_windows(image, [(8, 16), (48, 0), (60, 70)], 32, scale, numbered=False)
    side = round(80 * scale)
    assert framed.shape == (side, side, 3)
    top, left, size = round(8 * scale), round(16 * scale), round(32 * scale)
    assert (framed[top : top + size, left : left + size] == 90).all()
    assert (framed[top - 1, left : left + size] == 255).all()
    assert (framed[top : top + size, left + size] == 255).all()
    assert (framed[top - 2, left : left + size] == 0).all()
    assert (framed[-1, : round(30 * scale)] == 255).all()  # at the border of the image
    assert (framed[round(50 * scale) :, 0] == 255).all()
    assert (framed[-1, round(72 * scale) :] == 90).all()  # a window that ends outside
    assert (image == 90).all()


def test_windows_are_numbered() -> None:
    image = np.full((64, 64, 3), 90, dtype=np.uint8)
    framed = pictures.draw_windows(image, [(8, 8)], 48)
    assert (framed[9:24, 10:24] > 200).any()


def test_panels_stand_side_by_side() -> None:
    dark, light = np.full((10, 20, 3), 10, np.uint8), np.full((5, 5, 3), 200, np.uint8)
    sheet = pictures.side_by_side([("a", dark), ("b", light)], [("c", (1, 2, 3))], columns=2)
    assert (sheet == 10).all(axis=-1).sum() >= 10 * 20
    assert (sheet == 200).all(axis=-1).sum() >= 10 * 20
    assert (sheet == (1, 2, 3)).all(axis=-1).any()


def test_a_legend_takes_the_rows_it_needs() -> None:
    panel = np.full((40, 200, 3), 128, np.uint8)
    legend = [(f"class number {i}", (i, 0, 255 - i)) for i in range(7)]
    few, many = (pictures.side_by_side([("a", panel)], part, 1) for part in (legend[:1], legend))
    assert many.shape[1] == few.shape[1] == 224
    assert (many.shape[0] - few.shape[0]) % 6 == 0  # each name has a row of its own here
    lefts = set()
    for _, colour in legend:
        rows, columns = (many == colour).all(axis=-1).nonzero()
        assert len(rows) >= 13 * 13
        lefts.add(int(columns.min()))
    assert len(lefts) == 1
