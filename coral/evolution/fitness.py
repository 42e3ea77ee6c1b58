"""Fitness: which trials may compete, and on what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from coral.fidelity.judge import NOT_PROMOTED
from coral.records import Objective, Outcome, Trial
from coral.settings import RunSpec


def objective_values(outcome: Outcome, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """Return an outcome's objectives; None for a failure or a value that is not finite.

    DEAP compares NaN wrongly, so nothing that is None here may reach it.
    """
    if outcome.failure is not None:
        return None
    readings = outcome.readings
    values = tuple(readings.get(objective.metric, math.nan) for objective in objectives)
    return values if all(math.isfinite(value) for value in values) else None


def is_fit(trial: Trial) -> bool:
    """Return whether a trial may be a member of the front or the champion.

    Failed trials are not, nor those that a rule condemned, unless an audit carried them further.
    """
    verdict = trial.verdict
    if verdict.status == "completed" or verdict.rule == NOT_PROMOTED:
        return trial.best_stage >= 0
    return verdict.audited and trial.best_stage > verdict.stage


def final_outcome(trial: Trial) -> Outcome | None:
    """Return what a fit trial is worth as a result: its outcome at the highest stage it ended."""
    return trial.scored[-1] if is_fit(trial) else None


def earned_outcome(trial: Trial) -> Outcome | None:
    """Return what a trial is worth as a parent: its outcome at the stage of its verdict.

    What an audit trained beyond the verdict does not count, so that auditing changes nothing in
    the search that it checks; nor does the full budget of the reference.
    """
    verdict = trial.verdict
    if verdict.status != "completed" and verdict.rule != NOT_PROMOTED:
        return None
    return next((outcome for outcome in trial.scored if outcome.stage == verdict.stage), None)


def by_stage(
    trials: Sequence[Trial],
    objectives: Sequence[Objective],
    worth: Callable[[Trial], Outcome | None] = final_outcome,
) -> list[tuple[list[Trial], list[tuple[float, ...]]]]:
    """Group trials by the stage of the outcome that ``worth`` picks, highest first.

    Values of different stages are never compared with each other.

    Returns:
        For each stage, trials and their objectives.
    """
    groups: dict[int, tuple[list[Trial], list[tuple[float, ...]]]] = {}
    for trial in trials:
        outcome = worth(trial)
        values = None if outcome is None else objective_values(outcome, objectives)
        if outcome is not None and values is not None:
            members, scores = groups.setdefault(outcome.stage, ([], []))
            members.append(trial)
            scores.append(values)
    return [groups[stage] for stage in sorted(groups, reverse=True)]


def ranked_finishers(trials: Sequence[Trial], spec: RunSpec) -> list[Trial]:
    """Return the fit trials that ended the last stage, the best on the primary objective first."""
    sign = -spec.objectives[0].sign
    scored = [
        (sign * values[0], trial)
        for trial in trials
        if is_fit(trial)
        and trial.best_stage == spec.last_stage
        and trial.scored[-1].checkpoint
        and (values := objective_values(trial.scored[-1], spec.objectives)) is not None
    ]
    return [trial for _, trial in sorted(scored, key=lambda pair: (pair[0], pair[1].number))]


def of_different_weights(ranked: Iterable[Trial]) -> list[Trial]:
    """Return trials without those whose weights an earlier one of them has at its end."""
    return list({trial.scored[-1].weights: trial for trial in reversed(list(ranked))}.values())[
        ::-1
    ]
