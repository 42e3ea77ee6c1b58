from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.plan import warmup_steps


@pytest.mark.parametrize(("ratio", "steps", "expected"), [(0.0, 100, 0), (0.1, 100, 10), (1, 7, 7)])
def test_warm_up_is_a_share_of_the_horizon(ratio: float, steps: int, expected: int) -> None:
    assert warmup_steps(ratio, steps) == expected


@given(st.floats(0, 1), st.integers(1, 10**6))
def test_warm_up_never_outlasts_the_horizon(ratio: float, steps: int) -> None:
    assert 0 <= warmup_steps(ratio, steps) <= steps
