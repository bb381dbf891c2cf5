"""The engine against its own networks: what a frame costs above them.

"networks" runs the engine's two networks on inputs that are ready, the patches in the engine's
forwards; "engine" is the whole frame, uint8 pixels on the host to uint8 labels on the host. Samples
are taken in turn, and twice of the networks: how far they are from themselves says what the
machine's other work does to such ratios, and so does the processor time beside the wall's. What of
a frame of the engine is not inside its networks is taken in the same sample, and knows no noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _stages, ops
from ..engine import Engine
from ..pipeline import C2FNet
from . import measure, network_suite, parity

NETWORKS, AGAIN, ENGINE = "networks", "networks again", "engine"
GLUE = ("select", "extract", "aggregate")
_TIES = 1e-3  # share of pixels that another memory format may decide otherwise


def measure_engine(
    spec: network_suite.Spec,
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> dict[str, Any]:
    """Times of both ways, and what is made of them.

    Args:
        spec: networks, image size and the rest.
        rounds: samples of each way.
        say: is told what is going on.
        **options: of the engine.

    Returns:
        "times", seconds of each way by round; "cpu", the same of all processors together;
        "outside", per cent of its networks' time that a frame spends outside them, one a round
        (of a device that the host waits for); "glue", the share of select, extract and aggregate
        in a frame, likewise; "windows"; "chunk", patches per forward at most; "differing", the
        share of labels that are not the eager path's.

    Raises:
        parity.Disagreement: more labels differ than rounding explains.
    """
    say("engine: build")
    net, image, about = network_suite.build(spec)
    with torch.inference_mode():
        wanted = net(image)[0].cpu()
    engine = net.compile(**options)
    engine.patches_at_once(image.shape[1])  # shows the fine network a patch: not within a frame
    pixels = image[0].permute(1, 2, 0).contiguous().cpu().numpy()
    say("engine: first calls")
    frame = engine(pixels)
    differing = int((torch.from_numpy(frame) != wanted).sum()) / wanted.numel()
    if differing > _TIES:
        raise parity.Disagreement(f"{differing:.2%} of the labels are not the eager path's")
    with torch.inference_mode():
        alone, windows = _networks_alone(net, engine, image)
    ways = {NETWORKS: alone, AGAIN: alone, ENGINE: lambda: engine(pixels)}
    calls = {name: _CpuTime(call) for name, call in ways.items()}
    outside = _Outside(engine)
    calls[ENGINE] = _CpuTime(lambda: outside.frame(pixels))
    say(f"engine: {rounds} rounds")
    times = measure.interleaved(dict(calls), rounds, target_s=0.0, device=spec.device)
    say("engine: stages")
    profiles = [engine.profile(pixels)[1] for _ in range(rounds)]
    return {
        "times": times,
        "cpu": {name: call.seconds[-rounds:] for name, call in calls.items()},
        "outside": outside.per_cent[-rounds:],
        "glue": [sum(p[s] for s in GLUE) / sum(p.values()) for p in profiles],
        "stages_ms": network_suite.stages_ms(profiles),
        "windows": windows,
        "chunk": engine.patches_at_once(image.shape[1]),
        "differing": differing,
        **about,
    }


class _CpuTime:
    """A call that notes the processor time it took, of all threads."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.seconds: list[float] = []

    def __call__(self) -> None:
        start = time.process_time()
        self._call()
        self.seconds.append(time.process_time() - start)


class _Outside:
    """Frames of an engine, and what they spend outside its networks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inside = 0.0
        self.per_cent: list[float] = []
        for network in (engine.networks.coarse, engine.networks.fine):
            network.register_forward_pre_hook(self._enter)
            network.register_forward_hook(self._leave)

    def frame(self, pixels: Any) -> None:
        self._inside = 0.0
        start = time.perf_counter()
        self._engine(pixels)
        whole = time.perf_counter() - start
        self.per_cent.append(100 * (whole / self._inside - 1))

    def _enter(self, *_: Any) -> None:
        self._inside -= time.perf_counter()

    def _leave(self, *_: Any) -> None:
        self._inside += time.perf_counter()


def above(times: dict[str, Sequence[float]]) -> list[float]:
    """Per cent that each round's engine took above its networks, the mean of both samples."""
    return [
        100 * (2 * engine / (one + other) - 1)
        for engine, one, other in zip(times[ENGINE], times[NETWORKS], times[AGAIN], strict=True)
    ]


def noise(times: dict[str, Sequence[float]]) -> list[float]:
    """Per cent between each round's samples of the same networks, whichever was the longer."""
    pairs = zip(times[NETWORKS], times[AGAIN], strict=True)
    return [100 * (max(pair) / min(pair) - 1) for pair in pairs]


def _networks_alone(net: C2FNet, engine: Engine, image: Tensor) -> tuple[Callable[[], Any], int]:
    """A call of both networks on ready inputs, and the number of patches."""
    networks, config = engine.networks, engine.networks.config
    size = _stages.coarse_size(networks.coarse, (image.shape[-2], image.shape[-1]), config)
    pixels = _stages.pad(_stages.normalise(image, config), size)
    fed = _stages.fed(pixels, networks.coarse, config)
    windows = net.detailed(image).windows
    used = int(windows.num[0])
    patches = ops.extract_patches(
        image,
        _stages.part(windows, 0, 1, 0, max(1, used)),
        zoom=config.zoom,
        mode=config.mode,
        scale=config.scale,
        mean=config.mean,
        std=config.std,
        dtype=_stages.dtype_of(networks.fine),
        channels_last=config.channels_last,
    )[:used]
    chunks = patches.split(engine.patches_at_once(image.shape[1])) if used else ()

    def alone() -> None:
        with torch.inference_mode(), networks.autocast():
            networks.coarse(fed)
            for chunk in chunks:
                _stages.fine_logits(networks.fine, chunk, config)

    return alone, used
