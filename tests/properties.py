"""Property tests: hypothesis where it is installed, a skip that says so where it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

try:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
except ImportError:
    st = None

Test = Callable[..., Any]


def for_any_data(max_examples: int) -> Callable[[Test], Test]:
    """Decorator of a test that draws its inputs from its argument `data`.

    Small budgets, the same examples every time. The fixtures (backend, poisoned memory) hold no
    state that one example could leave to the next.
    """
    if st is None:
        return pytest.mark.skip(reason="hypothesis is not installed")
    budget = settings(
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        max_examples=max_examples,
    )

    def decorate(test: Test) -> Test:
        return budget(given(data=st.data())(test))

    return decorate
