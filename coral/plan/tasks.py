"""How training time is shared between tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coral.errors import PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksPlan:
    """Each task's share of the training examples.

    Attributes:
        weights: task name to weight, on the simplex. Empty means equal shares.
    """

    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weights:
            return
        for task, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise PlanError(f"weights.{task} must be a number >= 0, got {weight}")
        total = sum(self.weights.values())
        if not math.isclose(total, 1.0, abs_tol=1e-4):
            raise PlanError(f"weights must sum to 1, got {total:g}")


def task_shares(plan: TasksPlan, tasks: Sequence[str]) -> dict[str, float]:
    """Return the share of each of ``tasks``, summing to 1.

    Raises:
        PlanError: a weight names another task, or none of ``tasks`` has a positive weight.
    """
    if not plan.weights:
        return {task: 1.0 / len(tasks) for task in tasks}
    unknown = sorted(set(plan.weights) - set(tasks))
    if unknown:
        raise PlanError(f"weights name tasks that the run does not have: {', '.join(unknown)}")
    total = sum(plan.weights.get(task, 0.0) for task in tasks)
    if total <= 0:
        raise PlanError("weights must give at least one task a positive share")
    return {task: plan.weights.get(task, 0.0) / total for task in tasks}
