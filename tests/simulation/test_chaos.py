"""Runs over random search spaces, ladders and settings, with every kind of misfortune."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coral.errors import NoSurvivorsError
from coral.evolution import EvolutionState, replay
from coral.fidelity import PruneRule, PruneSettings, Stage, ladder_steps
from coral.genome import (
    ChoiceGene,
    Condition,
    FloatGene,
    Gene,
    IntGene,
    SearchSpace,
    SimplexGene,
    SubsetGene,
    flag,
)
from coral.loop import evolve
from coral.plan import TrainingPlan, with_values
from coral.records import Cost, GenerationFinished, GenerationStarted, Objective, StageFinished
from coral.settings import EvolutionSettings, RunSpec, SimulationSettings
from coral.simulation import agreement
from tests.scripted_runs import MemoryRunStore
from tests.simulation.worlds import ALL_FAULTS, SPEC, ports_of, told, with_simulation

GENES: tuple[Gene, ...] = (
    FloatGene(path="schedule.learning_rate", low=1e-5, high=1.0, log=True),
    FloatGene(path="schedule.warmup_ratio", low=0.0, high=1.0),
    FloatGene(path="adapter.scaling", low=0.01, high=32.0, log=True),
    FloatGene(path="adapter.dropout", low=0.0, high=0.9),
    FloatGene(path="schedule.weight_decay", low=0.0, high=1.0),
    IntGene(path="adapter.rank", low=1, high=256, log=True),
    IntGene(path="encoding.sequence_len", low=1, high=512),
    ChoiceGene(path="adapter.layers", options=("all", "top-1", "bottom-2", "1-2")),
    ChoiceGene(path="schedule.batch_size", options=(1, 8, 64, 4096)),
    ChoiceGene(path="schedule.scheduler", options=("linear", "cosine", "polynomial", "constant")),
    ChoiceGene(path="encoding.pooling", options=("mean", "cls", "last")),
    SubsetGene(path="adapter.target_modules", options=("query", "value", "dense")),
    SimplexGene(path="tasks.weights", names=("origin", "kind")),
    flag("adapter.dora"),
    ChoiceGene(path="curriculum.kind", options=("none", "progressive")),
    FloatGene(
        path="curriculum.ramp",
        low=0.0,
        high=1.0,
        when=Condition(path="curriculum.kind", values=("progressive",)),
    ),
)
OBJECTIVES = (
    Objective(metric="auroc"),
    Objective(metric="kind.log_loss", direction="min"),
    Objective(metric="trainable_parameters", direction="min"),
    Objective(metric="train_cost", direction="min"),
)
RULES = (
    PruneRule(metric="gradient_norm", above="5x median"),
    PruneRule(metric="loss_slope", above=0.0),
    PruneRule(metric="auroc", below=0.55),
    PruneRule(metric="origin.auroc", below="0.9x median"),
)
BASE = with_values(
    TrainingPlan(), {"adapter.target_modules": ("query",), "schedule.learning_rate": 2e-3}
)


@st.composite
def ladders(draw: st.DrawFn) -> tuple[Stage, ...]:
    count = draw(st.integers(1, 5))

    def rising(low: float, high: float) -> list[float]:
        values = draw(st.lists(st.floats(low, high), min_size=count, max_size=count))
        return sorted(values)

    budgets = rising(0.01, 1.0)
    shares, scored = rising(1, 100), rising(1, 100)
    return tuple(
        Stage(
            name=f"S{i}",
            epoch_budget=budgets[i] + 0.01 * i,
            data_percentage=shares[i],
            survival_rate=draw(st.floats(0.01, 1.0)),
            evaluation_percentage=scored[i],
        )
        for i in range(count)
    )


@st.composite
def specs(draw: st.DrawFn) -> RunSpec:
    genes = draw(st.lists(st.sampled_from(GENES), unique=True, max_size=8))
    if any(gene.when for gene in genes):
        genes = [*(g for g in genes if g.path != "curriculum.kind"), GENES[-2]]
    stages = draw(ladders())
    names = [stage.name for stage in stages[:-1]]
    taus = st.floats(-0.9, 0.9)
    return replace(
        SPEC,
        space=SearchSpace(base=BASE, genes=tuple(genes)),
        training_stages=stages,
        seed=draw(st.integers(0, 2**40)),
        objectives=tuple(
            draw(st.lists(st.sampled_from(OBJECTIVES), unique=True, min_size=1, max_size=3))
        ),
        prune=PruneSettings(
            rules=tuple(draw(st.lists(st.sampled_from(RULES), unique=True))),
            audit_fraction=draw(st.sampled_from([0.0, 0.5, 1.0])),
        ),
        evolution=EvolutionSettings(
            population_size=draw(st.integers(2, 6)),
            generations=draw(st.integers(1, 3)),
            selection=draw(st.sampled_from(["nsga2", "nsga3", "tournament"])),
            warm_start=draw(st.booleans()),
        ),
        simulation=SimulationSettings(
            faults=draw(st.sampled_from([ALL_FAULTS, replace(ALL_FAULTS, nan=0.0)])),
            agreement=draw(st.dictionaries(st.sampled_from(names), taus)) if names else {},
            memory_bytes=draw(st.sampled_from([None, 7.02e8])),
        ),
    )


def check_accounts(state: EvolutionState, runs: MemoryRunStore, spec: RunSpec) -> None:
    """Check what must hold of every run, however it ended."""
    events = list(runs.events())
    started = [e for e in events if isinstance(e, GenerationStarted)]
    ended = [e for e in events if isinstance(e, GenerationFinished)]
    assert [event.generation for event in started] == [event.generation for event in ended]
    for one, two in zip(started, ended, strict=True):
        assert len(one.candidates) == len(two.verdicts)
    outcomes = [event for event in events if isinstance(event, StageFinished)]
    assert max(Counter(event.outcome.key for event in outcomes).values()) == 1
    assert max(Counter((e.trial, e.outcome.stage) for e in outcomes).values()) == 1
    assert sum(len(trial.outcomes) for trial in state.trials) == len(outcomes)
    for trial in state.trials:
        assert [outcome.stage for outcome in trial.outcomes] == list(range(len(trial.outcomes)))
        assert all(outcome.failure is None for outcome in trial.outcomes[:-1])
        assert trial.verdict.stage < len(trial.outcomes)
    check_ledger(state, spec)


def check_ledger(state: EvolutionState, spec: RunSpec) -> None:
    ledger = state.ledger
    spent = sum((trial.cost for trial in state.trials), start=Cost())
    booked = ledger.searched + ledger.confirmation
    for item in fields(Cost):
        assert getattr(booked, item.name) == pytest.approx(getattr(spent, item.name))
    sizes = [spec.plan_of(trial.candidate).schedule.batch_size for trial in state.trials]
    full = [ladder_steps(spec.training_stages, state.train_examples, size)[-1] for size in sizes]
    assert ledger.naive.optimizer_steps == sum(full)
    assert ledger.naive.examples == sum(a * b for a, b in zip(full, sizes, strict=True))


def check_results(state: EvolutionState, spec: RunSpec) -> None:
    assert state.champion is not None
    assert state.champion in state.front
    for number in state.front:
        metrics = state.trials[number].scored[-1].metrics
        assert all(math.isfinite(metrics[o.metric]) for o in spec.objectives)
    assert state.confirmation is not None
    for score in state.confirmation.scores:
        assert all(math.isfinite(value) for value in score.metrics.values())
    assert all(math.isfinite(entry.hypervolume) for entry in state.history)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spec=specs(), workers=st.sampled_from([1, 2, 64]))
def test_any_run_survives_any_misfortune(
    monkeypatch: pytest.MonkeyPatch, spec: RunSpec, workers: int
) -> None:
    monkeypatch.setattr(agreement, "SAMPLE", 12)
    runs = MemoryRunStore()
    ports = ports_of(spec, runs, workers=workers)
    try:
        state = evolve(spec, ports)
    except NoSurvivorsError:
        state = replay(runs.events(), spec, ports.survey.train_examples)
        assert not state.population
        check_accounts(state, runs, spec)
        return
    check_accounts(state, runs, spec)
    check_results(state, spec)
    assert told(replay(runs.events(), spec, state.train_examples)) == told(state)


def test_a_larger_run_with_every_fourth_job_in_trouble_finds_a_champion() -> None:
    spec = with_simulation(
        replace(SPEC, evolution=replace(SPEC.evolution, population_size=24, generations=3)),
        faults=ALL_FAULTS,
        agreement={"short": 0.3},
    )
    runs = MemoryRunStore()
    state = evolve(spec, ports_of(spec, runs))
    check_accounts(state, runs, spec)
    check_results(state, spec)
    kinds: Counter[Any] = Counter(
        outcome.failure.kind
        for trial in state.trials
        for outcome in trial.outcomes
        if outcome.failure
    )
    assert kinds["diverged"] > 5
    assert max(outcome.attempts for trial in state.trials for outcome in trial.outcomes) >= 3


def test_what_always_fails_ends_with_the_reasons() -> None:
    spec = with_simulation(faults=replace(ALL_FAULTS, nan=1.0, crash=0.0))
    with pytest.raises(NoSurvivorsError, match="6 x diverged"):
        evolve(spec, ports_of(spec))
