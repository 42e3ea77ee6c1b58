"""Asking strategies, and holding them to the rules of their kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from coral.errors import StrategyError
from coral.plan import CurriculumPlan, LossPlan, SamplingPlan, TaskRows
from coral.ports import (
    Curriculum,
    LossWeighting,
    ObjectiveFunction,
    Sampler,
    Selection,
    SelectionPool,
    Strategies,
)
from coral.records import Cost

TITLES: Mapping[str, str] = {
    "curricula": "curriculum",
    "samplers": "sampler",
    "loss_weightings": "loss weighting",
    "selections": "selection",
    "objectives": "objective",
}
"""Kind of strategy to what one of them is called."""

OWN = Strategies()
"""Coral's own."""

Answer = TypeVar("Answer")


def named(strategies: Strategies, kind: str, name: str) -> Any:
    """Return a strategy.

    Raises:
        StrategyError: there is none of this name.
    """
    known = getattr(strategies, kind)
    if name not in known:
        listed = ", ".join(known) or "none"
        raise StrategyError(
            f"{TITLES[kind]} {name!r} must be one of those at hand ({listed}).\n"
            "Name the folder of its plugin with --plugins."
        )
    return known[name]


def let_in(
    strategies: Strategies, plan: CurriculumPlan, progress: float, difficulty: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return ``(n,)`` which examples the plan's curriculum lets in.

    Raises:
        StrategyError: it raises, or returns something else.
    """
    curriculum: Curriculum = named(strategies, "curricula", plan.kind)
    told = f"curriculum {plan.kind!r}"
    mask = np.asarray(_asked(told, lambda: curriculum(plan, progress, difficulty)))
    if mask.shape != difficulty.shape or mask.dtype != np.bool_:
        raise StrategyError(
            f"{told}: it must return {len(difficulty)} booleans, got {mask.dtype} of shape"
            f" {mask.shape}.\nCorrect the plugin; coral.testing.CurriculumConformance checks one."
        )
    return mask


def sampling_weights(
    strategies: Strategies, plan: SamplingPlan, rows: TaskRows
) -> NDArray[np.float64]:
    """Return ``(n,)`` weights by the plan's sampler.

    Raises:
        StrategyError: it raises, or returns something else.
    """
    sampler: Sampler = named(strategies, "samplers", plan.kind)
    told = f"sampler {plan.kind!r}"
    return _weights(told, _asked(told, lambda: sampler(plan, rows)), rows, "SamplerConformance")


def loss_weights(strategies: Strategies, plan: LossPlan, rows: TaskRows) -> NDArray[np.float64]:
    """Return ``(n,)`` weights by the plan's loss weighting, scaled to a mean of 1.

    The mean keeps the learning rate's meaning.

    Raises:
        StrategyError: it raises, or returns something else.
    """
    weighting: LossWeighting = named(strategies, "loss_weightings", plan.weighting)
    told = f"loss weighting {plan.weighting!r}"
    answer = _asked(told, lambda: weighting(plan, rows))
    weights = _weights(told, answer, rows, "LossWeightingConformance")
    scaled: NDArray[np.float64] = weights / weights.mean()
    return scaled


def chosen_parents(
    name: str, selection: Selection, pool: SelectionPool, count: int, rng: np.random.Generator
) -> list[int]:
    """Return the positions that a selection picks.

    Raises:
        StrategyError: it raises, or returns something else.
    """
    told = f"selection {name!r}"
    answer = _asked(told, lambda: [int(i) for i in selection(pool, count, rng)])
    if len(answer) != count or not set(answer) <= set(range(len(pool))) or len(set(answer)) < count:
        raise StrategyError(
            f"{told}: it must return {count} different positions below {len(pool)}, got {answer}.\n"
            "Correct the plugin; coral.testing.SelectionConformance checks one."
        )
    return answer


def objective_value(
    name: str, objective: ObjectiveFunction, metrics: Mapping[str, float], cost: Cost
) -> float:
    """Return an objective of an outcome.

    Raises:
        StrategyError: it raises, or returns no number.
    """
    told = f"objective {name!r}"
    answer = _asked(told, lambda: objective(MappingProxyType(dict(metrics)), cost))
    if isinstance(answer, bool) or not isinstance(answer, int | float | np.number):
        raise StrategyError(
            f"{told}: it must return a number, got {answer!r}.\n"
            "Correct the plugin; coral.testing.ObjectiveConformance checks one."
        )
    return float(answer)


def _asked(told: str, ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except Exception as error:
        raise StrategyError(
            f"{told} raised {type(error).__name__}: {error}.\nCorrect the plugin."
        ) from error


def _weights(told: str, answer: Any, rows: TaskRows, suite: str) -> NDArray[np.float64]:
    remedy = f"Correct the plugin; coral.testing.{suite} checks one."
    try:
        weights = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StrategyError(f"{told}: it must return weights, got {answer!r}.\n{remedy}") from error
    if weights.shape != (len(rows),):
        raise StrategyError(
            f"{told}: it must return {len(rows)} weights, one an example, got shape"
            f" {weights.shape}.\n{remedy}"
        )
    total = float(weights.sum())
    if not (math.isfinite(total) and total > 0 and weights.min() >= 0):
        raise StrategyError(
            f"{told}: weights must be finite, >= 0, and some > 0; got {weights.min():g} to"
            f" {weights.max():g} for task {rows.task}.\n{remedy}"
        )
    return weights
