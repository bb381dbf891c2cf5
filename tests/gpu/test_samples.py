"""Every sample of every op once on the GPU, against the reference on the CPU.

compute-sanitizer runs this file: nothing but the op computes on the GPU.
"""

from __future__ import annotations

import compare
from availability import need

from c2fcore.testing.agree import assert_agrees
from c2fcore.testing.samples import Sample


def test_sample(everyone: str, call: tuple[str, Sample]) -> None:
    op, sample = call
    need(everyone, op)
    want = compare.call(op, sample, "reference")
    assert_agrees(op, sample, compare.call(op, sample, everyone, "cuda"), want)
