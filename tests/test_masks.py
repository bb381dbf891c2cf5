"""Masks from files: colours and ids, and classes by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from c2fcore.data.catalogue import DATASETS, class_ids, custom
from c2fcore.data.masks import MaskDecoder, read_mask

ISAID = DATASETS["isaid"]
POTSDAM = DATASETS["potsdam"]


def test_every_colour_is_its_class_and_others_are_counted() -> None:
    decode = MaskDecoder(ISAID, "rgb")
    ids = np.arange(16).reshape(4, 4)
    pixels = np.array(ISAID.palette, np.uint8)[ids]
    got, unknown = decode(pixels)
    assert got.dtype == np.uint8
    assert np.array_equal(got, ids)
    assert unknown == {}
    pixels[0, 1] = (0, 0, 64)  # one off ship
    pixels[2:] = (255, 1, 2)
    got, unknown = decode(pixels)
    assert got[0].tolist() == [0, 255, 2, 3]
    assert (got[2:] == 255).all()
    assert unknown == {"#000040": 1, "#ff0102": 8}


@pytest.mark.parametrize(
    ("encoding", "on_disk", "want", "unknown"),
    [
        ("mmseg", [0, 1, 5, 6, 7], [255, 0, 4, 5, 255], {"7": 1}),
        ("paddle", [0, 4, 5, 255, 6], [0, 4, 5, 255, 255], {"6": 1}),
        ("torchgeo", [0, 1, 5, 6, 255], [5, 0, 4, 255, 255], {"6": 1, "255": 1}),
    ],
)
def test_ids_of_every_numbering(
    encoding: str, on_disk: list[int], want: list[int], unknown: dict[str, int]
) -> None:
    got, strange = MaskDecoder(POTSDAM, encoding)(np.array([on_disk], np.uint8))
    assert got.tolist() == [want]
    assert strange == unknown


def test_ids_beyond_a_byte_are_unknown_not_wrapped() -> None:
    got, unknown = MaskDecoder(POTSDAM, "paddle")(np.array([[256, -1, 70000, 1]], np.int32))
    assert got.tolist() == [[255, 255, 255, 1]]
    assert unknown == {"256": 1, "65535": 2}


def test_grey_saved_as_colours_is_ids_and_real_colours_are_refused() -> None:
    decode = MaskDecoder(POTSDAM, "paddle")
    grey = np.repeat(np.array([[0, 5, 255]], np.uint8)[..., None], 3, axis=2)
    assert decode(grey)[0].tolist() == [[0, 5, 255]]
    with pytest.raises(ValueError, match=r"needs ids, got colours in x\.png"):
        decode(np.array([[[0, 0, 1]]], np.uint8), "x.png")
    with pytest.raises(ValueError, match=r"needs colours, got ids in y\.png"):
        MaskDecoder(POTSDAM, "rgb")(np.zeros((2, 2), np.uint8), "y.png")
    with pytest.raises(ValueError, match="must be one of rgb, mmseg, paddle, torchgeo, got bgr"):
        MaskDecoder(POTSDAM, "bgr")


def png(bits: int, row: bytes, kind: int = 0) -> bytes:
    """A PNG of one row of four pixels as Pillow does not write them: `kind` 0 is grey."""
    head = struct.pack(">IIBBBBB", 4, 1, bits, kind, 0, 0, 0)
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_palette_file_holds_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 3], [5, 1]], np.uint8)).convert("P")
    indices = Image.frombytes("P", (2, 2), bytes([0, 3, 5, 1]))
    indices.putpalette(list(range(200, 248)))
    indices.save(tmp_path / "p.png")
    assert image.mode == "P"
    assert read_mask(tmp_path / "p.png").tolist() == [[0, 3], [5, 1]]
    Image.fromarray(np.array([[0, 300]], np.uint16)).save(tmp_path / "i.png")
    assert read_mask(tmp_path / "i.png").tolist() == [[0, 300]]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "b.png")
    assert read_mask(tmp_path / "b.png").tolist() == [[0, 1]]
    for bits, row in ((2, b"\x1b"), (4, b"\x01\x23")):  # as GDAL writes with NBITS
        (tmp_path / "f.png").write_bytes(png(bits, row))
        assert read_mask(tmp_path / "f.png").tolist() == [[0, 1, 2, 3]]
    # As many bytes as on disk: a mosaic's mask of 8 bits is not made eight times as large.
    dtypes = {name: read_mask(tmp_path / f"{name}.png").dtype for name in "pibf"}
    assert dtypes == {"p": np.uint8, "i": np.uint16, "b": np.uint8, "f": np.uint8}


@pytest.mark.parametrize(("kind", "bands"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_are_refused(tmp_path: Path, kind: int, bands: int) -> None:
    """Of RGB, grey with alpha, and RGBA, Pillow keeps the upper byte: 0 of all below 256."""
    (tmp_path / "m.png").write_bytes(png(16, b"\0\5" * bands * 4, kind))
    with pytest.raises(ValueError, match=r"m\.png: colours, .* must be of 8 bits, got 16"):
        read_mask(tmp_path / "m.png")


def test_classes_by_name_or_id() -> None:
    assert class_ids(["car"], POTSDAM.class_names) == (4,)
    assert class_ids(["plane", "1", 9], ISAID.class_names) == (1, 9, 14)
    with pytest.raises(ValueError, match=r"got planes \(did you mean plane\?\)"):
        class_ids(["planes"], ISAID.class_names)
    with pytest.raises(ValueError, match=r"names, or ids in 0..5, of impervious, .*, got 6"):
        class_ids([6], POTSDAM.class_names)
    # Names of digits are meant where the user wrote them, as on the command line.
    assert class_ids(["3"], ("1", "2", "3")) == (2,)
    assert class_ids([1], ("1", "2", "3")) == (1,)
    with pytest.raises(ValueError, match="must be distinct, got 4, car"):
        class_ids([4, "car"], POTSDAM.class_names)


@pytest.mark.parametrize(
    "given",
    ["car,tree", "car, 3", "[car, tree]", '["car", "tree"]', "['car','tree']", "[3,4]",
     ["car,tree"], ["[car,", "tree]"], ["car", "tree"], ["car", 3], [3, 4], ["car,", "tree"]],
)  # fmt: skip
def test_lists_of_classes_as_people_write_them(given: str | list[str | int]) -> None:
    assert class_ids(given, POTSDAM.class_names) == (3, 4)


def test_names_that_look_like_lists() -> None:
    names = ("road, paved", "road [dirt]", "[rest]")
    assert class_ids("road, paved", names) == (0,)
    assert class_ids(["road, paved", "road [dirt]", "[rest]"], names) == (0, 1, 2)
    assert class_ids("road [dirt]", names) == (1,)
    assert custom("[ground, 'car']").class_names == custom("ground,car").class_names
    for nothing in ("", [""], "[]", ","):
        with pytest.raises(ValueError, match=r"small classes must be names, or ids in 0..2, of r"):
            class_ids(nothing, names)
