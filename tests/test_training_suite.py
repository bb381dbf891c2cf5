"""The benchmark of training windows compares like with like."""

from __future__ import annotations

import pytest

from c2fcore.bench import training_suite


def test_every_way_cuts_the_same_and_rows_tell_memory(tmp_path: object) -> None:
    case = {"batch": 2, "size": 160, "window": 64, "stride": 32, "n": 6}
    found = list(training_suite.measured([case], {"threads": 1}, rounds=2, threads=1))
    assert [row["case"]["provider"] for row in found] == list(training_suite.WAYS)
    peak = {row["case"]["provider"]: row["result"]["peak_mib"] for row in found}
    assert peak["unfold"] > peak["cpu"] > 0
    assert found[0]["result"]["times_unfold"] == 1


def test_another_answer_is_an_error() -> None:
    data = training_suite.make_batch(1, 160)
    one, other = (
        training_suite.call_of(name, data, window=64, stride=32, n=n)
        for name, n in (("unfold", 4), ("cpu", 3))
    )
    with pytest.raises(ValueError, match="cpu must cut the patches that unfold does"):
        training_suite.check({"unfold": one, "cpu": other})
    with pytest.raises(ValueError, match="way must be one of"):
        training_suite.call_of("cuda", data, window=64, stride=32, n=4)
