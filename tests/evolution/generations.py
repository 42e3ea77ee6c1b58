"""Generations with a given fate, folded into a state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from coral.evolution import EvolutionState, advance
from coral.fidelity import NOT_PROMOTED, PruneSettings, Stage
from coral.genome import ChoiceGene, Condition, FloatGene, IntGene, SearchSpace, SimplexGene
from coral.records import (
    Candidate,
    Cost,
    Failure,
    FailureKind,
    GenerationFinished,
    GenerationStarted,
    Lineage,
    Objective,
    Outcome,
    StageFinished,
    Verdict,
)
from coral.settings import EvolutionSettings, RunSpec, TaskSettings

LADDER = tuple(
    Stage(name=f"S{i}", epoch_budget=i + 1, data_percentage=100, survival_rate=0.5)
    for i in range(3)
)
AUROC = Objective(metric="auroc")
SIZE = Objective(metric="size", direction="min")

SPACE = SearchSpace(
    genes=(
        FloatGene(path="schedule.learning_rate", low=1e-3, high=1e-2, log=True),
        IntGene(path="adapter.rank", low=2, high=8),
        ChoiceGene(path="curriculum.kind", options=("none", "progressive")),
        FloatGene(
            path="curriculum.ramp",
            low=0.1,
            high=0.9,
            when=Condition(path="curriculum.kind", values=("progressive",)),
        ),
        SimplexGene(path="tasks.weights", names=("origin", "kind")),
    )
)
"""The default recipe's learning rate (2e-4) and rank (16) lie outside."""

SPEC = RunSpec(
    name="test",
    base_model="none",
    tasks=(TaskSettings(name="origin"), TaskSettings(name="kind")),
    space=SPACE,
    evolution=EvolutionSettings(population_size=8, generations=3),
    training_stages=LADDER,
    prune=PruneSettings(rules=()),
    objectives=(AUROC,),
)


@dataclass(frozen=True)
class Fate:
    """Metrics by stage (a number is an AUROC), a failure in the stage after them, and the end."""

    metrics: tuple[Mapping[str, float], ...]
    rule: str = ""
    audited: bool = False
    failure: FailureKind | None = None
    fell: int | None = None


def _metrics(*values: float | Mapping[str, float]) -> tuple[Mapping[str, float], ...]:
    return tuple(value if isinstance(value, Mapping) else {"auroc": value} for value in values)


def reached(*values: float | Mapping[str, float]) -> Fate:
    """Completed, if there is a value for every stage, or else not promoted from the last one."""
    return Fate(_metrics(*values), rule=NOT_PROMOTED)


def failed(kind: FailureKind, *values: float) -> Fate:
    """Failed in the stage after those with a value."""
    return Fate(_metrics(*values), rule=kind, failure=kind)


def condemned(fell: int, *values: float, audited: bool = False) -> Fate:
    """Condemned by a rule at a stage."""
    return Fate(_metrics(*values), rule="a rule", audited=audited, fell=fell)


def verdict_of(fate: Fate, spec: RunSpec) -> Verdict:
    entered = len(fate.metrics) - (fate.failure is None)
    if fate.failure is None and fate.fell is None and entered == spec.last_stage:
        return Verdict(status="completed", stage=entered)
    return Verdict(
        status="failed" if fate.failure not in (None, "diverged") else "pruned",
        stage=entered if fate.fell is None else fate.fell,
        reason="so it was",
        rule=fate.rule,
        audited=fate.audited,
    )


def strangers(state: EvolutionState, count: int) -> tuple[Candidate, ...]:
    """Candidates from anywhere in the space."""
    rng = np.random.default_rng(len(state.trials))
    genomes = [SPACE.decode(rng.random(SPACE.dimensions)) for _ in range(count)]
    return tuple(
        Candidate(
            number=len(state.trials) + i,
            generation=state.generation,
            genome=genome,
            digest=SPACE.digest(genome),
            lineage=Lineage(operator="sobol"),
        )
        for i, genome in enumerate(genomes)
    )


def live(
    state: EvolutionState,
    *fates: Fate,
    spec: RunSpec = SPEC,
    candidates: tuple[Candidate, ...] = (),
) -> EvolutionState:
    """Return the state after a generation with these fates."""
    candidates = candidates or strangers(state, len(fates))
    state = advance(
        state, GenerationStarted(generation=state.generation, candidates=candidates), spec
    )
    for candidate, fate in zip(candidates, fates, strict=True):
        outcomes = [
            Outcome(
                key=f"{candidate.number}/{stage}",
                stage=stage,
                metrics=metrics,
                cost=Cost(optimizer_steps=10),
            )
            for stage, metrics in enumerate(fate.metrics)
        ]
        if fate.failure:
            broken = Failure(kind=fate.failure, message="it broke")
            key = f"{candidate.number}/{len(outcomes)}"
            outcomes.append(Outcome(key=key, stage=len(outcomes), failure=broken))
        for outcome in outcomes:
            state = advance(state, StageFinished(trial=candidate.number, outcome=outcome), spec)
    verdicts = tuple(verdict_of(fate, spec) for fate in fates)
    finished = GenerationFinished(generation=state.generation, verdicts=verdicts)
    return advance(state, finished, spec)


def start() -> EvolutionState:
    return EvolutionState(train_examples=1000)


def sized(population_size: int, spec: RunSpec = SPEC) -> RunSpec:
    """The spec with another population."""
    return replace(spec, evolution=replace(spec.evolution, population_size=population_size))
