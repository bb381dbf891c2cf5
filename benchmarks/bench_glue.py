"""The whole glue, as the pipeline runs it: select, extract, aggregate, labels handed over."""

from __future__ import annotations

import pytest

from c2fcore.bench import inputs
from c2fcore.bench.ways import Job

JOB_OP = "glue"


@pytest.mark.parametrize("content", ["realistic", "noise"])
def test_glue(timed, way, size, content):
    timed(Job(JOB_OP, {}), way, inputs.make_case(size, content=content))


def test_glue_official(timed, way, size):
    """What the authors' code does: disjoint windows, their rule; the peer is unfold and fold."""
    timed(Job(JOB_OP, {}), way, inputs.make_case(size, preset="official"), preset="official")
