"""What simulated work takes: time, operations, memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.flops import adapter_parameters
from coral.plan import TrainingPlan
from coral.simulation.costs import (
    evaluation_seconds,
    mean_length,
    peak_memory_bytes,
    training_cost,
)
from tests.simulation.worlds import LADDER, MODEL, PROFILE, climbed, plan_of, world_of

COST = PROFILE.cost
SURVEY = world_of().survey


def seconds(plan: TrainingPlan, steps: int = 10) -> float:
    return training_cost(COST, MODEL, SURVEY, plan, steps).train_seconds


def memory(plan: TrainingPlan, micro_batch_size: int | None = None) -> int:
    parameters = adapter_parameters(plan.adapter, SURVEY.linear_modules, SURVEY.depth)
    return peak_memory_bytes(COST, SURVEY, plan, parameters, micro_batch_size)


GROWING: dict[str, list[Any]] = {
    "adapter__rank": [1, 4, 64],
    "adapter__target_modules": [("query",), ("query", "value"), "all-linear"],
    "encoding__sequence_len": [4, 16, 60],
    "schedule__batch_size": [1, 8, 64],
}


@pytest.mark.parametrize("field", GROWING)
@pytest.mark.parametrize("measure", [seconds, memory])
def test_time_and_memory_grow(field: str, measure: Any) -> None:
    values = [measure(plan_of(**{field: value})) for value in GROWING[field]]
    assert values[0] < values[1] < values[2]


def test_frozen_layers_below_the_lowest_adapted_one_save_time() -> None:
    assert seconds(plan_of(adapter__layers="top-1")) < seconds(plan_of(adapter__layers="all"))


@given(mean=st.floats(1, 1e4), short=st.integers(1, 4096), more=st.integers(0, 4096))
def test_a_cut_text_is_no_longer_than_the_cut_nor_than_texts_are(
    mean: float, short: int, more: int
) -> None:
    assert 0 < mean_length(mean, short) <= min(mean, short) * (1 + 1e-9)
    assert mean_length(mean, short) <= mean_length(mean, short + more)


def test_tokens_grow_with_sequence_length_until_texts_are_whole() -> None:
    tokens = [
        training_cost(COST, MODEL, SURVEY, plan_of(encoding__sequence_len=cut), 10).tokens
        for cut in (4, 16, 64, 4096)
    ]
    assert tokens == sorted(tokens)
    assert tokens[-1] == 10 * 16 * MODEL.mean_tokens


@given(steps=st.integers(0, 10_000), size=st.integers(1, 64))
def test_cost_is_proportional_to_steps(steps: int, size: int) -> None:
    plan = plan_of(schedule__batch_size=size)
    one, all_ = (training_cost(COST, MODEL, SURVEY, plan, count) for count in (1, steps))
    assert all_.optimizer_steps == steps
    assert all_.examples == steps * size
    assert all_.teraflops == pytest.approx(steps * one.teraflops)
    assert all_.train_seconds == pytest.approx(steps * one.train_seconds)


@given(size=st.integers(1, 64), micro=st.integers(1, 128))
def test_a_micro_batch_never_needs_more_memory_than_the_batch(size: int, micro: int) -> None:
    plan = plan_of(schedule__batch_size=size)
    assert memory(plan_of(schedule__batch_size=1)) <= memory(plan, micro) <= memory(plan)
    assert (memory(plan, micro) < memory(plan)) == (micro < size)


def test_evaluation_takes_time_by_the_example() -> None:
    plan = plan_of()
    times = [evaluation_seconds(COST, MODEL, SURVEY, plan, count) for count in (0, 100, 200)]
    assert times[0] == 0
    assert times[1] > 0
    assert times[2] == pytest.approx(2 * times[1])


def test_a_ladder_climbed_costs_what_one_long_stage_would() -> None:
    plan = plan_of()
    outcomes = climbed(plan)
    whole = training_cost(COST, MODEL, SURVEY, plan, outcomes[-1].cumulative_steps)
    assert sum(o.cost.optimizer_steps for o in outcomes) == whole.optimizer_steps
    assert sum(o.cost.teraflops for o in outcomes) == pytest.approx(whole.teraflops)
    assert [o.metrics["train_cost"] for o in outcomes] == sorted(
        o.metrics["train_cost"] for o in outcomes
    )
    assert outcomes[-1].metrics["train_cost"] == pytest.approx(whole.teraflops)
    assert len(outcomes) == len(LADDER)
