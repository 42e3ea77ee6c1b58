"""What becomes of a trained adapter's outputs. Nothing here needs training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from coral.plan.checks import NonNegative, Positive, PositiveFraction, PositiveInt, check_bounds

Probabilities = NDArray[np.float64]

SELECTIVE_METRICS: Mapping[str, Literal["max", "min"]] = MappingProxyType(
    {"coverage": "max", "selective_accuracy": "max"}
)
"""What classification tasks have besides their own metrics where genomes may withhold answers."""

EVEN = 0.5
"""The threshold at which probabilities decide by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferencePlan:
    """How answers are made of outputs. Plans that differ in this alone share their weights.

    Attributes:
        temperature: outputs before the softmax or sigmoid are divided by it; above 1 the
            probabilities are less sure.
        threshold: probability from which a label is given: of the second class of two, and of each
            label where a text may have several.
        abstention: share of the validation examples, the least confident, that get no answer.
        generation_temperature: of sampling in tasks that generate text; 0 takes the most probable
            token.
        top_p: tokens are drawn from the fewest that have this probability together.
        repetition_penalty: by which a token that has occurred is made less probable; 1 is none.
        max_new_tokens: most that are generated, if the task does not ask for fewer.

    Source: Guo et al. 2017 (temperature); Geifman and El-Yaniv 2017 (abstention); Holtzman et al.
    2020 (top-p); Keskar et al. 2019 (repetition penalty).
    """

    temperature: Positive = 1.0
    threshold: Annotated[float, Gt(0), Lt(1)] = EVEN
    abstention: Annotated[float, Ge(0), Lt(1)] = 0.0
    generation_temperature: NonNegative = 0.0
    top_p: PositiveFraction = 1.0
    repetition_penalty: Positive = 1.0
    max_new_tokens: PositiveInt = 1024

    def __post_init__(self) -> None:
        check_bounds(self)


def decided(
    plan: InferencePlan, probabilities: Probabilities, *, exclusive: bool = True
) -> Probabilities:
    """Return probabilities at the plan's temperature, moved so that its threshold lies at 0.5.

    The move adds a constant to the log-odds, so the examples keep their order.

    Args:
        probabilities: ``(n, labels)``.
        exclusive: an example has one label, and rows sum to 1; else each label has its own
            probability. Of more than two exclusive labels the most probable is given, and there is
            no threshold.
    """
    labels = probabilities.shape[1]
    moves = plan.threshold != EVEN and (labels == 2 or not exclusive)
    if plan.temperature == 1 and not moves:
        return probabilities
    shift = math.log((1 - plan.threshold) / plan.threshold) if moves else 0.0
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities)
        if not exclusive:
            odds = (logs - np.log1p(-probabilities)) / plan.temperature + shift
            return np.exp(-np.logaddexp(0.0, -odds))
    logs /= plan.temperature
    if moves:
        logs[:, 1] += shift
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    made: Probabilities = shares / shares.sum(axis=1, keepdims=True)
    return made


def confidence(probabilities: Probabilities, *, exclusive: bool = True) -> NDArray[np.float64]:
    """Return how sure each answer is, ``(n,)``: of several labels, as sure as the least sure."""
    if exclusive:
        most: NDArray[np.float64] = probabilities.max(axis=1)
        return most
    least: NDArray[np.float64] = np.maximum(probabilities, 1 - probabilities).min(axis=1)
    return least


def least_confidence(plan: InferencePlan, confidences: NDArray[np.float64]) -> float:
    """Return the confidence that an answer needs, so that the plan's share goes without.

    Examples that are as sure as the last one answered are answered too.

    Args:
        confidences: ``(n,)`` of the examples on which it is set.
    """
    if not plan.abstention:
        return 0.0
    withheld = math.floor(plan.abstention * len(confidences) + 1e-9)
    return float(np.sort(confidences)[withheld])


def score_selective(
    hits: NDArray[np.bool_], confidences: NDArray[np.float64], needed: float
) -> dict[str, float]:
    """Score answers of which some are withheld with each of ``SELECTIVE_METRICS``.

    Args:
        hits: ``(n,)``, whether the answer is right.
        confidences: ``(n,)``.
        needed: confidence from which an answer is given.

    Returns:
        coverage: share of the examples that are answered.
        selective_accuracy: share of the answers given that are right; NaN where none is given. One
            minus it is the selective risk.

    Source: Geifman and El-Yaniv 2017.
    """
    answered = confidences >= needed
    return {
        "coverage": float(answered.mean()),
        "selective_accuracy": float(hits[answered].mean()) if answered.any() else math.nan,
    }
