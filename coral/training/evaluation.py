"""Predictions, metrics, and bootstrap intervals."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from coral.capabilities import proxies_at, view_scores_of
from coral.errors import TaskError
from coral.plan import InferencePlan, least_confidence, score_selective
from coral.ports import PLAIN, Task
from coral.records import Interval
from coral.rng import stream
from coral.training.conversations import turn_ends
from coral.training.data import LoadedTask
from coral.training.encoder import MultiTaskEncoder
from coral.training.evaluation_sets import Answers, EvaluationSet
from coral.training.failures import DivergedError
from coral.training.generation import exact_match, generate, rouge_l
from coral.training.targets import Target
from coral.training.texts import batched_by_length, tokens_at_once
from coral.training.token_rows import token_statistics

RESAMPLES = 500

Predictions = NDArray[np.float64]

AS_IT_COMES = InferencePlan()
"""Says nothing of answers."""


def predict(
    encoder: MultiTaskEncoder, examples: EvaluationSet, inference: InferencePlan = AS_IT_COMES
) -> dict[str, Predictions]:
    """Return each task's predictions, in the order of its examples.

    They are what ``Task.score`` takes; of a task whose answers are written, statistics as
    ``answer_statistics`` gives them. Texts are batched by length, up to a fixed number
    of tokens, so that little is padded.

    Args:
        inference: says how answers are generated.

    Raises:
        DivergedError: the weights are so large that a prediction is not finite.
    """
    predictions: dict[str, Predictions] = {}
    with torch.inference_mode(), encoder.merged():
        if examples.rows:
            predictions |= _predictions_of_heads(encoder, examples)
        for task, answers in examples.answers.items():
            predictions[task] = answer_statistics(encoder, answers, inference)
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


def answer_statistics(
    encoder: MultiTaskEncoder, answers: Answers, inference: InferencePlan
) -> Predictions:
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
            inference,
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


def answered(
    plan: InferencePlan, predictions: Mapping[str, Predictions], targets: Mapping[str, Target]
) -> dict[str, Predictions]:
    """Return predictions as a plan answers: what ``predict`` returns, if it says nothing else."""
    return {task: targets[task].answers(plan, values) for task, values in predictions.items()}


def needed_confidence(
    plan: InferencePlan, answers: Mapping[str, Predictions], targets: Mapping[str, Target]
) -> dict[str, float]:
    """Return how sure an answer must be to be given, by task that has probabilities.

    Args:
        answers: to the validation examples.
    """
    return {
        task: least_confidence(plan, targets[task].confidence(values))
        for task, values in answers.items()
        if targets[task].has_probabilities
    }


def score_task(
    task: Task, labels: NDArray[Any], answers: Mapping[str, Predictions]
) -> dict[str, float]:
    """Return a task's metrics under ``task.metric``.

    Args:
        answers: by view, ``PLAIN`` and those that its metrics need.

    Raises:
        TaskError: the plugin returned other metrics than it declares.
    """
    scores = {**task.score(labels, answers[PLAIN]), **view_scores_of(task, labels, answers)}
    if set(scores) != set(task.metrics):
        told = "score() and score_views()" if len(answers) > 1 else "score()"
        raise TaskError(
            f"task {task.name} declares the metrics {sorted(task.metrics)}, but {told} returned"
            f" {sorted(scores)}"
        )
    return {f"{task.name}.{metric}": float(value) for metric, value in scores.items()}


def score_proxies(
    loaded: LoadedTask, labels: NDArray[Any], answers: Mapping[str, Predictions], stage: int
) -> dict[str, float]:
    """Return the proxies that a task has for a stage, under ``task.proxy``.

    Args:
        answers: by view, ``PLAIN`` and those of the proxies.

    Raises:
        TaskError: one raised, or returned no number.
    """
    found = {}
    for name, proxy in proxies_at(loaded.task, stage).items():
        with named(loaded, f"the proxy {name}"):
            value = proxy.score(labels, answers[proxy.view])
            found[f"{loaded.name}.{name}"] = float(value)
    return found


@contextmanager
def named(loaded: LoadedTask, method: str) -> Iterator[None]:
    """Turn what a plugin raises into a ``TaskError`` that names it; the traceback stays."""
    try:
        yield
    except TaskError as error:
        raise TaskError(f"{error}{_of(loaded)}") from error
    except Exception as error:
        raise TaskError(f"task {loaded.name} raised in {method}: {error!r}{_of(loaded)}") from error


def require_finite(loaded: LoadedTask, method: str, metrics: Mapping[str, float]) -> None:
    """Check what a plugin returned.

    Raises:
        TaskError: a value is NaN or infinite.
    """
    broken = {name: value for name, value in metrics.items() if not np.isfinite(value)}
    if broken:
        told = ", ".join(f"{name}={value}" for name, value in broken.items())
        raise TaskError(
            f"task {loaded.name}: {method} must return finite numbers, got {told}{_of(loaded)}"
        )


def _of(loaded: LoadedTask) -> str:
    return f"; plugin {loaded.plugin}" if loaded.plugin else ""


def score_given(
    target: Target, labels: NDArray[Any], answers: Predictions, needed: float
) -> dict[str, float]:
    """Return each of ``SELECTIVE_METRICS``.

    Args:
        needed: how sure an answer must be to be given.
    """
    return score_selective(target.hits(labels, answers), target.confidence(answers), needed)


def with_means(
    metrics: Mapping[str, float], tasks: Sequence[Task], more: Iterable[str] = ()
) -> dict[str, float]:
    """Add, for each metric that all tasks have, its mean over tasks under its own name.

    Args:
        more: metrics that all tasks have besides their own.
    """
    return {**metrics, **means_of(metrics, {task.name: (*task.metrics, *more) for task in tasks})}


def means_of(metrics: Mapping[str, float], names: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """Return the mean over tasks of each metric that all of them have.

    Args:
        metrics: under ``task.metric``.
        names: task name to the names of its metrics.
    """
    shared = set.intersection(*(set(own) for own in names.values()))
    return {
        metric: float(np.mean([metrics[f"{task}.{metric}"] for task in names]))
        for metric in sorted(shared)
    }


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
