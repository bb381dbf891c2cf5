"""Finding the images of a data set and their masks, in the layouts that people have on disk."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from .catalogue import DatasetInfo, named_as

LAYOUTS: Final = ("raw", "mmseg", "list", "folders")
_WHERE: Final = {
    "raw": "as distributed, unpacked",
    "mmseg": "img_dir/SPLIT and ann_dir/SPLIT",
    "list": "SPLIT.txt with 'image mask' lines",
    "folders": "SPLIT/images and SPLIT/masks, or images and masks, which are split all",
}
LABELS: Final = ("eroded", "full")
MASK_SUFFIXES: Final = ("", "_instance_color_RGB", "_mask", "_label", "_labels", "_gt")

_ENDINGS: Final = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
_ISAID_MASK: Final = "_instance_color_RGB"
_MASK_FOLDERS: Final = ("masks", "labels", "annotations")
_NAMES_OF_CLASSES: Final = ("label", "labels", "classes")  # beside Paddle's lists, and none

_LOG = logging.getLogger(__name__)


class Pair(NamedTuple):
    """An image and its mask."""

    name: str
    image: Path
    mask: Path


def find(
    info: DatasetInfo,
    root: Path,
    layout: str,
    splits: Sequence[str] | None = None,
    labels: str = "eroded",
) -> dict[str, list[Pair]]:
    """Pairs of image and mask by split, sorted by name.

    - "raw": as the data set is distributed, unpacked. iSAID: ROOT/SPLIT with images `P0003.png` and
      masks `P0003_instance_color_RGB.png` anywhere below. Potsdam: `top_potsdam_2_10_RGB.tif` and
      `.._label_noBoundary.tif` (labels="eroded") or `.._label.tif` ("full") anywhere below ROOT.
      Vaihingen: `top_mosaic_09cm_area1.tif` in a folder `top`, `.._noBoundary.tif` or the same name
      in another folder. LoveDA: ROOT/Train/Urban/{images_png,masks_png} and so on.
    - "mmseg": ROOT/img_dir/SPLIT and ROOT/ann_dir/SPLIT, paired by name.
    - "folders": ROOT/images and ROOT/masks (or labels), or these within ROOT/SPLIT, paired by name;
      a mask's name may go on with one of MASK_SUFFIXES.
    - "list": ROOT/SPLIT.txt (Paddle), one "image mask" per line, relative to ROOT or absolute.

    Folders below those of "mmseg" and "folders", alike for images and masks, and those in a list
    are part of a name: a/b.png is a_b.

    Without `splits`, folders of images that nobody labelled (a test split) are left out. That, and
    masks without an image, are told through `logging`.

    Args:
        info: the data set.
        root: its folder.
        layout: one of LAYOUTS.
        splits: which; all that are there if None.
        labels: "eroded" (without object borders) or "full"; for raw Potsdam and Vaihingen.

    Raises:
        FileNotFoundError: a folder, a list or a mask is missing.
        ValueError: a layout that the data set does not have, no image, or one name twice.
    """
    _check_root(info, root)
    parts = {split: Path(split).parts for split in splits or ()}  # none of "" and "."
    if outside := [s for s, p in parts.items() if not p or ".." in p or Path(s).is_absolute()]:
        raise ValueError(f"{info.name}: a split must lie in {root}, got {outside[0]!r}")
    if layout == "raw":
        if info.name not in _RAW:
            raise ValueError(
                f"{info.name}: layout must be one of {', '.join(LAYOUTS[1:])}, got raw"
            )
        found = _RAW[info.name](info, root, labels, splits)
    elif layout == "mmseg":
        wanted = splits or _labelled(root)
        found = {s: _pair_up(root / "img_dir" / s, root / "ann_dir" / s) for s in wanted}
    elif layout == "list":
        found = {s: _read_list(root, s) for s in splits or _lists(root)}
    elif layout == "folders":
        found = _plain_folders(root, splits)
    else:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout}")
    missing = [s for s in splits or () if not found.get(s)]
    if missing or not any(found.values()):
        what = f"split {missing[0]}" if missing else "any split"
        raise ValueError(
            f"{info.name}: {what} must have images in layout {layout} ({_WHERE[layout]}), "
            f"got none in {root}{_other_names(info, root)}"
        )
    return {split: _unique(info, split, pairs) for split, pairs in found.items() if pairs}


def _other_names(info: DatasetInfo, root: Path) -> str:
    """Which other data set the images below a folder are named as."""
    named = ((named_as(path.stem), path) for path in _images(root, deep=True))
    other, path = next((one for one in named if one[0] not in {"", info.name}), ("", root))
    what = f"; images such as {path.relative_to(root)} are named as those of {other}"
    return f"{what} (c2f prepare {other})" if other else ""


def guess_layout(info: DatasetInfo, root: Path) -> str:
    """The layout of a folder by what is in it.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it cannot be told.
    """
    _check_root(info, root)
    lists = _lists(root)
    usual = [s for s in lists if s in ("train", "val")]
    # First, for Paddle's folders are named as mmsegmentation's, but their ids mean other classes.
    if any(_of_pairs(root / f"{s}.txt") for s in usual):
        return "list"
    if (root / "img_dir").is_dir():
        return "mmseg"
    if usual or (lists and info.name not in _RAW):  # downloads come with texts to read
        return "list"
    if any(_has_masks(path.parent) for path in (root / "images", *root.glob("*/images"))):
        return "folders"
    if info.name in _RAW:
        return "raw"
    known = "; ".join(f"{layout}: {_WHERE[layout]}" for layout in LAYOUTS[1:])
    raise ValueError(f"{info.name}: the data must be in a known layout ({known}), got {root}")


def _check_root(info: DatasetInfo, root: Path) -> None:
    if not root.is_dir():
        raise FileNotFoundError(f"{info.name}: the data must be in a folder, got {root}")


def _unique(info: DatasetInfo, split: str, pairs: list[Pair]) -> list[Pair]:
    twice = [name for name, count in Counter(p.name for p in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{info.name}: names in {split} must be distinct, got {twice[0]} twice")
    return sorted(pairs)


def _labelled(root: Path) -> list[str]:
    """Splits of the mmseg layout that have masks."""
    images, masks = root / "img_dir", root / "ann_dir"
    for path in (images, masks):
        if not path.is_dir():
            raise FileNotFoundError(f"layout mmseg needs the folder {path}, got none")
    splits = sorted(p.name for p in images.iterdir() if p.is_dir())
    bare = [s for s in splits if not (masks / s).is_dir() or not _images(masks / s, deep=True)]
    if bare == splits:
        return splits  # nothing is labelled: an image without its mask will be named
    for split in bare:
        _LOG.warning("%s: no masks in %s, left out", split, masks / split)
    return [s for s in splits if s not in bare]


def _lists(root: Path) -> list[str]:
    return sorted(p.stem for p in root.glob("*.txt") if p.stem not in _NAMES_OF_CLASSES)


def _images(folder: Path, deep: bool = False) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"images must be in a folder, got {folder}")
    found = (p.relative_to(folder) for p in (folder.rglob("*") if deep else folder.iterdir()))
    seen = (p for p in found if not any(part.startswith(".") for part in p.parts))
    return sorted(folder / p for p in seen if p.suffix.lower() in _ENDINGS)


def _joined(path: PurePath) -> str:
    """A name that the folders belong to: lists and folders often join some with the same names."""
    return "_".join(path.relative_to(path.anchor).parts)


def _pair_up(images: Path, masks: Path) -> list[Pair]:
    """Images and masks of two folders, and of the folders in them, by name."""
    found = _images(images, deep=True)
    by_name: dict[PurePath, Path] = {}
    for path in _images(masks, deep=True):
        name = path.relative_to(masks).with_suffix("")
        if name in by_name:
            raise ValueError(f"a mask must be one file, got {by_name[name]} and {path}")
        by_name[name] = path
    pairs = []
    for image in found:
        name = image.relative_to(images).with_suffix("")
        candidates = (by_name.get(name.with_name(name.name + suffix)) for suffix in MASK_SUFFIXES)
        mask = next((path for path in candidates if path is not None), None)
        if mask is None:
            raise FileNotFoundError(f"{image} must have a mask of its name, got none in {masks}")
        pairs.append(Pair(_joined(name), image, mask))
    alone = sorted({*by_name.values()} - {pair.mask for pair in pairs})
    if alone and pairs:
        _LOG.warning("%d of %d masks have no image in %s and are left out, such as %s",
                     len(alone), len(by_name), images, alone[0])  # fmt: skip
    return pairs


def _plain_folders(root: Path, splits: Sequence[str] | None) -> dict[str, list[Pair]]:
    if (root / "images").is_dir() and not splits:
        return {"all": _pair_up(root / "images", _masks_folder(root))}
    wanted = splits or sorted(p.parent.name for p in root.glob("*/images"))
    for split in wanted:
        if not (root / split / "images").is_dir():
            raise FileNotFoundError(f"split {split} must be in {root / split}/images, got none")
    bare = [] if splits else [s for s in wanted if not _has_masks(root / s)]
    if bare == wanted:
        bare = []  # nothing is labelled: the missing folder will be named
    for split in bare:
        _LOG.warning("%s: no folder of masks in %s, left out", split, root / split)
    return {
        s: _pair_up(root / s / "images", _masks_folder(root / s)) for s in wanted if s not in bare
    }


def _has_masks(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in _MASK_FOLDERS)


def _masks_folder(folder: Path) -> Path:
    for name in _MASK_FOLDERS:
        if (folder / name).is_dir():
            return folder / name
    raise FileNotFoundError(f"masks must be in masks/, labels/ or annotations/, got {folder}")


def _of_pairs(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return len(_columns(file.readline())) == 2


def _columns(line: str) -> list[str]:
    return line.rstrip("\n").split("\t") if "\t" in line else line.split()


def _read_list(root: Path, split: str) -> list[Pair]:
    path = root / f"{split}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"layout list needs {path}, got no such file")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        parts = _columns(line)
        if not parts:
            continue
        if len(parts) != 2:
            raise ValueError(f"{path}:{number}: a line must be 'image mask', got {line!r}")
        image, mask = (root / part for part in parts)
        for file in (image, mask):
            if not file.is_file():
                raise FileNotFoundError(f"{path}:{number}: files must exist, got {file}")
        pairs.append(Pair(_joined(PurePath(parts[0]).with_suffix("")), image, mask))
    return pairs


def _isaid(
    info: DatasetInfo, root: Path, labels: str, splits: Sequence[str] | None
) -> dict[str, list[Pair]]:
    found = {}
    for split in splits or [s for s in ("train", "val") if (root / s).is_dir()]:
        files = _images(root / split, deep=True)
        masks = {p.stem: p for p in files if p.stem.endswith(_ISAID_MASK)}
        images = [p for p in files if re.fullmatch(r"P\d+", p.stem)]
        found[split] = [
            Pair(p.stem, p, _needed(masks.get(p.stem + _ISAID_MASK), p, "colour")) for p in images
        ]
    return found


def _potsdam(
    info: DatasetInfo, root: Path, labels: str, splits: Sequence[str] | None
) -> dict[str, list[Pair]]:
    files = {p.stem: p for p in _images(root, deep=True)}
    ending = "_label_noBoundary" if labels == "eroded" else "_label"

    def pair(name: str) -> Pair | None:
        image = files.get(f"top_potsdam_{name}_RGB")
        if image is None:
            return None
        return Pair(name, image, _needed(files.get(f"top_potsdam_{name}{ending}"), image, labels))

    return _by_split(info, pair, splits)


def _vaihingen(
    info: DatasetInfo, root: Path, labels: str, splits: Sequence[str] | None
) -> dict[str, list[Pair]]:
    files = _images(root, deep=True)
    tops = {p.stem: p for p in files if p.parent.name == "top"}
    others = {p.stem: p for p in files if p.parent.name != "top"}
    ending = "_noBoundary" if labels == "eroded" else ""

    def pair(name: str) -> Pair | None:
        stem = f"top_mosaic_09cm_{name}"
        if stem not in tops:
            return None
        return Pair(name, tops[stem], _needed(others.get(stem + ending), tops[stem], labels))

    return _by_split(info, pair, splits)


def _loveda(
    info: DatasetInfo, root: Path, labels: str, splits: Sequence[str] | None
) -> dict[str, list[Pair]]:
    found = {}
    for split in splits or ("train", "val"):
        folders = sorted((root / split.capitalize()).glob("*/images_png"))
        found[split] = [p for f in folders for p in _pair_up(f, f.parent / "masks_png")]
    return found


_RAW: Final[
    dict[str, Callable[[DatasetInfo, Path, str, Sequence[str] | None], dict[str, list[Pair]]]]
] = {"isaid": _isaid, "potsdam": _potsdam, "vaihingen": _vaihingen, "loveda": _loveda}


def _by_split(
    info: DatasetInfo, pair: Callable[[str], Pair | None], splits: Sequence[str] | None
) -> dict[str, list[Pair]]:
    """Pairs of the images that the data set's split tables name and that are there."""
    found = {}
    for split in splits or info.splits:
        if split not in info.splits:
            raise ValueError(
                f"{info.name}: split must be one of {', '.join(info.splits)}, got {split}"
            )
        found[split] = [p for p in map(pair, info.splits[split]) if p is not None]
    return found


def _needed(mask: Path | None, image: Path, kind: str) -> Path:
    if mask is None:
        raise FileNotFoundError(f"{image} must have a mask, got no {kind} one below the folder")
    return mask
