"""What plugins may decide in the place of Coral: one protocol a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from coral.plan import (
    CURRICULA,
    LOSS_WEIGHTINGS,
    SAMPLERS,
    CurriculumPlan,
    LossPlan,
    SamplingPlan,
    TaskRows,
)
from coral.records import Cost, Direction, GeneValue


class Curriculum(Protocol):
    """Says which examples training may draw, and when."""

    def __call__(
        self, plan: CurriculumPlan, progress: float, difficulty: NDArray[np.float64], /
    ) -> NDArray[np.bool_]:
        """Return ``(n,)`` which examples are let in.

        Where no example of a task is, its easiest are.

        Args:
            progress: share of the horizon that is trained, in [0, 1).
            difficulty: ``(n,)`` in (0, 1], of the examples of all tasks.
        """
        ...


class Sampler(Protocol):
    """Says how often each example of a task is drawn."""

    def __call__(self, plan: SamplingPlan, rows: TaskRows, /) -> NDArray[np.float64]:
        """Return ``(n,)`` weights >= 0: in one pass an example comes up in proportion to its own.

        Args:
            rows: the examples that a stage may draw.
        """
        ...


class LossWeighting(Protocol):
    """Says how much the loss of each example counts."""

    def __call__(self, plan: LossPlan, rows: TaskRows, /) -> NDArray[np.float64]:
        """Return ``(n,)`` weights >= 0; they are scaled to a mean of 1.

        Args:
            rows: the task's whole train set.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SelectionPool:
    """Trials that may become parents, all of whom reached the same stage.

    Attributes:
        values: ``(n, objectives)``, more is better in each: what is to be small is negated.
        ages: ``(n,)`` generations since each was bred; 0 for the latest.
        genomes: gene path to value.
    """

    values: NDArray[np.float64]
    ages: NDArray[np.int64]
    genomes: tuple[Mapping[str, GeneValue], ...]

    def __len__(self) -> int:
        return len(self.values)


class Selection(Protocol):
    """Picks the parents of the next generation."""

    def __call__(
        self, pool: SelectionPool, count: int, rng: np.random.Generator, /
    ) -> Sequence[int]:
        """Return ``count`` different positions in ``pool``, the ones to prefer first.

        Args:
            count: from 1 to the size of the pool.
            rng: the only source of chance.
        """
        ...


class ObjectiveFunction(Protocol):
    """Something to make better that follows from an outcome's metrics and cost."""

    @property
    def direction(self) -> Direction: ...

    def __call__(self, metrics: Mapping[str, float], cost: Cost, /) -> float:
        """Return the objective; a value that is not finite ends the trial's chances.

        Args:
            metrics: as in ``Outcome``.
            cost: of the stage that was trained last.
        """
        ...


BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "curricula": tuple(CURRICULA),
    "samplers": tuple(SAMPLERS),
    "loss_weightings": tuple(LOSS_WEIGHTINGS),
    "selections": ("nsga2", "nsga3", "tournament"),
    "objectives": (),
}
"""Kind of strategy to the names that Coral brings; its selections are in DEAP's toolbox."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategies:
    """Strategies by name: Coral's own, and those of plugins that a run uses."""

    curricula: Mapping[str, Curriculum] = field(default_factory=lambda: CURRICULA)
    samplers: Mapping[str, Sampler] = field(default_factory=lambda: SAMPLERS)
    loss_weightings: Mapping[str, LossWeighting] = field(default_factory=lambda: LOSS_WEIGHTINGS)
    selections: Mapping[str, Selection] = field(default_factory=dict)
    objectives: Mapping[str, ObjectiveFunction] = field(default_factory=dict)
