"""Fitness: which trials may compete, and on what."""

from __future__ import annotations

import math
from collections.abc import Sequence

from coral.fidelity.judge import NOT_PROMOTED
from coral.records import Objective, Outcome, Trial


def objective_values(outcome: Outcome, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """Return an outcome's objectives; None for a failure or a value that is not finite.

    DEAP compares NaN wrongly, so nothing that is None here may reach it.
    """
    if outcome.failure is not None:
        return None
    values = tuple(outcome.metrics.get(objective.metric, math.nan) for objective in objectives)
    return values if all(math.isfinite(value) for value in values) else None


def is_fit(trial: Trial) -> bool:
    """Return whether a trial may be a parent, a member of the front or the champion.

    Failed trials are not, nor those that a rule condemned, unless an audit carried them further.
    """
    verdict = trial.verdict
    if verdict.status == "completed" or verdict.rule == NOT_PROMOTED:
        return trial.best_stage >= 0
    return verdict.audited and trial.best_stage > verdict.stage


def by_stage(
    trials: Sequence[Trial], objectives: Sequence[Objective]
) -> list[tuple[list[Trial], list[tuple[float, ...]]]]:
    """Group fit trials by the highest stage they ended, highest first, with their objectives.

    Values of different stages are never compared with each other.
    """
    groups: dict[int, tuple[list[Trial], list[tuple[float, ...]]]] = {}
    for trial in trials:
        values = objective_values(trial.scored[-1], objectives) if is_fit(trial) else None
        if values is not None:
            members, scores = groups.setdefault(trial.best_stage, ([], []))
            members.append(trial)
            scores.append(values)
    return [groups[stage] for stage in sorted(groups, reverse=True)]


def better(one: float, two: float, objective: Objective) -> bool:
    """Return whether ``one`` is strictly better than ``two``."""
    return one > two if objective.direction == "max" else one < two
