"""End to end: frames per second of the two-stage network, the way the field measures them.

Batch 1, warmed up, the device waited for, networks and post-processing, image in the device's
memory, in all the ways of `frames`. Samples are taken in turn; a ratio is the median of the ratios
of one round.

Preset "cover" is the paper's windows (128 px, 32 apart, zoom 1), chosen by greedy coverage, and of
those as few as cover what the paper's 32 with the highest counts do.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import _errors, models
from ..config import C2FConfig
from ..images import read_rgb
from ..pipeline import C2FNet
from . import coverage, inputs, measure, memory, op_suite, parity, rows
from .frames import ALONE, AMP, COARSE, OF_COARSE, EngineCall, autocast, call_of, ways_of
from .scripted import scripted_net, windows_of
from .ways import EAGER

SUITE = "network"
COVER = "cover"
DTYPES = {**op_suite.DTYPES, AMP: torch.float32}
# Share of pixels that rounding may decide otherwise in a whole pipeline: the fine network sees
# patches whose last bit differs.
TIES = 1e-3


@dataclasses.dataclass(frozen=True)
class Spec:
    """One configuration to be measured; JSON holds every field.

    Attributes:
        coarse: name of the coarse network, "module:function", or a checkpoint's folder.
        fine: name of the fine network; "" with a checkpoint.
        height: of the image, pixels.
        width: of the image, pixels.
        zoom: of the patches.
        n: windows.
        preset: of C2FConfig, or "cover".
        dtype: of both networks; "amp" is float32 under autocast to bfloat16.
        channels_last: memory format of both networks.
        compile: whether both networks are compiled.
        device: "cpu" or "cuda".
        threads: of torch.
        image: file to segment instead; the size is the file's.
    """

    coarse: str
    fine: str
    height: int = 512
    width: int = 512
    zoom: float = 1.0
    n: int = inputs.N
    preset: str = "paper"
    dtype: str = "float32"
    channels_last: bool = False
    compile: bool = False
    device: str = "cpu"
    threads: int = 1
    image: str = ""

    def case(self, way: str) -> dict[str, Any]:
        """Identity of a row: of an image the name, wherever it lies."""
        return {"way": way, **dataclasses.asdict(self), "image": os.path.basename(self.image)}


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured of each configuration.

    Attributes:
        rounds: samples of each way, at most.
        warmup: calls before them; the last one tells how many rounds the budget allows.
        budget_s: rounds are cut, down to 3, so that they last about this long, seconds.
        memory: whether the peak is measured, in further processes.
    """

    rounds: int = 10
    warmup: int = 1
    budget_s: float = 20.0
    memory: bool = True


def run(
    spec: Spec,
    effort: Effort,
    origin: dict[str, Any],
    *,
    only: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[rows.Row]:
    """Measures one configuration: a row per way, failures among them."""
    every = ways_of(spec.device, spec.preset)
    chosen = [way for way in every if not only or way in only or way == COARSE]
    try:
        net, image, about = build(spec)
    except Exception as error:  # whatever it is becomes a row
        for way in chosen:
            yield rows.make(SUITE, spec.case(way), origin, error=_errors.reason(error))
        return
    if spec.image:
        height, width = _size(image)
        spec = dataclasses.replace(spec, height=height, width=width)
    calls, results, failures = _warm(spec, effort, net, image, chosen, say)
    count = _rounds(sum(r.pop("first_s") for r in results.values()), effort)
    say(f"{_title(spec)}: {count} rounds of {', '.join(calls)}")
    times = measure.interleaved(
        calls,
        count,
        target_s=0.0,
        device=spec.device,
        failed=lambda way, error: failures.update({way: _errors.reason(error)}),
    )
    times = {way: [t / _frames(calls[way]) for t in of_way] for way, of_way in times.items()}
    for way in chosen:
        case = spec.case(way)
        if way in failures:
            yield rows.make(SUITE, case, origin, error=failures[way])
            continue
        result = {**figures(times[way], times.get(COARSE, [])), **about, **results[way]}
        alone = times.get(ALONE.get(way, ""))
        if alone:
            result["of_coarse_alike"] = [rows.rounded(v) for v in measure.ratio(alone, times[way])]
        if way not in OF_COARSE and _frames(calls[way]) == 1:
            passes = 1 if statistics.median(times[way]) > 1.0 else min(count, 5)
            try:
                with torch.inference_mode():
                    result.update(_breakdown(spec, net, image, way, passes, calls[way]))
            except Exception as error:  # whatever it is stands beside what is measured
                result["stages_error"] = _errors.reason(error)
        if effort.memory:
            say(f"{_title(spec)}: memory of {way}")
            result.update(_peak(spec, way))
        yield rows.make(SUITE, case, origin, result)


def figures(times: Sequence[float], coarse: Sequence[float]) -> dict[str, Any]:
    """What is made of the samples of one way and of the coarse network alone, by round.

    Args:
        times: seconds per image, one a round.
        coarse: the same of the coarse network; may be empty.
    """
    middle = measure.spread(times)
    mean = statistics.fmean(times)
    found: dict[str, Any] = {
        "fps": rows.rounded(1 / mean),
        "fps_median": rows.rounded(1 / middle.median),
        "ms": {
            "mean": rows.rounded(1e3 * mean),
            "median": rows.rounded(1e3 * middle.median),
            "p20": rows.rounded(1e3 * middle.p20),
            "p80": rows.rounded(1e3 * middle.p80),
            "min": rows.rounded(1e3 * min(times)),
            "max": rows.rounded(1e3 * max(times)),
            "std": rows.rounded(1e3 * statistics.pstdev(times)),
        },
        "rounds": len(times),
    }
    if coarse:
        found["of_coarse"] = [rows.rounded(v) for v in measure.ratio(coarse, times)]
    return found


class Built(NamedTuple):
    """What is measured.

    Attributes:
        net: the two-stage network.
        image: uint8 [1, 3, H, W] on the device.
        about: of every row: "content", where the class map comes from; for preset "cover" also
            "coverage", the share of small-object pixels under the windows, and
            "coverage_of_paper", that under the paper's.
    """

    net: C2FNet
    image: Tensor
    about: dict[str, Any]


def build(spec: Spec) -> Built:
    """The network and the image of a configuration.

    Raises:
        ValueError: what `models.build`, C2FConfig or the checkpoint refuses.
    """
    torch.set_num_threads(spec.threads)
    changes = {"zoom": spec.zoom, "n": spec.n, "channels_last": spec.channels_last}
    size = (spec.height, spec.width)
    pixels = None
    if spec.image:
        pixels = torch.from_numpy(read_rgb(spec.image).copy()).permute(2, 0, 1)[None]
    dtype, layout = DTYPES[spec.dtype], torch.contiguous_format
    if spec.channels_last:
        layout = torch.channels_last
    if not spec.fine:
        if spec.preset == COVER:
            raise ValueError("preset cover must have class maps to cover: name the networks")
        net = C2FNet.from_pretrained(spec.coarse).eval()
        net.config = C2FConfig.preset(
            spec.preset,
            num_classes=net.config.num_classes,
            small_classes=net.config.small_classes,
            **{**_kept(net.config), **changes},
        )
        content = "image"
        if pixels is None:
            pixels, content = _scene(size), "scene"
        net = net.to(spec.device, dtype).to(memory_format=layout)
        _compile(spec, net.coarse, net.fine)
        return Built(net, pixels.to(spec.device), {"content": content})
    config = C2FConfig.preset(
        "paper" if spec.preset == COVER else spec.preset,
        num_classes=inputs.NUM_CLASSES,
        small_classes=inputs.SMALL_CLASSES,
        mean=inputs.MEAN,
        std=inputs.STD,
        **changes,
    )
    labels, content = inputs.class_map(size if pixels is None else _size(pixels))
    truth = torch.from_numpy(labels)[None]
    image = (inputs.image_of(truth) if pixels is None else pixels).to(spec.device)
    torch.manual_seed(0)
    networks = [
        network.eval().to(spec.device, dtype).to(memory_format=layout)
        for network in build_networks(spec.coarse, spec.fine)
    ]
    about: dict[str, Any] = {"content": content}
    with torch.inference_mode(), autocast(spec.device, spec.dtype):
        net = scripted_net(networks[0], networks[1], config, truth, image)
        if spec.preset == COVER:
            config, shares = _cover(net, truth, image)
            about |= shares
            net = scripted_net(networks[0], networks[1], config, truth, image)
    _compile(spec, *networks)  # without the scripts, whatever runs them
    return Built(net, image, about)


def build_networks(coarse: str, fine: str) -> list[nn.Module]:
    """Both networks by their names, with channels for the class maps that answers are made from."""
    return [models.build(coarse, inputs.NUM_CLASSES), models.build(fine, 2)]


def _cover(net: C2FNet, truth: Tensor, image: Tensor) -> tuple[C2FConfig, dict[str, float]]:
    """The paper's configuration, that of `net`, with as few windows by coverage as do as much."""
    small, greedy = net.config.small_classes, net.config.replace(strategy="cover")
    theirs, ours = (
        coverage.coverage(windows_of(net.coarse, config, image), truth, small)
        for config in (net.config, greedy)
    )
    wanted = theirs[-1] if theirs else 0.0
    n = coverage.fewest(ours, wanted)
    reached = ours[n - 1] if ours else 0.0
    shares = {"coverage": rows.rounded(reached), "coverage_of_paper": rows.rounded(wanted)}
    return greedy.replace(n=n), shares


def memory_call(way: str, **spec: Any) -> Callable[[], Tensor]:
    """For `memory.extra_mib`: a frame, after one of a single window has loaded all there is."""
    wanted = Spec(**spec)
    if not wanted.image:
        small = dataclasses.replace(wanted, height=128, width=128, n=1, zoom=1.0)
        net, image, _ = build(small)
        call_of(net, image, way, dtype=wanted.dtype)()
    net, image, _ = build(wanted)
    return call_of(net, image, way, wanted.compile, wanted.dtype)


def _warm(
    spec: Spec,
    effort: Effort,
    net: C2FNet,
    image: Tensor,
    chosen: Sequence[str],
    say: Callable[[str], None],
) -> tuple[dict[str, Callable[[], Any]], dict[str, dict[str, Any]], dict[str, str]]:
    """Calls of the ways that run and agree with the reference; what is known of them; failures."""
    calls: dict[str, Callable[[], Any]] = {}
    results: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    wanted: dict[str, Tensor] = {}  # of the coarse network, and of both
    for way in chosen:
        standard = COARSE if way in OF_COARSE else EAGER
        say(f"{_title(spec)}: {way}, first call")
        try:
            call = call_of(net, image, way, spec.compile, spec.dtype)
            start = time.perf_counter()
            got = call()
            for _ in range(effort.warmup - 1):
                start = time.perf_counter()
                call()
            results[way] = {"first_s": time.perf_counter() - start}  # of the last warm-up
            right = wanted.setdefault(standard, got)  # of the first that runs
            differing = int((got.to(right.device) != right).sum())
            if differing > TIES * got.numel():
                raise parity.Disagreement(f"{differing} labels are not the reference's")
            if way != standard and standard in calls:  # which may have failed, or is left out
                results[way]["max_error"] = differing / got.numel()
            calls[way] = call
        except Exception as error:  # whatever it is becomes a row
            failures[way] = _errors.reason(error)
    return calls, results, failures


def _rounds(seconds: float, effort: Effort) -> int:
    """As many rounds of `seconds` as the budget allows, at least 3."""
    one = max(seconds, 1e-6)
    return max(min(3, effort.rounds), min(effort.rounds, round(effort.budget_s / one)))


def _breakdown(
    spec: Spec, net: C2FNet, image: Tensor, way: str, count: int, call: Any
) -> dict[str, Any]:
    """Median milliseconds of each stage, and how many windows were looked at."""
    with autocast(spec.device, spec.dtype):
        if isinstance(call, EngineCall):
            found = [net.detailed(image)]  # for the windows, which are the same
            profiles = [call.engine.profile(call.image[0])[1] for _ in range(count)]
            way = call.backend
        else:
            net.config = net.config.replace(backend=way)
            found = [net.detailed(image) for _ in range(count)]
            profiles = [answer.seconds for answer in found]
    windows = int(found[0].windows.num.sum())
    return {"stages_ms": stages_ms(profiles), "windows": windows, "backend": way}


def stages_ms(profiles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median milliseconds of each stage, of seconds by stage."""
    return {
        stage: rows.rounded(1e3 * statistics.median(p[stage] for p in profiles))
        for stage in profiles[0]
    }


def _frames(call: Any) -> int:
    return call.frames if isinstance(call, EngineCall) else 1


def _peak(spec: Spec, way: str) -> dict[str, Any]:
    """MiB above network and image, or why they are not known."""
    try:
        arguments = {"way": way, **dataclasses.asdict(spec)}
        found = memory.extra_mib(f"{__name__}:memory_call", spec.threads, arguments)
    except (RuntimeError, OSError) as error:
        return {"peak_mib": None, "peak_error": _errors.reason(error)}
    return {"peak_mib": round(found, 1)}


def _compile(spec: Spec, *networks: nn.Module) -> None:
    for network in networks if spec.compile else ():
        network.compile(dynamic=False)


def _kept(config: C2FConfig) -> dict[str, Any]:
    """What a checkpoint's networks were trained with, whatever is measured."""
    names = ("mean", "std", "scale", "window", "stride", "stride_multiple", "mode")
    return {name: getattr(config, name) for name in names}


def _scene(size: tuple[int, int]) -> Tensor:
    from ..data.scenes import make_scene

    scene = make_scene(20_000, size)
    return torch.from_numpy(np.ascontiguousarray(scene.image)).permute(2, 0, 1)[None]


def _size(pixels: Tensor) -> tuple[int, int]:
    return int(pixels.shape[-2]), int(pixels.shape[-1])


def _title(spec: Spec) -> str:
    return f"{spec.coarse} {spec.height} x {spec.width}, zoom {spec.zoom:g}, n {spec.n}"
