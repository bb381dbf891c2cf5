"""C2FNet at inference: forms, sizes, batches, chunks, against the steps written out."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from networks import FORMS, Coarse, Fine, Refusing, network, scene
from torch import Tensor

import c2fcore
from c2fcore import C2FNet, reference

pytestmark = pytest.mark.usefixtures("one_thread")


def same_labels(found: Tensor, probs: Tensor) -> None:
    """`found` is the argmax of `probs` wherever the best two are further apart than rounding."""
    best = probs.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-5
    assert clear.float().mean() > 0.99
    assert torch.equal(found[clear].long(), probs.argmax(1)[clear])


def by_hand(net: C2FNet, image: Tensor) -> Tensor:
    """Scores of `net` on an image at least a window large, all at full size, step by step."""
    config = net.config
    height, width = image.shape[-2:]
    pixels = image.float() / 255
    below, right = -height % 8, -width % 8  # the stride multiple of the test networks
    logits = net.coarse(F.pad(pixels, (0, right, 0, below)))
    whole = (height + below, width + right)
    full = F.interpolate(logits, size=whole, mode="bilinear", align_corners=False)
    full = full[..., :height, :width]
    windows = reference.select_windows(
        full,
        config.small_classes,
        window=config.window,
        stride=config.stride,
        n=config.n or 9999,
        strategy=config.strategy,
        edge=config.edge,
    )
    k, side = config.window, round(config.window * config.zoom)
    answers = []
    for b, origins in enumerate(windows.origins.tolist()):
        for y, x in origins:
            patch = pixels[b : b + 1, :, y : y + k, x : x + k]
            patch = F.interpolate(patch, size=side, mode=config.mode, align_corners=False)
            answers.append(net.fine.logits(patch))  # pixel by pixel: needs no padding
    return reference.aggregate(
        full, torch.cat(answers), windows, config.small_classes, rule=config.rule, output="probs"
    )


@pytest.mark.parametrize("size", [(96, 64), (64, 64), (75, 83), (33, 40), (32, 32), (97, 32)])
@pytest.mark.parametrize("zoom", [1.0, 2.0])
@pytest.mark.parametrize("rule", ["paper", "normalized", "official"])
def test_same_as_the_steps_by_hand(size: tuple[int, int], zoom: float, rule: str) -> None:
    net = network(zoom=zoom, rule=rule, n=5)
    image, _ = scene(*size, objects=14, batch=2)
    probs = net(image, output="probs")
    assert probs.dtype == torch.float32
    assert probs.shape == (2, 4, *size)
    torch.testing.assert_close(probs, by_hand(net, image), rtol=1e-4, atol=1e-5)
    labels = net(image)
    assert labels.dtype == torch.uint8
    assert labels.shape == (2, *size)
    same_labels(labels, probs)


@pytest.mark.parametrize("strategy", ["cover", "top", "all"])
@pytest.mark.parametrize("edge", ["flush", "drop"])
@pytest.mark.parametrize("n", [1, 40, None])
def test_strategies(strategy: str, edge: str, n: int | None) -> None:
    net = network(strategy=strategy, edge=edge, n=n)
    image, _ = scene(60, 53, objects=20)
    torch.testing.assert_close(
        net(image, output="probs"), by_hand(net, image), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 2])
def test_output_forms(form: str, channels: int) -> None:
    image, _ = scene(70, 64, objects=9)
    expected = network()(image, output="probs")
    found = network(Coarse(form=form), Fine(channels, form))(image, output="probs")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ratio", [1, 2, 8])
def test_coarse_logits_at_any_fraction(ratio: int) -> None:
    net = network(Coarse(ratio=ratio))
    image, _ = scene(75, 83, objects=9)
    torch.testing.assert_close(
        net(image, output="probs"), by_hand(net, image), rtol=1e-4, atol=1e-5
    )


def test_the_second_look_changes_something() -> None:
    image, _ = scene(96, 96, objects=12)
    found = network().detailed(image)
    assert (found.labels != found.coarse_labels).any()


@pytest.mark.parametrize("size", [(20, 50), (50, 20), (7, 9), (1, 1), (31, 33)])
def test_image_smaller_than_the_window(size: tuple[int, int]) -> None:
    net = network()
    image, _ = scene(*size, objects=2)
    found = net.detailed(image)
    assert found.labels.shape == (1, *size)
    same_labels(found.labels, net(image, output="probs"))
    # A short side has one window position; along a long one windows stay inside the image.
    for axis in (0, 1):
        assert int(found.windows.origins[..., axis].max()) <= max(0, size[axis] - 32)
    # The same as the image that was padded beforehand, for these networks that see no neighbours
    # and call black class 0.
    large = F.pad(image, (0, max(0, 32 - size[1]), 0, max(0, 32 - size[0])))
    assert torch.equal(net(large)[:, : size[0], : size[1]], found.labels)


@pytest.mark.parametrize("size", [(40, 44), (20, 44), (9, 9)])
def test_nothing_in_the_padding_attracts_a_window(size: tuple[int, int]) -> None:
    # Black is small class 1 to this network, and so is all the padding; the image itself is not.
    net = network(Coarse(black=1), min_pixels=1)
    image = torch.zeros((1, 3, *size), dtype=torch.uint8)
    image[:, 1] = 255
    found = net.detailed(image)
    assert found.windows.num.tolist() == [0]
    image[:, :, :8, :8] = 0
    found = net.detailed(image)
    assert found.windows.num.tolist() == [1]
    assert int(found.windows.counts.sum()) == int((found.coarse_labels == 1).sum())


def test_without_a_small_object_the_coarse_answer_is_returned() -> None:
    coarse = Coarse()
    net = network(coarse, Refusing())
    for size in ((64, 64), (50, 70), (20, 20)):
        image = torch.zeros((2, 3, *size), dtype=torch.uint8)
        image[:, 1, 5:9] = 255  # class 2, which is large
        found = net.detailed(image)
        assert found.windows.num.tolist() == [0, 0]
        assert torch.equal(found.labels, found.coarse_labels)
        assert set(found.labels.unique().tolist()) == {0, 2}
        probs = net(image, output="probs")
        torch.testing.assert_close(probs.sum(1), torch.ones(2, *size))
        same_labels(net(image), probs)


def test_images_of_a_batch_do_not_know_each_other() -> None:
    net = network(n=6, max_batch=4)
    images = [scene(70, 80, objects=count, seed=count)[0] for count in (0, 1, 30, 0, 4)]
    together = net.detailed(torch.cat(images))
    num = together.windows.num.tolist()
    assert num[0] == num[3] == 0
    assert 0 < num[1] < num[2] == 6
    for i, image in enumerate(images):
        alone = net.detailed(image)
        assert torch.equal(alone.labels[0], together.labels[i])
        assert torch.equal(alone.windows.origins[0], together.windows.origins[i])


@pytest.mark.parametrize("max_batch", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("zoom", [1.0, 1.3])
def test_chunks_change_nothing(max_batch: int, zoom: float) -> None:
    images = torch.cat([scene(70, 80, objects=c, seed=c)[0] for c in (9, 0, 2, 30)])
    fine = Fine()
    net = network(fine=fine, n=5, max_batch=max_batch, zoom=zoom)
    whole = network(n=5, zoom=zoom)(images, output="probs")
    torch.testing.assert_close(net(images, output="probs"), whole)
    used = int(net.detailed(images).windows.num.sum())
    assert max(shape[0] for shape in fine.shapes) == min(max_batch, used)
    assert sum(shape[0] for shape in fine.shapes) == 2 * used  # unused slots are never shown


def test_patches_are_padded_for_the_fine_network() -> None:
    image, _ = scene(70, 80, objects=9)
    fine = Fine(stride_multiple=48)
    found = network(fine=fine, zoom=1.25)(image, output="probs")
    assert fine.shapes[0][-2:] == (48, 48)
    assert (fine.inputs[0][..., 40:, :] == 0).all()
    assert (fine.inputs[0][..., 40:] == 0).all()
    torch.testing.assert_close(found, network(zoom=1.25)(image, output="probs"))


def test_stride_multiple_of_the_config_where_a_network_has_none() -> None:
    coarse, fine = Coarse(), Fine()
    del coarse.stride_multiple, fine.stride_multiple
    net = network(coarse, fine, stride_multiple=24)
    image, _ = scene(70, 80, objects=9)
    net(image)
    assert coarse.shapes == [(1, 3, 72, 96)]
    assert fine.shapes[0][-2:] == (48, 48)


def test_both_stages_see_the_same_normalisation() -> None:
    coarse, fine = Coarse(), Fine()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    net = network(coarse, fine, mean=mean, std=std, n=1)
    image, _ = scene(64, 64, objects=9)
    image[:, 0, 2:14, 2:14] = 255
    windows = net.detailed(image).windows
    expected = (image / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(coarse.inputs[0], expected)
    y, x = windows.origins[0, 0].tolist()
    torch.testing.assert_close(fine.inputs[0], expected[..., y : y + 32, x : x + 32])
    # Padding is zero after normalisation, in an image smaller than a window too.
    net(image[..., :20, :20])
    for seen in (coarse.inputs[-1], fine.inputs[-1]):
        torch.testing.assert_close(seen[..., :20, :20], expected[..., :20, :20])
        assert (seen[..., 20:, :] == 0).all()


@pytest.mark.parametrize(
    "dtype",
    [torch.uint16, torch.int16, torch.float16, torch.bfloat16, torch.float32, torch.float64],
)
def test_image_dtypes(dtype: torch.dtype) -> None:
    image, _ = scene(50, 64, objects=9)
    expected = network()(image)
    assert torch.equal(network(scale=1 / 255)(image.to(dtype)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_another_dtype(dtype: torch.dtype) -> None:
    image, _ = scene(50, 64, objects=9)
    coarse, fine = Coarse(), Fine()
    found = network(coarse, fine).to(dtype)(image)
    assert coarse.inputs[0].dtype == fine.inputs[0].dtype == dtype
    assert (found == network()(image)).float().mean() > 0.98


def test_channels_last() -> None:
    coarse, fine = Coarse(), Fine()
    image, _ = scene(50, 64, objects=9)
    seen: list[bool] = []
    for module in (coarse, fine):
        module.register_forward_pre_hook(
            lambda _, inputs: seen.append(
                inputs[0].is_contiguous(memory_format=torch.channels_last)
            )
        )
    found = network(coarse, fine, channels_last=True)(image)
    assert seen == [True, True]
    assert torch.equal(found, network()(image))


def test_image_in_any_strides() -> None:
    net = network()
    image, _ = scene(50, 64, objects=9)
    expected = net(image)
    hwc = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(net(hwc), expected)
    assert torch.equal(net(F.pad(image, (3, 2, 1, 4))[..., 1:51, 3:67]), expected)


def test_empty_batch() -> None:
    net = network(Refusing(), Refusing())
    image = torch.zeros((0, 3, 40, 50), dtype=torch.uint8)
    assert net(image).shape == (0, 40, 50)
    assert net(image, output="probs").shape == (0, 4, 40, 50)


def test_details_and_profile() -> None:
    net = network(n=3)
    image, _ = scene(70, 80, objects=20)
    expected = net(image)
    found = net.detailed(image)
    assert torch.equal(found.labels, expected)
    assert found.coarse_labels.shape == expected.shape
    assert found.windows.origins.shape == (1, 3, 2)
    labels, seconds = net.profile(image)
    assert torch.equal(labels, expected)
    for times in (found.seconds, seconds):
        assert list(times) == ["coarse", "select", "extract", "fine", "aggregate"]
        assert all(0 < value < 60 for value in times.values())


@pytest.mark.parametrize("output", ["labels", "probs"])
def test_inference_leaves_nothing_behind(output: str) -> None:
    net = network()
    image, _ = scene(50, 64, objects=9)
    before = image.clone()
    first = net(image, output=output)
    assert not first.requires_grad
    assert first.is_contiguous()
    assert torch.equal(net(image, output=output), first)
    assert torch.equal(image, before)


def test_backend_of_the_config_is_used() -> None:
    image, _ = scene(50, 64, objects=9)
    expected = network(backend="reference")(image)
    assert torch.equal(network()(image), expected)
    with c2fcore.use_backend("reference"):
        assert torch.equal(network()(image), expected)
    if not c2fcore.backends()["aggregate"]["cuda"][0]:
        with pytest.raises(RuntimeError, match="backend 'cuda' cannot run here"):
            network(backend="cuda")(image)


def test_copies() -> None:
    net = network()
    image, _ = scene(50, 64, objects=9)
    expected = net(image)
    assert torch.equal(copy.deepcopy(net)(image), expected)
    assert torch.equal(pickle.loads(pickle.dumps(net))(image), expected)
    net.config = net.config.replace(n=1)
    assert int(net.detailed(image).windows.num) == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_graphs_of_one_image_are_refused() -> None:
    """They would hold the number of its patches, and be wrong for others."""
    net, image = network(), torch.zeros((1, 3, 64, 64))
    with pytest.raises(NotImplementedError, match=r"^C2FNet: .* net\.coarse and net\.fine"):
        torch.export.export(net, (image,), strict=False)
    with pytest.raises(Exception, match=r"C2FNet: torch\.export"):
        torch.export.export(net, (image,), strict=True)
    with pytest.raises(NotImplementedError, match=r"^C2FNet: .* net\.coarse and net\.fine"):
        torch.jit.trace(net, (image,))


def test_compiled() -> None:
    image, _ = scene(50, 64, objects=9)
    net = network()
    expected = net(image)
    with pytest.warns(UserWarning, match=r"net.compile\(compile=True\) gives an engine"):
        assert torch.equal(torch.compile(net, backend="eager")(image), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(net.compile()(image), expected)
