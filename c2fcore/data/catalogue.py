"""What is known of each data set: classes, colours, ids on disk, splits, customary tiles.

Inside c2fcore a label is 0..N-1 or 255 (ignored), whatever the files on disk say.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from .. import _checks

Colour = tuple[int, int, int]
Classes = str | int | Iterable[str | int]

IGNORED: Final = 255


@dataclass(frozen=True)
class DatasetInfo:
    """Facts of a data set.

    Attributes:
        name: as on the command line.
        class_names: one per class id 0..N-1.
        palette: colour (r, g, b) of each class, in colour-coded masks and in pictures.
        small_classes: ids of the small classes; empty if nobody agreed on any.
        ignored_colours: colours of colour-coded masks that are no class.
        encodings: for masks of ids, by name: id on disk -> class id or 255.
        tile: customary side of a tile, pixels.
        overlap: customary overlap of neighbouring tiles, pixels.
        splits: names of the source images of each split; empty where folders tell.
    """

    name: str
    class_names: tuple[str, ...]
    palette: tuple[Colour, ...]
    small_classes: tuple[int, ...] = ()
    ignored_colours: tuple[Colour, ...] = ()
    encodings: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    tile: int = 512
    overlap: int = 0
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _shifted(count: int) -> dict[int, int]:
    """Ids 1..count on disk are classes 0..count-1; 0 is ignored."""
    return {0: IGNORED, **{value: value - 1 for value in range(1, count + 1)}}


def _direct(count: int) -> dict[int, int]:
    """Ids on disk are the classes; 255 is ignored."""
    return {**{value: value for value in range(count)}, IGNORED: IGNORED}


_ISAID = DatasetInfo(
    name="isaid",
    class_names=(
        "background", "ship", "storage_tank", "baseball_diamond", "tennis_court",
        "basketball_court", "ground_track_field", "bridge", "large_vehicle", "small_vehicle",
        "helicopter", "swimming_pool", "roundabout", "soccer_ball_field", "plane", "harbor",
    ),
    # The devkit's. FarSeg, FactSeg and PaddleRS tools exchange storage_tank and roundabout.
    palette=(
        (0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127), (0, 63, 191), (0, 63, 255),
        (0, 127, 63), (0, 127, 127), (0, 0, 127), (0, 0, 191), (0, 0, 255), (0, 191, 127),
        (0, 127, 191), (0, 127, 255), (0, 100, 155),
    ),
    small_classes=(1, 8, 9, 10, 11, 14, 15),
    encodings={"mmseg": _direct(16), "paddle": _direct(16)},
    tile=896,
    overlap=384,
)  # fmt: skip

_ISPRS = DatasetInfo(
    name="isprs",
    class_names=("impervious", "building", "low_vegetation", "tree", "car", "clutter"),
    palette=(
        (255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0),
    ),
    small_classes=(4,),
    ignored_colours=((0, 0, 0),),  # the border left out of eroded labels
    encodings={
        "mmseg": _shifted(6),
        "paddle": _direct(6),
        "torchgeo": {0: 5, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4},
    },
    # mmsegmentation and Paddle name a stride of 256, but place tiles every 512 pixels with a last
    # one at the border: overlap 0 gives their 3456 and 2016 tiles of Potsdam.
    tile=512,
    overlap=0,
)  # fmt: skip

_POTSDAM_TRAIN = (
    "2_10 2_11 2_12 3_10 3_11 3_12 4_10 4_11 4_12 5_10 5_11 5_12 6_10 6_11 6_12 6_7 6_8 6_9 "
    "7_10 7_11 7_12 7_7 7_8 7_9"
)
_POTSDAM_VAL = "5_15 6_15 6_13 3_13 4_14 6_14 5_14 2_13 4_15 2_14 5_13 4_13 3_14 7_13"
_VAIHINGEN_TRAIN = "1 3 5 7 11 13 15 17 21 23 26 28 30 32 34 37"
_VAIHINGEN_VAL = "2 4 6 8 10 12 14 16 20 22 24 27 29 31 33 35 38"

_POTSDAM = replace(
    _ISPRS,
    name="potsdam",
    splits={"train": tuple(_POTSDAM_TRAIN.split()), "val": tuple(_POTSDAM_VAL.split())},
)
_VAIHINGEN = replace(
    _ISPRS,
    name="vaihingen",
    splits={
        "train": tuple(f"area{n}" for n in _VAIHINGEN_TRAIN.split()),
        "val": tuple(f"area{n}" for n in _VAIHINGEN_VAL.split()),
    },
)
_LOVEDA = DatasetInfo(
    name="loveda",
    class_names=("background", "building", "road", "water", "barren", "forest", "agriculture"),
    palette=(
        (255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255), (159, 129, 183), (0, 255, 0),
        (255, 195, 128),
    ),
    encodings={"mmseg": _shifted(7), "raw": _shifted(7), "paddle": _direct(7)},
    tile=1024,
    overlap=0,
)  # fmt: skip

DATASETS: Final[dict[str, DatasetInfo]] = {
    info.name: info for info in (_ISAID, _POTSDAM, _VAIHINGEN, _LOVEDA)
}
# Names of images as distributed, and of tiles cut from them.
_IMAGE_NAMES: Final = {
    "isaid": r"P\d{4}(_\d+){0,4}",
    "potsdam": r"(top_potsdam_)?[2-7]_([7-9]|1[0-5])(_RGB|_IRRG)?(_\d+){0,4}",
    "vaihingen": r"(top_mosaic_09cm_)?area\d\d?(_\d+){0,4}",
    "loveda": r"\d+",
}
ANYBODYS_NAMES: Final = "loveda"  # whose images are numbered, as many people's are


def named_as(image: str) -> str:
    """The data set whose images have such names; "" if that is nobody's way."""
    found = (name for name, way in _IMAGE_NAMES.items() if re.fullmatch(way, image))
    return next(found, "")


def custom(classes: str, small: Classes = ()) -> DatasetInfo:
    """Facts of a data set of the user's.

    Args:
        classes: names in the order of their ids, as `listed`; or a JSON file with "names" and,
            for colour-coded masks, "palette" (one [r, g, b] per class) and "ignored_colours".
        small: small classes, as `class_ids`.

    Raises:
        ValueError: no names, repeated ones, or a file that does not hold them.
        FileNotFoundError: no such file.
    """
    names: Sequence[str]
    palette: tuple[Colour, ...] = ()
    ignored: tuple[Colour, ...] = ()
    if classes.endswith(".json"):
        try:
            found = json.loads(Path(classes).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"classes must be JSON, got {classes}: {error}") from None
        texts = found.get("names") if isinstance(found, dict) else None
        if not isinstance(texts, list) or not all(isinstance(name, str) for name in texts):
            raise ValueError(f"classes must hold a list 'names' of texts, got {classes} without")
        names = texts
        palette, ignored = (_colours(found, key) for key in ("palette", "ignored_colours"))
        own = set(palette).difference(ignored)
        if palette and not len(own) == len(palette) == len(names):
            raise ValueError(
                f"palette must have one colour of its own per class ({len(names)}), which is not "
                f"ignored, got {len(own)} different in {len(palette)}"
            )
    else:
        names = listed(classes)
    if not all(names) or len(set(names)) != len(names) or len(names) > IGNORED:
        raise ValueError(f"classes must be 1..{IGNORED} different names, got {', '.join(names)}")
    return DatasetInfo(
        name="custom",
        class_names=tuple(names),
        palette=palette,
        small_classes=class_ids(small, names),
        ignored_colours=ignored,
        encodings={"index": _direct(len(names)), "shifted": _shifted(len(names))},
    )


def _colours(found: Mapping[str, object], key: str) -> tuple[Colour, ...]:
    values = found.get(key, [])
    if not isinstance(values, list):
        raise ValueError(f"{key} must be a list of [r, g, b], got {values!r}")
    return tuple(_colour(value) for value in values)


def _colour(value: object) -> Colour:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"a colour must be [r, g, b], got {value!r}")
    r, g, b = (_checks.integer("palette", "colour", v, 0, 255) for v in value)
    return r, g, b


def listed(text: str) -> list[str]:
    """Names as people write a list of them: a,b or [a, b] or ["a", "b"].

    Of the last two a shell makes two words, which may come one by one.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].removesuffix("]")
    elif "[" not in text:
        text = text.removesuffix("]")
    return [name.strip(" \"'") for name in text.split(",")]


def class_ids(classes: Classes, names: Sequence[str]) -> tuple[int, ...]:
    """Small classes as ascending ids.

    Args:
        classes: names or ids, or lists of them in one text (`listed`); a text that is a name is
            one, also of digits or with commas.
        names: of all classes.

    Raises:
        ValueError: a name or id that is not there, or one class twice.
    """
    given = [classes] if isinstance(classes, (str, int)) else list(classes)
    rule = f"small classes must be names, or ids in 0..{len(names) - 1}, of {', '.join(names)}"
    wanted: list[str | int] = []
    for value in given:
        alone = isinstance(value, int) or value.strip() in names
        wanted += [value] if alone else [name for name in listed(str(value)) if name]
    if given and not wanted:
        raise ValueError(f"{rule}, got {given[0]!r}")
    ids = []
    for value in wanted:
        text = str(value).strip()
        if isinstance(value, str) and text in names:
            ids.append(list(names).index(text))
        elif text.isdecimal() and int(text) < len(names):
            ids.append(int(text))
        else:
            near = difflib.get_close_matches(text, names, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"{rule}, got {text}{hint}")
    if len(set(ids)) != len(ids):
        raise ValueError(f"small classes must be distinct, got {', '.join(map(str, wanted))}")
    return tuple(sorted(ids))
