"""Which backends can run here, and which have to."""

from __future__ import annotations

import importlib.util
import os

import pytest

import c2fcore

ABSENT = "not part of this version"
NEEDS_SCIPY = pytest.mark.skipif(
    importlib.util.find_spec("scipy") is None, reason="scipy is not installed: c2fcore[train]"
)


def required() -> set[str]:
    """Backends whose absence is a failure: C2F_REQUIRE=cpu,triton."""
    return {name.strip() for name in os.environ.get("C2F_REQUIRE", "").split(",") if name.strip()}


def state(op: str, name: str) -> tuple[bool, str]:
    """(ok, reason) of a backend of an op."""
    return c2fcore.backends()[op].get(name, (False, ABSENT))


def need(backend: str, *ops: str) -> None:
    """Skips a test where a backend lacks one of the ops.

    It fails instead where the backend is required, has the op, and cannot run.
    """
    for op in ops:
        ok, reason = state(op, backend)
        if not ok and backend in required() and reason != ABSENT:
            pytest.fail(f"C2F_REQUIRE={backend}, but {op}: {reason}")
        if not ok:
            pytest.skip(f"{op}: {backend}: {reason}")
