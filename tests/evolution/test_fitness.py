from __future__ import annotations

import math

import pytest

from coral.evolution import is_fit, objective_values
from coral.evolution.fitness import by_stage
from coral.records import Failure, Objective, Outcome
from tests.evolution.generations import (
    AUROC,
    SIZE,
    Fate,
    condemned,
    failed,
    live,
    reached,
    start,
)


def outcome(**metrics: float) -> Outcome:
    return Outcome(key="k", stage=0, metrics=metrics)


def test_objective_values_are_the_metrics_in_the_order_of_the_objectives() -> None:
    assert objective_values(outcome(size=3.0, auroc=0.9, loss=1.0), (AUROC, SIZE)) == (0.9, 3.0)


def test_peak_memory_is_an_objective_though_it_is_no_metric() -> None:
    memory = Objective(metric="peak_memory_bytes", direction="min")
    measured = Outcome(key="k", stage=0, metrics={"auroc": 0.9}, peak_memory_bytes=2048)
    assert objective_values(measured, (AUROC, memory)) == (0.9, 2048.0)
    assert "peak_memory_bytes" not in measured.metrics


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_not_finite_leaves_no_values(value: float) -> None:
    assert objective_values(outcome(auroc=0.9, size=value), (AUROC, SIZE)) is None
    assert objective_values(outcome(auroc=0.9, size=value), (AUROC,)) == (0.9,)


def test_a_missing_metric_leaves_no_values() -> None:
    assert objective_values(outcome(size=3.0), (AUROC, SIZE)) is None


def test_a_failure_leaves_no_values_whatever_it_measured() -> None:
    failure = Failure(kind="oom", message="too big")
    broken = Outcome(key="k", stage=0, metrics={"auroc": 0.9}, failure=failure)
    assert objective_values(broken, (AUROC,)) is None


@pytest.mark.parametrize(
    ("fate", "fit"),
    [
        (reached(0.5, 0.6, 0.7), True),
        (reached(0.5), True),
        (failed("crashed"), False),
        (failed("oom", 0.5, 0.6), False),
        (failed("diverged", 0.5, 0.6), False),
        (condemned(0, 0.5), False),
        (condemned(0, 0.5, audited=True), False),
        (condemned(0, 0.5, 0.6, audited=True), True),
        (condemned(0, 0.5, 0.6, 0.7, audited=True), True),
    ],
)
def test_only_trials_that_ended_well_or_were_carried_on_by_an_audit_are_fit(
    fate: Fate, fit: bool
) -> None:
    assert is_fit(live(start(), fate, reached(0.5)).trials[0]) == fit


def test_fit_trials_are_grouped_by_the_highest_stage_they_ended() -> None:
    state = live(
        start(),
        reached(0.9),
        reached(0.5, 0.6, 0.7),
        failed("diverged", 0.9, 0.9),
        reached(0.8),
        reached(0.5, math.nan),
    )
    groups = [
        ([trial.number for trial in members], scores)
        for members, scores in by_stage(state.trials, (AUROC,))
    ]
    assert groups == [([1], [(0.7,)]), ([0, 3], [(0.9,), (0.8,)])]
