"""What a child makes of the weights that it inherits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from coral.plan.checks import Fraction, Positive, PositiveFraction, check_bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class InheritancePlan:
    """How inherited weights are put together and taken up; without any it means nothing.

    Attributes:
        crossover: ``blend`` adds the updates of two parents, weighted, and cuts the sum to the
            child's rank; ``layers`` takes every layer whole from one of them.
        mixing: the better parent's weight in a blend, or its share of the layers.
        learning_rate_multiplier: an heir's learning rates, as a multiple of its schedule's: its
            weights have come most of the way.
        rewarmup_ratio: share of the horizon's optimizer steps over which the learning rate rises
            again where the optimizer's moments could not be inherited.
    """

    crossover: Literal["blend", "layers"] = "blend"
    mixing: PositiveFraction = 0.5
    learning_rate_multiplier: Positive = 0.5
    rewarmup_ratio: Fraction = 0.02

    def __post_init__(self) -> None:
        check_bounds(self)


def rewarmup_share(plan: InheritancePlan, steps_since: int, horizon_steps: int) -> float:
    """Return the share of the scheduled learning rate that a step gets after lost moments.

    Args:
        steps_since: optimizer steps done since the weights were inherited.
    """
    span = math.ceil(plan.rewarmup_ratio * horizon_steps)
    return min(1.0, (steps_since + 1) / (span + 1))
