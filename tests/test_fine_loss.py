"""Training of stage 2: the loss written out, what is frozen, what is ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import BASE, Coarse, Fine, Learner, Refusing, network, scene
from torch import Tensor

from c2fcore import C2FConfig, C2FNet, ops


@pytest.fixture(autouse=True)
def one_thread(threads: Callable[[int], None]) -> None:
    """Networks this small only lose by threads."""
    threads(1)


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
    ],
)
def test_refuses(
    labels: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^C2FNet: .*{message}"):
        network().train().fine_loss(IMAGE, labels, **options)
