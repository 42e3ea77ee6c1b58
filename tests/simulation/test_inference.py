"""What simulated runs make of genes that need no training."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from coral.evolution import replay
from coral.execution import VirtualExecutor
from coral.genome import ChoiceGene, FloatGene, SearchSpace
from coral.loop import evolve
from coral.plan import TrainingPlan
from coral.ports import Ports, RunStore
from coral.reporting import export_state
from coral.settings import ExploitSettings, FaultRates, RunSpec
from coral.simulation import SimulatedTrainer, WeightsInAddresses, World, simulated_survey
from coral.spec import targets_of
from tests.scripted_runs import DyingRunStore, KilledError, MemoryRunStore, Watcher
from tests.simulation.worlds import (
    ALL_FAULTS,
    COLD,
    PROFILE,
    SPEC,
    job_of,
    plan_of,
    told,
    trained,
    with_simulation,
)

SPACE = SearchSpace(
    base=TrainingPlan(),
    genes=(
        ChoiceGene(path="adapter.rank", options=(4, 16)),
        FloatGene(path="inference.abstention", low=0.0, high=0.5),
        FloatGene(path="inference.temperature", low=0.5, high=4.0, log=True),
    ),
)
SHARED = replace(SPEC, space=SPACE)
KINDS = {
    "cold": replace(COLD, space=SPACE),
    "warm": SHARED,
    "exploiting": replace(SHARED, exploit=ExploitSettings(quantile=0.5)),
    "faults": with_simulation(SHARED, faults=replace(ALL_FAULTS, nan=0.05)),
}
each_kind = pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS.keys())


def ports_of(spec: RunSpec, runs: RunStore | None = None, workers: int = 2) -> Ports:
    runs = MemoryRunStore() if runs is None else runs
    survey = simulated_survey(
        PROFILE,
        dict(PROFILE.tasks),
        targets=targets_of(spec.space),
        settings=asdict(spec.simulation),
        abstains=spec.space.abstains,
    )
    world = World(
        profile=PROFILE,
        survey=survey,
        settings=spec.simulation,
        seed=spec.seed,
        abstains=spec.space.abstains,
    )
    return Ports(
        executor=VirtualExecutor(SimulatedTrainer(world), workers),
        runs=runs,
        checkpoints=WeightsInAddresses(),
        observer=Watcher(runs),
        survey=survey,
    )


@each_kind
def test_the_number_of_workers_changes_nothing(spec: RunSpec) -> None:
    states = [evolve(spec, ports_of(spec, workers=workers)) for workers in (1, 2, 64)]
    assert len({export_state(state) for state in states}) == 1


@each_kind
def test_a_run_killed_anywhere_ends_alike(spec: RunSpec) -> None:
    whole = MemoryRunStore()
    expected = evolve(spec, ports_of(spec, whole))
    assert told(replay(whole.events(), spec, ports_of(spec).survey.train_examples)) == told(
        expected
    )
    for at in range(0, len(whole.rows), 7):
        runs = MemoryRunStore()
        with pytest.raises(KilledError):
            evolve(spec, ports_of(spec, DyingRunStore(runs, at, durable=True)))
        assert told(evolve(spec, ports_of(spec, runs))) == told(expected), f"killed at {at}"


def test_weights_that_are_there_cost_an_evaluation() -> None:
    state = evolve(KINDS["cold"], ports_of(KINDS["cold"]))
    first: dict[str, int] = {}
    shared = 0
    for trial in state.trials:
        for outcome in trial.scored:
            if outcome.weights in first:
                shared += 1
                assert outcome.cost.optimizer_steps == outcome.cost.examples == 0
                assert outcome.cost.train_seconds == 0 < outcome.cost.evaluation_seconds
            else:
                first[outcome.weights] = trial.number
                assert outcome.cost.optimizer_steps > 0
    assert shared > 3


def test_temperature_and_threshold_have_no_effect() -> None:
    plain = trained(job_of(plan_of()))
    for field in ("inference__temperature", "inference__threshold"):
        assert trained(job_of(plan_of(**{field: 0.3}))).metrics == plain.metrics


def test_fewer_answers_are_better_answers() -> None:
    state = evolve(KINDS["cold"], ports_of(KINDS["cold"]))
    for trial in state.trials:
        asked = SHARED.plan_of(trial.candidate).inference.abstention
        for outcome in trial.scored:
            assert outcome.metrics["coverage"] == pytest.approx(1 - asked)
            assert 0 <= outcome.metrics["selective_accuracy"] <= 1
    by_weights: dict[str, list[tuple[float, float]]] = {}
    for trial in state.trials:
        for outcome in trial.scored:
            scores = outcome.metrics["coverage"], outcome.metrics["selective_accuracy"]
            by_weights.setdefault(outcome.weights, []).append(scores)
    for scores in by_weights.values():
        ordered = sorted(scores, reverse=True)
        assert [accuracy for _, accuracy in ordered] == sorted(a for _, a in ordered)
    assert state.confirmation is not None
    assert {"coverage", "selective_accuracy"} <= set(state.confirmation.scores[0].metrics)


def test_where_nothing_is_trained_no_loss_is_nan() -> None:
    known = trained(job_of(plan_of())).checkpoint
    assert trained(job_of(plan_of()), faults=FaultRates(nan=1.0)).failure is not None
    again = trained(job_of(plan_of(), resume_from=known), faults=FaultRates(nan=1.0))
    assert again.failure is None
    assert again.cost.optimizer_steps == 0
