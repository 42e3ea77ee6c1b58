"""What the simulator believes about training, as sentences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.fidelity import Stage, kendall_tau
from coral.genome import sobol_design
from coral.plan import TrainingPlan
from coral.settings import RunSpec
from coral.simulation import Profile
from coral.simulation.readings import readings_of, sampling_deviation
from coral.simulation.surface import Features, collapse_odds
from tests.simulation.worlds import (
    LADDER,
    PROFILE,
    QUIET,
    SPACE,
    SPEC,
    course_of,
    job_of,
    metrics_at,
    plan_of,
    trainer_of,
    with_simulation,
)

RATES = [10 ** (-4.5 + i / 20) for i in range(70)]
plans = st.integers(0, 10**6).map(lambda seed: SPACE.express(sobol_design(SPACE, 1, seed)[0]))


def ladder(epochs: float) -> tuple[Stage, ...]:
    return (Stage(name="only", epoch_budget=epochs, data_percentage=100, survival_rate=1.0),)


def quality(plan: TrainingPlan, epochs: float = 1.0, profile: Profile = QUIET) -> float:
    """Return the final validation AUROC, mean over tasks."""
    course = course_of(plan, ladder(epochs), profile=profile)
    return metrics_at(course, course.horizon, "validation")["auroc"]


def best_rate(profile: Profile = QUIET, **values: Any) -> float:
    """Return the learning rate that ends best."""
    return max(
        RATES, key=lambda rate: quality(plan_of(schedule__learning_rate=rate, **values), 1, profile)
    )


@settings(max_examples=25)
@given(plan=plans)
def test_more_steps_never_hurt_within_the_first_epoch(plan: TrainingPlan) -> None:
    course = course_of(plan, ladder(1.0), profile=QUIET)
    for task in course.world.tasks:
        fresh = int((course.done.epochs <= 1).sum())
        learned = course.learned(task, course.exposed(0, fresh))
        assert np.all(np.diff(learned) <= 1e-12)
        assert learned[-1] < learned[0] <= 0


def test_a_trial_that_stays_at_chance_has_the_metrics_of_chance() -> None:
    hopeless = plan_of(schedule__learning_rate=1e-8)
    course = course_of(hopeless, profile=QUIET)
    values = metrics_at(course, course.horizon, "validation")
    assert values["auroc"] == pytest.approx(0.5, abs=0.01)
    assert values["log_loss"] == pytest.approx(1.4, abs=0.02)


def test_the_learning_rate_has_a_best_value_between_too_small_and_too_large() -> None:
    best = best_rate()
    qualities = [quality(plan_of(schedule__learning_rate=rate)) for rate in RATES]
    top = RATES.index(best)
    assert 0 < top < len(RATES) - 1
    assert all(np.diff(qualities[: top + 1]) >= 0)
    assert all(np.diff(qualities[top:]) <= 0)


def test_the_best_learning_rate_falls_as_scaling_rises() -> None:
    rates = [best_rate(adapter__scaling=scaling) for scaling in (0.25, 1.0, 4.0, 16.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 2 * rates[-1]


def test_the_best_learning_rate_rises_with_the_batch_size() -> None:
    rates = [best_rate(schedule__batch_size=size) for size in (4, 16, 64)]
    assert rates == sorted(rates)
    assert rates[-1] > 1.5 * rates[0]


def test_a_profile_decides_how_far_the_best_learning_rate_moves() -> None:
    rigid = replace(QUIET, surface=replace(QUIET.surface, heat_scaling=0.0, heat_batch=0.0))
    assert best_rate(rigid, adapter__scaling=0.25) == best_rate(rigid, adapter__scaling=16.0)


def gains(vary: Callable[[Any], TrainingPlan], values: list[Any]) -> list[float]:
    return np.diff([quality(vary(value)) for value in values]).tolist()


def test_rank_has_diminishing_returns() -> None:
    steps = gains(lambda rank: plan_of(adapter__rank=rank), [1, 2, 4, 8, 16])
    assert all(step > 0 for step in steps)
    assert steps == sorted(steps, reverse=True)


def test_adapting_more_layers_pays_ever_less() -> None:
    errors = [
        math.log(1 - quality(plan_of(adapter__layers=layers)))
        for layers in ("top-1", "top-2", "all")
    ]
    assert errors == sorted(errors, reverse=True)


SMALL_DATA = replace(
    QUIET,
    tasks={name: replace(task, train_examples=60) for name, task in QUIET.tasks.items()},
    surface=replace(QUIET.surface, overfitting=0.2),
)


def test_small_data_repeated_is_overfitted() -> None:
    plan = plan_of(schedule__learning_rate=3e-3)
    qualities = [quality(plan, epochs, SMALL_DATA) for epochs in (1, 8, 500)]
    assert qualities[2] < max(qualities)


def test_larger_adapters_overfit_more() -> None:
    course = {
        rank: course_of(plan_of(adapter__rank=rank), ladder(32.0), profile=SMALL_DATA)
        for rank in (2, 8, 32)
    }
    parts = [float(c.overfitted(c.exposed(c.horizon - 1, c.horizon))[0]) for c in course.values()]
    assert 0 < parts[0] < parts[1] < parts[2]
    early = course[32]
    first = math.floor(120 / 16)
    assert not early.overfitted(early.exposed(0, first)).any()


def test_the_training_loss_falls_while_the_validation_error_rises_with_overfitting() -> None:
    plan = plan_of(schedule__learning_rate=3e-3, schedule__scheduler="constant")
    (outcome,) = trainer_of(profile=SMALL_DATA).train([job_of(plan, stages=ladder(30.0))])
    losses = outcome.curve.loss
    assert losses[-1] < losses[len(losses) // 2] < losses[0]
    assert quality(plan, 30.0, SMALL_DATA) < quality(plan, 4.0, SMALL_DATA)


@given(
    rate=st.floats(-5, 0),
    scaling=st.floats(-1, 1),
    by=st.floats(0, 1),
)
def test_the_odds_of_a_collapse_rise_with_learning_rate_and_scaling(
    rate: float, scaling: float, by: float
) -> None:
    def odds(rate: float, scaling: float) -> float:
        features = course_of(plan_of()).features
        moved: Features = replace(features, rate=rate, scaling=scaling)
        return float(collapse_odds(PROFILE.surface, moved))

    assert 0 <= odds(rate, scaling) <= odds(rate + by, scaling) <= 1
    assert odds(rate, scaling) <= odds(rate, scaling + by)


def test_hot_genomes_collapse_and_cool_ones_do_not() -> None:
    def collapsed(rate: float) -> int:
        plan = plan_of(schedule__learning_rate=rate)
        return sum(course_of(plan, seed=seed).fate.collapse_step is not None for seed in range(40))

    assert (collapsed(1e-4), collapsed(1.0)) == (0, 40)


def test_validation_and_test_differ_by_the_noise_that_the_profile_says() -> None:
    profile = replace(QUIET, tasks=PROFILE.tasks)
    apart, deviation = [], 0.0
    for seed in range(300):
        course = course_of(plan_of(), seed=seed, profile=profile)
        found, told = (
            metrics_at(course, course.horizon, split)["origin.auroc"]
            for split in ("validation", "test")
        )
        apart.append(found - told)
        error = course.errors_at(course.horizon)["origin"]
        link = profile.tasks["origin"].metrics["auroc"]
        deviation = math.hypot(*(sampling_deviation(link, error, n) for n in (300, 1000)))
    assert np.mean(apart) == pytest.approx(0.0, abs=0.2 * deviation)
    assert np.std(apart) == pytest.approx(deviation, rel=0.12)


def test_fewer_examples_mean_more_noise() -> None:
    profile = replace(QUIET, tasks=PROFILE.tasks)
    spread = {}
    for examples in (20, 300):
        values = [
            readings_of(
                course.world,
                course.weights_at(course.horizon),
                "validation",
                {"origin": examples, "kind": examples},
            )
            for course in (course_of(plan_of(), seed=seed, profile=profile) for seed in range(200))
        ]
        spread[examples] = np.std([value["auroc"] for value in values])
    assert spread[20] == pytest.approx(spread[300] * math.sqrt(15), rel=0.25)


def test_genomes_of_one_run_share_a_part_of_the_noise() -> None:
    silent = replace(QUIET, tasks=PROFILE.tasks)
    for shared, expected in ((0.0, 0.0), (0.9, 0.9)):
        profile = replace(silent, noise=replace(silent.noise, shared=shared))
        pairs = [
            [
                metrics_at(course, course.horizon, "test")["origin.auroc"]
                for rank in (8, 9)
                for course in (course_of(plan_of(adapter__rank=rank), seed=s, profile=profile),)
            ]
            for s in range(120)
        ]
        assert np.corrcoef(np.array(pairs).T)[0, 1] == pytest.approx(expected, abs=0.2)


def taus(spec: RunSpec, count: int = 150) -> list[float]:
    """Return the Kendall tau of each early stage with the last, over genomes of the space."""
    trainer = trainer_of(spec)
    table = []
    for genome in sobol_design(spec.space, count, 77):
        plan = spec.space.express(genome)
        jobs = [job_of(plan, stage, seed=spec.seed) for stage in range(len(LADDER))]
        outcomes = list(trainer.train(jobs))
        if all(outcome.failure is None for outcome in outcomes):
            table.append([outcome.metrics["auroc"] for outcome in outcomes])
    *early, final = (column.tolist() for column in np.array(table).T)
    return [kendall_tau(column, final) for column in early]


def test_early_stages_rank_imperfectly_and_later_ones_better() -> None:
    short, middle = taus(SPEC)
    assert 0.2 < short < middle < 0.95


@pytest.mark.parametrize("tau", [0.9, 0.0, -0.5])
def test_agreement_sets_how_early_stages_rank(tau: float) -> None:
    short, middle = taus(with_simulation(agreement={"short": tau, "middle": tau}))
    assert short == pytest.approx(tau, abs=0.1)
    assert middle == pytest.approx(tau, abs=0.1)


def test_a_stage_that_agreement_does_not_name_keeps_its_own() -> None:
    assert taus(with_simulation(agreement={"short": -0.5}), 40)[1] == taus(SPEC, 40)[1]


def test_agreement_moves_early_readings_alone() -> None:
    usual, misled = trainer_of(SPEC), trainer_of(with_simulation(agreement={"short": -0.5}))
    plan = plan_of(adapter__rank=4)
    for stage in range(len(LADDER)):
        one, two = (next(t.train([job_of(plan, stage)])) for t in (usual, misled))
        assert (one.metrics["auroc"] == two.metrics["auroc"]) == (stage > 0)
        assert one.checkpoint == two.checkpoint
    last = replace(job_of(plan, len(LADDER) - 1))
    assert usual.score([last], 0) == misled.score([last], 0)


def test_misleading_keeps_metrics_between_chance_and_the_best() -> None:
    trainer = trainer_of(with_simulation(agreement={"short": -0.9, "middle": 0.95}))
    for genome in sobol_design(SPACE, 60, 3):
        for stage in (0, 1):
            metrics = next(trainer.train([job_of(SPACE.express(genome), stage)])).metrics
            if metrics:
                assert 0.5 <= metrics["auroc"] <= 1.0
                assert 0.0 <= metrics["log_loss"] <= 1.4


@pytest.mark.parametrize("genes", [(), SPACE.genes[3:4]])
def test_agreement_in_a_space_that_hardly_varies_changes_no_metric_into_nonsense(
    genes: tuple[Any, ...],
) -> None:
    spec = with_simulation(
        replace(SPEC, space=replace(SPACE, genes=genes)), agreement={"short": -0.5}
    )
    metrics = next(trainer_of(spec).train([job_of(plan_of())])).metrics
    assert all(math.isfinite(metrics[name]) for name in ("auroc", "log_loss"))


def test_agreement_in_a_space_where_everything_diverges_leaves_the_reference_alone() -> None:
    hot = replace(SPACE.genes[0], low=1.0, high=9.0)
    profile = replace(PROFILE, surface=replace(PROFILE.surface, nan_share=1.0))
    spec = replace(SPEC, space=replace(SPACE, genes=(hot,)))
    job = job_of(plan_of())
    usual = next(trainer_of(spec, profile).train([job]))
    misled = next(
        trainer_of(with_simulation(spec, agreement={"short": -0.5}), profile).train([job])
    )
    assert misled.metrics["auroc"] == usual.metrics["auroc"]


def test_genomes_that_fit_no_layer_are_left_out_of_the_measure() -> None:
    layers = replace(SPACE.genes[3], options=("all", "8-9"))
    spec = with_simulation(
        replace(SPEC, space=replace(SPACE, genes=(*SPACE.genes[:3], layers))),
        agreement={"short": 0.0},
    )
    assert next(trainer_of(spec).train([job_of(plan_of())])).failure is None


def learned(task: str, plan: TrainingPlan, profile: Profile = QUIET) -> float:
    course = course_of(plan, ladder(1.0), profile=profile)
    return float(course.learned(task, course.exposed(course.horizon - 1, course.horizon))[0])


def test_a_larger_share_helps_a_task_and_hurts_the_other() -> None:
    even, uneven = plan_of(), plan_of(tasks__weights={"origin": 0.8, "kind": 0.2})
    assert learned("origin", uneven) < learned("origin", even)
    assert learned("kind", uneven) > learned("kind", even)


def test_tasks_that_transfer_lose_less_to_each_other() -> None:
    def loss(transfer: float) -> float:
        profile = replace(QUIET, surface=replace(QUIET.surface, transfer=transfer))
        few = plan_of(tasks__weights={"origin": 0.9, "kind": 0.1})
        return learned("kind", few, profile) - learned("kind", plan_of(), profile)

    assert 0 < loss(0.9) < loss(0.0)


def test_training_that_withholds_examples_learns_less() -> None:
    curriculum = plan_of(
        curriculum__kind="progressive", curriculum__initial_difficulty=0.2, curriculum__ramp=1.0
    )
    assert quality(curriculum) < quality(plan_of())


def test_a_finalists_intervals_hold_its_estimate_and_shrink_with_what_genomes_share() -> None:
    jobs = [replace(job_of(plan_of(adapter__rank=rank), 2), trial=rank) for rank in (4, 8)]
    champion, reference = trainer_of().score(jobs, seed=0)
    for name, interval in champion.intervals.items():
        assert interval.low < interval.estimate == champion.metrics[name] < interval.high
        width = champion.difference[name].high - champion.difference[name].low
        assert 0 < width < math.sqrt(2) * (interval.high - interval.low)
        assert reference.difference[name].high == reference.difference[name].low == 0.0
    assert set(champion.intervals) == {"origin.auroc", "kind.auroc", "auroc"}
