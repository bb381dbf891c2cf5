"""The whole glue, as the pipeline runs it: select, extract, aggregate, labels handed over."""

from __future__ import annotations

import inputs
import pytest
from providers import Job

JOB_OP = "glue"


@pytest.mark.parametrize("content", ["realistic", "noise"])
def test_glue(timed, provider, size, content):
    timed(Job(JOB_OP, {}), provider, inputs.make_case(size, content=content))
