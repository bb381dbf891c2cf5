"""Augmentations change image and labels alike."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchvision")

from c2fcore.data.augment import Augment


def pair(height: int = 40, width: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels in blocks; the red channel tells the label, so that both can be compared."""
    labels = (torch.arange(height)[:, None] // 10 + torch.arange(width)[None] // 10).to(torch.uint8)
    return labels.mul(20).expand(3, -1, -1).contiguous(), labels


@pytest.mark.parametrize("turns", [False, True])
def test_image_and_labels_move_together(turns: bool) -> None:
    augment = Augment(32, (1.0, 1.0), flip=0.5, vertical_flip=0.5, turns=turns, distort=0.0)
    image, labels = pair()
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        pixels, ids = augment(image, labels)
        assert pixels.shape == (3, 32, 32)
        assert type(pixels) is torch.Tensor
        assert pixels.dtype == ids.dtype == torch.uint8
        assert torch.equal(pixels[0], ids * 20)
        seen.add(tuple(ids.flatten().tolist()))
    assert len(seen) > 6


def test_scales_are_the_papers() -> None:
    assert Augment(8).factors == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    assert Augment(8, (0.5, 2.0), 0).factors == ()
    assert Augment(8, (1.0, 1.0)).factors == (1.0,)


def test_no_scale_is_above_the_highest() -> None:
    """Steps that do not divide the range end below its end; those that do reach it."""
    assert Augment(8, (0.5, 2.0), 0.4).factors == pytest.approx((0.5, 0.9, 1.3, 1.7))
    assert Augment(8, (0.5, 2.0), 9.0).factors == (0.5,)
    assert Augment(8, (0.8, 1.1), 0.1).factors == pytest.approx((0.8, 0.9, 1.0, 1.1))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_labels_are_never_interpolated(factor: float) -> None:
    augment = Augment(20, (factor, factor), flip=0, distort=0)
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    labels = torch.zeros(40, 40, dtype=torch.uint8)
    labels[:, 20:] = 9
    _, ids = augment(image, labels)
    assert set(ids.unique().tolist()) <= {0, 9}
    assert ids.shape == (20, 20)


@pytest.mark.parametrize("factor", [0.5, 0.6, 0.75, 0.95, 1.05, 1.5, 2.0])
def test_labels_stay_on_their_pixels(factor: float) -> None:
    """Both say where they are from: a label is at most half a pixel off its pixel's place."""
    side = 120
    along = torch.arange(side, dtype=torch.uint8) * 2
    labels = along.expand(side, side).contiguous()
    for across in (False, True):
        truth = labels.T.contiguous() if across else labels
        augment = Augment(round(side * factor), (factor, factor), flip=0, distort=0)
        pixels, ids = augment(truth.expand(3, -1, -1).contiguous(), truth)
        off = (ids.float() - pixels[0].float())[8:-8, 8:-8] / 2
        assert off.abs().max() <= 0.5


def test_focused_crops_hold_each_class_as_often() -> None:
    labels = torch.zeros(200, 200, dtype=torch.uint8)
    labels[0, 0] = 3  # one pixel in a corner, which hardly a crop drawn anywhere holds
    labels[60:180, 60:180] = 5
    image = torch.zeros(3, 200, 200, dtype=torch.uint8)
    options = {"crop": 20, "scales": (1.0, 1.0), "flip": 0, "distort": 0}
    held = {}
    for focus in (0.0, 0.5, 1.0):
        augment = Augment(**options, focus=focus, classes=(1, 3, 5))
        torch.manual_seed(0)
        crops = [augment(image, labels)[1] for _ in range(200)]
        assert all(crop.shape == (20, 20) for crop in crops)
        held[focus] = [sum(bool((crop == c).any()) for crop in crops) for c in (3, 5)]
    assert held[0.0][0] < 3
    assert 30 <= held[0.5][0] <= 70
    assert 80 <= held[1.0][0] <= 120
    assert sum(held[1.0]) == 200
    torch.manual_seed(0)
    Augment(**options, focus=1.0, classes=(1,))(image, labels)  # no such class: drawn anywhere
    with pytest.raises(ValueError, match=r"focus must be a probability in 0\.\.1, got 2"):
        Augment(focus=2)


def test_small_images_are_padded_with_ignored() -> None:
    image, labels = pair(10, 12)
    augment = Augment(16, (1.0, 1.0), flip=0, distort=0)
    pixels, ids = augment(image, labels)
    assert torch.equal(ids[:10, :12], labels)
    assert (ids[10:] == 255).all()
    assert (ids[:, 12:] == 255).all()
    assert int(pixels[:, 10:].sum()) == 0


def test_colours_change_labels_do_not() -> None:
    image, labels = pair(32, 32)
    torch.manual_seed(0)
    pixels, ids = Augment(32, (1.0, 1.0), flip=0, distort=0.4, hue=0.1)(image, labels)
    assert torch.equal(ids, labels)
    assert not torch.equal(pixels, image)


def test_crops_of_one_class_are_drawn_again() -> None:
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[:, 40:] = 1
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    augment = Augment(16, (1.0, 1.0), flip=0, distort=0, max_share=0.9)
    torch.manual_seed(0)
    mixed = sum(len(augment(image, labels)[1].unique()) == 2 for _ in range(40))
    plain = Augment(16, (1.0, 1.0), flip=0, distort=0)
    torch.manual_seed(0)
    assert mixed > 2 * sum(len(plain(image, labels)[1].unique()) == 2 for _ in range(40))


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scales ascending above 0.*got 8, \(2.0, 0.5\), 0.25"):
        Augment(8, (2.0, 0.5))
    with pytest.raises(ValueError, match=r"flip must be a probability in 0..1, got 2"):
        Augment(8, flip=2)
    with pytest.raises(ValueError, match=r"max_share must be in \(0, 1\], got 0"):
        Augment(8, max_share=0)
