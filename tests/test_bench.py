"""c2f bench and what it stands on: rows, parity, peers, scripted networks."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from availability import need
from bench_runs import bench
from torch.fx.experimental.proxy_tensor import make_fx

from c2fcore import Windows, _errors, models, ops
from c2fcore.bench import (
    contest,
    coverage,
    engine_suite,
    floors,
    frames,
    gpu,
    inputs,
    measure,
    network_suite,
    op_suite,
    parity,
    peers,
    report,
    rows,
    tables,
    ways,
)
from c2fcore.bench.scripted import CoarseAnswer, FineAnswer, Place, scripted_net
from c2fcore.config import C2FConfig
from c2fcore.engine import working_set

SIDE = 160


class BrokenNetwork(torch.nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such weights")


def sparse_network(num_classes: int, in_channels: int) -> torch.nn.Module:
    """Logits of 0 at 1/8: an answer without any object."""

    class Sparse(torch.nn.Module):
        stride_multiple = 8

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.new_zeros((len(image), num_classes, *(s // 8 for s in image.shape[2:])))

    return Sparse()


def test_end_to_end_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = bench(tmp_path, "--sizes", f"{SIDE},150x170", "--zooms", "1.5", "--n", "3")
    assert status == 0
    assert [row["case"]["way"] for row in found[:2]] == ["coarse", "reference"]
    assert {(row["case"]["height"], row["case"]["width"]) for row in found} == {
        (SIDE, SIDE),
        (150, 170),
    }
    for row in found:
        assert not row["error"]
        assert row["result"]["fps"] > 0
        assert row["origin"]["threads"] == torch.get_num_threads()
        assert {"commit", "dirty", "torch", "device", "load", "date"} <= row["origin"].keys()
        if row["case"]["way"] != "coarse":
            assert set(row["result"]["stages_ms"]) == {
                "coarse", "select", "extract", "fine", "aggregate"
            }  # fmt: skip
            assert row["result"]["windows"] >= 1
            assert row["result"]["of_coarse"][0] > 0
    assert "of coarse" in capsys.readouterr().out


def test_measuring_again_replaces_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--sizes", "128", "--zooms", "1", "--n", "2", "--ways", "reference")
    bench(tmp_path, *options)
    _, found = bench(tmp_path, *options)
    assert len(found) == 2
    assert "2 rows, 2 of them replaced" in capsys.readouterr().out


def test_a_failure_is_a_row(tmp_path: Path) -> None:
    name = f"{__name__}:BrokenNetwork"
    status, found = bench(tmp_path, "--coarse", name, "--sizes", "128", "--zooms", "1")
    assert status == 1
    assert all("no such weights" in row["error"] for row in found)
    assert not any(row["result"] for row in found)


@pytest.mark.parametrize("broken", [("coarse",), ("coarse", "reference"), ()])
def test_ways_that_fail_leave_the_others(
    broken: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the unfused ways do on large images. What nothing was compared with has no error."""
    call_of = network_suite.call_of

    def some(net: Any, image: Any, way: str, *more: Any) -> Any:
        if way in broken or not broken:
            raise MemoryError("too large")
        return call_of(net, image, way, *more)

    monkeypatch.setattr(network_suite, "call_of", some)
    status, found = bench(tmp_path, "--sizes", "96", "--zooms", "1,2", "--n", "2",
                          "--ways", "coarse,reference,cpu,engine")  # fmt: skip
    assert status == 1
    for row in found:
        way = row["case"]["way"]
        assert bool(row["error"]) == (way in broken or not broken)
        assert "of_coarse" not in row["result"]
        compared = not row["error"] and way != "reference" and "reference" not in broken
        assert ("max_error" in row["result"]) == compared
    assert "MemoryError: too large" in report.fps(found)
    assert "failed" in report.fps_by_zoom(found)


def test_a_way_that_fails_while_it_is_timed_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call_of = network_suite.call_of

    def some(net: Any, image: Any, way: str, *more: Any) -> Any:
        call, left = call_of(net, image, way, *more), itertools.count(4, -1)

        def failing() -> Any:
            if way == "cpu" and next(left) == 0:
                raise MemoryError("no more")
            return call()

        return failing

    monkeypatch.setattr(network_suite, "call_of", some)
    spec = network_suite.Spec("tiny_fcn", "tiny_fcn", 128, 128, n=1)
    effort = network_suite.Effort(rounds=5, memory=False)
    found = list(network_suite.run(spec, effort, {}, only=["reference", "cpu"]))
    errors = {row["case"]["way"]: row["error"] for row in found}
    assert errors == {"coarse": "", "reference": "", "cpu": "MemoryError: no more"}


def test_stages_that_cannot_be_timed_leave_what_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breakdown = network_suite._breakdown

    def some(spec: Any, net: Any, image: Any, way: str, *more: Any) -> Any:
        if way == "reference":
            raise MemoryError("no more")
        return breakdown(spec, net, image, way, *more)

    monkeypatch.setattr(network_suite, "_breakdown", some)
    spec = network_suite.Spec("tiny_fcn", "tiny_fcn", 128, 128, n=1)
    effort = network_suite.Effort(rounds=1, memory=False)
    found = list(network_suite.run(spec, effort, {}, only=["reference", "cpu"]))
    assert not any(row["error"] for row in found)
    results = {row["case"]["way"]: row["result"] for row in found}
    assert all(result["fps"] > 0 for result in results.values())
    assert results["reference"]["stages_error"] == "MemoryError: no more"
    assert "stages_error" not in results["cpu"]
    assert "\nreference: stages failed: MemoryError: no more" in tables.network(found)


def test_a_peak_that_is_not_known_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> float:
        raise RuntimeError("memory of x: Killed")

    monkeypatch.setattr(network_suite.memory, "extra_mib", fails)
    spec = network_suite.Spec("tiny_fcn", "tiny_fcn", 128, 128, n=1)
    effort = network_suite.Effort(rounds=1)
    found = [row["result"] for row in network_suite.run(spec, effort, {}, only=["reference"])]
    assert [result["peak_mib"] for result in found] == [None, None]
    assert {result["peak_error"] for result in found} == {"RuntimeError: memory of x: Killed"}


def test_op_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ways = "reference,cpu,roi-align,grid-sample,opencv,kornia,interpolate-loop"
    options = ("--op", "extract_patches", "--sizes", str(SIDE), "--zooms", "1,3", "--ways", ways)
    status, found = bench(tmp_path, *options)
    assert status == 0
    seen = {row["case"]["provider"] for row in found}
    assert {"reference", "interpolate-loop", "grid-sample"} <= seen <= set(ways.split(","))
    for row in found:
        result = row["result"]
        assert result["gbs"] == pytest.approx(result["bytes"] / result["ms"][0] / 1e6, rel=1e-3)
        assert result["max_error"] <= parity.PEER_ERROR
    if "kornia" in seen:  # at zoom 1, not at 3
        assert capsys.readouterr().out.count("no row where it cannot do the job: kornia") == 1


def test_scripted_answers_are_those_of_the_frame_in_every_branch_of_a_graph() -> None:
    """An engine captures forwards of 4, 8, ... patches one after the other, and replays one."""
    truth = torch.zeros((1, 64, 64), dtype=torch.uint8)
    truth[:, 8:40, 8:40] = 1
    place = Place()
    answer = FineAnswer(truth, (1,), place)
    origins = torch.tensor([[[0, 0], [0, 32], [32, 0], [32, 32], [16, 16], [0, 16]]])
    windows = Windows(origins.int(), torch.ones((1, 6)).int(), torch.tensor([6]).int(), 32)
    answer.expect(windows)
    patches, given = torch.zeros((8, 3, 32, 32)), torch.zeros((8, 2, 8, 8))
    whole = answer(patches, given)
    for size in (4, 8, 16):
        found = answer(torch.zeros((size, 3, 32, 32)), torch.zeros((size, 2, 8, 8)))
        if size >= 6:
            assert torch.equal(found[:6], whole[:6])
    coarse, at_quarter = CoarseAnswer(truth, 2, place), torch.zeros((1, 2, 16, 16))
    coarse(patches, at_quarter)
    parts = [answer(patches[:n], given[:n]) for n in (4, 4)]  # chunk by chunk as before
    assert torch.equal(torch.cat(parts)[:6], whole[:6])
    # A replay knows nothing of what the host has counted since the capture.
    look, chunk = (
        make_fx(call)(*args)
        for call, args in ((coarse, (patches, at_quarter)), (answer, (patches[:4], given[:4])))
    )
    for _ in range(2):
        look(patches, at_quarter)
        replayed = [chunk(patches[:4], given[:4]) for _ in range(2)]
        assert torch.equal(torch.cat(replayed)[:6], whole[:6])


def test_scripted_answers_are_where_the_network_runs() -> None:
    """An engine of a GPU tries on the CPU what it may fold, by copies that hold answers already."""
    truth, place = torch.zeros((1, 64, 64), dtype=torch.uint8), Place()
    fine, coarse = FineAnswer(truth, (1,), place), CoarseAnswer(truth, 2, place)
    one = torch.ones((1, 1)).int()
    fine.expect(Windows(torch.zeros((1, 1, 2)).int(), one, one[0], 32))
    for answer, given in ((fine, torch.zeros((1, 2, 8, 8))), (coarse, torch.zeros((1, 2, 16, 16)))):
        answer(torch.zeros((1, 3, 64, 64)), given)
        assert answer(torch.zeros((1, 3, 64, 64)), given.half()).dtype == torch.float16
        assert answer(torch.zeros((1, 3, 64, 64)), given.to("meta")).is_meta


def test_scripted_networks_look_where_the_map_has_objects() -> None:
    """The answers are realistic ones whatever the networks say, in chunks, too."""
    config = C2FConfig.preset(
        "paper", num_classes=16, small_classes=inputs.SMALL_CLASSES, n=5, window=64, max_batch=2
    )
    truth = torch.from_numpy(inputs.class_map((SIDE, SIDE))[0])[None]
    image = inputs.image_of(truth)
    networks = [models.build(f"{__name__}:sparse_network", c) for c in (16, 1)]
    net = scripted_net(*networks, config, truth, image)
    made = [dict(network.answer._made) for network in (net.coarse, net.fine)]
    answer = net.detailed(image)
    assert int(answer.windows.num) == 5
    after = [network.answer._made for network in (net.coarse, net.fine)]
    assert [list(one) for one in after] == [list(one) for one in made], "nothing is made in a frame"
    assert all(made)
    agreeing = (answer.coarse_labels == truth).float().mean()
    assert agreeing > 0.7  # seen at 1/8, with a network's errors
    assert torch.equal(net(image), answer.labels)  # the chunks start anew every time


def test_first_frames_of_an_engine_in_several_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine finds out how many patches go at once by showing the network one more."""
    monkeypatch.setattr(working_set, "cache_bytes", lambda: 1)  # one at a time
    built = network_suite.build(network_suite.Spec("tiny_fcn", "tiny_fcn", n=8))
    net, image = built.net, built.image
    call = frames.EngineCall(net, image, "engine", False, "float32")
    assert torch.equal(call(), net(image))
    assert call.engine.patches_at_once(3) == 1


def test_the_engine_beside_its_networks() -> None:
    need("cpu", "select_windows", "extract_patches", "aggregate")
    spec = network_suite.Spec("tiny_fcn", "tiny_fcn", SIDE, SIDE, preset="fast")
    found = engine_suite.measure_engine(spec, 2)
    sides = {engine_suite.NETWORKS, engine_suite.AGAIN, engine_suite.ENGINE}
    for times in (found["times"], found["cpu"]):
        assert set(times) == sides
        assert all(len(of_side) == 2 and min(of_side) > 0 for of_side in times.values())
    assert 0 < max(found["glue"]) < 1
    assert len(found["outside"]) == 2
    assert min(found["outside"]) > 0
    assert found["differing"] == 0
    times = {"networks": [1.0, 4.0], "networks again": [3.0, 2.0], "engine": [2.0, 3.3]}
    assert engine_suite.above(times) == pytest.approx([0, 10])
    assert engine_suite.noise(times) == pytest.approx([200, 100])


def test_answers_of_networks_under_autocast_are_of_its_precision() -> None:
    """The glue reads what it would read behind them, from the first frame on."""
    spec = network_suite.Spec("tiny_fcn", "tiny_fcn", SIDE, SIDE, dtype="amp", channels_last=True)
    net, image, _ = network_suite.build(spec)
    seen: list[torch.dtype] = []
    for network in (net.coarse, net.fine):
        network.register_forward_hook(lambda _, given, logits: seen.append(logits.dtype))
    frames.call_of(net, image, "reference", dtype="amp")()
    assert seen == [torch.bfloat16] * 2


def test_coverage_counts_what_is_new() -> None:
    truth = torch.zeros((1, 40, 40), dtype=torch.uint8)
    truth[:, 0:10, 0:10] = 1
    truth[:, 20:30, 0:10] = 2  # not small
    truth[:, 30:40, 30:40] = 3
    origins = torch.tensor([[[0, 0], [2, 0], [28, 28], [0, 30]]])
    windows = Windows(origins.int(), torch.ones((1, 4)).int(), torch.tensor([3]).int(), 8)
    shares = coverage.coverage(windows, truth, (1, 3))
    assert shares == pytest.approx([64 / 200, 80 / 200, (80 + 36) / 200])
    assert [coverage.fewest(shares, wanted) for wanted in (0, 0.3, 0.33, 0.5, 0.9)] == [
        1, 1, 2, 3, 3,
    ]  # fmt: skip
    assert coverage.coverage(windows._replace(num=torch.tensor([0])), truth, (1,)) == []
    assert coverage.fewest([], 0.0) == 1


def test_peers_do_the_same_job() -> None:
    """Every peer passes the gate on some job, and none is listed that is not there."""
    jobs = [
        ("count_windows", {}, ""),
        ("extract_patches", {"zoom": 1}, ""),
        ("aggregate", {"output": "labels"}, ""),
        ("aggregate", {"output": "probs", "rule": "normalized"}, ""),
        ("glue", {}, "official"),
    ]
    for op, options, preset in jobs:
        case = inputs.make_case(SIDE, preset=preset)
        names = peers.names_of(op)
        assert names
        held = contest.hold(ways.Job(op, options), case, names, 1, target_s=0.0)
        assert not held.failures
        assert set(held.times) == set(names)


def test_the_gate_closes() -> None:
    case = inputs.make_case(SIDE)
    job = ways.Job("aggregate", {})

    def lazy(coarse, fine, windows, classes, **options):  # type: ignore[no-untyped-def]
        return ops.aggregate(coarse, -fine, windows, classes, **options)

    held = contest.hold(job, case, ["lazy"], 1, foreign={"lazy": lazy})
    assert not held.times
    assert "labels:" in held.failures["lazy"]


def test_floor_counts_every_byte_once() -> None:
    case = inputs.make_case(128, n=4)
    logits = 16 * 32 * 32 * 4
    assert floors.floor_bytes(ways.Job("count_windows", {}), case) == logits + 4 * 5 * 5
    fine = case.n * 2 * 32 * 32 * 4
    assert floors.floor_bytes(ways.Job("aggregate", {}), case) == logits + fine + 128 * 128


def test_figures_of_known_samples() -> None:
    found = network_suite.figures([0.5, 0.25, 0.125, 0.125], [0.125] * 4)
    assert found["fps"] == 4.0  # of the mean
    assert found["ms"]["median"] == 187.5
    assert found["of_coarse"][0] == 0.75
    assert measure.spread([3.0, 1.0, 2.0]) == (2.0, 1.4, 2.6)


def test_rows_go_through_links(tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "real.jsonl", tmp_path / "ops.jsonl"
    real.parent.mkdir()
    link.symlink_to(real)
    rows.write(link, [{"suite": "op", "case": {}}])
    assert link.is_symlink()
    assert rows.read(real) == rows.read(link) != []


def test_rows_say_which_line_is_none(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"suite": "x", "case": {}}) + "\n{}\n")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: must be a row of results"):
        rows.read(file)


def test_a_gpu_copies_what_no_launch_is_long_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []
    small = torch.ones(8)

    def ones(count: int, *, dtype: torch.dtype, device: str) -> torch.Tensor:
        asked.append((count * dtype.itemsize >> 20, device))
        return small

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(measure, "interleaved", lambda calls, *_, **options: {"copy": [2.0]})
    for device, mib in (("cpu", None), ("cuda", None), ("cuda", 256)):
        assert measure.copy_gbs(device, mib) == 2 * 8 * 4 / 2.0 / 1e9
    assert asked == [(128, "cpu"), (1024, "cuda"), (256, "cuda")]


def test_a_graph_of_several_calls_tells_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "cold_seconds", lambda call, device: [1.0])
    monkeypatch.setattr(gpu, "launches", lambda call, device: 1)
    monkeypatch.setattr(gpu, "graphed", lambda call, device: call)
    seconds = [0.008 * gpu.GRAPH_CALLS]
    monkeypatch.setattr(measure, "interleaved", lambda *_, **options: {"graph": seconds})
    found = op_suite._on_gpu(lambda: None, 1, 1.0, "cuda", capture=True)
    assert found["graph_ms"] == [8.0] * 3


@pytest.mark.parametrize(
    ("error", "line", "said"),
    [
        (ValueError("\n no\nmore "), "no", "ValueError: no"),
        (MemoryError(), "MemoryError", "MemoryError"),
    ],
)
def test_an_error_in_one_line(error: Exception, line: str, said: str) -> None:
    assert (_errors.first_line(error), _errors.reason(error)) == (line, said)
