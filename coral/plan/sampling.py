"""Sampling: how often each example of a task is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coral.plan.checks import PositiveFraction, check_bounds
from coral.plan.rows import TaskRows

BALANCED_ONLY = {"active_when": ("kind", ("balanced",))}


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """How often the examples of a task are drawn, compared with each other.

    Attributes:
        kind: ``uniform`` draws all alike; ``balanced`` draws those of rare classes more often;
            plugins may register more.
        strength: of the balance: 1 draws every class alike, less keeps something of their sizes.
    """

    kind: str = field(default="uniform", metadata={"strategy": "samplers"})
    strength: PositiveFraction = field(default=1.0, metadata=BALANCED_ONLY)

    def __post_init__(self) -> None:
        check_bounds(self)


def _uniform(plan: SamplingPlan, rows: TaskRows) -> NDArray[np.float64]:
    return np.ones(len(rows))


def _balanced(plan: SamplingPlan, rows: TaskRows) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = rows.class_sizes**-plan.strength
    return weights


SAMPLERS: Mapping[str, Callable[[SamplingPlan, TaskRows], NDArray[np.float64]]] = {
    "uniform": _uniform,
    "balanced": _balanced,
}
"""The built-in ones, as ``ports.Sampler``."""
