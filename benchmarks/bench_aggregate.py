"""aggregate: the coarse and the fine answer merged, to labels or to scores."""

from __future__ import annotations

import pytest

from c2fcore.bench import inputs
from c2fcore.bench.ways import Job

JOB_OP = "aggregate"


@pytest.mark.parametrize("output", ["labels", "probs"])
@pytest.mark.parametrize("rule", ["paper", "normalized", "official"])
def test_aggregate(timed, way, size, rule, output):
    timed(Job(JOB_OP, {"rule": rule, "output": output}), way, inputs.make_case(size))


def test_aggregate_noise(timed, way, size):
    """Every cell a border, every second pixel a conflict."""
    case = inputs.make_case(size, content="noise")
    timed(Job(JOB_OP, {"rule": "paper", "output": "labels"}), way, case)
