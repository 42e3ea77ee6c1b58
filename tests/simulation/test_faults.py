"""Simulated misfortune: what befalls a job, what it costs, and what an executor makes of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from coral.execution import InlineExecutor
from coral.plan import TrainingPlan
from coral.ports import TrainingJob
from coral.records import Outcome
from coral.settings import FaultRates
from coral.simulation.faults import STRAGGLER_FACTOR
from tests.simulation.worlds import (
    PROFILE,
    QUIET,
    climbed,
    job_of,
    plan_of,
    trained,
    trainer_of,
    with_simulation,
)

PLAN = plan_of()


def many(rates: FaultRates, count: int = 300, **fields: Any) -> list[Outcome]:
    trainer = trainer_of(with_simulation(faults=rates))
    jobs = [job_of(PLAN, seed=seed, **fields) for seed in range(count)]
    return list(trainer.train(jobs))


def executed(job: TrainingJob, **settings: Any) -> Outcome:
    trainer = trainer_of(with_simulation(**settings))
    (outcome,) = InlineExecutor(trainer).run([job])
    return outcome


@pytest.mark.parametrize(
    ("fault", "kind"), [("crash", "crashed"), ("out_of_memory", "oom"), ("nan", "diverged")]
)
def test_a_fault_strikes_as_often_as_its_rate_says(fault: str, kind: str) -> None:
    outcomes = many(FaultRates(**{fault: 0.3}))
    struck = [o for o in outcomes if o.failure is not None and o.failure.kind == kind]
    assert 0.2 < len(struck) / len(outcomes) < 0.4
    for outcome in struck:
        assert not outcome.metrics
        assert outcome.checkpoint is None
        assert outcome.cost.optimizer_steps > 0
        assert outcome.cost.train_seconds > 0
        assert outcome.cost.evaluation_seconds == 0


@pytest.mark.parametrize("fault", ["crash", "out_of_memory", "nan"])
@pytest.mark.parametrize(("rate", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_a_rate_of_nothing_never_strikes_and_one_of_all_always_does(
    fault: str, rate: float, share: float
) -> None:
    outcomes = many(FaultRates(**{fault: rate}), count=30)
    assert sum(outcome.failure is not None for outcome in outcomes) == share * 30


def test_a_fault_of_one_kind_leaves_what_others_would_have_done_alone() -> None:
    alone, together = many(FaultRates(nan=0.2)), many(FaultRates(nan=0.2, straggler=0.5))
    assert [o.failure for o in alone] == [o.failure for o in together]
    assert [o.metrics.get("auroc") for o in alone] == [o.metrics.get("auroc") for o in together]


def test_a_straggler_takes_eight_times_as_long_and_learns_the_same() -> None:
    usual, slow = trained(job_of(PLAN)), trained(job_of(PLAN), faults=FaultRates(straggler=1.0))
    assert slow.cost.train_seconds == pytest.approx(STRAGGLER_FACTOR * usual.cost.train_seconds)
    assert slow.cost.optimizer_steps == usual.cost.optimizer_steps
    assert slow.metrics == usual.metrics


def test_a_lost_checkpoint_costs_the_way_back_and_changes_nothing_else() -> None:
    before = trained(job_of(PLAN, 1)).checkpoint
    job = job_of(PLAN, 2, resume_from=before)
    whole, lost = trained(job), trained(job, faults=FaultRates(lost_checkpoint=1.0))
    assert lost.cost.optimizer_steps == lost.cumulative_steps > whole.cost.optimizer_steps
    assert lost.cost.train_seconds > whole.cost.train_seconds
    assert lost.notes == ("made again, for its checkpoint is lost",)
    assert replace(lost, cost=whole.cost, notes=()) == whole


def test_each_attempt_has_luck_of_its_own() -> None:
    crashed = [
        tuple(
            outcome.failure is not None
            for outcome in many(FaultRates(crash=0.5), count=60, attempt=attempt)
        )
        for attempt in (1, 2)
    ]
    assert crashed[0] != crashed[1]


def test_a_crash_is_tried_again_until_the_retries_are_spent() -> None:
    outcome = executed(job_of(PLAN), faults=FaultRates(crash=1.0))
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.attempts) == ("crashed", 3)
    once = trained(job_of(PLAN), faults=FaultRates(crash=1.0))
    assert outcome.cost.train_seconds == pytest.approx(3 * once.cost.train_seconds)


def test_a_batch_that_does_not_fit_is_halved_once_and_then_fits() -> None:
    outcome = executed(job_of(PLAN), faults=FaultRates(out_of_memory=1.0))
    whole = trained(job_of(PLAN))
    assert outcome.failure is None
    assert outcome.attempts == 2
    assert outcome.metrics == whole.metrics
    assert outcome.peak_memory_bytes < whole.peak_memory_bytes
    assert outcome.cost.seconds > whole.cost.seconds


def test_running_out_of_memory_is_found_out_at_the_first_step() -> None:
    outcome = trained(job_of(PLAN, 2), faults=FaultRates(out_of_memory=1.0))
    assert outcome.cost.optimizer_steps == 1


def test_a_workers_memory_is_never_exceeded() -> None:
    needs = {size: _memory(size) for size in (1, 2, 4, 8, 16, 32)}
    assert sorted(needs.values()) == list(needs.values())
    plan = plan_of(schedule__batch_size=32)
    limit = (needs[4] + needs[8]) / 2
    outcome = executed(job_of(plan), memory_bytes=limit)
    assert outcome.failure is None
    assert outcome.attempts == 4
    assert outcome.peak_memory_bytes == needs[4] <= limit


def _memory(batch_size: int) -> int:
    return trained(job_of(plan_of(schedule__batch_size=batch_size))).peak_memory_bytes


def test_what_does_not_fit_example_by_example_fails() -> None:
    outcome = executed(job_of(PLAN), memory_bytes=PROFILE.cost.base_memory_bytes)
    assert outcome.failure is not None
    assert outcome.failure.kind == "oom"
    assert outcome.attempts == 5  # 16, 8, 4, 2, 1
    assert "a worker has 0.70 GB" in outcome.failure.message


def test_a_micro_batch_lowers_memory_and_changes_no_result() -> None:
    whole, split = trained(job_of(PLAN)), trained(job_of(PLAN, micro_batch_size=2))
    assert split.peak_memory_bytes < whole.peak_memory_bytes
    assert replace(split, peak_memory_bytes=whole.peak_memory_bytes) == whole


def hot(nan_share: float) -> list[Outcome]:
    surface = replace(PROFILE.surface, nan_share=nan_share)
    plan = plan_of(schedule__learning_rate=1.0)
    return climbed(plan, replace(PROFILE, surface=surface))


def test_a_collapse_into_nan_is_the_genomes_own_failure() -> None:
    outcomes = hot(nan_share=1.0)
    last = outcomes[-1]
    assert last.failure is not None
    assert last.failure.kind == "diverged"
    assert "not finite at step" in last.failure.message
    step = int(last.failure.message.rsplit(" ", 1)[1])
    assert 0 < step <= last_step(PLAN)


def last_step(plan: TrainingPlan) -> int:
    return climbed(plan, QUIET)[-1].cumulative_steps


def test_a_collapse_without_nan_ends_at_chance_with_an_exploded_gradient() -> None:
    calm, outcomes = climbed(PLAN, QUIET), hot(nan_share=0.0)
    last = outcomes[-1]
    assert last.failure is None
    assert last.metrics["auroc"] == pytest.approx(0.5, abs=0.1)
    assert last.metrics["gradient_norm"] > 5 * calm[-1].metrics["gradient_norm"]
    assert last.curve.loss[-1] > PROFILE.curve.chance_loss > last.curve.loss[0]
    assert math.isfinite(last.metrics["loss_slope"])
    assert last.metrics["loss_slope"] > 0
