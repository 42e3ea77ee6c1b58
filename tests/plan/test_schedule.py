from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.plan import SchedulePlan, warmup_steps


@pytest.mark.parametrize(("ratio", "steps", "expected"), [(0.0, 100, 0), (0.1, 100, 10), (1, 7, 7)])
def test_warm_up_is_a_share_of_the_horizon(ratio: float, steps: int, expected: int) -> None:
    assert warmup_steps(SchedulePlan(warmup_ratio=ratio), steps) == expected


def test_warm_up_steps_take_the_place_of_the_share() -> None:
    plan = SchedulePlan(warmup_ratio=0.5, warmup_steps=10)
    assert warmup_steps(plan, 100) == 10


@given(st.floats(0, 1), st.integers(0, 10**7), st.integers(1, 10**6))
def test_warm_up_never_outlasts_the_horizon(ratio: float, own: int, steps: int) -> None:
    plan = SchedulePlan(warmup_ratio=ratio, warmup_steps=own)
    assert 0 <= warmup_steps(plan, steps) <= steps
