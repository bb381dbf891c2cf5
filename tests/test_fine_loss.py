"""Training of stage 2: the loss written out, what is frozen, what is ignored."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import BASE, Coarse, Fine, Learner, Refusing, network, scene
from torch import Tensor, nn

from c2fcore import C2FConfig, C2FNet, ops

pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(net: C2FNet, image: Tensor, labels: Tensor, pos_weight: float = 1.0) -> Tensor:
    """The loss over the coarse network's windows of an image with sides that need no padding."""
    config = net.config
    logits = net.coarse(image / 255)
    windows = ops.select_windows(
        logits,
        config.small_classes,
        window=config.window,
        stride=config.stride,
        n=config.n or 9999,
        size=tuple(image.shape[-2:]),
    )
    k = config.window
    total, count = torch.zeros(()), 0
    for b, used in enumerate(windows.num.tolist()):
        for y, x in windows.origins[b, :used].tolist():
            found = net.fine.logits(image[b : b + 1, :, y : y + k, x : x + k] / 255)
            truth = labels[b, y : y + k, x : x + k].long()
            target = torch.isin(truth, torch.tensor(config.small_classes)).long()
            target[truth == config.ignore_index] = -1
            if found.shape[1] == 1:
                found = torch.cat((torch.zeros_like(found), found), dim=1)
            weight = torch.tensor([1.0, pos_weight])
            total = total + F.cross_entropy(
                found, target[None], weight, ignore_index=-1, reduction="sum"
            )
            count += int((target >= 0).sum())
    return total / count


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("pos_weight", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_same_as_the_loss_by_hand(
    channels: int, pos_weight: float | None, dtype: torch.dtype
) -> None:
    net = network(fine=Fine(channels), n=4).train()
    image, labels = scene(64, 80, objects=12, batch=2)
    labels[:, 10:30, 20:40] = 255
    found = net.fine_loss(image, labels.to(dtype), pos_weight=pos_weight)
    torch.testing.assert_close(found, by_hand(net, image, labels, pos_weight or 1.0))
    assert found.requires_grad


@pytest.mark.parametrize("size", [(64, 64), (75, 83), (20, 50)])
@pytest.mark.parametrize("ignore", [255, 0, 2, -1, 300])
def test_ignored_pixels_have_no_effect(size: tuple[int, int], ignore: int) -> None:
    net = network(ignore_index=ignore).train()
    image, labels = scene(*size, objects=9)
    labels = labels.short()
    hidden = torch.zeros(size, dtype=torch.bool)
    hidden[3:15, 5:18] = True
    losses = []
    for fill in (0.0, 255.0):
        # Under the hidden pixels the fine network errs, or not: these networks see single pixels.
        pixels = image.clone()
        pixels[:, 1, hidden] = int(fill)
        losses.append(
            net.fine_loss(pixels, labels.masked_fill(hidden, ignore), windows_from="labels").item()
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] > 0


def test_everything_ignored_is_zero_not_nan() -> None:
    net = network().train()
    image, labels = scene(64, 64, objects=9)
    loss = net.fine_loss(image, torch.full_like(labels, 255))
    assert loss.item() == 0.0
    loss.backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in net.fine_parameters())


@pytest.mark.parametrize("zoom", [1.0, 1.3, 2.0])
def test_loss_is_taken_at_the_resolution_of_the_labels(zoom: float) -> None:
    net = network(zoom=zoom, n=1).train()
    image = torch.zeros((1, 3, 32, 32), dtype=torch.uint8)
    image[:, 0] = 255
    labels = torch.ones((1, 32, 32), dtype=torch.uint8)
    expected = F.softplus(torch.tensor(-5.0))  # the logit of pure red is 8 - 3 everywhere
    torch.testing.assert_close(net.fine_loss(image, labels), expected)


def test_the_coarse_network_is_frozen() -> None:
    torch.manual_seed(0)
    coarse, fine = Learner(4), Learner(1)
    net = C2FNet(coarse, fine, C2FConfig(**{**BASE, "small_classes": (0, 1, 2)}))
    before = {key: value.clone() for key, value in coarse.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    net.train()
    assert not coarse.training
    assert fine.training
    image, labels = scene(64, 64, objects=9, batch=2)
    for _ in range(3):
        optimizer.zero_grad()
        net.fine_loss(image, labels).backward()
        optimizer.step()
    coarse.train()  # by hand, and corrected by the next loss
    net.fine_loss(image, labels, windows_from="both")
    assert not coarse.training
    assert all(torch.equal(value, before[key]) for key, value in coarse.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in coarse.parameters())
    assert set(net.fine.state_dict()) == set(Learner(1).state_dict())
    assert {id(p) for p in net.fine_parameters()} == {id(p) for p in fine.parameters()}
    net.requires_grad_(True).train()
    assert not any(p.requires_grad for p in coarse.parameters())


@pytest.mark.parametrize("channels", [1, 2])
def test_learns(channels: int) -> None:
    torch.manual_seed(0)
    net = C2FNet(Coarse(), Learner(channels), C2FConfig(**BASE, n=3)).train()
    optimizer = torch.optim.Adam(net.fine_parameters(), lr=0.05)
    image, labels = scene(64, 64, objects=12, batch=2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = net.fine_loss(image, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("fine", [Refusing(), Learner(1)])
def test_a_batch_without_windows_gives_zero_with_gradients(fine: Any) -> None:
    net = network(fine=fine).train()
    image = torch.zeros((2, 3, 64, 64), dtype=torch.uint8)
    labels = torch.ones((2, 64, 64), dtype=torch.uint8)
    loss = net.fine_loss(image, labels)
    assert loss.item() == 0.0
    loss.backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in net.fine_parameters())


def test_without_windows_layers_that_wait_for_other_processes_are_not_left_out() -> None:
    seen: list[torch.Tensor] = []
    fine = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.Conv2d(4, 1, 1))
    fine[1].register_forward_hook(lambda module, given, found: seen.append(found))
    net = network(fine=fine).train()
    image = torch.zeros((2, 3, 20, 64), dtype=torch.uint8)
    loss = net.fine_loss(image, torch.ones((2, 20, 64), dtype=torch.uint8), negatives=1)
    assert len(seen) == 1
    assert loss.item() == 0.0
    (of_layer,) = torch.autograd.grad(loss, seen, retain_graph=True)
    assert (of_layer == 0).all()
    loss.backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in net.fine_parameters())


def test_images_without_windows_contribute_nothing() -> None:
    net = network().train()
    image, labels = scene(64, 64, objects=9)
    alone = net.fine_loss(image, labels)
    dark = torch.zeros_like(image)
    batch = torch.cat((dark, image, dark)), torch.cat((labels, labels, labels))
    torch.testing.assert_close(net.fine_loss(*batch), alone)


def test_a_single_patch_trains_through_batch_norm() -> None:
    net = network(fine=Learner(1), n=1).train()
    image, labels = scene(64, 64, objects=9)
    net.fine_loss(image, labels).backward()
    assert all(p.grad is not None for p in net.fine_parameters())


def test_where_windows_come_from() -> None:
    # The coarse network sees the red square on the left, the truth is the one on the right.
    image = torch.zeros((1, 3, 32, 96), dtype=torch.uint8)
    image[:, 0, 8:16, 4:12] = 255
    labels = torch.zeros((1, 32, 96), dtype=torch.uint8)
    labels[:, 8:16, 84:92] = 3
    fine = Fine()
    net = network(fine=fine).train()
    seen: dict[str, set[bool]] = {}
    for source in ("coarse", "labels", "both"):
        fine.inputs.clear()
        net.fine_loss(image, labels, windows_from=source)
        (patches,) = fine.inputs
        seen[source] = {bool(patch.max() > 0.9) for patch in patches}
    assert seen == {"coarse": {True}, "labels": {False}, "both": {True, False}}
    unused = network(Refusing()).train()
    assert unused.fine_loss(image, labels, windows_from="labels") > 0


@pytest.mark.parametrize("source", ["coarse", "labels", "both"])
@pytest.mark.parametrize("size", [(20, 20), (20, 70), (41, 67)])
def test_padding_is_never_learned(size: tuple[int, int], source: str) -> None:
    # To the coarse network the padding is small; to the fine network, with its bias turned, too.
    fine = Fine()
    with torch.no_grad():
        fine.bias.fill_(50.0)
        fine.weight.copy_(torch.tensor([0.0, -100.0, 0.0]).reshape(1, 3, 1, 1))
    net = network(Coarse(black=1), fine).train()
    image = torch.zeros((1, 3, *size), dtype=torch.uint8)
    image[:, 1] = 255
    labels = torch.zeros((1, *size), dtype=torch.uint8)
    image[..., :8, :8] = 0
    labels[:, :8, :8] = 1
    assert net.fine_loss(image, labels, windows_from=source) < 1e-6


def test_forward_passes_labels_on() -> None:
    net = network().train()
    image, labels = scene(64, 64, objects=9)
    loss = net(image, labels=labels)
    torch.testing.assert_close(loss, net.fine_loss(image, labels))
    assert loss.requires_grad


def test_loss_in_eval_mode_without_gradients() -> None:
    net = network()
    image, labels = scene(64, 64, objects=9)
    with torch.no_grad():
        assert not net.fine_loss(image, labels).requires_grad
        assert not net.fine_loss(image * 0, labels).requires_grad


def test_mixed_precision() -> None:
    net = network(fine=Learner(2)).train()
    image, labels = scene(64, 64, objects=9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net.fine_loss(image, labels)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.fine_parameters())


IMAGE = torch.zeros((2, 3, 40, 50))
LABELS = torch.zeros((2, 40, 50), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (LABELS.numpy(), {}, TypeError, "labels must be a torch.Tensor, got ndarray"),
        (LABELS.float(), {}, TypeError, "labels must be uint8.*got torch.float32"),
        (LABELS[0], {}, ValueError, r"\(2, 40, 50\) like the image, got \(40, 50\)"),
        (LABELS[:, :9], {}, ValueError, r"\(2, 40, 50\) like the image, got \(2, 9, 50\)"),
        (LABELS[:, None], {}, ValueError, r"got \(2, 1, 40, 50\)"),
        (LABELS, {"windows_from": "fine"}, ValueError, "windows_from must be one of .*got 'fine'"),
        (LABELS, {"pos_weight": 0}, ValueError, "pos_weight must be above 0, got 0"),
        (LABELS, {"pos_weight": "x"}, TypeError, "pos_weight must be a number, got 'x'"),
        (LABELS, {"pos_weight": math.inf}, ValueError, "pos_weight must be finite, got inf"),
        (LABELS, {"boundary_weight": None}, TypeError, "boundary_weight must be a number"),
        (LABELS, {"aux_weight": math.nan}, ValueError, "aux_weight must be finite, got nan"),
        (LABELS, {"class_weights": 1}, TypeError, "class_weights must be one per class, got 1"),
        (LABELS, {"class_weights": "abcd"}, TypeError, "class_weights must be a number"),
    ],
)
def test_refuses(
    labels: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^C2FNet: .*{message}"):
        network().train().fine_loss(IMAGE, labels, **options)


def test_weights_by_class_and_at_borders() -> None:
    """Against the same weights applied pixel by pixel to an unweighted loss."""
    net = network(n=1, strategy="top", stride=32).train()  # one window, the whole image
    image, labels = scene(32, 32, objects=3)
    labels[0, 20:, 20:] = 255
    by_class = torch.tensor([1.0, 3.0, 0.5, 2.0])
    small = torch.isin(labels, torch.tensor(net.config.small_classes))
    weight = by_class[torch.where(labels == 255, 0, labels).long()]
    for y in range(32):
        for x in range(32):
            square = small[0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            if square.any() and not square.all():
                weight[0, y, x] *= 4
    weight[labels == 255] = 0
    loss = F.binary_cross_entropy_with_logits(
        net.fine.logits(image / 255)[:, 0], small.float(), reduction="none"
    )
    found = net.fine_loss(
        image,
        labels,
        windows_from="labels",
        class_weights=tuple(by_class.tolist()),
        boundary_weight=4.0,
        boundary_px=1,
    )
    torch.testing.assert_close(found, (loss * weight).sum() / weight.sum())


def test_negatives_are_windows_of_false_alarms() -> None:
    net = network(window=32, stride=32, n=4).train()
    image = torch.zeros((1, 3, 96, 32), dtype=torch.uint8)
    image[:, 0, :32] = 255  # class 1, small, and true
    image[:, 0, 32:56] = 255  # taken for it
    labels = torch.zeros((1, 96, 32), dtype=torch.uint8)
    labels[:, :32] = 1
    seen = net.fine.inputs
    net.fine_loss(image, labels, windows_from="labels")
    assert [len(patches) for patches in seen] == [2]  # the one window, twice for batch norm
    net.fine_loss(image, labels, windows_from="labels", negatives=3)
    assert torch.equal(seen[1], torch.cat((image[..., :32, :], image[..., 32:64, :])) / 255)


def test_random_windows_hold_objects_and_differ() -> None:
    net = network(window=16, stride=8, n=3).train()
    image, labels = scene(64, 64, objects=12, batch=2)
    seen = net.fine.inputs
    torch.manual_seed(0)
    for _ in range(3):
        net.fine_loss(image, labels, windows_from="labels", sampling="random")
    assert [len(patches) for patches in seen] == [6, 6, 6]
    assert not torch.equal(seen[0], seen[1])
    for patches in seen:  # small objects are bright in channel 0 or 2
        assert (patches[:, ::2].amax(dim=(1, 2, 3)) * 255 > 199).all()


def test_loss_at_the_resolution_of_the_patch() -> None:
    net = network(n=1, zoom=2.0, mode="nearest", strategy="top", stride=32).train()
    image, labels = scene(32, 32, objects=3)
    big, truth = (t.repeat_interleave(2, -1).repeat_interleave(2, -2) for t in (image, labels))
    small = torch.isin(truth, torch.tensor(net.config.small_classes)).float()
    expected = F.binary_cross_entropy_with_logits(net.fine.logits(big / 255)[:, 0], small)
    found = net.fine_loss(image, labels, windows_from="labels", resolution="patch")
    torch.testing.assert_close(found, expected)


def test_labels_at_the_resolution_of_the_patch_stay_on_their_pixels() -> None:
    net = network(n=1, zoom=1.3, strategy="top", stride=32).train()
    image, labels = scene(32, 32, objects=3)
    big = F.interpolate(image / 255, (42, 42), mode="bilinear")
    nearest = ((torch.arange(42) + 0.5) * 32 / 42).long()
    truth = labels[:, nearest][:, :, nearest]
    small = torch.isin(truth, torch.tensor(net.config.small_classes)).float()
    expected = F.binary_cross_entropy_with_logits(net.fine.logits(big)[:, 0], small)
    found = net.fine_loss(image, labels, windows_from="labels", resolution="patch")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": "all"}, "sampling must be"),
        ({"negatives": -1}, "negatives must be at least 0, got -1"),
        ({"boundary_weight": 0.0}, "boundary_weight must be above 0, got 0.0"),
        ({"class_weights": (1.0, 2.0)}, "class_weights must have num_classes=4 values, got 2"),
        ({"class_weights": (1.0, -2.0)}, "class_weights must be at least 0"),
        ({"resolution": "full"}, "resolution must be"),
    ],
)
def test_refused_options(change: dict[str, Any], message: str) -> None:
    image, labels = scene(64, 64, objects=3)
    with pytest.raises(ValueError, match=message):
        network().train().fine_loss(image, labels, **change)
