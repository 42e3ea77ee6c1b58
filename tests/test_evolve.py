"""Whole evolutions on a trainer that plays a script."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from coral.errors import CheckpointError, NoSurvivorsError
from coral.evaluate import work_key
from coral.evolution import EvolutionState, replay
from coral.evolve import evolve
from coral.execution import InlineExecutor
from coral.fidelity import DEFAULT_LADDER, PruneRule, PruneSettings
from coral.genome import ChoiceGene, Condition, FloatGene, IntGene, SearchSpace, flag
from coral.plan import TrainingPlan, with_values
from coral.ports import Ports, Progress, RunStore, Survey, TrainingJob
from coral.records import (
    Event,
    Failure,
    GenerationFinished,
    Objective,
    Outcome,
    RunConfirmed,
    StageFinished,
    TestScore,
)
from coral.settings import BudgetSettings, EvolutionSettings, RunSpec, TaskSettings
from coral.storage import SqliteRunStore
from coral.storage.codec import decode, encode
from coral.testing.trainers import TRAIN_EXAMPLES, scripted_trainer

Selection = Literal["nsga2", "nsga3", "tournament"]
AUROC = Objective(metric="auroc")
SIZE = Objective(metric="trainable_parameters", direction="min")

BASE = with_values(TrainingPlan(), {"schedule.batch_size": 4})
SPACE = SearchSpace(
    base=BASE,
    genes=(
        FloatGene(path="schedule.learning_rate", low=1e-5, high=1e-1, log=True),
        IntGene(path="adapter.rank", low=2, high=32, log=True),
        ChoiceGene(path="curriculum.kind", options=("none", "progressive")),
        FloatGene(
            path="curriculum.ramp",
            low=0.1,
            high=0.9,
            when=Condition(path="curriculum.kind", values=("progressive",)),
        ),
    ),
)
SPEC = RunSpec(
    name="test",
    base_model="scripted",
    tasks=(TaskSettings(name="origin"), TaskSettings(name="kind")),
    training=BASE,
    space=SPACE,
    evolution=EvolutionSettings(population_size=6, generations=3),
    objectives=(AUROC, SIZE),
    prune=PruneSettings(rules=(PruneRule(metric="auroc", below=0.6),), audit_fraction=0.3),
)


class MemoryRunStore:
    """Keeps events as the JSON that a file would hold."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def append(self, event: Event) -> None:
        self.rows.append(encode(event))

    def events(self) -> Iterator[Event]:
        return iter([decode(kind, payload) for kind, payload in self.rows])


class KilledError(Exception):
    """The process is gone."""


@dataclass
class DyingRunStore:
    """Dies at the append number ``at`` (counted from 0), before or after it is durable."""

    kept: RunStore
    at: int
    durable: bool

    def append(self, event: Event) -> None:
        self.at -= 1
        if self.at < 0 and not self.durable:
            raise KilledError
        self.kept.append(event)
        if self.at < 0:
            raise KilledError

    def events(self) -> Iterator[Event]:
        return self.kept.events()


@dataclass
class MemoryCheckpointStore:
    discarded: list[str] = field(default_factory=list)

    def put(self, content: bytes) -> str:
        raise NotImplementedError

    def get(self, address: str) -> bytes:
        raise CheckpointError(address)

    def discard(self, addresses: Iterable[str]) -> None:
        self.discarded += addresses


@dataclass
class Watcher:
    """Remembers what it was told, and how many events were durable then."""

    runs: RunStore
    told: list[tuple[Event, EvolutionState]] = field(default_factory=list)
    durable: list[int] = field(default_factory=list)

    def on_event(self, event: Event, state: EvolutionState) -> None:
        self.told.append((event, state))
        if isinstance(self.runs, MemoryRunStore):
            self.durable.append(len(self.runs.rows))

    def on_progress(self, progress: Progress) -> None:
        pass


class WatchedExecutor:
    """An inline executor that remembers its jobs.

    Adds the size to the metrics, as the real trainer does.

    Args:
        edit: changes outcomes on their way.
        arrival: puts a stage's outcomes in another order.
    """

    def __init__(
        self,
        trials: Mapping[str, Any] | None = None,
        edit: Callable[[TrainingJob, Outcome], Outcome] = lambda _, outcome: outcome,
        arrival: Callable[[list[Outcome]], list[Outcome]] | None = None,
    ) -> None:
        payload = {"trials": trials or {}}
        self.inner = InlineExecutor(scripted_trainer(payload, "cpu", lambda _: None))
        self.edit = edit
        self.arrival = arrival
        self.jobs: list[TrainingJob] = []
        self.scored: list[tuple[list[int], int]] = []

    def survey(self) -> Survey:
        return self.inner.survey()

    def run(self, jobs: Iterable[TrainingJob]) -> Iterator[Outcome]:
        outcomes = self._run(jobs)
        return outcomes if self.arrival is None else iter(self.arrival(list(outcomes)))

    def _run(self, jobs: Iterable[TrainingJob]) -> Iterator[Outcome]:
        for job in jobs:
            self.jobs.append(job)
            (outcome,) = self.inner.run([job])
            if outcome.failure is None:
                size = {"trainable_parameters": float(outcome.trainable_parameters)}
                outcome = replace(outcome, metrics={**outcome.metrics, **size})
            yield self.edit(job, outcome)

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        self.scored.append(([finalist.trial for finalist in finalists], seed))
        return self.inner.score(finalists, seed)

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        self.inner.export(finalist, folder, card)

    def close(self) -> None:
        self.inner.close()


def ports_of(executor: WatchedExecutor, runs: RunStore | None = None) -> Ports:
    runs = MemoryRunStore() if runs is None else runs
    return Ports(
        executor=executor,
        runs=runs,
        checkpoints=MemoryCheckpointStore(),
        observer=Watcher(runs),
        survey=executor.survey(),
    )


def run(spec: RunSpec = SPEC, trials: Mapping[str, Any] | None = None) -> EvolutionState:
    return evolve(spec, ports_of(WatchedExecutor(trials)))


def generations(count: int, spec: RunSpec = SPEC) -> RunSpec:
    return replace(spec, evolution=replace(spec.evolution, generations=count))


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


# --- Killed and resumed ---

FAILING = {"2": {"diverge": True}, "4": {"oom_above": 0}, "8": {"raise": "boom"}}


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


def discarded(ports: Ports) -> list[str]:
    assert isinstance(ports.checkpoints, MemoryCheckpointStore)
    return ports.checkpoints.discarded


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


# --- Failures ---


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


# --- Budgets ---


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


# --- What is trained, and what is kept ---


def test_the_default_ladder_spends_at_most_39_percent_of_full_training() -> None:
    spec = replace(
        SPEC,
        evolution=replace(SPEC.evolution, population_size=8),
        training_stages=DEFAULT_LADDER,
        prune=PruneSettings(rules=()),
        objectives=(AUROC,),
    )
    ledger = run(spec).ledger
    assert 0.35 < ledger.share_of_naive <= 0.39
    assert ledger.naive.optimizer_steps == 24 * 2 * TRAIN_EXAMPLES // 4


def test_the_ledger_holds_all_that_was_spent() -> None:
    state = run(trials=FAILING)
    ledger = state.ledger
    spent = sum(trial.cost.optimizer_steps for trial in state.trials)
    assert ledger.searched.optimizer_steps + ledger.confirmation.optimizer_steps == spent
    assert ledger.audit.optimizer_steps > 0
    assert ledger.confirmation.optimizer_steps > 0


def test_no_work_is_done_twice() -> None:
    executor = WatchedExecutor()
    evolve(SPEC, ports_of(executor))
    assert max(Counter(job.key for job in executor.jobs).values()) == 1
    assert max(Counter((job.trial, job.stage) for job in executor.jobs).values()) == 1


def test_a_small_space_is_tried_once_and_then_the_run_ends() -> None:
    genes = (ChoiceGene(path="adapter.rank", options=(8, 16)), flag("adapter.rslora"))
    spec = replace(generations(9), space=SearchSpace(base=BASE, genes=genes), objectives=(AUROC,))
    executor = WatchedExecutor()
    state = evolve(spec, ports_of(executor))
    assert len(state.trials) == len(state.digests) == 4
    assert state.generation == 1
    assert len({job.key for job in executor.jobs}) == len(executor.jobs)
    assert state.confirmation is not None


def test_a_space_without_genes_trains_the_default_recipe() -> None:
    state = run(replace(SPEC, space=SearchSpace(base=BASE)))
    assert (len(state.trials), state.champion) == (1, 0)


def test_a_survivor_goes_on_from_its_own_checkpoint() -> None:
    executor = WatchedExecutor()
    state = evolve(SPEC, ports_of(executor))
    for job in executor.jobs:
        outcomes = state.trials[job.trial].outcomes
        expected = None if job.stage == 0 else outcomes[job.stage - 1].checkpoint
        assert job.resume_from == expected
        assert job.plan == SPEC.plan_of(state.trials[job.trial].candidate)


def test_checkpoints_are_discarded_once_a_later_stage_has_replaced_them() -> None:
    ports = ports_of(WatchedExecutor(FAILING))
    state = evolve(SPEC, ports)
    made = {o.checkpoint for trial in state.trials for o in trial.scored}
    kept = {trial.scored[-1].checkpoint for trial in state.trials if trial.scored}
    assert made - {*discarded(ports)} == kept
    assert made > kept


def test_the_longest_jobs_of_a_stage_come_first() -> None:
    genes = (ChoiceGene(path="schedule.batch_size", options=(1, 2, 4)), *SPACE.genes[:1])
    executor = WatchedExecutor()
    evolve(generations(1, replace(SPEC, space=replace(SPACE, genes=genes))), ports_of(executor))
    sizes = [job.plan.schedule.batch_size for job in executor.jobs if job.stage == 0]
    assert len(set(sizes)) > 1
    assert sizes == sorted(sizes)


def test_a_condemned_reference_climbs_on_to_be_compared_with() -> None:
    rules = (PruneRule(metric="auroc", above=0.0),)
    spec = generations(1, replace(SPEC, prune=PruneSettings(rules=rules)))
    executor = WatchedExecutor()
    state = evolve(spec, ports_of(executor))
    assert state.trials[0].verdict.audited
    assert state.trials[0].best_stage == spec.last_stage
    assert {job.trial for job in executor.jobs if job.stage > 0} == {0}


def test_the_work_key_is_everything_that_decides_the_result_and_nothing_else() -> None:
    survey = WatchedExecutor().survey()
    candidate, other = run(generations(1)).trials[0].candidate, run().trials[1].candidate
    key = work_key(candidate, 1, SPEC, survey)
    ladder = SPEC.training_stages
    longer = (*ladder[:-1], replace(ladder[-1], epoch_budget=9))
    first = (replace(ladder[0], data_percentage=1), *ladder[1:])
    assert key not in {
        work_key(other, 1, SPEC, survey),
        work_key(candidate, 2, SPEC, survey),
        work_key(candidate, 1, replace(SPEC, seed=1), survey),
        work_key(candidate, 1, replace(SPEC, training_stages=longer), survey),
        work_key(candidate, 1, replace(SPEC, training_stages=first), survey),
        work_key(candidate, 1, SPEC, replace(survey, model_digest="x")),
        work_key(candidate, 1, SPEC, replace(survey, data_digest="x")),
    }
    renamed = tuple(replace(stage, name=stage.name * 2, survival_rate=1.0) for stage in ladder)
    for same in (
        replace(SPEC, training_stages=renamed),
        replace(SPEC, objectives=(SIZE,), name="x", output_dir="x"),
        replace(SPEC, execution=replace(SPEC.execution, workers=7, micro_batch_size=1)),
        generations(9),
    ):
        assert work_key(replace(candidate, number=77), 1, same, survey) == key
    assert work_key(candidate, 1, SPEC, replace(survey, device="cuda")) == key


def test_an_event_is_durable_before_it_is_told() -> None:
    runs, executor = MemoryRunStore(), WatchedExecutor()
    ports = ports_of(executor, runs)
    final = evolve(SPEC, ports)
    assert isinstance(ports.observer, Watcher)
    assert ports.observer.durable == list(range(1, len(runs.rows) + 1))
    assert [event for event, _ in ports.observer.told] == list(runs.events())
    assert ports.observer.told[-1][1] == final
