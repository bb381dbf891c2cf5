"""Pipelines drawn from seeds: an engine, its runs and scenes give the labels of the net exactly.

A few seeds here; others, as many as wanted, by C2F_SEEDS=FIRST:END, and larger images by C2F_SIDE:

    C2F_SEEDS=1000:3000 C2F_SIDE=90 pytest tests/test_drawn_pipelines.py
"""

from __future__ import annotations

import os
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from compare import seeds
from drawn_pipelines import BRIGHTEST, Pipeline, drawn
from engine_doubles import Replayed
from torch import Tensor

from c2fcore import C2FNet, Engine, _stages, scene
from c2fcore.engine import lane
from c2fcore.scene.tiled import tiles_of

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = int(os.environ.get("C2F_SIDE", "40"))


def answers(net: C2FNet, images: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Labels [H, W] and windows [num, 2] of each image by itself."""
    found = [net.detailed(image[None]) for image in images]
    return [(f.labels[0], f.windows.origins[0, : int(f.windows.num)]) for f in found]


def compiled(draw: Random, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine of any options; with graphs played in some, that branch in some of those."""
    glue = pipeline.net.config.backend != "reference"
    played = draw.choice(("none", "graphs", "branches"))
    with monkeypatch.context() as patch:
        if played != "none":
            patch.setattr(lane, "recorder_for", lambda *_: Played(glue))
        engine = pipeline.net.compile(
            batch=draw.choice((1, 2, 3)),
            lanes=draw.choice((1, 2, 3)),
            buckets=draw.choice(("powers", "exact", (1, 3), (2, 5, 70))),
            chunk=draw.choice((None, 1, 2, 5)),
            max_graphs=draw.choice((1, 5, 64)),
            channels_last=draw.random() < 0.7,
            fold_norms=draw.random() < 0.8,
        )
    for each in engine._all_lanes:
        each._settings = replace(each._settings, conditional=played == "branches")
    return engine


class Played(Replayed):
    def __init__(self, glue: bool) -> None:
        super().__init__()
        self.glue = glue  # what waits for the device is in no graph


def too_bright(image: Tensor, net: C2FNet) -> Tensor:
    """An image that its coarse network fails on from now on, and on none drawn of its dtype."""
    bright = image.clone()
    bright[0, 0, 0] = BRIGHTEST + 4  # which bfloat16 has
    found, most = (
        _stages.normalise(pixels[None], net.config)[0, 0, 0, 0].item()
        for pixels in (bright, torch.full_like(image, BRIGHTEST))
    )
    net.coarse.limit = (found + most) / 2
    return bright


@pytest.mark.parametrize("seed", seeds(range(24)))
def test_the_engine_answers_like_the_net(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Random(f"pipeline {seed}")
    pipeline = drawn(draw, SIDE)
    net, images = pipeline
    images = [image.to(images[0].dtype) for image in images] if seed % 2 else images
    before = [image.clone() for image in images]
    broken: list[Any] = [f"{seed} is nowhere.png", np.zeros((3, 4, 9), np.uint8), None]
    if seed % 2:
        broken += [too_bright(images[0], net)] * 3
    want = answers(net, images)
    engine = compiled(draw, pipeline, monkeypatch)
    for _ in range(4):  # graphs are captured when things come back
        order = [draw.choice((*range(len(images)), -1)) for _ in range(8)]
        order = sorted(order) if draw.random() < 0.5 else order
        asked = [draw.choice(broken) if i < 0 else images[i] for i in order]
        results = list(engine.run(asked, prefetch=draw.choice((1, 4))))
        assert len(results) == len(order)
        for result, i in zip(results, order):
            assert (result.error is None) == (i >= 0), result
            if i >= 0:
                assert torch.equal(result.labels, want[i][0])
                assert torch.equal(result.windows, want[i][1])
        one = draw.choice(images)
        alike = [i for i, x in enumerate(images) if (x.shape, x.dtype) == (one.shape, one.dtype)]
        batch = draw.choices(alike, k=draw.randint(1, 5))
        pixels = torch.stack([images[i] for i in batch])
        expected = torch.stack([want[i][0] for i in batch])
        assert torch.equal(net(pixels), expected)
        assert torch.equal(engine(pixels), expected)
    assert all(map(torch.equal, images, before))


@pytest.mark.parametrize("seed", seeds(range(8)))
def test_a_scene_is_its_tiles(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Random(f"scene {seed}")
    pipeline = drawn(draw, SIDE)
    image = pipeline.images[0]
    tile = draw.randint(12, 40)
    overlap = draw.randint(0, tile // 2)
    found = scene.segment(
        compiled(draw, pipeline, monkeypatch), image, tile=tile, overlap=overlap, progress=False
    )
    labels, windows = torch.full(image.shape[1:], 255, dtype=torch.uint8), []
    for (y0, x0, y1, x1), own in tiles_of(*image.shape[1:], tile, overlap):
        seen = pipeline.net.detailed(image[None, :, y0:y1, x0:x1])
        part = labels[own.y0 : own.y1, own.x0 : own.x1]
        assert (part == 255).all()
        part.copy_(seen.labels[0, own.y0 - y0 :, own.x0 - x0 :][: len(part), : part.shape[1]])
        windows.append(seen.windows.origins[0, : int(seen.windows.num)] + torch.tensor([y0, x0]))
    assert torch.equal(found.labels, labels)
    assert torch.equal(found.windows, torch.cat(windows))


def test_seeds_draw_what_matters() -> None:
    """Second looks that change labels, of several classes, in images that are padded or not."""
    changed, padded, folded = 0, 0, 0
    for seed in range(20):
        net, images = drawn(Random(f"pipeline {seed}"), SIDE)
        found = [net.detailed(image[None]) for image in images]
        changed += any(
            len(f.labels.unique()) > 1 and (f.labels != f.coarse_labels).any() for f in found
        )
        sizes = {tuple(image.shape[1:]) for image in images}
        padded += any(_stages.coarse_size(net.coarse, size, net.config) != size for size in sizes)
        folded += net.compile().networks.folded > 2
    assert changed > 7
    assert 7 < padded < 20
    assert folded > 4
