"""Metrics of a task whose answers are written by a language model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from coral.records import Direction

LANGUAGE_METRICS: Mapping[str, Direction] = MappingProxyType(
    {"perplexity": "min", "token_accuracy": "max"}
)
GENERATION_METRICS: Mapping[str, Direction] = MappingProxyType(
    {"exact_match": "max", "rouge_l": "max"}
)
"""Of answers that were generated; of tasks that generate some."""


def score_language(statistics: NDArray[np.float64]) -> dict[str, float]:
    """Score what a language model did with each example.

    Args:
        statistics: ``(n, 3)`` or ``(n, 5)``: summed negative log-likelihood of the trained tokens
            in nats, their number, how many were the most probable ones; and exact match and ROUGE-L
            of a generated answer, NaN where none was.

    Returns:
        perplexity: exponential of the mean negative log-likelihood of a token.
        token_accuracy: share of tokens that were the most probable ones, given all before them.
        exact_match: share of generated answers that are the expected ones, blanks around aside.
        rouge_l: mean ROUGE-L of generated answers.

    NaN where there is nothing to take the mean of.

    Raises:
        ValueError: the shape is another.
    """
    if statistics.ndim != 2 or statistics.shape[1] not in (3, 5):
        raise ValueError(
            f"statistics must be (n, 3) or (n, 5), got shape {statistics.shape}. Give a row for"
            " each example, as the trainer hands them over."
        )
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        loss, tokens, correct = statistics[:, :3].sum(axis=0)
        found = {
            "perplexity": float(np.exp(loss / tokens)),
            "token_accuracy": float(correct / tokens),
        }
    if statistics.shape[1] == 5:
        generated = statistics[~np.isnan(statistics[:, 3]), 3:]
        means = generated.mean(axis=0) if len(generated) else np.full(2, np.nan)
        found |= dict(zip(GENERATION_METRICS, map(float, means), strict=True))
    return found
