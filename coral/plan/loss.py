"""The loss: how much each example counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coral.plan.checks import PositiveFraction, check_bounds
from coral.plan.rows import TaskRows

INVERSE_ONLY = {"active_when": ("weighting", ("inverse_frequency",))}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPlan:
    """How much the loss of each example counts, compared with others of its task.

    Attributes:
        weighting: ``none`` counts all alike; ``inverse_frequency`` counts those of rare classes
            more; plugins may register more.
        strength: of the inverse frequency: 1 makes all classes count alike, less keeps something of
            their sizes.

    Source: King and Zeng 2001 (weights by class); Cui et al. 2019 (weaker ones).
    """

    weighting: str = field(default="none", metadata={"strategy": "loss_weightings"})
    strength: PositiveFraction = field(default=1.0, metadata=INVERSE_ONLY)

    def __post_init__(self) -> None:
        check_bounds(self)


def _alike(plan: LossPlan, rows: TaskRows) -> NDArray[np.float64]:
    return np.ones(len(rows))


def _inverse_frequency(plan: LossPlan, rows: TaskRows) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = rows.class_sizes**-plan.strength
    return weights


LOSS_WEIGHTINGS: Mapping[str, Callable[[LossPlan, TaskRows], NDArray[np.float64]]] = {
    "none": _alike,
    "inverse_frequency": _inverse_frequency,
}
"""The built-in ones, as ``ports.LossWeighting``."""
