"""Engine: the labels of the eager path, on every size, kind of input and option."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import Coarse, Conv, Fine, Refusing, network, scene
from PIL import Image, ImageSequence
from torch import Tensor, nn

import c2fcore
from c2fcore import C2FNet, Engine
from c2fcore.cli.demo import DEMO_WEIGHTS
from c2fcore.data.scenes import make_scene
from c2fcore.engine import working_set
from c2fcore.models import build, low_resolution

pytestmark = pytest.mark.usefixtures("one_thread")


SIZES = [(96, 64), (64, 64), (75, 83), (20, 50), (7, 9), (97, 32)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options",
    [
        {"n": 5},
        {"n": 5, "zoom": 2.0, "rule": "paper"},
        {"n": None, "strategy": "all", "rule": "official", "edge": "drop"},
        {"n": 40, "strategy": "top", "zoom": 1.3, "mode": "bicubic"},
        {"mean": (0.1, 0.2, 0.3), "std": 0.5, "max_batch": 3},
    ],
)
def test_same_labels_as_the_eager_path(size: tuple[int, int], options: dict[str, Any]) -> None:
    net = network(**options)
    image = torch.cat([scene(*size, objects=count, seed=count)[0] for count in (14, 0, 3)])
    expected = net(image)
    for batch in (1, 2, 3):
        assert torch.equal(net.compile(batch=batch)(image), expected)


@pytest.mark.parametrize("strategy", ["cover", "top", "all"])
def test_more_windows_than_there_are_cost_nothing(strategy: str) -> None:
    image, _ = scene(70, 80, objects=9)
    whole, huge = (network(strategy=strategy, n=n) for n in (None, 2**31 - 1))
    expected, found = whole.detailed(image), huge.detailed(image)
    assert found.windows.origins.shape == expected.windows.origins.shape
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(huge.compile()(image), expected.labels)


@pytest.mark.parametrize("buckets", ["powers", "exact", (3, 5, 9)])
@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("lanes", [1, 3])
def test_buckets_and_chunks_change_nothing(buckets: Any, chunk: int | None, lanes: int) -> None:
    net = network(n=7)
    image = torch.cat([scene(70, 80, objects=count, seed=count)[0] for count in (9, 0, 30, 1)])
    engine = net.compile(batch=4, buckets=buckets, chunk=chunk, lanes=lanes)
    assert torch.equal(engine(image), net(image))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("channels", [1, 2])
def test_forms_and_layouts(channels: int, channels_last: bool) -> None:
    net = network(Coarse(form="dict_out"), Fine(channels, "nested", stride_multiple=48))
    image, _ = scene(70, 80, objects=20)
    assert torch.equal(net.compile(channels_last=channels_last)(image), net(image))


def test_answers_in_kind(tmp_path: Path) -> None:
    net = network(n=4)
    engine = net.compile()
    image, _ = scene(60, 52, objects=9)
    expected = net(image)
    hwc = image[0].permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(hwc).save(tmp_path / "photo.png")
    path = tmp_path / "photo.png"
    for given in (hwc, hwc[:, ::-1][:, ::-1], Image.open(path), path, str(path)):
        labels = engine(given)
        assert isinstance(labels, np.ndarray)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, expected[0].numpy())
    for tensor, want in ((image, expected), (image[0], expected[0])):
        labels = engine(tensor)
        assert isinstance(labels, Tensor)
        assert not labels.is_inference()
        assert torch.equal(labels, want)
    assert engine(image[:0]).shape == (0, 60, 52)


@pytest.mark.parametrize("kind", ["tif", "gif", "png"])
def test_frames_of_one_picture(tmp_path: Path, kind: str) -> None:
    """Pillow gives one image again and again, which moves on to the next frame."""
    pixels = [scene(60, 52, objects=4 * i, seed=i)[0][0].permute(1, 2, 0).numpy() for i in range(9)]
    first, *others = map(Image.fromarray, pixels)
    first.save(tmp_path / f"many.{kind}", save_all=True, append_images=others)
    with Image.open(tmp_path / f"many.{kind}") as picture:
        expected = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
    assert len(expected) == 9
    with Image.open(tmp_path / f"many.{kind}") as picture:
        results = list(network(n=4).compile().run(ImageSequence.Iterator(picture)))
    assert [result.error for result in results] == [None] * 9
    for result, frame in zip(results, expected, strict=True):
        assert np.array_equal(result.pixels, frame)


@pytest.mark.parametrize(
    "dtype",
    [torch.uint16, torch.int16, torch.float16, torch.bfloat16, torch.float32, torch.float64],
)
def test_image_dtypes(dtype: torch.dtype) -> None:
    image, _ = scene(50, 64, objects=9)
    net = network(scale=1 / 255)
    assert torch.equal(net.compile()(image.to(dtype)), net(image.to(dtype)))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.zeros((3, 8)), ValueError, r"a tensor must be \[C, H, W\], got \(3, 8\)"),
        (np.zeros((1, 2, 3, 4)), ValueError, r"\[H, W, C\] or \[H, W\], got \(1, 2, 3, 4\)"),
        (torch.zeros((3, 0, 8)), ValueError, r"with pixels, got shape \(1, 3, 0, 8\)"),
        (torch.zeros((3, 8, 8), dtype=torch.int64), TypeError, "got torch.int64"),
        (np.ma.masked_all((8, 8, 3), np.uint8), TypeError, "image must have no mask, which"),
        (7, TypeError, "an image must be a path, a Pillow image, an array or a tensor, got int"),
        ("nowhere.png", FileNotFoundError, r"got nowhere\.png"),
    ],
)
def test_images_that_are_none(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        network().compile()(given)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch": 0}, ValueError, "batch must be at least 1, got 0"),
        ({"precision": "int8"}, ValueError, "precision must be one of 'bfloat16'"),
        ({"buckets": "few"}, ValueError, "buckets must be one of 'powers', 'exact', got 'few'"),
        ({"buckets": (0,)}, ValueError, "buckets must be at least 1, got 0"),
        ({"buckets": 4}, TypeError, "buckets must be 'powers', 'exact' or sizes, got 4"),
        ({"size_multiple": 12}, ValueError, "multiple of the coarse network's 8, got 12"),
        ({"sizes": [(0, 4)]}, ValueError, "Engine: sizes must be at least 1, got 0"),
        ({"sizes": [64]}, ValueError, r"Engine: sizes must be pairs \(H, W\), got 64"),
        ({"lanes": 0}, ValueError, "lanes must be at least 1, got 0"),
        ({"threads": 1025}, ValueError, "threads must be in 1..1024, got 1025"),
        ({"chunk": 1.5}, TypeError, "chunk must be an integer, got 1.5"),
        (
            {"compile": "yes"},
            TypeError,
            "compile must be a bool or a mapping of options, got 'yes'",
        ),
        ({"graphs": "no"}, TypeError, "graphs must be a bool, got 'no'"),
        ({"sizes": 64}, TypeError, r"sizes must be a sequence of pairs \(H, W\), got 64"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        network().compile(**options)


def test_networks_wrong_in_shape_are_named() -> None:
    with pytest.raises(ValueError, match="coarse network must return num_classes=4 channels"):
        network(nn.Conv2d(3, 5, 1)).compile()(torch.zeros((3, 64, 64)))


def test_no_window_no_fine_network() -> None:
    net = network(Coarse(), Refusing())
    image = torch.zeros((2, 3, 50, 70), dtype=torch.uint8)
    image[:, 1, 5:9] = 255
    assert torch.equal(net.compile(batch=2)(image), net(image))


def test_the_engine_is_a_copy() -> None:
    net = network(n=4)
    image, _ = scene(60, 52, objects=9)
    expected = net(image)
    engine = net.compile()
    assert engine.config == net.config
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert not torch.equal(net(image), expected)
    assert torch.equal(engine(image), expected)
    assert net.coarse.weight.is_contiguous()
    assert net.train().compile()(image) is not None  # whatever mode the net is in


def test_size_multiple_pads_further() -> None:
    net = network(n=4)
    image, _ = scene(60, 52, objects=9)
    engine = net.compile(size_multiple=64)
    seen: list[tuple[int, ...]] = []
    engine.networks.coarse.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape))
    assert torch.equal(engine(image), net(image))  # these networks see no neighbours
    assert seen == [(1, 3, 64, 64)]


def test_full_size_logits_are_not_asked_for() -> None:
    pytest.importorskip("torchvision")
    from torchvision.models import segmentation

    image = torch.rand((1, 3, 64, 96))
    for name in ("fcn_resnet50", "lraspp_mobilenet_v3_large"):
        full = segmentation.__dict__[name](
            weights=None, weights_backbone=None, num_classes=5
        ).eval()
        with torch.no_grad():
            small = low_resolution(full)(image)
            assert small.shape[-1] <= 96 // 4
            up = F.interpolate(small, size=(64, 96), mode="bilinear", align_corners=False)
            torch.testing.assert_close(up, full(image)["out"])
    assert low_resolution(refusing := Refusing()) is refusing


def test_own_networks_may_offer_low_resolution() -> None:
    class Upsampling(Coarse):
        wanted = True

        def low_resolution(self) -> Upsampling:
            self.wanted = False
            return self

        def logits(self, image: Tensor) -> Tensor:
            found = super().logits(image)
            size = image.shape[-2:]
            return F.interpolate(found, size=size, mode="bilinear") if self.wanted else found

    net = network(Upsampling(), n=4)
    image, _ = scene(75, 83, objects=9)
    engine = net.compile()
    assert net.coarse.wanted
    assert not engine.networks.coarse.wanted
    assert torch.equal(engine(image), net(image))


def test_low_resolution_of_the_wrong_kind() -> None:
    class Wrong(Coarse):
        def low_resolution(self) -> int:
            return 3

    with pytest.raises(TypeError, match=r"Wrong.low_resolution\(\) must return an nn.Module"):
        network(Wrong()).compile()


def test_trained_networks_agree_with_the_eager_path() -> None:
    net = C2FNet.from_pretrained(DEMO_WEIGHTS)
    image = torch.from_numpy(make_scene(3, 320).image).permute(2, 0, 1)
    expected = net.detailed(image[None])
    assert int(expected.windows.num) > 3
    # Another memory format rounds the logits otherwise; few pixels are that close.
    assert (net.compile()(image) == expected.labels[0]).float().mean() > 0.9999
    engine = net.compile(precision="bfloat16")
    assert (engine(image) == expected.labels[0]).float().mean() > 0.995


def test_bfloat16() -> None:
    torch.manual_seed(0)
    net = C2FNet(build("tiny_fcn", 4, width=8), build("tiny_fcn", 2, width=8), network().config)
    net.eval()
    image, _ = scene(96, 128, objects=20)
    engine = net.compile(precision="bfloat16", fold_norms=False)
    kinds = {m.weight.dtype for m in engine.networks.fine.modules() if type(m) is nn.Conv2d}
    norms = {m.weight.dtype for m in engine.networks.fine.modules() if type(m) is nn.BatchNorm2d}
    assert (kinds, norms) == ({torch.bfloat16}, {torch.float32})
    with torch.autocast("cpu", torch.bfloat16):
        expected = net.detailed(image)
    assert (engine(image) == expected.labels).float().mean() > 0.99
    assert net.fine.stem[0].weight.dtype == torch.float32


class Normalising(nn.Module):
    """Does so itself, with statistics of 16-bit images."""

    stride_multiple = 1

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.conv((image - 2000) / 20)
        return found


def test_bfloat16_begins_where_autocast_lets_it_begin() -> None:
    """Not with the pixels: bfloat16 has no number between 2000 and 2008."""
    torch.manual_seed(0)
    net = network(Normalising(4), Normalising(2))
    image = (2000 + 20 * torch.randn(1, 3, 64, 64)).short()
    with torch.autocast("cpu", torch.bfloat16):
        expected = net.detailed(image)
    assert int(expected.windows.num) > 0
    assert torch.equal(net.compile(precision="bfloat16")(image), expected.labels)


@pytest.mark.parametrize("amx", [False, True])
def test_auto_takes_bfloat16_where_it_is_faster(amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """AVX-512 BF16 alone, which makes networks slower, is not asked for."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    found = network().compile(precision="auto").networks.precision
    assert found == (torch.bfloat16 if amx else None)


def test_compiled_networks() -> None:
    net = network(Conv(3, 4, 1), Conv(3, 1, 1))
    with torch.no_grad():  # small objects everywhere: both networks must run
        net.coarse.bias[net.config.small_classes[0]] = 100.0
    image, _ = scene(50, 64, objects=9)
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(1)
        return graph.forward

    engine = net.compile(compile={"backend": backend})
    assert torch.equal(engine(image), net(image))
    assert torch.equal(engine(image), net(image))
    assert len(graphs) == 2


def test_profile_times_the_stages() -> None:
    net = network(n=4)
    image, _ = scene(60, 52, objects=9)
    labels, seconds = net.compile().profile(image[0])
    assert torch.equal(labels, net(image)[0])
    assert list(seconds) == ["coarse", "select", "extract", "fine", "aggregate"]
    assert all(value > 0 for value in seconds.values())


def test_backend_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = scene(50, 64, objects=9)
    expected = network()(image)
    assert torch.equal(network(backend="reference").compile()(image), expected)
    if not c2fcore.backends()["aggregate"]["cuda"][0]:
        engine = network().compile()
        with c2fcore.use_backend("cuda"), pytest.raises(RuntimeError, match="backend 'cuda'"):
            engine(image)
        with c2fcore.use_backend("cuda"):  # the threads of a run see it, too
            (found,) = engine.run(image)
        assert "backend 'cuda' cannot run here" in str(found.error)


def test_many_threads_and_several_engines() -> None:
    net = network(n=6)
    images = [scene(60 + 8 * (i % 3), 64, objects=3 * i, seed=i)[0] for i in range(12)]
    expected = [net(image) for image in images]
    engines: list[Engine] = [net.compile(lanes=2), net.compile(batch=3)]
    wrong: list[int] = []

    def work(start: int) -> None:
        for i in range(start, start + 24):
            index = i % len(images)
            for engine in engines:
                if not torch.equal(engine(images[index]), expected[index]):
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_patches_that_fit_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(fine=build("tiny_fcn", 2, width=4), window=64)
    engine = net.compile()
    # The stem's first convolution is the largest layer but for the head's: [3, 64, 64] to
    # [4, 32, 32], and batch norm, [4, 32, 32] twice; the decoder has 12 channels at 16 x 16.
    one = 4 * (3 * 64 * 64 + 4 * 32 * 32)
    for fitting, wanted in ((0.5, 1), (1.5, 1), (2.5, 2), (7.9, 4), (8.1, 8)):
        monkeypatch.setattr(working_set, "cache_bytes", lambda f=fitting: int(f * one))
        assert working_set.patches_in_cache(engine.networks, 3) == wanted


def test_cache_size_as_the_system_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_set, "_CACHES", tmp_path)
    assert working_set.cache_bytes() == 16 << 20
    for index, text in enumerate(("48K", "2M", "oops", "")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(text + "\n")
    assert working_set.cache_bytes() == 2 << 20
