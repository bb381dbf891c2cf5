"""Making a folder of tiles from a data set: in parallel, resumable, verified after writing.

The folder is in the layout of mmsegmentation (img_dir/SPLIT, ann_dir/SPLIT, PNG; masks are 8-bit
grey, 0..N-1 and 255) with a dataset.json that says the rest. `records/` says which source image is
done, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
from PIL import Image

from .. import _files
from .._progress import Bar
from ..images import Pixels, no_size_limit
from . import loading
from .catalogue import IGNORED, DatasetInfo
from .masks import MaskDecoder, add_counts, read_pair, shown
from .sources import Pair
from .tiling import boxes, cut

DATASET_FILE: Final = "dataset.json"
FORMAT: Final = "c2fcore-data"
FORMAT_VERSION: Final = 1
_OPTIONS_FILE: Final = "options.json"
_RECORDS: Final = "records"
_RECORD_KEYS: Final = ("source", "size", "tiles", "pixels", "ignored", "unknown")
_MOST_UNKNOWN: Final = 0.5  # share of unknown pixels above which a mask was misread


@dataclass(frozen=True)
class Options:
    """How tiles are made.

    Attributes:
        encoding: of the masks on disk, see `MaskDecoder`.
        tile: side of a tile in pixels; None writes images whole.
        overlap: of neighbouring tiles, in pixels.
        labels: which masks these are ("eroded", "full" or ""), for the record.
        unknown: "ignore" makes pixels of unknown colour or id 255, "error" stops at them.
    """

    encoding: str
    tile: int | None
    overlap: int = 0
    labels: str = ""
    unknown: str = "ignore"


@dataclass(frozen=True)
class _Job:
    info: DatasetInfo
    options: Options
    split: str
    pair: Pair
    out: Path

    @property
    def record(self) -> Path:
        return self.out / _RECORDS / self.split / f"{self.pair.name}.json"

    def fingerprint(self) -> list[Any]:
        """Changes when a source file does."""
        files = (self.pair.image.resolve(), self.pair.mask.resolve())
        return [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def prepare(
    info: DatasetInfo,
    sources: dict[str, list[Pair]],
    out: Path,
    options: Options,
    workers: int = 0,
) -> dict[str, Any]:
    """Writes the tiles; a run that was interrupted is taken up again.

    Args:
        info: the data set.
        sources: image and mask by split.
        out: folder to write; must be new, empty, or of a run with the same options.
        options: how.
        workers: processes; 0 works in this one.

    Returns:
        What dataset.json holds.

    Raises:
        FileExistsError: `out` holds other things, or tiles of other data or with other options.
        ValueError: an image that cannot be read or differs from its mask in size; unknown colours
            with unknown="error"; a tile that does not read back as it was written; another run is
            at work in `out`.
        KeyboardInterrupt: it was stopped; the message says how to go on.
    """
    boxes(1, 1, options.tile, options.overlap)  # checks them
    MaskDecoder(info, options.encoding)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileExistsError(
            f"the folder to write must be one that can be made, got {out}: {error.strerror}"
        ) from None
    with _files.held(out, "a folder of tiles must be written by"):
        _claim(info, out, options)
        for partial in out.rglob(_files.PARTIAL):  # of a run that was killed
            partial.unlink()
        return _prepare(info, sources, out, options, workers)


def _prepare(
    info: DatasetInfo,
    sources: dict[str, list[Pair]],
    out: Path,
    options: Options,
    workers: int,
) -> dict[str, Any]:
    """`prepare`, in a folder that is ours alone."""
    jobs = [_Job(info, options, s, pair, out) for s, pairs in sources.items() for pair in pairs]
    records: dict[tuple[str, str], dict[str, Any]] = {}
    waiting = []
    for job in jobs:
        record = _finished(job)
        if record is None:
            waiting.append(job)
        else:
            records[job.split, job.pair.name] = record
    dropped = _dropped(jobs, anything_kept=bool(records))
    bar = Bar(total=len(jobs), initial=len(records), desc=f"prepare {info.name}", unit="image")
    try:
        with bar:
            for job, record in _run(waiting, workers):
                records[job.split, job.pair.name] = record
                bar.update()
                if record["unknown"]:
                    bar.write(f"{job.pair.mask}: unknown, ignored: {shown(record['unknown'])}")
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"after {len(records)} of {len(jobs)} images; the same command goes on from there"
        ) from None
    description = _describe(info, options, jobs, records)
    earlier = _read_json(out / DATASET_FILE)
    if earlier is not None and isinstance(earlier.get("splits"), dict):  # those made before stay
        description["splits"] = {**earlier["splits"], **description["splits"]}
    _write_json(out / DATASET_FILE, description)
    if dropped:
        tiles = 0
        for job, record in dropped:
            tiles += _remove(job, record["tiles"])
            job.record.unlink()  # last: a run that is stopped here goes on with them
        print(f"{tiles} tiles removed, of {len(dropped)} images that are no longer in the data, "
              f"such as {dropped[0][0].pair.image}")  # fmt: skip
    return description


def _claim(info: DatasetInfo, out: Path, options: Options) -> None:
    """Makes the folder ours, or recognises it."""
    facts = json.loads(json.dumps({**asdict(info), "splits": None}))
    wanted = {"format": FORMAT, "dataset": facts, "options": asdict(options)}
    path = out / _OPTIONS_FILE
    if path.is_file():
        found = _read_json(path)
        before, now = (found or {}).get("options"), wanted["options"]
        if not isinstance(before, dict) and (out / _RECORDS).exists():
            raise ValueError(
                f"{path} must be as `c2f prepare` wrote it, got a damaged file: choose another "
                f"folder"
            )
        if isinstance(before, dict) and found != wanted and (out / _RECORDS).exists():
            changed = [f"{key} {before.get(key)!r} -> {now[key]!r}" for key in now
                       if before.get(key) != now[key]]  # fmt: skip
            raise FileExistsError(
                f"{out} was prepared with other options, choose another folder: got "
                f"{', '.join(changed) or 'other classes'}"
            )
    elif any(out.iterdir()):
        raise FileExistsError(f"the folder to write must be new or empty, got {out}")
    _write_json(path, wanted)


def _finished(job: _Job) -> dict[str, Any] | None:
    """The record of a source that is done and still as it was.

    The source may have been moved, and the files of an image may have got another suffix.

    Raises:
        FileExistsError: tiles of this name were made of another file.
    """
    record = _read_record(job.record)
    if record is None:
        return None
    before, now = record["source"], job.fingerprint()
    for (old, *was), (new, *state) in zip(before, now, strict=True):
        if Path(old).resolve() == Path(new):
            continue
        if Path(old).exists() or (Path(old).parent != Path(new).parent and was != state):
            raise FileExistsError(
                f"{job.out} holds tiles of {old}, choose another folder: got {new}"
            )
    if [state for _, *state in before] != [state for _, *state in now]:
        return None
    if before != now:
        record["source"] = now
        _write_json(job.record, record)
    paths = (_paths(job, tile["name"]) for tile in record["tiles"])
    return record if all(file.is_file() for pair in paths for file in pair) else None


def _dropped(jobs: Sequence[_Job], anything_kept: bool) -> list[tuple[_Job, dict[str, Any]]]:
    """Sources that are done, but no longer among those of their split, with their records.

    Args:
        jobs: of today.
        anything_kept: some of them are done, so these are the data of which the folder is.

    Raises:
        FileExistsError: one of other data, which is still there, or on a disk that may come back.
    """
    found = []
    expected = {job.record for job in jobs}
    folders = {job.pair.image.resolve().parent for job in jobs}
    for one in {job.split: job for job in jobs}.values():
        for path in sorted(set(one.record.parent.glob("*.json")) - expected):
            record = _read_record(path)
            if record is None:
                continue
            image, mask = (Path(file) for file, *_ in record["source"])
            if image.parent not in folders and (image.exists() or not anything_kept):
                raise FileExistsError(
                    f"{one.out} holds tiles of {image}, choose another folder: got data without it"
                )
            found.append((replace(one, pair=Pair(path.stem, image, mask)), record))
    return found


def _remove(job: _Job, tiles: Sequence[Mapping[str, Any]]) -> int:
    """Removes tiles of a source; returns how many."""
    for file in itertools.chain.from_iterable(_paths(job, tile["name"]) for tile in tiles):
        file.unlink(missing_ok=True)
    return len(tiles)


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[_Job, dict[str, Any]]]:
    if workers == 0 or len(jobs) < 2:
        for job in jobs:
            yield job, _make(job)
        return
    # Spawned, not forked: torch may already run threads in this process.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        with loading.deaf_to_interrupts():
            running = {pool.submit(_make, job): job for job in jobs}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except BrokenProcessPool:
            raise RuntimeError(
                f"every one of the {workers} processes must live, got one ended from outside (out "
                f"of memory?): run it again to go on, with fewer --workers"
            ) from None
        except Exception:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        except BaseException:  # Ctrl-C, here or in who takes records: no file is left in part
            for process in list(pool._processes.values()):
                process.kill()
            raise


def _make(job: _Job) -> dict[str, Any]:
    """Cuts one source image; returns its record."""
    decode = MaskDecoder(job.info, job.options.encoding)
    fingerprint = job.fingerprint()  # of before: what changes meanwhile is read again
    image, labels, unknown = read_pair(job.pair.image, job.pair.mask, decode)
    share = sum(unknown.values()) / labels.size
    if share > _MOST_UNKNOWN:
        raise ValueError(
            f"{share:.0%} of the pixels are unknown, another encoding than {job.options.encoding}? "
            f"got {shown(unknown)} in {job.pair.mask}"
        )
    if unknown and job.options.unknown == "error":
        raise ValueError(f"mask must hold known values only, got {shown(unknown)} in "
                         f"{job.pair.mask}")  # fmt: skip
    tiles = []
    height, width = labels.shape
    for box in boxes(height, width, job.options.tile, job.options.overlap):
        name = job.pair.name
        if job.options.tile is not None:
            name += f"_{box.y0}_{box.y1}_{box.x0}_{box.x1}"
        image_file, mask_file = _paths(job, name)
        _write_png(image_file, cut(image, box, 0))
        _write_png(mask_file, cut(labels, box, IGNORED))
        tiles.append({"name": name, "box": list(box)})
    earlier = _read_record(job.record) or {}
    names = {tile["name"] for tile in tiles}
    _remove(job, [t for t in earlier.get("tiles", ()) if t["name"] not in names])
    counts = np.bincount(labels.ravel(), minlength=256)
    values = (
        fingerprint,
        list(labels.shape),
        tiles,
        counts[: len(job.info.class_names)].tolist(),
        int(counts[IGNORED]),
        unknown,
    )
    record = dict(zip(_RECORD_KEYS, values, strict=True))
    _write_json(job.record, record)
    return record


def _paths(job: _Job, name: str) -> tuple[Path, Path]:
    return (
        job.out / "img_dir" / job.split / f"{name}.png",
        job.out / "ann_dir" / job.split / f"{name}.png",
    )


def _write_png(path: Path, pixels: Pixels) -> None:
    """Writes and reads back; the name appears only when the file is right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _files.whole(path) as partial:
        Image.fromarray(np.ascontiguousarray(pixels)).save(partial, format="PNG", compress_level=3)
        with no_size_limit(), Image.open(partial) as written:
            if not np.array_equal(np.asarray(written), pixels):
                raise ValueError(f"{path} must read back as it was written, got other pixels")


def _write_json(path: Path, value: Any) -> None:
    if _read_json(path) == value:
        return  # what is as it was looks so to those who tell changes by the time of a file
    path.parent.mkdir(parents=True, exist_ok=True)
    _files.write_text(path, json.dumps(value, indent=1) + "\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    """What a file holds; None if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _read_record(path: Path) -> dict[str, Any] | None:
    """The record of a source; None if it is missing or not as `_make` writes them."""
    record = _read_json(path)
    if record is None or record.keys() != set(_RECORD_KEYS):
        return None
    try:
        files = [(Path(file), size, time) for file, size, time in record["source"]]
        names = [str(tile["name"]) for tile in record["tiles"]]
    except (TypeError, ValueError, KeyError):
        return None
    return record if len(files) == 2 and names and all(map(is_name, names)) else None


def is_name(text: str) -> bool:
    """Whether it names a file of its folder, and none elsewhere."""
    return PurePath(text).name == text


def _describe(
    info: DatasetInfo,
    options: Options,
    jobs: Sequence[_Job],
    records: dict[tuple[str, str], dict[str, Any]],
) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for job in jobs:
        record = records[job.split, job.pair.name]
        empty = {"sources": {}, "tiles": [], "pixels": [0] * len(info.class_names)}
        split = splits.setdefault(job.split, {**empty, "ignored": 0, "unknown": {}})
        split["sources"][job.pair.name] = record["size"]
        split["tiles"] += [{**tile, "source": job.pair.name} for tile in record["tiles"]]
        split["pixels"] = [a + b for a, b in zip(split["pixels"], record["pixels"], strict=True)]
        split["ignored"] += record["ignored"]
        add_counts(split["unknown"], record["unknown"].items())
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "dataset": info.name,
        "class_names": list(info.class_names),
        "palette": [list(colour) for colour in info.palette],
        "small_classes": list(info.small_classes),
        "ignore_index": IGNORED,
        "options": asdict(options),
        "splits": splits,
    }
