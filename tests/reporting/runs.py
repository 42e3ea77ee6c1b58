"""Small runs made by hand, for reports and tables."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from coral.evolution import EvolutionState, replay
from coral.fidelity import NOT_PROMOTED, PruneRule, PruneSettings, Stage
from coral.genome import ChoiceGene, FloatGene, SearchSpace
from coral.records import (
    Candidate,
    CandidatesJoined,
    Contestant,
    Cost,
    Curve,
    Derivation,
    Event,
    Failure,
    GenerationFinished,
    GenerationStarted,
    Inheritance,
    Interval,
    Legacy,
    Lineage,
    Objective,
    Operator,
    Outcome,
    RunConfirmed,
    StageFinished,
    TestScore,
    Trial,
    TrialsDerived,
    Verdict,
)
from coral.reporting import Facts, run_facts
from coral.settings import (
    EvolutionSettings,
    FaultRates,
    RunSpec,
    SimulationSettings,
    TaskSettings,
)

SPEC = RunSpec(
    name="tiny",
    base_model="org/encoder",
    tasks=(TaskSettings(name="origin"),),
    space=SearchSpace(
        genes=(
            FloatGene(path="schedule.learning_rate", low=1e-4, high=1e-2, log=True),
            ChoiceGene(path="adapter.target_modules", options=("all-linear", ("query", "value"))),
        )
    ),
    evolution=EvolutionSettings(population_size=4, generations=1),
    training_stages=(
        Stage(name="S0", epoch_budget=0.5, data_percentage=50, survival_rate=0.5),
        Stage(name="S1", epoch_budget=1.0, data_percentage=100, survival_rate=0.5),
    ),
    prune=PruneSettings(rules=(PruneRule(metric="auroc", below=0.6, stage="S0"),)),
    objectives=(
        Objective(metric="auroc"),
        Objective(metric="trainable_parameters", direction="min"),
    ),
    seed=5,
)
SIMULATED = replace(
    SPEC,
    mode="simulate",
    simulation=SimulationSettings(
        profile="mine",
        agreement={"S0": -0.5},
        faults=FaultRates(crash=0.25),
        memory_bytes=2e9,
    ),
)
EXAMPLES = 160
BROKEN = Failure(kind="oom", message="CUDA out of [memory]", traceback="Traceback: [bold]line 1")


def candidate(number: int, operator: Operator, rate: float = 2e-4) -> Candidate:
    genome = {"schedule.learning_rate": rate, "adapter.target_modules": ("query", "value")}
    lineage = Lineage(operator=operator)
    digest = SPEC.space.digest(genome)
    return Candidate(number=number, generation=0, genome=genome, digest=digest, lineage=lineage)


def outcome(number: int, stage: int, auroc: float, failure: Failure | None = None) -> Outcome:
    metrics = {
        "auroc": auroc,
        "accuracy": auroc - 0.1,
        "log_loss": math.nan,
        "trainable_parameters": 1000.0 * (number + 1),
    }
    return Outcome(
        key=f"{number}/{stage}",
        stage=stage,
        metrics={} if failure else metrics,
        cost=Cost(optimizer_steps=5, examples=80, train_seconds=2.0),
        curve=Curve(step=(1, 5), loss=(2.0, 1.5), gradient_norm=(1.0, math.inf)),
        cumulative_steps=5 * (stage + 1),
        trainable_parameters=1000 * (number + 1),
        failure=failure,
        peak_memory_bytes=700_000_000,
    )


def finished() -> list[Event]:
    """Trial 0, the default recipe, and trial 1 end; 2 is pruned by a rule, 3 fails."""
    candidates = (
        candidate(0, "reference"),
        candidate(1, "recipe", 1e-3),
        candidate(2, "sobol", 5e-3),
        candidate(3, "sobol", 9e-3),
    )
    outcomes = [
        (0, outcome(0, 0, 0.7)),
        (1, outcome(1, 0, 0.8)),
        (2, outcome(2, 0, 0.55)),
        (3, outcome(3, 0, 0.0, BROKEN)),
        (0, outcome(0, 1, 0.75)),
        (1, outcome(1, 1, 0.9)),
    ]
    verdicts = (
        Verdict(status="completed", stage=1),
        Verdict(status="completed", stage=1),
        Verdict(status="pruned", stage=0, reason="auroc 0.55", rule="auroc below 0.6 at S0"),
        Verdict(status="failed", stage=0, reason="CUDA out of [memory]", rule="oom"),
    )
    return [
        GenerationStarted(generation=0, candidates=candidates),
        *(StageFinished(trial=trial, outcome=done) for trial, done in outcomes),
        GenerationFinished(generation=0, verdicts=verdicts),
    ]


def score(trial: int, auroc: float, difference: float) -> TestScore:
    return TestScore(
        trial=trial,
        metrics={"auroc": auroc, "log_loss": math.inf},
        intervals={"auroc": Interval(estimate=auroc, low=auroc - 0.1, high=auroc + 0.1)},
        difference={"auroc": Interval(estimate=difference, low=-0.01, high=0.3)},
    )


def confirmed(*, reference: bool = True) -> list[Event]:
    """The finished run on the test split, with or without the default recipe beside it."""
    scores = (score(1, 0.88, 0.16), score(0, 0.72, 0.0))
    event = RunConfirmed(
        champion=1,
        reference=0 if reference else None,
        scores=scores if reference else scores[:1],
    )
    return [*finished(), event]


COMPLETED = Verdict(status="completed", stage=1)


def inherited(number: int, stage: int, auroc: float, steps: int, kept: Inheritance) -> Outcome:
    """The outcome of the first stage after weights were inherited."""
    return replace(outcome(number, stage, auroc), cumulative_steps=steps, inheritance=kept)


def kept(energy: float, *sources: int, moments_kept: bool = False) -> Inheritance:
    return Inheritance(
        retained_energy=energy, by_module={}, sources=sources, moments_kept=moments_kept
    )


def derived(number: int, how: Derivation, auroc: float, energy: float, *legacy: Legacy) -> Trial:
    """A soup, or an adapter that was squeezed, of generation 0."""
    parents = tuple(item.trial for item in legacy)
    model = candidate(number, how.kind, 1e-3)
    done = inherited(number, 1, auroc, 10, kept(energy, *parents))
    return Trial(
        candidate=replace(
            model,
            digest=f"{how.kind}-{number}",
            lineage=Lineage(operator=how.kind, parents=parents),
            legacy=legacy,
            entry=1,
            derivation=how,
        ),
        outcomes=(replace(done, cost=Cost(evaluation_seconds=1.0)),),
        verdict=COMPLETED,
    )


def child(
    number: int, operator: Operator, rate: float, parents: tuple[int, ...], *legacy: Legacy
) -> Candidate:
    """A child of generation 1; it enters the last stage if it inherits weights."""
    return replace(
        candidate(number, operator, rate),
        generation=1,
        lineage=Lineage(operator=operator, parents=parents),
        legacy=legacy,
        entry=1 if legacy else 0,
    )


def harvested() -> list[Event]:
    """The finished run with a soup of 1 and 0, and what was squeezed from it and from 1."""
    return [
        *finished(),
        TrialsDerived(
            generation=0,
            trials=(
                derived(
                    4,
                    Derivation(kind="soup", rank=8),
                    0.92,
                    0.99,
                    Legacy(trial=1, stage=1, weight=0.75),
                    Legacy(trial=0, stage=1, weight=0.25),
                ),
                derived(5, Derivation(kind="squeeze", rank=4), 0.91, 0.8, Legacy(trial=4, stage=1)),
                derived(
                    6, Derivation(kind="squeeze", energy=0.9), 0.89, 0.93, Legacy(trial=1, stage=1)
                ),
            ),
        ),
    ]


WARM = replace(SPEC, evolution=EvolutionSettings(population_size=4, generations=2))


def bred() -> list[Event]:
    """A second generation: 7 and 8 inherit, 9 and 10 start cold, 11 takes the place of 10."""
    children = (
        child(7, "mutation", 2e-3, (1,), Legacy(trial=1, stage=1)),
        child(8, "crossover", 3e-3, (0, 4), Legacy(trial=4, stage=1), Legacy(trial=0, stage=0)),
        child(9, "mutation", 4e-3, (1,)),
        child(10, "mutation", 6e-3, (2,)),
    )
    copy = child(11, "exploit", 7e-3, (9,), Legacy(trial=9, stage=0))
    outcomes = [
        (9, outcome(9, 0, 0.6)),
        (10, outcome(10, 0, 0.62)),
        (7, inherited(7, 1, 0.95, 15, kept(1.0, 1, moments_kept=True))),
        (8, replace(inherited(8, 1, 0.88, 15, kept(0.97, 4, 0)), notes=("trial 0 made again",))),
        (9, outcome(9, 1, 0.85)),
        (10, outcome(10, 1, 0.83)),
        (11, inherited(11, 1, 0.8, 10, kept(1.0, 9))),
    ]
    exploited = Verdict(status="pruned", stage=0, rule="exploited", reason="gave its place to 11")
    verdicts = (COMPLETED, COMPLETED, COMPLETED, replace(exploited, audited=True), COMPLETED)
    told = [StageFinished(trial=trial, outcome=done) for trial, done in outcomes]
    return [
        *harvested(),
        GenerationStarted(generation=1, candidates=children),
        *told[:2],
        CandidatesJoined(candidates=(copy,), replaced=(10,)),
        *told[2:],
        GenerationFinished(generation=1, verdicts=verdicts),
        TrialsDerived(generation=1, trials=()),
    ]


def rematched(winner: int = 0) -> list[Event]:
    """The whole run with its confirmation: two seeds of 7, and two lengths of the default."""

    def contestant(kind: Any, trial: int, auroc: float, steps: int, seed: int = 5) -> Contestant:
        metrics = {"auroc": auroc}
        return Contestant(kind=kind, trial=trial, seed=seed, metrics=metrics, optimizer_steps=steps)

    outcomes = [(7, outcome(7, 1, 0.9)), (7, outcome(7, 1, 0.92)), (0, outcome(0, 0, 0.81))]
    return [
        *bred(),
        *(
            StageFinished(trial=trial, outcome=replace(done, key=f"confirm {i}"))
            for i, (trial, done) in enumerate(outcomes)
        ),
        RunConfirmed(
            champion=7,
            reference=0,
            scores=(
                score(7, 0.94, 0.22),
                score(7, 0.89, 0.17),
                score(7, 0.91, 0.19),
                score(0, 0.8, 0.08),
                score(0, 0.72, 0.0),
            ),
            contestants=(
                contestant("lineage", 7, 0.95, 15),
                contestant("cold", 7, 0.9, 10, seed=71),
                contestant("cold", 7, 0.92, 10, seed=72),
                contestant("long default", 0, 0.81, 15),
                contestant("default", 0, 0.75, 10),
            ),
            winner=winner,
        ),
    ]


def hopeless() -> list[Event]:
    """Every trial fails in its first stage."""
    candidates = tuple(candidate(n, "sobol", 1e-3 * (n + 1)) for n in range(4))
    verdict = Verdict(status="failed", stage=0, reason="CUDA out of [memory]", rule="oom")
    return [
        GenerationStarted(generation=0, candidates=candidates),
        *(StageFinished(trial=n, outcome=outcome(n, 0, 0.0, BROKEN)) for n in range(4)),
        GenerationFinished(generation=0, verdicts=(verdict,) * 4),
    ]


def unpromoted() -> list[Event]:
    """Nobody climbs beyond the first stage, the default recipe included."""
    events = finished()[:3]
    verdict = Verdict(status="pruned", stage=0, reason="not promoted", rule=NOT_PROMOTED)
    started = events[0]
    assert isinstance(started, GenerationStarted)
    few = replace(started, candidates=started.candidates[:2])
    return [few, *events[1:], GenerationFinished(generation=0, verdicts=(verdict,) * 2)]


def state_of(events: list[Event], spec: RunSpec = SPEC) -> EvolutionState:
    return replay(events, spec, EXAMPLES)


def facts_of(events: list[Event], status: str = "finished", spec: RunSpec = SPEC) -> Facts:
    return run_facts(
        state_of(events, spec),
        spec,
        folder=Path("runs/tiny"),
        status=status,
        wall_seconds=12.5,
        workers=3,
    )
