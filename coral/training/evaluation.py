"""Predictions, metrics, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.ports import PLAIN, Task, ViewedTask
from coral.records import Interval
from coral.rng import stream
from coral.training.data import EvaluationSet, batched_by_length, tokens_at_once
from coral.training.encoder import MultiTaskEncoder
from coral.training.failures import DivergedError
from coral.training.loop import autocast

RESAMPLES = 500

Predictions = NDArray[np.float64]


def predict(encoder: MultiTaskEncoder, examples: EvaluationSet) -> dict[str, Predictions]:
    """Return each task's predictions as ``Task.score`` takes them, in the order of its texts.

    Texts are batched by length, up to a fixed number of tokens, so that little is padded.

    Raises:
        DivergedError: the weights are so large that a prediction is not finite.
    """
    texts = examples.texts
    device = next(encoder.heads.parameters()).device
    batches = batched_by_length(texts.lengths, tokens_at_once(device))
    order = torch.from_numpy(np.argsort(np.concatenate(batches))).to(device)
    vectors: list[torch.Tensor] = []
    with torch.inference_mode(), encoder.merged():
        for rows in batches:
            with autocast(device):
                vectors.append(encoder.encode_texts(texts, rows))
        encoded = torch.cat(vectors)[order]
        predictions = {
            task: encoder.targets[task].predictions(
                encoder.heads[task](encoded[torch.from_numpy(rows).to(device)])
            )
            for task, rows in examples.rows.items()
        }
    require_finite_predictions(predictions)
    return predictions


def require_finite_predictions(predictions: Mapping[str, Predictions]) -> None:
    """Check predictions.

    Raises:
        DivergedError: one is not finite.
    """
    if not all(np.isfinite(values).all() for values in predictions.values()):
        raise DivergedError("predictions must be finite; they were not")


def views_of(task: Task) -> tuple[str, ...]:
    """Return the views of its examples that a task's metrics need besides the plain one."""
    return task.views if isinstance(task, ViewedTask) else ()


def score_task(
    task: Task,
    labels: NDArray[Any],
    predictions: Predictions,
    viewed: Mapping[str, Predictions] | None = None,
) -> dict[str, float]:
    """Return a task's metrics under ``task.metric``.

    Args:
        viewed: predictions on the views that its metrics need, if they need any.

    Raises:
        TaskError: the plugin returned other metrics than it declares.
    """
    scores, told = dict(task.score(labels, predictions)), "score()"
    if viewed and isinstance(task, ViewedTask):
        scores |= task.score_views(labels, {PLAIN: predictions, **viewed})
        told = "score() and score_views()"
    if set(scores) != set(task.metrics):
        raise TaskError(
            f"task {task.name} declares the metrics {sorted(task.metrics)}, but {told} returned"
            f" {sorted(scores)}"
        )
    return {f"{task.name}.{metric}": float(value) for metric, value in scores.items()}


def with_means(metrics: Mapping[str, float], tasks: Sequence[Task]) -> dict[str, float]:
    """Add, for each metric that all tasks have, its mean over tasks under its own name."""
    shared = set.intersection(*(set(task.metrics) for task in tasks))
    means = {
        metric: float(np.mean([metrics[f"{task.name}.{metric}"] for task in tasks]))
        for metric in sorted(shared)
    }
    return {**metrics, **means}


def bootstrap(
    tasks: Sequence[Task],
    labels: Mapping[str, NDArray[Any]],
    predictions: Sequence[Mapping[str, Predictions]],
    seed: int,
) -> list[dict[str, NDArray[np.float64]]]:
    """Return each finalist's primary metrics over the same resamples of the test examples.

    Args:
        predictions: for each finalist, task name to what it predicted.

    Returns:
        For each finalist, ``task.metric`` (and the mean over tasks where the primary metric is
        one and the same) to ``(RESAMPLES,)`` values.
    """
    draws: list[dict[str, NDArray[np.float64]]] = [{} for _ in predictions]
    for task in tasks:
        rng = stream(seed, "bootstrap", task.name)
        truth = labels[task.name]
        resamples = rng.integers(len(truth), size=(RESAMPLES, len(truth)))
        for finalist, values in zip(predictions, draws, strict=True):
            values[f"{task.name}.{task.primary_metric}"] = np.array(
                [
                    task.score(truth[rows], finalist[task.name][rows])[task.primary_metric]
                    for rows in resamples
                ]
            )
    shared, *others = {task.primary_metric for task in tasks}
    if not others:
        for values in draws:
            values[shared] = np.mean(list(values.values()), axis=0)
    return draws


def interval(estimate: float, draws: NDArray[np.float64]) -> Interval:
    """Return the 95 % percentile interval of bootstrap draws (Efron 1979)."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Interval(estimate=estimate, low=estimate, high=estimate)
    low, high = np.quantile(finite, [0.025, 0.975])
    return Interval(estimate=estimate, low=float(low), high=float(high))
