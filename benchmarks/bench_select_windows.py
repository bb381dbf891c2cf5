"""select_windows: counting, and the choice of windows on top of it."""

from __future__ import annotations

import pytest

from c2fcore.bench import inputs
from c2fcore.bench.ways import Job

JOB_OP = "select_windows"


@pytest.mark.parametrize("strategy", ["cover", "top", "all"])
def test_select_windows(timed, way, size, strategy):
    timed(Job(JOB_OP, {"strategy": strategy}), way, inputs.make_case(size))
