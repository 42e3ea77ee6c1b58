from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coral.errors import PlanError
from coral.fidelity import (
    DEFAULT_LADDER,
    Stage,
    check_ladder,
    entrants_by_stage,
    ladder_share,
    ladder_steps,
    survivor_count,
)

rates = st.floats(0.01, 1)


@st.composite
def ladders(draw: st.DrawFn) -> tuple[Stage, ...]:
    size = draw(st.integers(1, 6))
    budgets = sorted(draw(st.sets(st.floats(0.001, 5), min_size=size, max_size=size)))
    shares = sorted(draw(st.lists(st.floats(0.1, 100), min_size=size, max_size=size)))
    return tuple(
        Stage(name=f"S{i}", epoch_budget=budget, data_percentage=share, survival_rate=draw(rates))
        for i, (budget, share) in enumerate(zip(budgets, shares, strict=True))
    )


def test_eight_genomes_thin_out_on_the_default_ladder() -> None:
    assert entrants_by_stage(DEFAULT_LADDER, 8) == [8, 8, 4, 1]


def test_the_default_ladder_costs_eight_genomes_39_percent_of_full_training() -> None:
    # (8 * 0.05 + 8 * 0.25 + 4 * 0.7 + 1 * 1.0) / (8 * 2)
    assert ladder_share(DEFAULT_LADDER, 8) == pytest.approx(0.3875)


def test_a_ladder_of_one_stage_saves_nothing() -> None:
    assert ladder_share(DEFAULT_LADDER[-1:], 8) == 1


@given(ladders(), st.integers(1, 100))
def test_a_ladder_never_costs_more_than_full_training(
    stages: tuple[Stage, ...], population: int
) -> None:
    check_ladder(stages)
    assert 0 < ladder_share(stages, population) <= 1 + 1e-9


@given(ladders(), st.integers(1, 100))
def test_stages_thin_out_and_never_empty(stages: tuple[Stage, ...], population: int) -> None:
    counts = entrants_by_stage(stages, population)
    assert counts[0] == population
    assert all(earlier >= later >= 1 for earlier, later in pairwise(counts))


@given(rates, st.integers(1, 1000))
def test_at_least_one_survives_and_never_more_than_entered(rate: float, entered: int) -> None:
    stage = Stage(name="S", epoch_budget=1, data_percentage=100, survival_rate=rate)
    assert 1 <= survivor_count(stage, entered) <= entered
    assert abs(survivor_count(stage, entered) - max(1, rate * entered)) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("rate", "entered", "survivors"),
    [(0.25, 4, 1), (0.5, 5, 3), (0.5, 3, 2), (0.1, 4, 1), (1.0, 7, 7), (0.5, 0, 0)],
)
def test_halves_are_rounded_up(rate: float, entered: int, survivors: int) -> None:
    stage = replace(DEFAULT_LADDER[0], survival_rate=rate)
    assert survivor_count(stage, entered) == survivors


@given(ladders(), st.integers(1, 100_000), st.integers(1, 512))
def test_every_stage_trains_at_least_one_step(
    stages: tuple[Stage, ...], train_examples: int, batch_size: int
) -> None:
    ends = ladder_steps(stages, train_examples, batch_size)
    assert all(end - start >= 1 for start, end in pairwise([0, *ends]))


@given(ladders(), st.integers(1000, 100_000), st.integers(1, 16))
def test_cumulative_steps_are_the_stages_epochs_in_batches_rounded_up(
    stages: tuple[Stage, ...], train_examples: int, batch_size: int
) -> None:
    for stage, end in zip(stages, ladder_steps(stages, train_examples, batch_size), strict=True):
        exact = stage.epoch_budget * train_examples / batch_size
        assert exact - 1e-6 <= end <= exact + len(stages) + 1


def test_the_default_ladders_steps_on_a_thousand_examples() -> None:
    assert ladder_steps(DEFAULT_LADDER, 1000, 16) == [4, 19, 63, 125]


def test_a_budget_that_divides_evenly_takes_no_step_more() -> None:
    # 0.3 * 1000 / 10 is 30 but for the last binary digit.
    assert ladder_steps(DEFAULT_LADDER, 1000, 10) == [5, 30, 100, 200]


def test_the_default_ladder_is_sound() -> None:
    check_ladder(DEFAULT_LADDER)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "training_stages must hold at least one stage, got none"),
        (
            (DEFAULT_LADDER[0], replace(DEFAULT_LADDER[1], name="S0_sanity")),
            "stage names must differ, got S0_sanity, S0_sanity",
        ),
        (
            (DEFAULT_LADDER[0], replace(DEFAULT_LADDER[1], epoch_budget=0.05)),
            "must grow from stage to stage, got S0_sanity=0.05, S1_shakeout=0.05",
        ),
        (
            (DEFAULT_LADDER[1], replace(DEFAULT_LADDER[2], data_percentage=10)),
            "data_percentage must not shrink from stage to stage, got S1_shakeout=20,"
            " S2_serious=10",
        ),
    ],
)
def test_an_unsound_ladder_is_refused(stages: tuple[Stage, ...], message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        check_ladder(stages)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epoch_budget", 0, "epoch_budget must be > 0, got 0"),
        ("data_percentage", 0, "data_percentage must be > 0, got 0"),
        ("data_percentage", 101, "data_percentage must be <= 100, got 101"),
        ("survival_rate", 0, "survival_rate must be > 0, got 0"),
        ("survival_rate", 1.1, "survival_rate must be <= 1, got 1.1"),
    ],
)
def test_a_stage_out_of_bounds_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        replace(DEFAULT_LADDER[0], **{field: value})
