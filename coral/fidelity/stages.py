"""The fidelity ladder: what each stage trains on, and how many go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from annotated_types import Gt, Le

from coral.errors import PlanError
from coral.plan.checks import Positive, PositiveFraction, check_bounds

Percentage = Annotated[float, Gt(0), Le(100)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One rung of the ladder.

    Attributes:
        name: unique on the ladder.
        epoch_budget: cumulative epochs of the full train set by the stage's end.
        data_percentage: share of the train set it draws from, in percent; nested between stages.
        survival_rate: share of those who entered the stage that go on, at least one.
        evaluation_percentage: share of the validation split it is scored on, in percent; nested
            between stages. Early stages need no more precision than their training gives.
    """

    name: str
    epoch_budget: Positive
    data_percentage: Percentage
    survival_rate: PositiveFraction
    evaluation_percentage: Percentage = 100

    def __post_init__(self) -> None:
        check_bounds(self)


DEFAULT_LADDER = (
    Stage(name="S0_sanity", epoch_budget=0.05, data_percentage=5, survival_rate=1.0),
    Stage(name="S1_shakeout", epoch_budget=0.3, data_percentage=20, survival_rate=0.5),
    Stage(name="S2_serious", epoch_budget=1.0, data_percentage=100, survival_rate=0.25),
    Stage(name="S3_finisher", epoch_budget=2.0, data_percentage=100, survival_rate=0.1),
)


def check_ladder(stages: Sequence[Stage]) -> None:
    """Check what must hold between stages.

    Raises:
        PlanError: there is no stage, a name repeats, a budget does not grow, or a percentage
            shrinks from one stage to the next.
    """
    if not stages:
        raise PlanError("training_stages must hold at least one stage, got none")
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        raise PlanError(f"stage names must differ, got {', '.join(names)}")
    for earlier, later in pairwise(stages):
        if later.epoch_budget <= earlier.epoch_budget:
            raise PlanError(
                f"epoch_budget is cumulative and must grow from stage to stage, got"
                f" {earlier.name}={earlier.epoch_budget:g}, {later.name}={later.epoch_budget:g}"
            )
        for name in ("data_percentage", "evaluation_percentage"):
            one, two = getattr(earlier, name), getattr(later, name)
            if two < one:
                raise PlanError(
                    f"{name} must not shrink from stage to stage, got"
                    f" {earlier.name}={one:g}, {later.name}={two:g}"
                )


def survivor_count(stage: Stage, entered: int) -> int:
    """Return how many of ``entered`` go on, at least one if any entered.

    >>> survivor_count(DEFAULT_LADDER[2], 4)
    1
    """
    return min(entered, max(1, math.floor(stage.survival_rate * entered + 0.5)))


def steps_at(stage: Stage, train_examples: int, batch_size: int) -> int:
    """Return the cumulative optimizer steps by the stage's end, at least one."""
    return max(1, math.ceil(stage.epoch_budget * train_examples / batch_size - 1e-9))


def ladder_steps(stages: Sequence[Stage], train_examples: int, batch_size: int) -> list[int]:
    """Return the cumulative optimizer steps by each stage's end; every stage trains at least one.

    Args:
        train_examples: size of the full train set, all tasks together.
        batch_size: examples per optimizer step.
    """
    ends: list[int] = []
    for stage in stages:
        floor = ends[-1] + 1 if ends else 1
        ends.append(max(floor, steps_at(stage, train_examples, batch_size)))
    return ends


def entrants_by_stage(stages: Sequence[Stage], population: int) -> list[int]:
    """Return how many of ``population`` enter each stage when nothing is pruned by a rule."""
    counts = [population]
    for stage in stages[:-1]:
        counts.append(survivor_count(stage, counts[-1]))
    return counts


def ladder_share(stages: Sequence[Stage], population: int) -> float:
    """Return the ladder's cost as a share of training every genome to the last stage."""
    budgets = [0.0, *(stage.epoch_budget for stage in stages)]
    spent = sum(
        entrants * (end - start)
        for entrants, start, end in zip(
            entrants_by_stage(stages, population), budgets, budgets[1:], strict=False
        )
    )
    return spent / (population * budgets[-1])
