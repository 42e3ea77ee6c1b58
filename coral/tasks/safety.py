"""Metrics of a classifier that somebody relies on: false alarms and calibration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
"""Bins of confidence, as many as Guo et al. use."""


def fpr_at_90_recall(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Return the share of negatives that are flagged where 90 % of the positives are.

    The threshold is the highest that at least 90 % of the positives reach. For more than two
    classes it is the mean of one-vs-rest, over the classes that have positives and negatives among
    ``labels``; NaN where no class has both.

    Args:
        labels: ``(n,)`` true class indices.
        probabilities: ``(n, classes)``, finite. Of two classes, the second is the positive one.
    """
    classes = probabilities.shape[1]
    rates = []
    for column in range(classes) if classes > 2 else (1,):
        is_positive = labels == column
        flagged = np.sort(probabilities[is_positive, column])[::-1]
        others = probabilities[~is_positive, column]
        if len(flagged) and len(others):
            threshold = flagged[-(-9 * len(flagged) // 10) - 1]
            rates.append(float(np.mean(others >= threshold)))
    return float(np.mean(rates)) if rates else float("nan")


def expected_calibration_error(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> float:
    """Return how far confidence is from accuracy, 0 to 1.

    Examples are sorted by the probability of their most probable class into ``ECE_BINS`` bins of
    equal width, each open below and closed above. The result is the mean over examples of
    ``|accuracy - mean confidence|`` of their bin.

    Args:
        labels: ``(n,)`` true class indices.
        probabilities: ``(n, classes)``, finite, rows summing to 1.

    Source: Guo et al. 2017 (eq. 3); Naeini et al. 2015.
    """
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, ECE_BINS + 1)[1:-1]
    excess = np.bincount(np.searchsorted(edges, confidence), confidence - is_right, ECE_BINS)
    return float(np.abs(excess).sum() / len(labels))
