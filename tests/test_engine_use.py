"""Engines as they are deployed: in other people's processes, threads, folders and precisions."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from availability import need
from cupy_double import Array, CuPy
from networks import Coarse, network, scene
from PIL import Image
from torch import Tensor, nn

from c2fcore import C2FNet, Engine, _arrays
from c2fcore.engine import networks as engine_networks
from c2fcore.images import no_size_limit
from c2fcore.models import build

pytestmark = pytest.mark.usefixtures("one_thread")


class Thin(Coarse):
    """Sees the image at a quarter of its size, so that nothing of it is large but the glue's."""

    def logits(self, image: Tensor) -> Tensor:
        return F.conv2d(F.avg_pool2d(image, self.ratio), self.weight, self.bias)


@pytest.mark.parametrize("zoom", [1.0, 2.0])
def test_no_tensor_of_all_classes_at_full_size(zoom: float) -> None:
    need("cpu", "select_windows", "extract_patches", "aggregate")
    classes, side = 64, 256
    full = classes * side * side  # bytes, of one byte per class and pixel; logits have two or four
    nets = [
        network(Thin(classes), num_classes=classes, n=5, zoom=zoom, backend=backend)
        for backend in ("cpu", "reference")
    ]
    image, _ = scene(side, side, objects=9)
    engine = nets[0].compile()
    engine(image)
    assert _largest_allocation(lambda: engine(image)) < full
    pixels, _ = scene(side - 5, side - 9, objects=9)  # padded
    assert _largest_allocation(lambda: engine(pixels)) < full
    assert _largest_allocation(lambda: nets[1](image)) >= 4 * full


def _largest_allocation(call: Callable[[], Any]) -> int:
    """Bytes of the largest tensor that torch makes on the CPU during a call, whoever asks."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    events = profile.profiler.kineto_results.events()
    return max(event.nbytes() for event in events if event.name() == "[memory]")


def test_the_precision_is_the_engines_own() -> None:
    """Whatever autocast the caller is in: a graph would keep that of its capture, and threads."""
    net = built()
    image, _ = scene(96, 128, objects=20)
    engine = net.compile()
    outputs: list[torch.dtype] = []
    engine.networks.coarse.register_forward_hook(lambda _, x, y: outputs.append(y.dtype))
    expected = net.compile()(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(engine(image), expected)
        (found,) = engine.run([image[0]])
    assert torch.equal(found.labels, expected[0])
    assert outputs == [torch.float32] * 2


def test_the_default_device_is_no_matter() -> None:
    net = network(n=4)
    engine = net.compile()
    image, _ = scene(60, 52, objects=9)
    expected = net(image)
    with torch.device("meta"):
        assert torch.equal(engine(image), expected)
        assert engine(image[:0]).device.type == "cpu"


def test_engines_stay_in_their_process() -> None:
    engine = network().compile()
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"call net.compile\(\) there"):
            attempt(engine)


def built(**options: Any) -> C2FNet:
    torch.manual_seed(0)
    pair = build("tiny_fcn", 4, width=8), build("tiny_fcn", 2, width=8)
    return C2FNet(*pair, network(**options).config).eval()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            np.zeros((40, 50), dtype=np.uint8),
            ".*must have 3 channels, got 1 in an image of 40 x 50",
        ),
        (np.zeros((40, 50, 4), dtype=np.uint8), r".*got 4 in .*; Pillow's image.convert\('RGB'\)"),
        (
            torch.zeros((40, 50, 3)),
            r".*got 40 in an image of 50 x 3; arrays are \[H, W, C\], tensors",
        ),
        (torch.zeros((2, 40, 50, 3)), ".*must have 3 channels, got 40 in an image of 50 x 3"),
        (np.zeros((3, 40, 50), dtype=np.uint8), r".*image of 3 x 40; .*image.transpose\(1, 2, 0\)"),
    ],
)
def test_channels_are_told_before_a_network_meets_them(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built().compile()(given)
    with pytest.raises(ValueError, match=f"^Engine: image {message}"):  # nothing tells but failing
        network(Plain(4), Plain(1)).compile()(given)
    with pytest.raises(ValueError, match=f"^Engine: image {message}"):
        network(mean=(0.5, 0.5, 0.5)).compile()(given)


class Plain(nn.Module):
    """A module given by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, channels, 1))

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.layers(image)
        return answer


def test_a_first_convolution_that_sees_no_image_is_no_rule() -> None:
    coarse = Coarse()
    coarse.unused = nn.Conv2d(7, 4, 1)
    net, image = network(coarse), scene(96, 128, objects=20)[0]
    assert torch.equal(net.compile()(image), net(image))


def test_tensors_without_memory_are_told_as_the_net_tells_them() -> None:
    for given in (
        torch.rand((3, 40, 50), device="meta"),
        torch.rand((1, 3, 40, 50), device="meta"),
    ):
        with pytest.raises(ValueError, match=r"Engine: image must have memory, .* got device meta"):
            network().compile()(given)


def test_what_engines_and_results_say_of_themselves() -> None:
    engine = built(backend="reference").compile(precision="bfloat16", sizes=[(40, 48)])
    assert repr(engine) == (
        "Engine(device='cpu', precision='bfloat16', channels_last=True, folded=32, compiled=False, "
        "graphs=False, buckets='exact', batch=1, lanes=1, sizes=[(40, 48)])"
    )
    good, bad = engine.run([("a", np.zeros((64, 50, 3), np.uint8)), np.zeros((9, 9, 4), np.uint8)])
    assert (
        repr(good) == f"Result(index=0, name='a', labels of (64, 50), {len(good.windows)} windows)"
    )
    assert repr(bad).startswith("Result(index=1, name='image 1', error=ValueError(")
    assert "(64, 50)]" in repr(engine)


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_weights_that_are_no_numbers(stage: str) -> None:
    """All would be class 0, image after image."""
    net = network()
    with torch.no_grad():
        getattr(net, stage).more = nn.Parameter(torch.zeros(2).to(torch.float8_e4m3fn))
        net.compile()
        getattr(net, stage).bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=rf"Engine: weights must be finite, got nan in {stage}.bi"):
        net.compile()


def test_dense_tensors_only() -> None:
    for given in (torch.rand((3, 40, 50)).to_sparse(), torch.rand((1, 3, 40, 50)).to_sparse()):
        with pytest.raises(TypeError, match="must be a dense tensor, got"):
            network().compile()(given)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> type[CuPy]:
    """Its stream 0xABC is current, and torch's 7; CuPy's memory is the host's."""
    monkeypatch.setitem(sys.modules, "cupy", CuPy)  # type: ignore[misc]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Torchs(7))
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: ("default", device))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda *of: ("external", *of))
    monkeypatch.setattr(torch.cuda, "stream", CuPy.stream)
    CuPy.current, CuPy.inside, CuPy.seen = 0xABC, [], []
    return CuPy


class Torchs:
    """A stream of torch on the device of the doubles."""

    device = torch.device("cuda", Array.device.id)

    def __init__(self, handle: int) -> None:
        self.cuda_stream = handle
        self.waited: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.waited.append(other)


def test_arrays_of_cupy(cupy: type[CuPy]) -> None:
    """Viewed where CuPy's current stream can be waited for, and answered on that stream."""
    net = network(n=4)
    engine = net.compile(batch=2)
    image, _ = scene(60, 52, objects=9)
    hwc = image[0].permute(1, 2, 0).contiguous()
    expected = net(image)[0]
    answer = engine(Array(hwc))
    assert isinstance(answer, Array)
    assert torch.equal(answer.memory, expected)
    assert cupy.seen == [("in",), ("out", ("external", 0xABC, 1))]
    viewed: list[str] = []

    class Noting(Array):
        def __dlpack__(self, **options: Any) -> Any:
            viewed.append(threading.current_thread().name)
            return super().__dlpack__(**options)

    given = [Noting(hwc), ("named", Noting(hwc)), Noting(hwc[..., :2]), Noting(hwc[0, 0]), image[0]]
    results = list(engine.run(given))
    assert viewed == ["c2f-feed"] * 3
    assert [r.name for r in results][:2] == ["image 0", "named"]
    for result in results[:2]:
        assert isinstance(result.labels, Array)
        assert torch.equal(result.labels.memory, expected)
    assert results[2].error is not None
    assert "must be [H, W, C] or [H, W]" in str(results[3].error)
    assert torch.equal(results[4].labels, expected)
    with pytest.raises(TypeError, match=r"one image goes to engine\(image\); got Array"):
        engine.run(Array(hwc))


@pytest.mark.parametrize(
    ("handle", "waited"), [(0xABC, [("external", 0xABC, 1)]), (0, [("default", 1)]), (7, [])]
)
def test_a_run_waits_for_the_stream_of_cupy(
    handle: int, waited: list[Any], cupy: type[CuPy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays made before the loop, on a stream that its threads do not know."""
    cupy.current = handle
    stream = Torchs(7)
    _arrays.wait_for_cupy(stream)  # type: ignore[arg-type]
    assert stream.waited == waited
    monkeypatch.setattr(cupy, "is_available", lambda: False)
    _arrays.wait_for_cupy(stream)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "cupy")
    _arrays.wait_for_cupy(stream)  # type: ignore[arg-type]
    assert stream.waited == waited


@pytest.mark.parametrize(
    "one", ["a.png", Path("a.png"), np.zeros((8, 8, 3)), torch.zeros((3, 8, 8)), 3, None]
)
def test_a_run_is_of_many(one: Any) -> None:
    with pytest.raises(TypeError, match=r"one image goes to engine\(image\); got "):
        network().compile().run(one)


def test_whatever_can_be_iterated_over_is_many() -> None:
    class Folder:
        def __getitem__(self, index: int) -> Tensor:
            if index == 3:
                raise IndexError
            return scene(60, 52, objects=index)[0][0]

    assert [r.error for r in network().compile().run(Folder())] == [None] * 3
    stack = scene(60, 52, objects=2, batch=2)[0]
    assert len(list(network().compile().run(stack))) == 2


def test_what_is_no_net_and_what_is_no_image_to_warm_up_for() -> None:
    with pytest.raises(TypeError, match="net must be a C2FNet, got Conv2d"):
        Engine(nn.Conv2d(3, 3, 1))  # type: ignore[arg-type]
    engine = network().compile()
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        engine.warm_up([(64, 64)], channels=0)
    with pytest.raises(TypeError, match="image must be uint8/"):
        engine.warm_up([(64, 64)], dtype=torch.int64)


def test_a_warm_up_that_is_interrupted_loses_no_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = network().compile(lanes=2)
    take, taken = engine._lanes.get, []

    def interrupted(*args: Any, **options: Any) -> Any:
        if len(taken) == 1:
            raise KeyboardInterrupt
        taken.append(take(*args, **options))
        return taken[-1]

    monkeypatch.setattr(engine._lanes, "get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.warm_up([(64, 64)], progress=False)
    assert engine._lanes.qsize() == 2


def test_a_precision_is_one_of_networks_in_float32() -> None:
    net = built().half()
    with pytest.raises(ValueError, match="must be of networks in float32, got "):
        net.compile(precision="bfloat16")
    assert net.compile(precision="auto").networks.precision is None


def test_modes_of_torch_compile_that_capture_are_refused_on_a_gpu() -> None:
    gpu = torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"leave CUDA graphs to the engine, .*'reduce-overhead'"):
        engine_networks.check_compile({"mode": "reduce-overhead"}, gpu)
    kept = {"mode": "max-autotune-no-cudagraphs"}
    assert engine_networks.check_compile(kept, gpu) == kept
    assert engine_networks.check_compile(True, gpu) == {}
    assert engine_networks.check_compile(False, gpu) is None
    assert engine_networks.check_compile({"mode": "reduce-overhead"}, torch.device("cpu"))


def test_dropout_and_batch_norm_are_those_of_inference() -> None:
    class Noisy(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.Dropout(0.5)
            )

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"out": self.layers(image)}

    torch.manual_seed(0)
    net = C2FNet(Noisy(4), Noisy(2), network().config)
    net.coarse.train()
    image, _ = scene(75, 83, objects=9)
    engine = net.train().compile()
    found = engine(image)
    assert net.fine.training
    net.double()
    assert torch.equal(engine(image), found)
    assert (net.float().eval()(image) == found).float().mean() > 0.999


def test_one_picture_many_times(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 700, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    engine = network(n=1).compile()
    for _ in range(3):
        picture = Image.open(tmp_path / "noise.png")
        results = list(engine.run([picture] * 6, readers=4, prefetch=6))
        assert [result.error for result in results] == [None] * 6
        assert all(np.array_equal(result.pixels, pixels) for result in results)


def test_readers_share_the_size_limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends must not set the limit while another opens an image above it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with no_size_limit():
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(5)
    with no_size_limit():
        leave.set()
        thread.join()
        assert Image.MAX_IMAGE_PIXELS > 1000
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_run_that_was_left_may_be_closed_again() -> None:
    engine = network(n=4).compile()

    def source() -> Iterator[Tensor]:
        while True:
            yield scene(60, 52, objects=3)[0][0]

    run = engine.run(source())
    next(run)
    run.close()
    run.close()
    assert next(run, None) is None
    assert list(engine.run([])) == []
    engine.release()
    assert engine(scene(60, 52, objects=3)[0]).shape == (1, 60, 52)
