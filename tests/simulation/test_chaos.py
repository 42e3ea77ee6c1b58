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
from coral.records import (
    CandidatesJoined,
    Cost,
    GenerationFinished,
    GenerationStarted,
    Objective,
    StageFinished,
    Trial,
)
from coral.settings import (
    ConfirmSettings,
    EvolutionSettings,
    ExploitSettings,
    RunSpec,
    SimulationSettings,
    SoupSettings,
    SqueezeSettings,
    WarmStartSettings,
)
from coral.simulation import agreement
from tests.scripted_runs import MemoryRunStore
from tests.simulation.worlds import ALL_FAULTS, SPEC, ports_of, told, with_simulation

CURRICULUM = ChoiceGene(path="curriculum.kind", options=("none", "progressive"))
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
    CURRICULUM,
    ChoiceGene(path="inheritance.crossover", options=("blend", "layers")),
    FloatGene(path="inheritance.mixing", low=0.0, high=1.0),
    FloatGene(path="inheritance.rewarmup_ratio", low=0.0, high=1.0),
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
        genes = [*(g for g in genes if g.path != "curriculum.kind"), CURRICULUM]
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
        ),
        warm_start=WarmStartSettings(
            mode=draw(st.sampled_from(["none", "parent", "crossover"])),
            cold_share=draw(st.sampled_from([0.0, 0.2, 1.0])),
            min_similarity=draw(st.sampled_from([0.0, 0.8])),
            min_retained_energy=draw(st.sampled_from([0.0, 0.8, 1.0])),
            entry=draw(st.sampled_from(["first", "parent", stages[-1].name])),
        ),
        exploit=ExploitSettings(quantile=draw(st.sampled_from([0.0, 0.25, 0.5]))),
        soup=SoupSettings(
            candidates=draw(st.sampled_from([0, 2, 6])),
            rank=draw(st.sampled_from([None, 1, 8])),
            tunings=draw(st.integers(0, 3)),
        ),
        squeeze=SqueezeSettings(
            ranks=(4, 1), energies=(0.9,), sources=draw(st.sampled_from([0, 1, 3]))
        ),
        confirm=ConfirmSettings(
            top_k=draw(st.sampled_from([0, 1, 2])), seeds=draw(st.sampled_from([1, 2]))
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
    joined: Counter[int] = Counter()
    for event in events:
        if isinstance(event, GenerationStarted | CandidatesJoined):
            joined[event.candidates[0].generation] += len(event.candidates)
    assert [joined[event.generation] for event in ended] == [len(e.verdicts) for e in ended]
    last = max(i for i, event in enumerate(events) if isinstance(event, GenerationFinished))
    outcomes = [e for e in events[:last] if isinstance(e, StageFinished)]
    assert max(Counter(event.outcome.key for event in outcomes).values()) == 1
    assert max(Counter((e.trial, e.outcome.stage) for e in outcomes).values()) == 1
    trained = [trial for trial in state.trials if trial.candidate.derivation is None]
    assert sum(len(trial.outcomes) for trial in trained) == len(outcomes)
    assert [trial.number for trial in state.trials] == list(range(len(state.trials)))
    for trial in trained:
        first = trial.candidate.entry
        assert [outcome.stage for outcome in trial.outcomes] == list(
            range(first, first + len(trial.outcomes))
        )
        assert all(outcome.failure is None for outcome in trial.outcomes[:-1])
        assert trial.verdict.stage <= trial.outcomes[-1].stage
        check_inheritance(trial, state)
    check_derived(state, spec)
    rematches = [e.outcome.cost for e in events[last:] if isinstance(e, StageFinished)]
    check_ledger(state, sum(rematches, start=Cost()), spec)


def check_inheritance(trial: Trial, state: EvolutionState) -> None:
    """Check that a trial's steps follow from those of the weights that it says it has."""
    if not trial.scored:
        return
    account = trial.scored[0].inheritance
    assert (account is not None) == bool(trial.candidate.legacy)
    lines = [
        found.cumulative_steps
        for item in trial.candidate.legacy[: len(account.sources) if account else 0]
        if (found := state.outcome_of(item.trial, item.stage))
    ]
    assert trial.scored[0].cumulative_steps > max(lines, default=0)
    if account is not None:
        assert 0 <= account.retained_energy <= 1 + 1e-9
        assert all(0 <= share <= 1 for share in account.by_module.values())
        assert set(account.sources) <= {item.trial for item in trial.candidate.legacy}


def check_derived(state: EvolutionState, spec: RunSpec) -> None:
    """Check soups and squeezed adapters: one stage, no curve, no more rank than was asked for."""
    for trial in state.trials:
        how = trial.candidate.derivation
        if how is None:
            continue
        (outcome,) = trial.outcomes
        assert outcome.stage == spec.last_stage
        assert (outcome.failure is None) == (trial.verdict.status == "completed")
        assert not outcome.curve.step
        source = state.trials[trial.candidate.legacy[0].trial]
        if how.kind == "squeeze" and outcome.failure is None:
            assert outcome.trainable_parameters <= source.scored[-1].trainable_parameters


def check_ledger(state: EvolutionState, rematches: Cost, spec: RunSpec) -> None:
    ledger = state.ledger
    spent = sum((trial.cost for trial in state.trials), start=rematches)
    booked = ledger.searched + ledger.confirmation
    for item in fields(Cost):
        assert getattr(booked, item.name) == pytest.approx(getattr(spent, item.name))
    trained = [trial for trial in state.trials if trial.candidate.derivation is None]
    sizes = [spec.plan_of(trial.candidate).schedule.batch_size for trial in trained]
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
    contestants = state.confirmation.contestants
    assert len(contestants) == len(state.confirmation.scores)
    assert {each.kind for each in contestants} <= (
        {"lineage", "default", "cold", "long default"}
        if spec.confirm.top_k
        else {"lineage", "default"}
    )


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
        replace(
            SPEC,
            evolution=replace(SPEC.evolution, population_size=24, generations=3),
            exploit=ExploitSettings(quantile=0.25),
        ),
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
    operators = Counter(trial.candidate.lineage.operator for trial in state.trials)
    assert min(operators[each] for each in ("mutation", "crossover", "exploit", "squeeze")) > 1
    notes = Counter(
        " ".join(word for word in note.split() if not word.isdigit())
        for trial in state.trials
        for outcome in trial.outcomes
        for note in outcome.notes
    )
    assert notes["made again, for its checkpoint is lost"] > 5
    assert notes["trial made again, for its weights are lost"] > 5
    assert state.confirmation is not None
    kinds_of = Counter(each.kind for each in state.confirmation.contestants)
    assert kinds_of["cold"] > 1
    assert kinds_of["long default"] == kinds_of["lineage"] == 1


def test_what_always_fails_ends_with_the_reasons() -> None:
    spec = with_simulation(faults=replace(ALL_FAULTS, nan=1.0, crash=0.0))
    with pytest.raises(NoSurvivorsError, match="6 x diverged"):
        evolve(spec, ports_of(spec))
