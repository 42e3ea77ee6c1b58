"""Whole evolutions on a trainer that plays a script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from coral.errors import NoSurvivorsError
from coral.evolution import replay
from coral.loop import evolve
from coral.ports import TrainingJob
from coral.records import (
    Failure,
    GenerationFinished,
    Objective,
    Outcome,
    RunConfirmed,
    StageFinished,
)
from coral.settings import BudgetSettings
from coral.storage import SqliteRunStore
from coral.testing.trainers import TRAIN_EXAMPLES
from tests.scripted_runs import (
    AUROC,
    FAILING,
    SIZE,
    SPEC,
    DyingRunStore,
    KilledError,
    MemoryRunStore,
    Selection,
    WatchedExecutor,
    discarded,
    generations,
    ports_of,
    run,
)


def test_an_evolution_ends_with_a_confirmed_champion_better_than_the_default_recipe() -> None:
    state = run()
    assert state.champion is not None
    assert state.generation == 3
    assert len(state.trials) == 18
    champion, reference = state.trials[state.champion], state.trials[0]
    assert champion.best_stage == reference.best_stage == SPEC.last_stage
    assert champion.scored[-1].metrics["auroc"] > reference.scored[-1].metrics["auroc"]
    assert state.confirmation is not None
    assert (state.confirmation.champion, state.confirmation.reference) == (state.champion, 0)
    assert [score.trial for score in state.confirmation.scores] == [state.champion, 0]


@pytest.mark.parametrize("selection", get_args(Selection))
def test_the_same_seed_gives_the_same_run(selection: Selection) -> None:
    spec = replace(SPEC, evolution=replace(SPEC.evolution, selection=selection))
    assert run(spec) == run(spec)


def test_another_seed_gives_another_run() -> None:
    assert run().digests != run(replace(SPEC, seed=1)).digests


@pytest.mark.parametrize("arrival", [lambda o: o[::-1], lambda o: o[2:] + o[:2]])
def test_results_do_not_depend_on_the_order_of_arrival(
    arrival: Callable[[list[Outcome]], list[Outcome]],
) -> None:
    assert evolve(SPEC, ports_of(WatchedExecutor(arrival=arrival))) == run()


@pytest.mark.parametrize("selection", get_args(Selection))
@pytest.mark.parametrize("objectives", [(AUROC,), (AUROC, SIZE)])
def test_every_selection_works_with_any_number_of_objectives(
    selection: Selection, objectives: tuple[Objective, ...]
) -> None:
    evolution = replace(SPEC.evolution, selection=selection)
    state = run(replace(SPEC, evolution=evolution, objectives=objectives))
    assert state.champion in state.front
    assert len(state.population) <= SPEC.evolution.population_size


@pytest.mark.parametrize("durable", [False, True])
def test_a_run_killed_at_any_event_resumes_to_the_same_end(durable: bool) -> None:
    spec = replace(SPEC, evolution=replace(SPEC.evolution, population_size=5, generations=2))
    whole = MemoryRunStore()
    whole_ports = ports_of(WatchedExecutor(FAILING), whole)
    expected = evolve(spec, whole_ports)
    count = len(whole.rows)
    assert count > 25
    assert sum(trial.verdict.audited for trial in expected.trials) >= 2
    for at in range(count):
        runs, executor = MemoryRunStore(), WatchedExecutor(FAILING)
        first = ports_of(executor, DyingRunStore(runs, at, durable))
        with pytest.raises(KilledError):
            evolve(spec, first)
        known = {e.outcome.key for e in runs.events() if isinstance(e, StageFinished)}
        before = len(executor.jobs)

        second = ports_of(executor, runs)
        resumed = evolve(spec, second)

        assert resumed == expected, f"killed at event {at}"
        assert replay(runs.events(), spec, TRAIN_EXAMPLES) == resumed
        assert len(runs.rows) == count
        again = {job.key for job in executor.jobs[before:]} & known
        assert not again, f"killed at event {at}"
        assert {*discarded(first), *discarded(second)} == {*discarded(whole_ports)}


@pytest.mark.parametrize("at", [0, 5, 20, 45])
def test_a_run_killed_resumes_from_its_file(tmp_path: Path, at: int) -> None:
    with SqliteRunStore.create(tmp_path, {}) as store, pytest.raises(KilledError):
        evolve(SPEC, ports_of(WatchedExecutor(), DyingRunStore(store, at, durable=True)))
    with SqliteRunStore.open(tmp_path) as store:
        assert evolve(SPEC, ports_of(WatchedExecutor(), store)) == run()


def test_a_finished_run_does_nothing_when_resumed() -> None:
    runs, executor = MemoryRunStore(), WatchedExecutor()
    state = evolve(SPEC, ports_of(WatchedExecutor(), runs))
    rows = list(runs.rows)
    assert evolve(SPEC, ports_of(executor, runs)) == state
    assert (runs.rows, executor.jobs, executor.scored) == (rows, [], [])


def test_a_finished_run_may_be_extended_by_a_generation() -> None:
    runs = MemoryRunStore()
    short = evolve(generations(2), ports_of(WatchedExecutor(), runs))
    executor = WatchedExecutor()
    longer = evolve(generations(3), ports_of(executor, runs))
    assert longer == run(generations(3))
    assert longer.trials[: len(short.trials)] == short.trials
    assert {job.trial for job in executor.jobs} == set(range(12, 18))
    confirmed = [event for event in runs.events() if isinstance(event, RunConfirmed)]
    assert confirmed == [short.confirmation, longer.confirmation]


@pytest.mark.parametrize(
    ("act", "status", "rule"),
    [
        ({"raise": "boom"}, "failed", "plugin"),
        ({"oom_above": 0}, "failed", "oom"),
        ({"diverge": True}, "pruned", "diverged"),
    ],
)
def test_a_trials_failure_never_ends_the_run_nor_becomes_champion(
    act: Mapping[str, Any], status: str, rule: str
) -> None:
    best = run(generations(1)).champion
    state = run(generations(1), {str(best): act})
    assert best is not None
    assert best != 0
    verdict = state.trials[best].verdict
    assert (verdict.status, verdict.rule, verdict.stage) == (status, rule, 0)
    assert state.champion != best
    assert best not in state.front
    assert best not in state.population
    assert state.generation == 1
    assert state.confirmation is not None


def edit_at(trial: int, stage: int, **changes: Any) -> WatchedExecutor:
    """An executor that changes one outcome."""

    def edit(job: TrainingJob, outcome: Outcome) -> Outcome:
        return replace(outcome, **changes) if (job.trial, job.stage) == (trial, stage) else outcome

    return WatchedExecutor(edit=edit)


def test_a_leader_that_fails_in_the_last_stage_is_not_champion() -> None:
    best = run(generations(1)).champion
    assert best is not None
    broken = Failure(kind="crashed", message="it died")
    executor = edit_at(best, SPEC.last_stage, failure=broken, metrics={}, checkpoint=None)
    state = evolve(generations(1), ports_of(executor))
    assert state.trials[best].verdict.rule == "crashed"
    assert state.trials[best].best_stage == SPEC.last_stage - 1
    assert state.champion != best
    assert best not in state.population


@pytest.mark.parametrize("metrics", [{"auroc": math.nan, "trainable_parameters": 1.0}, {}])
def test_a_trial_without_finite_objectives_has_no_children(metrics: dict[str, float]) -> None:
    state = evolve(SPEC, ports_of(edit_at(1, 0, metrics=metrics)))
    assert 1 not in state.population
    assert not any(1 in trial.candidate.lineage.parents for trial in state.trials)


ALL_DIVERGE = {str(trial): {"diverge": True} for trial in range(6)}


def test_a_run_without_survivors_ends_with_the_reasons() -> None:
    runs = MemoryRunStore()
    trials = {**ALL_DIVERGE, "5": {"raise": "boom"}}
    with pytest.raises(NoSurvivorsError) as caught:
        evolve(SPEC, ports_of(WatchedExecutor(trials), runs))
    assert "5 x diverged; 1 x plugin" in str(caught.value)
    assert "First one: the loss is not finite at step 3" in str(caught.value)
    assert isinstance(list(runs.events())[-1], GenerationFinished)


@pytest.mark.parametrize("count", [1, 3])
def test_a_run_without_survivors_says_so_again_when_resumed(count: int) -> None:
    runs, spec = MemoryRunStore(), generations(count)
    for _ in range(2):
        with pytest.raises(NoSurvivorsError, match="6 x diverged"):
            evolve(spec, ports_of(WatchedExecutor(ALL_DIVERGE), runs))


def test_a_secondary_objective_that_nobody_has_leaves_no_survivors() -> None:
    objectives = (AUROC, Objective(metric="missing"))
    with pytest.raises(NoSurvivorsError, match="not promoted"):
        run(replace(SPEC, objectives=objectives))


def test_a_generation_that_fails_altogether_is_bred_past() -> None:
    trials = {str(trial): {"diverge": True} for trial in range(6, 12)}
    state = run(trials=trials)
    assert state.generation == 3
    assert state.history[1].best == state.history[0].best
    assert {trial.candidate.generation for trial in state.trials} == {0, 1, 2}


def test_without_the_reference_the_champion_is_confirmed_alone() -> None:
    state = run(trials={"0": {"raise": "boom"}})
    assert state.confirmation is not None
    assert state.confirmation.reference is None
    assert [score.trial for score in state.confirmation.scores] == [state.champion]


def test_a_champion_that_is_the_reference_is_scored_once() -> None:
    trials = {str(trial): {"diverge": True} for trial in range(1, 6)}
    state = run(generations(1), trials)
    assert state.champion == 0
    assert state.confirmation is not None
    assert [score.trial for score in state.confirmation.scores] == [0]


def test_steps_beyond_the_budget_stop_the_run_between_generations() -> None:
    one = run(generations(1)).ledger.searched.optimizer_steps
    for budget, expected in ((1, 1), (one, 1), (one + 1, 2)):
        state = run(replace(SPEC, budget=BudgetSettings(max_optimizer_steps=budget)))
        assert state.generation == expected
        assert len(state.trials) == 6 * expected
        assert state.confirmation is not None


def test_epochs_beyond_the_budget_stop_the_run_between_generations() -> None:
    one = run(generations(1)).ledger.searched.examples / TRAIN_EXAMPLES
    for budget, expected in ((0.01, 1), (one - 0.01, 1), (one + 0.01, 2)):
        state = run(replace(SPEC, budget=BudgetSettings(max_epochs=budget)))
        assert state.generation == expected


def test_time_beyond_the_budget_stops_the_run_between_generations() -> None:
    ticks = iter(range(0, 1000, 10))
    spec = replace(SPEC, budget=BudgetSettings(max_wall_seconds=20))
    state = evolve(spec, ports_of(WatchedExecutor()), clock=lambda: next(ticks))
    assert state.generation == 1
    assert state.confirmation is not None


def test_a_generation_under_way_is_finished_whatever_the_budget() -> None:
    runs = MemoryRunStore()
    with pytest.raises(KilledError):
        evolve(SPEC, ports_of(WatchedExecutor(), DyingRunStore(runs, 3, durable=True)))
    spec = replace(SPEC, budget=BudgetSettings(max_wall_seconds=1))
    ticks = iter(range(0, 1000, 10))
    state = evolve(spec, ports_of(WatchedExecutor(), runs), clock=lambda: next(ticks))
    assert state.generation == 1
