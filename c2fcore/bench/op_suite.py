"""Op by op: times of every way, bytes against the measured copy bandwidth, error, launches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from .. import _errors
from . import contest, floors, gpu, inputs, measure, rows
from .ways import BACKENDS, COMPILED, EAGER, OPS, Job, names_of

SUITE = "op"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
JOBS = (*OPS, "glue")


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where and how ops are timed.

    Attributes:
        device: "cpu" or "cuda".
        threads: of torch.
        rounds: samples of each way.
        target_s: how long a sample lasts at least, seconds.
        dtype: of the coarse logits; of the patches, too, if not float32.
        layout: of logits and image, "planar" or "channels_last".
    """

    device: str = "cpu"
    threads: int = 1
    rounds: int = 10
    target_s: float = 0.05
    dtype: str = "float32"
    layout: str = "planar"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One job on one kind of input.

    Attributes:
        op: name of an op, or "glue".
        options: of the op.
        content: "realistic" or "noise".
        preset: of `inputs.make_case`.
    """

    op: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    content: str = "realistic"
    preset: str = ""


def variants(op: str, zooms: Sequence[float] = (1, 2, 4)) -> list[Variant]:
    """What is timed of an op."""
    if op == "count_windows":
        return [Variant(op), Variant(op, content="noise")]
    if op == "select_windows":
        return [Variant(op, {"strategy": strategy}) for strategy in ("cover", "top", "all")]
    if op == "extract_patches":
        return [Variant(op, {"zoom": zoom}) for zoom in zooms]
    if op == "aggregate":
        outputs = [Variant(op, {"output": output}) for output in ("labels", "probs")]
        return [*outputs, Variant(op, {"output": "labels"}, content="noise")]
    return [Variant(op), Variant(op, content="noise"), Variant(op, preset="official")]


def run(
    variant: Variant,
    side: int,
    setting: Setting,
    origin: dict[str, Any],
    copy_gbs: float,
    *,
    only: Sequence[str] = (),
    foreign: dict[str, Callable[..., Any]] | None = None,
    say: Callable[[str], None] = lambda text: None,
    left_out: Callable[[str], None] = lambda reason: None,
) -> Iterator[rows.Row]:
    """Times one job on an image of `side`: a row per way, failures among them.

    Args:
        variant: the job.
        side: of the image, pixels.
        setting: where and how.
        origin: provenance.
        copy_gbs: measured copy bandwidth of the device.
        only: ways, if not all that can run.
        foreign: further ways, functions with the signature of the op.
        say: told what is going on.
        left_out: told why a way that cannot do this job has no row.
    """
    names = [p for p in names_of(variant.op, setting.device) if not only or p in only]
    names += list(foreign or {})
    identity = {
        "op": variant.op,
        "options": variant.options,
        "content": variant.content,
        "preset": variant.preset,
        "size": side,
        "classes": inputs.NUM_CLASSES,
        **{name: getattr(setting, name) for name in ("device", "threads", "dtype", "layout")},
    }

    def row(name: str, result: dict[str, Any] | None = None, error: str = "") -> rows.Row:
        # "provider" is the way: so earlier rows call it, and by it they are found to be replaced.
        return rows.make(SUITE, {**identity, "provider": name}, origin, result, error)

    try:
        case = prepared(side, variant, setting)
        job = job_of(variant, setting)
        held = contest.hold(
            job,
            case,
            names,
            setting.rounds,
            target_s=setting.target_s,
            device=setting.device,
            foreign=foreign,
            say=say,
        )
    except Exception as error:  # the inputs or the reference itself: every row says so
        for name in names:
            yield row(name, error=_errors.reason(error))
        return
    moved = floors.floor_bytes(job, case)
    for name in names:
        if name in held.failures and held.failures[name].startswith("NotImplementedError"):
            left_out(held.failures[name].partition(": ")[2])
            continue  # another job than this peer's
        if name in held.failures:
            yield row(name, error=held.failures[name])
            continue
        result = _figures(held, name, job, case, moved, copy_gbs)
        if torch.device(setting.device).type == "cuda":
            capture = name in BACKENDS["cuda"]
            call = held.calls[name]
            result.update(_on_gpu(call, moved, copy_gbs, setting.device, capture))
        yield row(name, result)


def prepared(side: int, variant: Variant, setting: Setting) -> inputs.Case:
    """The inputs of a job, in the dtype and layout of the setting, on its device."""
    case = inputs.make_case(side, content=variant.content, preset=variant.preset)
    logits = inputs.as_layout(case.logits.to(DTYPES[setting.dtype]), setting.layout)
    image = inputs.as_layout(case.image, setting.layout)
    return dataclasses.replace(case, logits=logits, image=image).to(setting.device)


def job_of(variant: Variant, setting: Setting) -> Job:
    """The job; patches come in the dtype and layout that the networks of a setting want."""
    options = dict(variant.options)
    if variant.op == "extract_patches" and setting.dtype != "float32":
        options["dtype"] = DTYPES[setting.dtype]
    if variant.op == "extract_patches" and setting.layout == "channels_last":
        options["channels_last"] = True
    return Job(variant.op, options)


def _figures(
    held: contest.Contest, name: str, job: Job, case: inputs.Case, moved: int, copy_gbs: float
) -> dict[str, Any]:
    """What is made of a way's samples."""
    times = held.times[name]
    middle = measure.spread(times)
    gbs = moved / middle.median / 1e9
    first = case.image if job.op == "extract_patches" else case.logits
    result: dict[str, Any] = {
        "ms": [rows.rounded(1e3 * t) for t in middle],
        "rounds": len(times),
        "bytes": moved,
        "gbs": rows.rounded(gbs),
        "copy_gbs": rows.rounded(copy_gbs),
        "share_of_copy": rows.rounded(gbs / copy_gbs),
        "max_error": held.errors[name],
        "source": case.source,
        "elements": first.numel(),  # the size by which "auto" orders the GPU backends
    }
    if EAGER in held.times:
        ratios = measure.ratio(held.times[EAGER], times)
        result["over_reference"] = [rows.rounded(v) for v in ratios]
    if name == COMPILED:
        result.update(held.graph)
    return result


def _on_gpu(
    call: measure.Call, moved: int, copy_gbs: float, device: str, capture: bool
) -> dict[str, Any]:
    """Launches; time with a cold cache; of our backends the time in a CUDA graph, if capturable."""
    cold = measure.spread(gpu.cold_seconds(call, device))
    found: dict[str, Any] = {
        "launches": gpu.launches(call, device),
        "cold_ms": [rows.rounded(1e3 * t) for t in cold],
        "cold_share_of_copy": rows.rounded(moved / cold.median / 1e9 / copy_gbs),
    }
    if not capture:  # the others wait for the device, which ends a capture badly
        return found
    try:
        replay = gpu.graphed(call, device)
        times = measure.interleaved({"graph": replay}, 10, target_s=0.02, device=device)
        found["graph_ms"] = [
            rows.rounded(1e3 * t / gpu.GRAPH_CALLS) for t in measure.spread(times["graph"])
        ]
    except Exception as error:  # noted; the other figures stand
        found["graph_error"] = _errors.reason(error)
    return found
