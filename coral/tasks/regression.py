"""Metrics of a task that asks for numbers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from coral.records import Direction

REGRESSION_METRICS: Mapping[str, Direction] = MappingProxyType(
    {"spearman": "max", "pearson": "max", "r2": "max", "rmse": "min", "mae": "min"}
)


def score_regression(
    labels: NDArray[np.float64], predictions: NDArray[np.float64]
) -> dict[str, float]:
    """Score predictions with each of ``REGRESSION_METRICS``, of several numbers the mean of each.

    Args:
        labels, predictions: ``(n, numbers)``, in one unit.

    Returns:
        spearman: correlation of ranks, ties sharing their mean rank.
        pearson: correlation. Both are 0 where either side is constant.
        r2: share of the variance that is explained; 0 for the mean of the labels, and where they
            are constant.
        rmse: root of the mean squared error.
        mae: mean absolute error.

    Raises:
        ValueError: the shapes disagree, there is nothing to score, or a number isn't finite.
    """
    labels = np.asarray(labels, dtype=np.float64)
    predictions = np.asarray(predictions, dtype=np.float64)
    _check(labels, predictions)
    error = predictions - labels
    spread = np.square(labels - labels.mean(axis=0)).sum(axis=0)
    missed = np.square(error).sum(axis=0)
    explained = np.where(spread > 0, 1 - missed / np.where(spread > 0, spread, 1.0), 0.0)
    return {
        "spearman": _correlation(_ranks(labels), _ranks(predictions)),
        "pearson": _correlation(labels, predictions),
        "r2": float(np.mean(explained)),
        "rmse": float(np.mean(np.sqrt(np.square(error).mean(axis=0)))),
        "mae": float(np.mean(np.abs(error))),
    }


def _correlation(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Return the mean over columns of Pearson's correlation."""
    a, b = one - one.mean(axis=0), two - two.mean(axis=0)
    size = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    constant = size <= np.finfo(np.float64).tiny
    return float(
        np.mean(np.where(constant, 0.0, (a * b).sum(axis=0) / np.where(constant, 1, size)))
    )


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of each column's values, tied ones sharing their mean rank."""
    columns = []
    for column in values.T:
        _, place, count = np.unique(column, return_inverse=True, return_counts=True)
        columns.append((np.cumsum(count) - (count - 1) / 2)[place])
    ranks: NDArray[np.float64] = np.stack(columns, axis=1)
    return ranks


def _check(labels: NDArray[np.float64], predictions: NDArray[np.float64]) -> None:
    if labels.ndim != 2 or labels.shape != predictions.shape:
        raise ValueError(
            "labels and predictions must both be (n, numbers), got"
            f" {labels.shape} and {predictions.shape}"
        )
    if not labels.size:
        raise ValueError("there must be at least one example to score, got none")
    if not (np.isfinite(labels).all() and np.isfinite(predictions).all()):
        raise ValueError("labels and predictions must be finite")
