"""The curriculum: which examples training may see, and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from coral.plan.checks import Fraction, PositiveFraction, check_bounds

PROGRESSIVE_ONLY = {"active_when": ("kind", ("progressive",))}


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumPlan:
    """Easy examples first.

    Attributes:
        kind: ``none`` shows everything from the start; ``progressive`` raises the difficulty that
            is let in linearly over the horizon; plugins may register more.
        initial_difficulty: share of the train set, easiest first, that is let in at the start.
            Difficulty is the rank, within the task and in (0, 1], of what the task says is
            difficult, else of the length in tokens.
        final_difficulty: the same at the end of the ramp.
        ramp: share of the horizon over which the ramp runs.

    Source: Bengio et al. 2009; Platanios et al. 2019 (competence as a share of the train set).
    """

    kind: str = field(default="none", metadata={"strategy": "curricula"})
    initial_difficulty: PositiveFraction = field(default=0.3, metadata=PROGRESSIVE_ONLY)
    final_difficulty: PositiveFraction = field(default=1.0, metadata=PROGRESSIVE_ONLY)
    ramp: Fraction = field(default=0.5, metadata=PROGRESSIVE_ONLY)

    def __post_init__(self) -> None:
        check_bounds(self)


def difficulty_limit(plan: CurriculumPlan, progress: float) -> float:
    """Return the hardest difficulty let in at ``progress``, the share of the horizon trained.

    >>> difficulty_limit(CurriculumPlan(), 0.0)
    1.0
    >>> difficulty_limit(CurriculumPlan(kind="progressive", initial_difficulty=0.2, ramp=0.5), 0.25)
    0.6
    """
    if plan.kind == "none":
        return 1.0
    if plan.ramp == 0:
        return plan.final_difficulty
    share = min(1.0, progress / plan.ramp)
    return plan.initial_difficulty + share * (plan.final_difficulty - plan.initial_difficulty)


def _all_let_in(
    plan: CurriculumPlan, progress: float, difficulty: NDArray[np.float64]
) -> NDArray[np.bool_]:
    return np.ones(len(difficulty), dtype=np.bool_)


def _progressive(
    plan: CurriculumPlan, progress: float, difficulty: NDArray[np.float64]
) -> NDArray[np.bool_]:
    return difficulty <= difficulty_limit(plan, progress)


CURRICULA: Mapping[
    str, Callable[[CurriculumPlan, float, NDArray[np.float64]], NDArray[np.bool_]]
] = {"none": _all_let_in, "progressive": _progressive}
"""The built-in ones, as ``ports.Curriculum``."""
