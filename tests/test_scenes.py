"""Synthetic scenes: determinism, exact labels, size rules, small-object statistics."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from c2fcore.data import scenes
from c2fcore.data.scene_canvas import Item
from c2fcore.data.scenes import CLASSES, PALETTE, SMALL_CLASSES, make_scene


def test_constants() -> None:
    assert CLASSES == (
        "ground", "road", "building", "tree", "water", "vehicle", "ship", "plane",
    )  # fmt: skip
    assert SMALL_CLASSES == (5, 6, 7)
    assert PALETTE.shape == (8, 3)
    assert PALETTE.dtype == np.uint8
    assert len({tuple(c) for c in PALETTE.tolist()}) == 8


@pytest.mark.parametrize("size", [64, 100, (64, 200), (257, 131), (350, 65)])
def test_any_size(size: int | tuple[int, int]) -> None:
    h, w = (size, size) if isinstance(size, int) else size
    for seed in range(4):
        scene = make_scene(seed, size)
        assert scene.image.shape == (h, w, 3)
        assert scene.labels.shape == (h, w)
        assert scene.image.dtype == scene.labels.dtype == np.uint8
        assert scene.image.flags.c_contiguous
        assert scene.labels.flags.c_contiguous
        assert int(scene.labels.max()) < len(CLASSES)


@pytest.mark.parametrize(("size", "least"), [(63, 63), ((64, 12), 12), ((0, 64), 0)])
def test_too_small(size: int | tuple[int, int], least: int) -> None:
    with pytest.raises(ValueError, match=f"make_scene: size must be at least 64, got {least}"):
        make_scene(0, size)


def test_same_arguments_same_bytes() -> None:
    for seed in (0, 5, 20_003):
        first, second = make_scene(seed, 320), make_scene(seed, 320)
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.labels, second.labels)


def test_global_random_state_plays_no_part() -> None:
    np.random.seed(1)  # noqa: NPY002
    first = make_scene(3, 128)
    np.random.seed(2)  # noqa: NPY002
    second = make_scene(3, 128)
    np.testing.assert_array_equal(first.image, second.image)


def test_seeds_and_sizes_differ() -> None:
    seen = [make_scene(seed, 128).image for seed in range(6)]
    for i, a in enumerate(seen):
        for b in seen[:i]:
            assert np.abs(a.astype(int) - b.astype(int)).mean() > 4
    other = make_scene(0, (128, 160)).image[:, :128]
    assert not np.array_equal(seen[0], other)


@pytest.fixture(scope="module")
def survey() -> list[tuple[scenes.Scene, list[Item]]]:
    """Eight scenes with the list of the objects drawn into them."""
    found = []
    for seed in range(8):
        canvas, scene = scenes._make(seed, (768, 768))
        found.append((scene, canvas.items))
    return found


def test_small_objects_share_and_number(
    survey: list[tuple[scenes.Scene, list[Item]]],
) -> None:
    shares, counts = [], []
    for scene, items in survey:
        share = float(np.isin(scene.labels, SMALL_CLASSES).mean())
        assert 0.0002 < share < 0.06
        shares.append(share)
        counts.append(sum(0 <= i.y < 768 and 0 <= i.x < 768 for i in items))
        assert 5 <= counts[-1] <= 450
    assert 0.004 < float(np.mean(shares)) < 0.03
    assert 40 <= float(np.mean(counts)) <= 200


def test_small_object_sizes(survey: list[tuple[scenes.Scene, list[Item]]]) -> None:
    items = [item for _, found in survey for item in found]
    assert {item.label for item in items} == set(SMALL_CLASSES)
    for item in items:
        assert 3.0 <= item.width <= 31.0
        assert 6.0 <= max(item.length, item.width) <= 31.0


def test_objects_carry_their_own_label(
    survey: list[tuple[scenes.Scene, list[Item]]],
) -> None:
    hits = total = 0
    for scene, items in survey:
        for item in items:
            y, x = round(item.y), round(item.x)
            if 0 <= y < 768 and 0 <= x < 768:
                total += 1
                hits += int(scene.labels[y, x] == item.label)
    assert hits >= 0.97 * total  # a crown or a neighbour may hide a few centres


def test_label_area_is_the_drawn_area(
    survey: list[tuple[scenes.Scene, list[Item]]],
) -> None:
    """Area majority neither grows nor shrinks vehicles (crowns and the border hide a few)."""
    for scene, items in survey:
        cars = [i for i in items if i.label == 5 and 0 <= i.y < 768 and 0 <= i.x < 768]
        drawn = sum(i.length * i.width for i in cars)
        assert 0.7 * drawn < float((scene.labels == 5).sum()) < 1.08 * drawn


def test_every_class_turns_up(survey: list[tuple[scenes.Scene, list[Item]]]) -> None:
    together = np.unique(np.concatenate([np.unique(scene.labels) for scene, _ in survey]))
    assert together.tolist() == list(range(8))
    absent = [4 not in scene.labels for scene, _ in survey]
    assert any(absent)
    assert not all(absent)


def test_objects_are_visible(survey: list[tuple[scenes.Scene, list[Item]]]) -> None:
    """Small objects are brighter or darker than the large classes on the whole, not invisible."""
    deviation = []
    for scene, _ in survey:
        grey = scene.image.mean(axis=2)
        small = np.isin(scene.labels, SMALL_CLASSES)
        if small.sum() > 200:
            deviation.append(float(grey[small].std()))
    assert float(np.mean(deviation)) > 25.0


def test_large_non_square_scene() -> None:
    scene = make_scene(1, (700, 1500))
    assert scene.image.shape == (700, 1500, 3)
    assert np.isin(scene.labels, SMALL_CLASSES).any()


def test_speed_is_sane() -> None:
    """768 x 768 take as long as sorting two million numbers four times; the bound leaves room."""
    numbers = np.random.default_rng(0).random(1 << 21)

    def seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    def bound() -> float:
        return 25 * seconds(lambda: np.sort(numbers, kind="stable"))

    assert any(seconds(lambda seed=seed: make_scene(seed)) < bound() for seed in range(3))
