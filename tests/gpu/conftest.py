"""Tests that only a GPU can run. Without one they are skipped, all for the same reason.

pytest tests/gpu                     every backend that can run
pytest tests/gpu --backend cuda      one; C2F_REQUIRE=cuda makes its absence a failure
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from c2fcore.testing import samples

HERE = Path(__file__).parent
# The reference reads windows on the host: it runs on a GPU, but not captured, and not without
# synchronising.
FUSED = ("triton", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skip(reason="no CUDA device: torch.cuda.is_available() is False")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("gpu")
            if not torch.cuda.is_available():
                item.add_marker(missing)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`fused`: the GPU backends; `everyone`: the reference, too; `call`: the samples of all ops."""
    wanted = metafunc.config.getoption("--backend")
    for fixture, names in (("fused", FUSED), ("everyone", ("reference", *FUSED))):
        if fixture in metafunc.fixturenames:
            chosen = [name for name in names if not wanted or name in wanted]
            metafunc.parametrize(fixture, chosen)
    if "call" in metafunc.fixturenames:
        # Without a GPU one sample of an op stands for all: a thousand skips say no more.
        some = None if torch.cuda.is_available() else 1
        calls = [(op, sample) for op in samples.OPS for sample in samples.of(op)[:some]]
        metafunc.parametrize("call", calls, ids=[f"{op}-{sample}" for op, sample in calls])


@pytest.fixture
def full_float32() -> Iterator[None]:
    """Convolutions without TF32, so that networks answer like those of the eager path."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
