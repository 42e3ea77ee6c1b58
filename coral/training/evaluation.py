"""Predictions, metrics, and bootstrap intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coral.errors import TaskError
from coral.ports import Task
from coral.records import Interval
from coral.rng import stream
from coral.training.conversations import turn_ends
from coral.training.data import Answers, EvaluationSet, batched_by_length, tokens_at_once
from coral.training.encoder import MultiTaskEncoder
from coral.training.failures import DivergedError
from coral.training.generation import exact_match, generate, rouge_l
from coral.training.token_rows import token_statistics

RESAMPLES = 500

Predictions = NDArray[np.float64]


def predict(encoder: MultiTaskEncoder, examples: EvaluationSet) -> dict[str, Predictions]:
    """Return each task's predictions, in the order of its examples.

    They are what ``Task.score`` takes; of a task whose answers are written, statistics as
    ``answer_statistics`` gives them. Texts are batched by length, up to a fixed number
    of tokens, so that little is padded.

    Raises:
        DivergedError: the weights are so large that a prediction is not finite.
    """
    predictions: dict[str, Predictions] = {}
    with torch.inference_mode(), encoder.merged():
        if examples.rows:
            predictions |= _predictions_of_heads(encoder, examples)
        for task, answers in examples.answers.items():
            predictions[task] = answer_statistics(encoder, answers)
    require_finite_predictions(predictions)
    return predictions


def _predictions_of_heads(
    encoder: MultiTaskEncoder, examples: EvaluationSet
) -> dict[str, Predictions]:
    """Return predictions of tasks with heads."""
    texts, device = examples.texts, encoder.base.device
    batches = batched_by_length(texts.lengths, tokens_at_once(device))
    order = torch.from_numpy(np.argsort(np.concatenate(batches))).to(device)
    vectors: list[torch.Tensor] = []
    for rows in batches:
        with encoder.forward_scope():
            vectors.append(encoder.encode_texts(texts, rows))
    encoded = torch.cat(vectors)[order]
    return {
        task: encoder.targets[task].predictions(
            encoder.heads[task](encoded[torch.from_numpy(rows).to(device)])
        )
        for task, rows in examples.rows.items()
    }


def answer_statistics(encoder: MultiTaskEncoder, answers: Answers) -> Predictions:
    """Return what the model makes of expected answers, and of those that it writes itself.

    Returns:
        ``(n, 3)``: summed negative log-likelihood of the trained tokens, their number, and how many
        were the most probable ones. ``(n, 5)`` if answers are generated: exact match and ROUGE-L of
        those that were, NaN for the others. Which these are depends on the texts alone.
    """
    head, texts = encoder.base.language, answers.texts
    assert head is not None
    found = np.zeros((len(texts.lengths), 3))
    for rows in batched_by_length(texts.lengths, tokens_at_once(encoder.base.device)):
        with encoder.forward_scope():
            batch, hidden = encoder.token_states(texts, rows)
            found[rows] = token_statistics(head, batch, hidden, len(rows))
    if not answers.settings.generate_examples:
        return found
    order = sorted(range(len(found)), key=lambda i: _digest(answers.rendered[i].text))
    chosen = [answers.rendered[i] for i in order[: answers.settings.generate_examples]]
    with encoder.forward_scope():
        written = generate(
            head,
            encoder.base.tokenizer,
            [example.prompt for example in chosen],
            max_new_tokens=answers.settings.max_new_tokens,
            ends=turn_ends(encoder.base.tokenizer, chosen),
            most_tokens=encoder.base.max_tokens,
        )
    compared = np.full((len(found), 2), np.nan)
    for i, example, answer in zip(order, chosen, written, strict=False):
        compared[i] = exact_match(example.answer, answer), rouge_l(example.answer, answer)
    return np.concatenate([found, compared], axis=1)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def require_finite_predictions(predictions: Mapping[str, Predictions]) -> None:
    """Check predictions; answers that were not generated may be NaN.

    Raises:
        DivergedError: one is not finite.
    """
    if any(
        np.isinf(values).any() or np.isnan(values[:, 0]).any() for values in predictions.values()
    ):
        raise DivergedError("predictions must be finite; they were not")


def score_task(task: Task, labels: NDArray[Any], predictions: Predictions) -> dict[str, float]:
    """Return a task's metrics under ``task.metric``.

    Raises:
        TaskError: the plugin returned other metrics than it declares.
    """
    scores = task.score(labels, predictions)
    if set(scores) != set(task.metrics):
        raise TaskError(
            f"task {task.name} declares the metrics {sorted(task.metrics)}, but score() returned"
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
