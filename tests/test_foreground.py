"""The coarse network as fine network: log-odds, checkpoint, training that starts there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import BASE, Answering, Coarse, scene

from c2fcore import C2FConfig, C2FNet, models

SMALL = (1, 3)


def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.build("tiny_fcn", 4, width=4).eval()


def test_sigmoid_is_the_share_of_the_small_classes() -> None:
    logits = 30 * torch.randn(2, 4, 5, 6)
    fine = models.Foreground(Answering((logits, logits * 0)), SMALL)
    share = logits.double().softmax(1)[:, list(SMALL)].sum(1, keepdim=True)
    torch.testing.assert_close(fine(logits).sigmoid().double(), share, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_copy_that_learns_alone() -> None:
    coarse = tiny()
    image, labels = scene(64, 64, objects=8)
    net = C2FNet(coarse, models.foreground_of(coarse, SMALL), C2FConfig(**BASE, n=4)).train()
    before = {k: v.clone() for k, v in coarse.state_dict().items()}
    with torch.enable_grad():
        net.fine_loss(image, labels, windows_from="labels").backward()
    grads = [p.grad for p in net.fine_parameters()]
    assert all(g is not None for g in grads)
    assert any(bool(g.abs().sum()) for g in grads if g is not None)
    assert all(torch.equal(v, before[k]) for k, v in coarse.state_dict().items())
    assert net.fine.stride_multiple == 32


def test_a_checkpoint_builds_it_again(tmp_path: Path) -> None:
    coarse = tiny()
    fine = models.foreground_of(coarse, SMALL)
    with torch.no_grad():
        next(fine.parameters()).mul_(1.5)  # as if trained
    net = C2FNet(coarse, fine, C2FConfig(**BASE, n=4)).eval()
    net.save_pretrained(tmp_path)
    again = C2FNet.from_pretrained(tmp_path)
    assert isinstance(again.fine, models.Foreground)
    assert again.fine.small_classes == SMALL
    image, _ = scene(64, 64, objects=8)
    assert torch.equal(again(image, "probs"), net(image, "probs"))
    assert torch.equal(net.compile()(image), net(image))


def test_code_inside_needs_trust(tmp_path: Path) -> None:
    coarse = tiny()
    net = C2FNet(coarse, models.foreground_of(coarse, SMALL), C2FConfig(**BASE)).eval()
    net.save_pretrained(tmp_path)
    described = (tmp_path / "config.json").read_text()
    assert '"network": "tiny_fcn"' in described
    changed = described.replace('"network": "tiny_fcn"', '"network": "os:getcwd"')
    (tmp_path / "config.json").write_text(changed)
    with pytest.raises(ValueError, match=r"names code for the fine network.*os:getcwd"):
        C2FNet.from_pretrained(tmp_path)


def test_a_network_given_by_hand_must_be_passed_again(tmp_path: Path) -> None:
    coarse = Coarse()
    net = C2FNet(coarse, models.foreground_of(coarse, SMALL), C2FConfig(**BASE)).eval()
    net.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="given by hand"):
        C2FNet.from_pretrained(tmp_path, coarse=Coarse())


def test_refused() -> None:
    logits = torch.zeros(1, 4, 2, 2)
    for small in ((4,), (0, 1, 2, 3), (-1,), (1, 1), ()):
        with pytest.raises(ValueError, match="must be some of the network's 4"):
            models.Foreground(Answering(logits), small)(logits)
    with pytest.raises(ValueError, match="must have num_classes=1, got 2"):
        models.build("foreground", 2, network="tiny_fcn", classes=4, small_classes=(1,))
