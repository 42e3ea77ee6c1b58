from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.plan import CurriculumPlan, difficulty_limit

shares = st.floats(0, 1)
difficulties = st.floats(0.01, 1)
progressive = st.builds(
    CurriculumPlan,
    kind=st.just("progressive"),
    initial_difficulty=difficulties,
    final_difficulty=difficulties,
    ramp=shares,
)


@given(progressive, shares, shares)
def test_the_limit_moves_one_way_only(plan: CurriculumPlan, one: float, two: float) -> None:
    early, late = (difficulty_limit(plan, progress) for progress in sorted((one, two)))
    if plan.initial_difficulty <= plan.final_difficulty:
        assert early <= late
    else:
        assert early >= late


@given(progressive, shares)
def test_the_limit_stays_between_its_ends(plan: CurriculumPlan, progress: float) -> None:
    ends = sorted((plan.initial_difficulty, plan.final_difficulty))
    assert ends[0] - 1e-12 <= difficulty_limit(plan, progress) <= ends[1] + 1e-12


@given(progressive)
def test_the_limit_is_final_from_the_ramps_end_on(plan: CurriculumPlan) -> None:
    assert difficulty_limit(plan, plan.ramp) == pytest.approx(plan.final_difficulty)
    assert difficulty_limit(plan, 1.0) == pytest.approx(plan.final_difficulty)


@given(progressive.filter(lambda plan: plan.ramp > 0))
def test_the_limit_is_initial_at_the_start(plan: CurriculumPlan) -> None:
    assert difficulty_limit(plan, 0.0) == plan.initial_difficulty


def test_half_way_up_the_ramp_the_limit_is_half_way_between_its_ends() -> None:
    plan = CurriculumPlan(
        kind="progressive", initial_difficulty=0.2, final_difficulty=0.8, ramp=0.5
    )
    assert difficulty_limit(plan, 0.25) == pytest.approx(0.5)


def test_a_ramp_of_no_length_lets_the_final_difficulty_in_at_once() -> None:
    plan = CurriculumPlan(kind="progressive", final_difficulty=0.7, ramp=0.0)
    assert difficulty_limit(plan, 0.0) == 0.7


@given(shares)
def test_without_a_curriculum_everything_is_let_in(progress: float) -> None:
    assert difficulty_limit(CurriculumPlan(initial_difficulty=0.1), progress) == 1.0
