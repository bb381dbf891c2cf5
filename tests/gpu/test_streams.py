"""Which stream and which device the ops work on: the caller's, always."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from availability import need
from compare import assert_same_bits, flat, to_device
from glue_inputs import GLUE, Glue

from c2fcore import ops
from c2fcore.testing.samples import Sample

LONG = 500_000_000  # clock cycles, some 0.3 s: longer than launches take a host that is busy


def _same(got: Any, want: Any) -> None:
    for g, w in zip(flat(got), flat(want), strict=True):
        assert_same_bits(g, w)


def test_work_goes_to_the_current_stream(fused: str) -> None:
    """Inputs that arrive late on a side stream are waited for there, and nowhere else."""
    need(fused, *GLUE)
    right, late = Glue(seed=1), Glue(seed=2)
    want = right.run(fused)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        late.run(fused)  # no call below waits for a compiler or for memory
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LONG)
        late.take(right)
        got = late.run(fused)
    assert not side.query(), "a call waited for the device"
    torch.cuda.current_stream().wait_stream(side)
    _same(got, want)


def test_two_streams_share_no_workspace(fused: str) -> None:
    need(fused, *GLUE)
    scenes = [Glue(side=512, seed=seed) for seed in (0, 1, 2)]
    wanted = [scene.run(fused) for scene in scenes]
    streams = [torch.cuda.Stream() for _ in scenes]
    torch.cuda.synchronize()
    found: list[Any] = []
    for _ in range(20):
        for scene, stream in zip(scenes, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(scene.run(fused))
    torch.cuda.synchronize()
    for turn, got in enumerate(found):
        _same(got, wanted[turn % len(scenes)])


def test_threads_at_once(fused: str) -> None:
    need(fused, *GLUE)
    scenes = [Glue(seed=seed) for seed in range(4)]
    wanted = [scene.run(fused) for scene in scenes]
    found: dict[int, list[Any]] = {turn: [] for turn in range(len(scenes))}

    def work(turn: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(10):
                found[turn].append(scenes[turn].run(fused))
            torch.cuda.current_stream().synchronize()

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(turn,)) for turn in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for turn, answers in found.items():
        assert len(answers) == 10, "a thread ended early"
        for got in answers:
            _same(got, wanted[turn])


def test_nothing_waits_for_the_device(fused: str, call: tuple[str, Sample]) -> None:
    """Sync debug mode "error" raises at every synchronising call of PyTorch."""
    op, sample = call
    need(fused, op)
    args = sample.args("cuda")
    run = getattr(ops, op)
    want = run(*args, **sample.options, backend=fused)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = run(*args, **sample.options, backend=fused)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same_bits(got, want)


def test_backward_waits_for_nothing_and_is_deterministic(fused: str) -> None:
    need(fused, "extract_patches", "extract_patches_backward")
    scene = Glue(seed=4)
    windows = scene.run("reference")[0]
    gradients = []
    for _ in range(3):
        leaf = scene.image.float().requires_grad_()
        patches = ops.extract_patches(leaf, windows, zoom=1.5, backend=fused)
        upstream = torch.linspace(-1, 1, patches.numel(), device="cuda").view_as(patches)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            patches.backward(upstream)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        gradients.append(leaf.grad)
    assert_same_bits(gradients[1], gradients[0])
    assert_same_bits(gradients[2], gradients[0])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_another_device_than_the_current_one(fused: str) -> None:
    need(fused, *GLUE)
    with torch.cuda.device(0):
        want = Glue(seed=5).run(fused)
        there = Glue(seed=5, device="cuda:1")
        got = there.run(fused)
        assert {t.device.index for t in flat(got)} == {1}
        assert torch.cuda.current_device() == 0
        with torch.cuda.stream(torch.cuda.Stream("cuda:1")):
            again = there.run(fused)
        torch.cuda.synchronize(1)
    for g, a, w in zip(flat(got), flat(again), flat(want), strict=True):
        assert_same_bits(to_device(g, "cpu"), to_device(w, "cpu"))
        assert_same_bits(to_device(a, "cpu"), to_device(w, "cpu"))


def test_tensors_of_two_devices_are_refused(fused: str) -> None:
    need(fused, "extract_patches")
    scene = Glue()
    windows = to_device(scene.run("reference")[0], "cpu")
    with pytest.raises(ValueError, match="same device"):
        ops.extract_patches(scene.image, windows, backend=fused)


def test_host_tensors_are_refused(fused: str) -> None:
    need(fused, "count_windows")
    with pytest.raises(NotImplementedError, match=f"'{fused}' takes CUDA tensors, got cpu"):
        ops.count_windows(
            torch.zeros(1, 8, 8, dtype=torch.uint8), (1,), window=4, stride=4, backend=fused
        )
