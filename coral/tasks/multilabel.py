"""Metrics of a task whose examples carry any number of labels."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from coral.records import Direction
from coral.tasks.classification import macro_auroc

MULTILABEL_METRICS: Mapping[str, Direction] = MappingProxyType(
    {"auroc": "max", "macro_f1": "max", "micro_f1": "max", "exact_match": "max", "log_loss": "min"}
)


def score_multilabel(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> dict[str, float]:
    """Score predictions with each of ``MULTILABEL_METRICS``; a label is set from 0.5 on.

    Args:
        labels: ``(n, labels)`` of 0 and 1.
        probabilities: ``(n, labels)``, each on its own.

    Returns:
        auroc: mean over the labels that some of the examples have and some don't.
        macro_f1: mean F1 of the labels that occur among labels or predictions; 1 if none does.
        micro_f1: F1 over all labels of all examples together; 1 if there are none.
        exact_match: share of examples whose labels are all right.
        log_loss: mean binary cross-entropy in nats, over examples and labels, with probabilities
            kept one machine epsilon away from 0 and 1.

    Raises:
        ValueError: the shapes disagree, there is nothing to score, or a value is out of range.
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    _check(labels, probabilities)
    predicted = probabilities >= 0.5
    hits = (predicted & (labels == 1)).sum(axis=0)
    seen = predicted.sum(axis=0) + labels.sum(axis=0)
    occurs = seen > 0
    epsilon = np.finfo(np.float64).eps
    likelihood = np.where(labels == 1, probabilities, 1 - probabilities)
    areas = [
        macro_auroc(column, np.stack([1 - own, own], axis=1))
        for column, own in zip(labels.T, probabilities.T, strict=True)
    ]
    defined = np.isfinite(areas)
    return {
        "auroc": float(np.mean(np.array(areas)[defined])) if defined.any() else float("nan"),
        "macro_f1": float(np.mean(2 * hits[occurs] / seen[occurs])) if occurs.any() else 1.0,
        "micro_f1": float(2 * hits.sum() / seen.sum()) if occurs.any() else 1.0,
        "exact_match": float(np.mean((predicted == (labels == 1)).all(axis=1))),
        "log_loss": float(-np.mean(np.log(np.clip(likelihood, epsilon, 1 - epsilon)))),
    }


def _check(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    if labels.ndim != 2 or labels.shape != probabilities.shape:
        raise ValueError(
            "labels and probabilities must both be (n, labels), got"
            f" {labels.shape} and {probabilities.shape}"
        )
    if not labels.size:
        raise ValueError("there must be at least one example to score, got none")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1]")
