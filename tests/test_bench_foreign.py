"""c2f bench --impl: a kernel from elsewhere is checked on the shared samples, then timed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import bench

from c2fcore import _progress, ops
from c2fcore.bench import foreign, tables
from c2fcore.cli import main
from c2fcore.testing import samples

SIDE = 160


def right_counts(seg: Any, small_classes: Any, **options: Any) -> torch.Tensor:
    return ops.count_windows(seg, small_classes, **options, backend="reference")


def no_flush_row(seg: Any, small_classes: Any, *, edge: str = "flush", **options: Any) -> Any:
    return right_counts(seg, small_classes, edge="drop", **options)


def one_too_many(seg: Any, small_classes: Any, **options: Any) -> torch.Tensor:
    return right_counts(seg, small_classes, **options) + 1


def writes_into_its_input(seg: Any, small_classes: Any, **options: Any) -> torch.Tensor:
    found = right_counts(seg, small_classes, **options)
    seg.zero_()
    return found


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (right_counts, ""),
        (no_flush_row, "shape "),
        (writes_into_its_input, "it wrote into its input"),
        (one_too_many, "2 of 2 counts differ, first at [0, 0, 0]: got 7, expected 6"),
    ],
)
def test_a_foreign_kernel_is_checked(function: Callable[..., Any], said: str) -> None:
    errors = [v.error for v in foreign.check("count_windows", function) if v.error]
    assert bool(errors) == bool(said)
    assert any(error.startswith(said) for error in errors) or not said


def test_samples_that_there_are_not() -> None:
    with pytest.raises(ValueError, match=r"got 'paper-label' \(.*paper-labels-blobs"):
        samples.get("aggregate", "paper-label")
    with pytest.raises(ValueError, match=r"op must be one of count_windows, .*, got 'merge'"):
        samples.of("merge")


def test_a_foreign_kernel_is_timed_beside_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "on_terminal", lambda: True)
    name = f"{__name__}:right_counts"
    options = ("--op", "count_windows", "--sizes", str(SIDE), "--ways", "reference")
    status, found = bench(tmp_path, *options, "--impl", name)
    assert status == 0
    total = len(samples.of("count_windows"))
    said = capsys.readouterr()
    assert f"{total} of {total} samples of count_windows agree" in said.out
    assert f"checking {name}: " in said.err
    assert {row["case"]["provider"] for row in found} == {"reference", name}


def merged_as_documented(
    coarse: Any, fine: Any, windows: Any, small_classes: Any, *, size: Any, rule: Any, output: Any
) -> torch.Tensor:
    options = {"size": size, "rule": rule, "output": output, "backend": "reference"}
    return ops.aggregate(coarse, fine, windows, small_classes, **options)


def infinite_scores(*args: Any, **options: Any) -> torch.Tensor:
    found = merged_as_documented(*args, **options)
    return found.fill_(torch.inf) if found.is_floating_point() else found


def test_a_foreign_kernel_gets_every_option() -> None:
    assert not [v for v in foreign.check("aggregate", merged_as_documented) if v.error]


def test_infinite_scores_are_no_toss() -> None:
    wrong = {v.sample for v in foreign.check("aggregate", infinite_scores) if v.error}
    probs = {s.name for s in samples.of("aggregate") if s.options.get("output") == "probs"}
    assert wrong == probs - {"empty-batch-probs"}


def test_a_wrong_foreign_kernel_is_not_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{__name__}:one_too_many"
    options = ["--op", "count_windows", "--sizes", str(SIDE), "--impl", name]
    assert main(["bench", "-o", str(tmp_path / "out"), *options]) == 1
    wrong = [v.sample for v in foreign.check("count_windows", one_too_many) if v.error]
    assert 5 < len(wrong) < len(samples.of("count_windows"))  # of empty answers it is right
    said = capsys.readouterr()
    assert f"... and {len(wrong) - 5} more: {', '.join(wrong[5:])}\n" in said.out
    assert f"not refuse (NotImplementedError), got {len(wrong)} wrong" in said.err
    assert not (tmp_path / "out").exists()


def without_drop(seg: Any, small_classes: Any, *, edge: str = "flush", **options: Any) -> Any:
    if edge == "drop":
        raise NotImplementedError("edge='drop' is not there yet")
    return right_counts(seg, small_classes, edge=edge, **options)


def test_what_a_foreign_kernel_refuses_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = [s.name for s in samples.of("count_windows") if s.options.get("edge") == "drop"]
    options = ("--op", "count_windows", "--sizes", str(SIDE), "--ways", "reference")
    status, found = bench(tmp_path, *options, "--impl", f"{__name__}:without_drop")
    assert status == 0
    assert all(row["result"] for row in found)
    said = capsys.readouterr().out
    assert f"{len(dropped)} refused (edge='drop' is not there yet): {', '.join(dropped)}" in said
    assert f"{len(samples.of('count_windows')) - len(dropped)} of " in said
    assert "0.000% px" in said


def raises(*_: Any, **__: Any) -> torch.Tensor:
    raise RuntimeError(f"a long story: {'and ' * 100}")


def test_of_a_kernel_that_is_never_right_nothing_is_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--op", "count_windows", "--impl", f"{__name__}:raises"]
    assert main(["bench", "-o", str(tmp_path / "out"), *options]) == 1
    said = capsys.readouterr()
    assert f"0 of {len(samples.of('count_windows'))} samples of count_windows agree" in said.out
    assert "nothing is timed" in said.err
    assert not (tmp_path / "out").exists()


def is_large(seg: torch.Tensor) -> bool:
    return seg.numel() == 16 * (SIDE // 4) ** 2  # as in benchmarks and in no sample


def writes_where_it_is_timed(seg: Any, small_classes: Any, **options: Any) -> torch.Tensor:
    found = right_counts(seg, small_classes, **options)
    if is_large(seg):
        seg.zero_()
    return found


calls_of_large = [0]


def fails_while_timed(seg: Any, small_classes: Any, **options: Any) -> torch.Tensor:
    calls_of_large[0] += is_large(seg)
    if calls_of_large[0] > 1:
        raise RuntimeError("the second time")
    return right_counts(seg, small_classes, **options)


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (writes_where_it_is_timed, "Disagreement: count_windows: it wrote into its input"),
        (fails_while_timed, "RuntimeError: the second time"),
    ],
)
def test_what_goes_wrong_while_a_kernel_is_timed_is_its_own_failure(
    kernel: Callable[..., Any], why: str, tmp_path: Path
) -> None:
    name = f"{__name__}:{kernel.__name__}"
    options = ("--op", "count_windows", "--sizes", str(SIDE), "--ways", "reference")
    status, found = bench(tmp_path, *options, "--impl", name)
    assert status == 1
    errors = [(row["case"]["provider"], row["error"]) for row in found]
    assert {error for way, error in errors if way == name} == {why}
    assert {error for way, error in errors if way == "reference"} == {""}


def windows_in_a_tuple(*args: Any, **options: Any) -> tuple[Any, ...]:
    return tuple(ops.select_windows(*args, **options))


def test_a_foreign_kernel_may_answer_with_a_tuple(tmp_path: Path) -> None:
    options = ("--op", "select_windows", "--sizes", str(SIDE), "--ways", "reference")
    status, found = bench(tmp_path, *options, "--impl", f"{__name__}:windows_in_a_tuple")
    assert status == 0, [row["error"] for row in found]


def test_an_error_widens_no_column() -> None:
    case = {"op": "glue", "options": {}, "preset": "", "content": "noise", "size": 8, "dtype": "f"}
    row = {"case": {**case, "provider": "mine"}, "result": {}, "error": "a long story, " * 20}
    (before, line), (header, *_) = (
        tables.ops(of).splitlines() for of in ([{**row, "error": "short"}], [row])
    )
    assert header == before
    assert len(line) < len(header) < len(tables.ops([row]).splitlines()[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--impl", "a:b"), "--impl must come with --op, got it without"),
        (("--op", "aggregate", "--impl", "nothing"), "--impl must be module:function"),
        (("--op", "aggregate", "--impl", "no_such:fn"), "--impl no_such:fn: must be importable"),
    ],
)
def test_bad_impl(
    options: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "-o", str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_kernel_that_ends_the_process_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import ctypes\ndef fn(*_, **options): ctypes.string_at(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "c2fcore", "bench", "--op", "count_windows", "--impl", "broken:fn"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode < 0
    assert 'broken.py", line 2 in fn' in done.stderr
