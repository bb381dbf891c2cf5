"""The shipped demo weights and the script that makes them."""

from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import c2fcore
from c2fcore.data.scenes import CLASSES, SMALL_CLASSES, make_scene
from c2fcore.metrics import iou
from c2fcore.pipeline import C2FNet
from c2fcore.train import demo_report, demo_weights

FOLDER = Path(c2fcore.__file__).parent / "weights" / "demo"


@pytest.fixture(scope="module")
def net() -> C2FNet:
    return C2FNet.from_pretrained(FOLDER)


def test_size() -> None:
    files = [FOLDER / "config.json", FOLDER / "model.safetensors"]
    assert sum(f.stat().st_size for f in files) <= 4_000_000


def test_networks_are_recorded_by_name(net: C2FNet) -> None:
    written = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert written["coarse"]["name"] == written["fine"]["name"] == "tiny_fcn"
    assert net.config == demo_weights.demo_config()
    assert net.config.class_names == CLASSES


def test_second_look_helps_on_scenes_never_trained_on(net: C2FNet) -> None:
    scenes = demo_report.SceneSamples([20_001, 20_005, 20_007], 512)
    result = demo_report.score(net, scenes)
    assert result.refined is not None
    coarse, refined = iou(result.coarse.confusion), iou(result.refined.confusion)
    small = list(SMALL_CLASSES)
    gain = refined[small].nanmean() - coarse[small].nanmean()
    assert gain > 0.01
    assert coarse[small].nanmean() > 0.3  # a coarse network worth improving
    large = [c for c in range(len(CLASSES)) if c not in small]
    assert float((coarse - refined)[large].nan_to_num(0).max()) < 0.005
    assert result.covered_px > 0.8 * result.small_px


def test_seeds_are_disjoint() -> None:
    seeds = (demo_weights.TRAIN_SEEDS, demo_report.VAL_SEEDS, demo_report.TEST_SEEDS)
    assert all(a.stop <= b.start for a, b in pairwise(seeds))


def _scenes(*seeds: int) -> demo_weights.Scenes:
    made = [make_scene(seed, 160) for seed in seeds]
    return np.stack([s.image for s in made]), np.stack([s.labels for s in made])


def test_crops_are_aligned_repeatable_and_rich() -> None:
    images, labels = _scenes(0, 1, 2)
    images[..., 0] = labels  # so that turning image and labels apart would show
    scenes = (images, labels)
    first, again = (list(islice(demo_weights.crops(scenes, 64, 4, 7), 3)) for _ in range(2))
    for (image, label), (image2, label2) in zip(first, again, strict=True):
        assert image.shape == (4, 3, 64, 64)
        assert image.dtype == torch.uint8
        assert label.dtype == torch.int64
        torch.testing.assert_close(image[:, 0].long(), label, rtol=0, atol=0)
        assert torch.equal(image, image2)
        assert torch.equal(label, label2)
        assert np.isin(label[1::2], SMALL_CLASSES).any(axis=(1, 2)).all()


def test_both_stages_train_and_repeat() -> None:
    scenes = _scenes(0, 1)
    config = demo_weights.demo_config().replace(n=2)

    def made() -> C2FNet:
        coarse = demo_weights.train_coarse(scenes, 2, side=64, batch=2, seed=3)
        return demo_weights.train_fine(
            coarse, scenes, config, 2, side=64, batch=2, windows=1, seed=3
        )

    one, two = made(), made()
    assert not one.training
    assert one.config == config
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_report_tables(net: C2FNet) -> None:
    own, scenes = net.config, demo_report.SceneSamples([20_000], 128)
    assert scenes.scenes[0].tiles[0].box == (0, 0, 128, 128)
    results = {
        "own": demo_report.score(net, scenes),
        "one window": demo_report.score(net, scenes, n=1 / 48),
    }
    assert net.config == own
    assert results["one window"].windows <= 1
    assert demo_report.table(net, results["own"]).count("\n| ") == len(CLASSES) + 3
    table = demo_report.variants_table(net, results)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "coarse alone", "own", "one window",
    ]  # fmt: skip
