"""How many examples a fuzz test tries, and how.

Stands between the fuzz tests and hypothesis.  Invariant: the short runs are the same every
time, so that nobody's build fails by luck; the long ones never are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHORT = pytest.param(45, id="short")
LONG = pytest.param(6_000, id="long", marks=[pytest.mark.fuzz_long, pytest.mark.timeout(0)])


def fuzz(
    check: Callable[..., None], num_examples: int, **strategies: st.SearchStrategy[Any]
) -> None:
    """Call `check` with so many examples of the strategies, and shrink what fails."""
    settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        derandomize=num_examples < 1000,
        suppress_health_check=list(HealthCheck),
    )(given(**strategies)(check))()
