"""The same config and seed give the same run: with other workers, killed, and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from coral.evolution import EvolutionState, replay
from coral.loop import evolve
from coral.records import GenerationStarted, StageFinished
from coral.reporting import export_state
from coral.settings import ExploitSettings, RunSpec
from coral.simulation import agreement
from coral.work import work_of
from tests.scripted_runs import DyingRunStore, KilledError, MemoryRunStore
from tests.simulation.worlds import (
    ALL_FAULTS,
    COLD,
    SPEC,
    course_of,
    job_of,
    legacy,
    plan_of,
    ports_of,
    run,
    told,
    trained,
    trainer_of,
    with_evolution,
    with_simulation,
    with_warm_start,
)


@pytest.fixture(autouse=True)
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "SAMPLE", 16)


SMALL = with_evolution(population_size=4)
PLAIN = with_evolution(COLD, population_size=4)
EXPLOITING = replace(SMALL, exploit=ExploitSettings(quantile=0.5))
KINDS = {
    "plain": PLAIN,
    "warm": SMALL,
    "from the first stage": with_warm_start(SMALL, mode="parent", entry="first", cold_share=0.0),
    "exploiting": EXPLOITING,
    "faults": with_simulation(PLAIN, faults=replace(ALL_FAULTS, nan=0.05)),
    "misleading": with_simulation(PLAIN, agreement={"short": -0.3}),
    "all": with_simulation(
        EXPLOITING,
        faults=replace(ALL_FAULTS, nan=0.05),
        agreement={"short": 0.2, "middle": 0.9},
    ),
}
each_kind = pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS.keys())


def rows_of(spec: RunSpec, workers: int = 2) -> list[tuple[str, str]]:
    runs = MemoryRunStore()
    evolve(spec, ports_of(spec, runs, workers=workers))
    return runs.rows


def by_stage(rows: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Group the events between decisions, whose order is the virtual clock's."""
    groups: list[list[tuple[str, str]]] = [[]]
    for kind, payload in rows:
        if kind != "stage_finished":
            groups.append([])
        groups[-1].append((kind, payload))
    return [sorted(group) for group in groups]


@each_kind
def test_the_same_seed_gives_the_same_events_in_the_same_order(spec: RunSpec) -> None:
    assert rows_of(spec) == rows_of(spec)


def test_another_seed_gives_another_run() -> None:
    assert run(PLAIN).digests != run(replace(PLAIN, seed=1)).digests


@each_kind
def test_the_number_of_workers_changes_nothing_but_the_order_of_events(spec: RunSpec) -> None:
    states = [run(spec, workers=workers) for workers in (1, 2, 64)]
    assert len({export_state(state) for state in states}) == 1
    assert len({told(state) for state in states}) == 1
    one, many = rows_of(spec, workers=1), rows_of(spec, workers=64)
    assert one != many
    assert by_stage(one) == by_stage(many)


@pytest.mark.parametrize("kind", ["warm", "exploiting", "faults", "all"])
@pytest.mark.parametrize("durable", [False, True])
def test_a_run_killed_at_any_event_resumes_to_the_same_end(kind: str, durable: bool) -> None:
    spec = with_evolution(KINDS[kind], population_size=3)
    whole = MemoryRunStore()
    expected = evolve(spec, ports_of(spec, whole))
    assert len(whole.rows) > 12
    ports = ports_of(spec)
    for at in range(len(whole.rows)):
        runs = MemoryRunStore()
        with pytest.raises(KilledError):
            evolve(spec, replace(ports, runs=DyingRunStore(runs, at, durable)))
        assert len(runs.rows) == at + durable
        resumed = evolve(spec, replace(ports, runs=runs))
        assert told(resumed) == told(expected), f"killed at event {at}"
        assert export_state(resumed) == export_state(expected)
        assert by_stage(runs.rows) == by_stage(whole.rows)
        assert told(replay(runs.events(), spec, resumed.train_examples)) == told(expected)


def test_a_run_killed_again_and_again_resumes_to_the_same_end() -> None:
    spec = KINDS["all"]
    expected, runs, kills = run(spec), MemoryRunStore(), 0
    while True:
        try:
            state = evolve(spec, ports_of(spec, DyingRunStore(runs, 2, durable=True)))
        except KilledError:
            kills += 1
            continue
        break
    assert kills > 5
    assert told(state) == told(expected)


def test_a_resumed_run_trains_nothing_twice() -> None:
    spec = KINDS["warm"]
    runs = MemoryRunStore()
    with pytest.raises(KilledError):
        evolve(spec, ports_of(spec, DyingRunStore(runs, 9, durable=True)))
    evolve(spec, ports_of(spec, runs))
    keys = [event.outcome.key for event in runs.events() if isinstance(event, StageFinished)]
    assert len(set(keys)) == len(keys)


def test_an_extended_run_equals_one_that_was_longer_from_the_start() -> None:
    spec = with_evolution(KINDS["all"], generations=1)
    longer = with_evolution(KINDS["all"], generations=3)
    runs = MemoryRunStore()
    evolve(spec, ports_of(spec, runs))
    extended = evolve(longer, ports_of(longer, runs))
    assert export_state(extended) == export_state(run(longer))


def test_a_job_gives_the_same_outcome_alone_and_among_others() -> None:
    trainer = trainer_of()
    jobs = [job_of(plan_of(adapter__rank=rank), stage) for rank in (2, 8) for stage in range(3)]
    together = list(trainer.train(jobs))
    assert together == [next(trainer_of().train([job])) for job in jobs]
    assert list(trainer.train(jobs[::-1])) == together[::-1]


def test_an_outcome_does_not_depend_on_where_training_was_resumed() -> None:
    plan = plan_of()
    whole, resumed = trained(job_of(plan, 2)), trained(job_of(plan, 2, resume_from="simulated:{}"))
    assert whole.cost.optimizer_steps > resumed.cost.optimizer_steps
    assert replace(whole, cost=resumed.cost) == resumed


def test_luck_is_named_by_plan_seed_and_parents() -> None:
    plan, other = plan_of(), plan_of(adapter__rank=8)
    parent = trained(job_of(other, 2)).checkpoint
    assert parent is not None
    identities = {
        course_of(plan).identity,
        course_of(other).identity,
        course_of(plan, seed=1).identity,
        course_of(plan, inherits=legacy(parent)).identity,
        course_of(plan, inherits=legacy(parent), entry=1).identity,
        course_of(plan, inherits=legacy(parent, parent)).identity,
    }
    assert len(identities) == 6


def test_workers_and_names_are_no_part_of_the_work() -> None:
    runs = MemoryRunStore()
    ports = ports_of(SMALL, runs)
    evolve(SMALL, ports)
    started = next(event for event in runs.events() if isinstance(event, GenerationStarted))
    state = EvolutionState(train_examples=ports.survey.train_examples)
    renamed = replace(
        SMALL,
        name="other",
        output_dir="elsewhere",
        execution=replace(SMALL.execution, workers=64, retries=9),
    )
    for candidate in started.candidates:
        one = work_of(candidate, state, SMALL, ports.survey)
        two = work_of(candidate, state, renamed, ports_of(renamed).survey)
        assert one.keys == two.keys


@pytest.mark.parametrize(
    "changed",
    [
        with_simulation(SPEC, faults=replace(ALL_FAULTS, crash=0.1)),
        with_simulation(SPEC, agreement={"short": 0.5}),
        with_simulation(SPEC, memory_bytes=1e9),
    ],
)
def test_what_the_simulation_believes_is_part_of_the_work(changed: RunSpec) -> None:
    state = run(SPEC)
    candidate = state.trials[1].candidate
    one = work_of(candidate, state, SPEC, ports_of(SPEC).survey)
    two = work_of(candidate, state, changed, ports_of(changed).survey)
    assert not set(one.keys) & set(two.keys)
