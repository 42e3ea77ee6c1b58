"""Outcomes and trials in one line each."""

from __future__ import annotations

from coral.records import (
    Candidate,
    Cost,
    Failure,
    FailureKind,
    Lineage,
    Operator,
    Outcome,
    Trial,
    Verdict,
)


def outcome(
    stage: int = 0,
    *,
    failure: FailureKind | None = None,
    cost: Cost | None = None,
    **metrics: float,
) -> Outcome:
    return Outcome(
        key=f"{stage}-{sorted(metrics.items())}",
        stage=stage,
        metrics=metrics,
        cost=cost or Cost(),
        failure=Failure(kind=failure, message=f"it {failure}") if failure else None,
    )


def trial(
    number: int,
    outcomes: tuple[Outcome, ...],
    verdict: Verdict,
    *,
    generation: int = 0,
    operator: Operator = "sobol",
) -> Trial:
    candidate = Candidate(
        number=number,
        generation=generation,
        genome={},
        digest=f"digest {number}",
        lineage=Lineage(operator=operator),
    )
    return Trial(candidate=candidate, outcomes=outcomes, verdict=verdict)


def climbed(
    number: int, *values: float, verdict: Verdict | None = None, generation: int = 0
) -> Trial:
    """A trial with one AUROC a stage, completed unless ``verdict`` says otherwise."""
    outcomes = tuple(outcome(stage, auroc=value) for stage, value in enumerate(values))
    verdict = verdict or Verdict(status="completed", stage=len(values) - 1)
    return trial(number, outcomes, verdict, generation=generation)
