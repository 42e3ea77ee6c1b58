from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.errors import PlanError
from coral.plan import TasksPlan, task_shares

NAMES = ("a", "b", "c", "d")
tasks = st.lists(st.sampled_from(NAMES), min_size=1, unique=True)


@st.composite
def weighted(draw: st.DrawFn) -> tuple[TasksPlan, list[str]]:
    """Weights on the simplex, over a part of the run's tasks."""
    names = draw(tasks)
    named = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    parts = [draw(st.floats(0.01, 1)) for _ in named]
    weights = {name: part / sum(parts) for name, part in zip(named, parts, strict=True)}
    return TasksPlan(weights=weights), names


@given(tasks)
def test_tasks_share_equally_without_weights(names: list[str]) -> None:
    assert task_shares(TasksPlan(), names) == dict.fromkeys(names, 1 / len(names))


@given(weighted())
def test_shares_lie_on_the_simplex(case: tuple[TasksPlan, list[str]]) -> None:
    plan, names = case
    shares = task_shares(plan, names)
    assert list(shares) == names
    assert min(shares.values()) >= 0
    assert sum(shares.values()) == pytest.approx(1, abs=1e-12)


def test_a_task_that_the_weights_leave_out_gets_nothing() -> None:
    plan = TasksPlan(weights={"a": 0.25, "b": 0.75})
    assert task_shares(plan, ("a", "b", "c")) == {"a": 0.25, "b": 0.75, "c": 0.0}


def test_weights_for_a_task_that_the_run_does_not_have_are_refused() -> None:
    with pytest.raises(PlanError, match="tasks that the run does not have: y, z"):
        task_shares(TasksPlan(weights={"z": 0.5, "a": 0.25, "y": 0.25}), ("a",))


def test_weights_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(PlanError, match=r"weights must sum to 1, got 0\.9"):
        TasksPlan(weights={"a": 0.5, "b": 0.4})


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
def test_a_weight_that_is_no_share_is_refused(weight: float) -> None:
    with pytest.raises(PlanError, match=rf"weights\.b must be a number >= 0, got {weight}"):
        TasksPlan(weights={"a": 1.5, "b": weight})
