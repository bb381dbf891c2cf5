"""What networks see of a GeoTIFF: bands, ranges, and where there is no data."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scenes_on_disk import COMMON, PALETTE, labels_of, make_net, noise, write

import c2fcore
from c2fcore import images, scene
from c2fcore.cli.scene import number
from c2fcore.data.tiling import Box
from c2fcore.engine import Engine

rasterio = pytest.importorskip("rasterio", reason="whole scenes: c2fcore[scene]")
from rasterio.enums import ColorInterp  # noqa: E402

from c2fcore._raster import Raster  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning"  # of files made and looked at here
)


def _holes(height: int, width: int) -> npt.NDArray[np.bool_]:
    """Where there is data: not in the first tiles, nor in a hole of the last."""
    known = np.ones((height, width), dtype=np.bool_)
    known[:, :38] = False
    known[45:50, 80:90] = False
    return known


@pytest.mark.parametrize("bits", [1, 4])
def test_few_bits_are_shown_from_black_to_white(tmp_path: Path, bits: int) -> None:
    """As viewers and Pillow do."""
    values = noise(1, 30, 40) % 2**bits
    source = write(tmp_path / "scene.tif", values, nbits=bits)
    with Raster(source) as raster:
        pixels = raster.read(Box(0, 0, 30, 40)).pixels
    assert np.array_equal(pixels, (values[0] * (255 // (2**bits - 1)))[..., None].repeat(3, 2))
    assert np.array_equal(pixels, images.read(source).pixels)
    with Raster(source, value_range="raw") as raster:
        assert raster.read(Box(0, 0, 30, 40)).pixels.max() == 2**bits - 1


def test_bands_of_different_types(tmp_path: Path) -> None:
    """As a VRT may have them."""
    few, many = noise(1, 30, 40), noise(1, 30, 40, np.uint16)
    bands = ""
    for band, (kind, file) in enumerate(
        (("Byte", write(tmp_path / "few.tif", few)), ("UInt16", write(tmp_path / "many.tif", many)))
    ):
        bands += (
            f'<VRTRasterBand dataType="{kind}" band="{band + 1}"><SimpleSource>'
            f"<SourceFilename>{file}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
            "</VRTRasterBand>"
        )
    source = tmp_path / "scene.vrt"
    source.write_text(f'<VRTDataset rasterXSize="40" rasterYSize="30">{bands}</VRTDataset>')
    with Raster(source, bands=(1, 2, 1), value_range="raw") as raster:
        pixels = raster.read(Box(0, 0, 30, 40)).pixels
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, np.stack([few[0], many[0], few[0]], 2))
    with Raster(source, bands=(1, 2, 1)) as raster:
        stretched = raster.read(Box(0, 0, 30, 40)).pixels
    assert stretched.dtype == np.uint8
    assert np.array_equal(stretched[..., 0], stretched[..., 1])  # which has the same up to a scale


@pytest.mark.parametrize("way", ["mask", "alpha", "infrared", "both", "nodata", "asked", "nan"])
def test_no_data_is_255(engine: Engine, tmp_path: Path, way: str) -> None:
    image, known = noise(3, 64, 100), _holes(64, 100)
    image[:, 20, 95] = (0, 0, 7)  # one band is no data, the pixel is
    image[2][image[2] == 0] = 1
    if way in ("nodata", "asked"):
        image[:, ~known] = 0
    how: dict[str, Any] = {}
    if way == "mask":
        source = write(tmp_path / "scene.tif", image, known)
    elif way in ("alpha", "infrared", "both"):
        alpha = known[None].astype(np.uint8) * 128
        if way == "both":  # of each a part
            alpha[:, :, :30] = 128
            image[:, :, :30] = 0
        # Of five bands GDAL heeds no alpha.
        infrared = [np.ones_like(alpha)] if way == "infrared" else []
        bands = np.concatenate([image, *infrared, alpha])
        source = write(tmp_path / "scene.tif", bands, photometric="RGB",
                       nodata=0 if way == "both" else None)  # fmt: skip
        with rasterio.open(source, "r+") as file:
            file.colorinterp = [*file.colorinterp[:-1], ColorInterp.alpha]
    elif way == "nan":
        floats = image.astype(np.float32)
        floats[:, ~known] = np.nan
        source = write(tmp_path / "scene.tif", floats)
        image[:, ~known] = 0
        how["value_range"] = (0, 255)
    else:
        source = write(tmp_path / "scene.tif", image, nodata=0 if way == "nodata" else None)
        how["nodata"] = 0 if way == "asked" else None
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON, **how)
    everywhere = scene.segment(engine, image.transpose(1, 2, 0), **COMMON).labels
    assert np.array_equal(labels_of(found.path), np.where(known, everywhere, 255))
    assert found.pixels[255] == np.count_nonzero(~known)
    # Tiles of 40 begin at 0, 32, 60 and speak for 0..36, 36..66, 66..100: the first ones see data,
    # but do not speak for it.
    assert (found.tiles, found.empty) == (6, 2)
    assert found.share(1) == (everywhere[known] == 1).mean()


@pytest.mark.parametrize(("dtype", "nodata"), [(np.float64, 0.1), (np.int32, 2**31 - 1)])
def test_a_nodata_value_beside_alpha(tmp_path: Path, dtype: type, nodata: float) -> None:
    """Which float32, as values are read, does not hold."""
    bands = noise(4, 30, 40).astype(dtype)
    bands[3] = 1
    bands[3, :5] = 0
    bands[:3, 20:] = nodata
    source = write(tmp_path / "scene.tif", bands, nodata=nodata)
    with rasterio.open(source, "r+") as file:
        file.colorinterp = [*file.colorinterp[:3], ColorInterp.alpha]
    with Raster(source) as raster:
        known = raster.read(Box(0, 0, 30, 40)).known
    assert known[5:20].all()
    assert not known[:5].any()
    assert not known[20:].any()


@pytest.mark.parametrize(
    ("dtype", "nodata", "values"),
    [
        (np.int32, "-2147483648", -(2**31) + 1),
        (np.uint32, "4294967295", 2**32 - 2),
        (np.int64, "9007199254740993", 2**53),
        (np.int64, "-9223372036854775808", -(2**63) + 1),
    ],
)
def test_a_nodata_value_that_float32_rounds(
    tmp_path: Path, dtype: type, nodata: str, values: int
) -> None:
    """Only what has it has no data, not what is near."""
    bands = noise(3, 30, 40).astype(dtype)
    bands[:, 20:] = int(nodata)
    bands[:, :5] = values
    source = write(tmp_path / "scene.tif", bands)
    for value_range in (None, (0, 255)):
        with Raster(source, nodata=number(nodata), value_range=value_range) as raster:
            pixels, known = raster.read(Box(0, 0, 30, 40))
        assert known[:20].all()
        assert not known[20:].any()
        assert pixels.dtype == np.uint8
    assert np.array_equal(pixels[5:20], bands[:, 5:20].transpose(1, 2, 0))


def test_a_nodata_value_that_float32_does_not_hold(tmp_path: Path) -> None:
    bands = noise(3, 30, 40).astype(np.float64)
    bands[:, 20:] = -1.5e308
    source = write(tmp_path / "scene.tif", bands)
    with warnings.catch_warnings(), Raster(source, nodata=number("-1.5e308")) as raster:
        warnings.simplefilter("error")
        known = raster.read(Box(0, 0, 30, 40)).known
    assert known[:20].all()
    assert not known[20:].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_scene_without_data(engine: Engine, tmp_path: Path, dtype: type) -> None:
    source = write(tmp_path / "scene.tif", np.zeros((3, 50, 90), dtype), nodata=0)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON)
    assert (labels_of(found.path) == 255).all()
    assert (found.windows, found.empty, found.share(0)) == (0, found.tiles, 0.0)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("all_px", [100_000, 1000])  # of a sample, too
def test_one_stretch_for_the_whole_scene(
    engine: Engine,
    tmp_path: Path,
    dtype: type,
    count: int,
    all_px: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tiles of their own percentiles would differ: the scene is darker on the left."""
    monkeypatch.setattr(images, "_ALL_PX", all_px)
    monkeypatch.setattr(images, "_SAMPLE_PX", 4)
    monkeypatch.setattr(images, "_SAMPLE_COUNT", 8)
    bands = noise(count, 64, 100, dtype)
    bands[:, :, :50] //= 4
    bands[:, 3:9] = 77
    source = write(tmp_path / "scene.tif", bands, nodata=77)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON)
    expected = scene.segment(engine, source, **COMMON).labels
    known = (bands[:3] != 77).any(0)
    assert np.array_equal(labels_of(found.path), np.where(known, expected, 255))
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("installed", [True, False])
def test_white_may_be_0(
    tmp_path: Path, dtype: Any, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scene is seen as the image, which is as Pillow shows it, unless bands are chosen."""
    values = noise(1, 64, 100, dtype)
    values[0, :9] = 0
    sources = [
        write(tmp_path / f"{kind}.tif", values, photometric=kind, nodata=0 if dtype != np.uint8 else
              None)
        for kind in ("MINISWHITE", "MINISBLACK")
    ]  # fmt: skip
    seen = [Raster(source).read(Box(0, 0, 64, 100)) for source in sources]
    assert np.array_equal(seen[0].pixels[9:], 255 - seen[1].pixels[9:])
    assert (seen[0].pixels[:9] == (255 if dtype == np.uint8 else 0)).all()
    chosen = Raster(sources[0], bands=(1,), channels=1).read(Box(0, 0, 64, 100))
    assert np.array_equal(chosen.pixels[..., 0], seen[1].pixels[..., 0])
    if dtype == np.uint8:
        with Image.open(sources[0]) as image:
            assert np.array_equal(np.asarray(image), seen[0].pixels[..., 0])
    if not installed:
        monkeypatch.setitem(sys.modules, "rasterio", None)
        monkeypatch.delitem(sys.modules, "c2fcore._raster")
        monkeypatch.delattr(c2fcore, "_raster")
    picture = images.read(sources[0])
    assert np.array_equal(picture.pixels, seen[0].pixels)
    assert (picture.known is None) == (dtype == np.uint8)


def test_a_grey_scene_and_a_palette(engine: Engine, tmp_path: Path) -> None:
    grey = noise(1, 64, 100)
    source = write(tmp_path / "grey.tif", grey)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON)
    expected = scene.segment(engine, grey.repeat(3, 0).transpose(1, 2, 0), **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)
    with rasterio.open(write(tmp_path / "palette.tif", grey % 4), "r+") as file:
        file.write_colormap(1, {c: (*colour, 255) for c, colour in enumerate(PALETTE)})
    found = scene.segment_file(engine, tmp_path / "palette.tif", tmp_path / "p.tif", **COMMON)
    expected = scene.segment(engine, tmp_path / "palette.tif", **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)


def test_two_bands_must_be_named(engine: Engine, tmp_path: Path) -> None:
    """Each as often as wanted."""
    bands, target = noise(2, 64, 100), tmp_path / "labels.tif"
    two = write(tmp_path / "two.tif", bands)
    with pytest.raises(ValueError, match=r"one band or at least three, got .* with 2; .*1,2,1"):
        scene.segment_file(engine, two, target, **COMMON)
    found = scene.segment_file(engine, two, target, **COMMON, bands=(1, 2, 1))
    expected = scene.segment(engine, bands[[0, 1, 0]].transpose(1, 2, 0), **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_and_range(engine: Engine, tmp_path: Path, dtype: type) -> None:
    bands = noise(4, 64, 100, dtype)
    source = write(tmp_path / "scene.tif", bands)
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON, bands=(4, 3, 2),
                               value_range=(1000, 6000))  # fmt: skip
    unit = ((bands[[3, 2, 1]].astype(np.float32) - 1000) / 5000).clip(0, 1)
    seen = (unit * 255).round().astype(np.uint8).transpose(1, 2, 0)
    assert np.array_equal(labels_of(found.path), scene.segment(engine, seen, **COMMON).labels)


@pytest.mark.parametrize("nodata", [None, 0])
def test_an_alpha_band_that_is_asked_for_is_none(
    engine: Engine, tmp_path: Path, nodata: int | None
) -> None:
    """GDAL takes the fourth of four bytes for alpha; near infrared is dark on water."""
    bands = np.maximum(noise(4, 64, 100), 1)
    bands[3, 30:] = 0
    source = write(tmp_path / "scene.tif", bands, nodata=nodata)
    with rasterio.open(source) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    masked = scene.segment_file(engine, source, tmp_path / "masked.tif", **COMMON)
    assert masked.pixels[255] >= 34 * 100
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **COMMON, bands=(4, 3, 2))
    expected = scene.segment(engine, bands[[3, 2, 1]].transpose(1, 2, 0), **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_networks_of_other_channels(tmp_path: Path, channels: int) -> None:
    """The first bands unless others are named; values as they are if asked for."""
    engine = make_net(channels).compile()
    bands = noise(7, 50, 60, np.uint16)
    source = write(tmp_path / "scene.tif", bands)
    how: dict[str, Any] = {**COMMON, "value_range": "raw"}
    found = scene.segment_file(engine, source, tmp_path / "labels.tif", **how)
    expected = scene.segment(engine, bands[:channels].transpose(1, 2, 0), **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)
    chosen = tuple(range(7, 7 - channels, -1))
    found = scene.segment_file(engine, source, tmp_path / "chosen.tif", **how, bands=chosen)
    expected = scene.segment(engine, bands[[b - 1 for b in chosen]].transpose(1, 2, 0), **COMMON)
    assert np.array_equal(labels_of(found.path), expected.labels)
    with pytest.raises(ValueError, match=rf"bands must be {channels}, one per channel .* got 2"):
        scene.segment_file(engine, source, tmp_path / "no.tif", **how, bands=(1, 2))
    if channels > 3:
        few = write(tmp_path / "few.tif", bands[:3])
        with pytest.raises(ValueError, match=rf"the {channels} bands that the networks need, got"):
            scene.segment_file(engine, few, tmp_path / "no.tif", **how)


def test_percentiles_of_a_large_image_are_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_ALL_PX", 1000)
    monkeypatch.setattr(images, "_SAMPLE_PX", 4)
    monkeypatch.setattr(images, "_SAMPLE_COUNT", 8)
    band = np.random.default_rng(3).normal(500, 100, (1, 300, 400)).astype(np.float32)
    seen: list[Box] = []

    def read(box: Box) -> npt.NDArray[np.float32]:
        seen.append(box)
        return band[:, box.y0 : box.y1, box.x0 : box.x1]

    found = images.Stretch.of(read, 300, 400)
    assert len(seen) == 64
    assert {(b.y1 - b.y0, b.x1 - b.x0) for b in seen} == {(4, 4)}
    assert (seen[0][:2], seen[-1][2:]) == ((0, 0), (300, 400))
    assert np.allclose((found.low, found.high), np.percentile(band, (2, 98))[:, None], atol=30)
    # An island between the windows is found, too; nothing at all gives 0.
    empty = np.full_like(band, np.nan)
    band[:] = empty
    band[:, 100:102, 100:102] = 5, 6
    assert images.Stretch.of(read, 300, 400).low[0] == pytest.approx(5, abs=0.1)
    band[:] = empty
    assert not images.Stretch.of(read, 300, 400)(band).any()
