from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coral.plan import CurriculumPlan, LossPlan, SamplingPlan, TaskRows
from coral.ports import SelectionPool
from coral.records import Cost, Direction


def hard_first(
    plan: CurriculumPlan, progress: float, difficulty: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Begin with the hardest share, and let easier ones in as training goes on."""
    share = plan.initial_difficulty + (1 - plan.initial_difficulty) * progress
    return difficulty > 1 - share


def long_texts_often(plan: SamplingPlan, rows: TaskRows) -> NDArray[np.float64]:
    return np.sqrt(rows.lengths)


def rare_and_long(plan: LossPlan, rows: TaskRows) -> NDArray[np.float64]:
    return np.log1p(rows.lengths) / rows.class_sizes**plan.strength


def youngest(pool: SelectionPool, count: int, rng: np.random.Generator) -> Sequence[int]:
    """Keep the latest trials whatever they are worth; who is as old is drawn by lot.

    Source: Real et al. 2019 (ageing evolution).
    """
    order = np.lexsort((rng.random(len(pool)), pool.ages))
    return [int(i) for i in order[:count]]


@dataclass(frozen=True)
class AurocPerMillion:
    """AUROC above chance for each million parameters, and one to begin with."""

    direction: Direction = "max"

    def __call__(self, metrics: Mapping[str, float], cost: Cost) -> float:
        return (metrics["auroc"] - 0.5) / (1 + metrics["trainable_parameters"] / 1e6)
