"""The final confirmation's work: other seeds, a ladder of one stage, several weights of a trial."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coral.fidelity import Stage
from coral.simulation import SimulatedTrainer
from tests.simulation.worlds import (
    LADDER,
    PROFILE,
    QUIET,
    SPEC,
    job_of,
    plan_of,
    run,
    trained,
    trainer_of,
    with_simulation,
    world_of,
)

LAST = len(LADDER) - 1
LONG = (Stage(name="lineage", epoch_budget=4.0, data_percentage=100, survival_rate=1.0),)


def test_other_seeds_have_luck_of_their_own() -> None:
    found = {trained(job_of(plan_of(), LAST, seed=seed)).metrics["auroc"] for seed in range(5)}
    assert len(found) == 5


def test_jobs_of_all_seeds_are_scored_on_the_same_examples() -> None:
    split_alone = replace(
        QUIET, tasks=PROFILE.tasks, noise=replace(QUIET.noise, shared=1.0), surface=QUIET.surface
    )
    found = [trained(job_of(plan_of(), LAST, seed=s), split_alone).metrics for s in range(3)]
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(found[2])
    other = SimulatedTrainer(replace(world_of(profile=split_alone), seed=1))
    (elsewhere,) = other.train([job_of(plan_of(), LAST)])
    assert elsewhere.metrics["auroc"] != pytest.approx(found[0]["auroc"])


def test_a_cold_rematch_takes_the_whole_way_in_one_job() -> None:
    outcome = trained(job_of(plan_of(), LAST, seed=7))
    assert outcome.cost.optimizer_steps == outcome.cumulative_steps
    assert outcome.inheritance is None
    assert outcome.notes == ()


def test_a_longer_ladder_of_one_stage_trains_longer_and_better() -> None:
    usual = trained(job_of(plan_of(), LAST), QUIET)
    long = trained(job_of(plan_of(), 0, LONG), QUIET)
    assert long.cumulative_steps == pytest.approx(4 * usual.cumulative_steps, abs=4)
    assert long.metrics["auroc"] > usual.metrics["auroc"]


def test_a_ladder_of_one_stage_is_no_early_stage_of_the_runs() -> None:
    usual, misled = trainer_of(SPEC), trainer_of(with_simulation(agreement={"short": -0.9}))
    job = job_of(plan_of(adapter__rank=4), 0, LONG)
    one, two = (next(trainer.train([job])) for trainer in (usual, misled))
    assert one.metrics["auroc"] == two.metrics["auroc"]


def test_contestants_of_one_trial_are_scored_apart() -> None:
    jobs = [job_of(plan_of(), 0, LONG), job_of(plan_of(), LAST, seed=3), job_of(plan_of(), LAST)]
    scores = trainer_of().score([replace(job, trial=0) for job in jobs], 0)
    assert [score.trial for score in scores] == [0, 0, 0]
    assert len({score.metrics["auroc"] for score in scores}) == 3
    assert scores[0].difference["auroc"].high > scores[0].difference["auroc"].low


def test_a_run_confirms_with_rematches_and_a_long_default() -> None:
    state = run()
    assert state.confirmation is not None
    contestants = state.confirmation.contestants
    kinds = [each.kind for each in contestants]
    assert kinds.count("lineage") == kinds.count("long default") == 1
    assert kinds.count("cold") == 4
    assert len({(each.trial, each.seed) for each in contestants if each.kind == "cold"}) == 4
    (long,) = (each for each in contestants if each.kind == "long default")
    (line,) = (each for each in contestants if each.kind == "lineage")
    assert long.optimizer_steps == pytest.approx(line.optimizer_steps, abs=1)
    values = [each.metrics["auroc"] for each in contestants]
    assert values[state.confirmation.winner] == max(values)
