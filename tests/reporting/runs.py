"""Small runs made by hand, for reports and tables."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from coral.evolution import EvolutionState, replay
from coral.fidelity import NOT_PROMOTED, PruneRule, PruneSettings, Stage
from coral.genome import ChoiceGene, FloatGene, SearchSpace
from coral.records import (
    Candidate,
    Cost,
    Curve,
    Event,
    Failure,
    GenerationFinished,
    GenerationStarted,
    Interval,
    Lineage,
    Objective,
    Operator,
    Outcome,
    RunConfirmed,
    StageFinished,
    TestScore,
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


def state_of(events: list[Event]) -> EvolutionState:
    return replay(events, SPEC, EXAMPLES)


def facts_of(events: list[Event], status: str = "finished", spec: RunSpec = SPEC) -> Facts:
    return run_facts(
        state_of(events),
        spec,
        folder=Path("runs/tiny"),
        status=status,
        wall_seconds=12.5,
        workers=3,
    )
