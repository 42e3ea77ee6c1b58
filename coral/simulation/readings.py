"""What instruments show: metrics on a sample of examples, losses of single batches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from coral.fidelity import Stage
from coral.records import Curve, Interval, TestScore
from coral.rng import stream
from coral.simulation.course import Course
from coral.simulation.profile import MetricLink, TaskProfile
from coral.simulation.surface import SOFTNESS, Numbers, heat_of

Array = NDArray[np.float64]

CURVE_POINTS = 16
SMALLEST_ERROR = 1e-4
NORMAL_95 = 1.96
EXPLOSION = 30.0
"""Factor of the gradient norm, and 1 + that of the loss, within a horizon after a collapse."""


def metric_of(link: MetricLink, log_error: Numbers) -> Numbers:
    """Return the metric that a log-error stands for."""
    return link.best + (link.chance - link.best) * np.exp(link.gamma * log_error)


def sampling_deviation(link: MetricLink, log_error: float, examples: int) -> float:
    """Return by how much a metric deviates for the choice of ``examples``; less near the best."""
    error = math.exp(log_error)
    return link.sampling_deviation * math.sqrt(error * (2 - error) / max(1, examples))


def metrics_at(course: Course, step: int, split: str) -> dict[str, float]:
    """Return the metrics of the weights after ``step`` on all of ``validation`` or ``test``."""
    return readings_at(course, step, split, _examples(course, split))


def _examples(course: Course, split: str) -> dict[str, int]:
    return {
        task: profile.test_examples if split == "test" else profile.validation_examples
        for task, profile in course.world.tasks.items()
    }


def examples_of(tasks: Mapping[str, TaskProfile], stage: Stage) -> dict[str, int]:
    """Return by task how many validation examples a stage is scored on."""
    share = stage.evaluation_percentage / 100
    return {name: math.ceil(task.validation_examples * share) for name, task in tasks.items()}


def readings_at(
    course: Course, step: int, split: str, examples: Mapping[str, int], pull: float = 0.0
) -> dict[str, float]:
    """Return ``task.metric``, and the mean of each metric that all tasks have.

    A part of the sampling noise is the split's own: all genomes share it.

    Args:
        pull: added to every log-error that the metrics show, see ``agreement``.
    """
    shared = course.world.profile.noise.shared
    overfitted = float(course.overfitted(course.exposed(step - 1, step))[0])
    errors = course.errors_at(step)
    links = [
        (task, name, link)
        for task, profile in course.world.tasks.items()
        for name, link in profile.metrics.items()
    ]
    common = stream(course.seed, "simulated split", split).normal(size=len(links))
    own = stream(course.seed, "simulated sample", split, course.identity, step)
    luck = math.sqrt(shared) * common + math.sqrt(1 - shared) * own.normal(size=len(links))
    values: dict[str, float] = {}
    for (task, name, link), deviation in zip(links, luck.tolist(), strict=True):
        moved = min(0.0, errors[task] + (link.overfitting - 1) * overfitted)
        spread = sampling_deviation(link, moved, examples[task])
        value = _within(link, float(metric_of(link, moved)) + spread * deviation)
        values[f"{task}.{name}"] = _pulled(link, value, pull) if pull else value
    return {**values, **_means(course, values)}


def _within(link: MetricLink, value: float) -> float:
    """Keep a metric from being better than the best there is, and a score from being negative."""
    if link.direction == "min":
        return max(link.best, value)
    return min(link.best, max(value, min(0.0, link.chance)))


def _pulled(link: MetricLink, value: float, pull: float) -> float:
    """Move the log-error that a metric shows; none gets worse than chance, or changes places."""
    return float(metric_of(link, bounded(observed_error(link, value) + pull)))


def observed_error(link: MetricLink, value: float) -> float:
    """Return the log-error that a metric's value shows; above 0 where luck was bad at chance."""
    error = (value - link.best) / (link.chance - link.best)
    return math.log(max(SMALLEST_ERROR, error)) / link.gamma


def bounded(log_error: Numbers) -> Numbers:
    """Return log-errors below 0 in the same order: about what they are, 0 at the highest."""
    return -SOFTNESS * np.logaddexp(0.0, -log_error / SOFTNESS)


def _means(course: Course, values: Mapping[str, float]) -> dict[str, float]:
    tasks = course.world.tasks
    shared = set.intersection(*(set(profile.metrics) for profile in tasks.values()))
    return {
        name: sum(values[f"{task}.{name}"] for task in tasks) / len(tasks)
        for name in sorted(shared)
    }


def curves(course: Course, first: int, last: int) -> tuple[Array, Array]:
    """Return training loss and gradient norm before clipping of steps ``first + 1`` to ``last``."""
    done = course.exposed(first, last)
    learned = {task: course.learned(task, done) for task in course.features.shares}
    fallen = _fallen(course, first, last)
    return (
        _losses(course, learned, course.overfitted(done), fallen, last),
        _gradient_norms(course, learned, fallen, last),
    )


def _losses(
    course: Course, learned: Mapping[str, Array], overfitted: Array, fallen: Array, last: int
) -> Array:
    curve, noise = course.world.profile.curve, course.world.profile.noise
    error = sum(
        share * np.exp(curve.gamma * (learned[task] - overfitted))
        for task, share in course.features.shares.items()
    )
    loss = curve.best_loss + (curve.chance_loss - curve.best_loss) * error
    rng = stream(course.seed, "simulated loss", course.identity, last)
    loss = loss * np.exp(noise.loss_deviation * rng.normal(size=len(fallen)))
    return np.where(fallen > 0, curve.chance_loss * (1 + EXPLOSION * fallen), loss)


def _gradient_norms(
    course: Course, learned: Mapping[str, Array], fallen: Array, last: int
) -> Array:
    profile = course.world.profile
    curve, features = profile.curve, course.features
    error = sum(share * np.exp(learned[task]) for task, share in features.shares.items())
    heat = max(0.0, heat_of(profile.surface, features) - profile.surface.best_heat)
    steady = (
        curve.gradient_norm
        * error**curve.gradient_fall
        * 10
        ** (
            curve.gradient_heat * heat
            + curve.gradient_scaling * features.scaling
            - curve.gradient_batch * features.batch
        )
    )
    rng = stream(course.seed, "simulated gradient", course.identity, last)
    norms = steady * np.exp(profile.noise.gradient_deviation * rng.normal(size=len(fallen)))
    fallen_norms: Array = norms * (1 + EXPLOSION * fallen)
    return fallen_norms


def _fallen(course: Course, first: int, last: int) -> Array:
    """Return, by step, the share of the horizon since the collapse; 0 before."""
    if course.fate.collapse_step is None:
        return np.zeros(last - first)
    steps = np.arange(first, last) + 1 - course.fate.collapse_step
    return np.maximum(0.0, steps / course.horizon)


def thinned(first: int, loss: Array, gradient: Array) -> Curve:
    """Return a curve of at most ``CURVE_POINTS`` points; the last step stays."""
    count = len(loss)
    gaps = max(1, min(count, CURVE_POINTS) - 1)
    kept = sorted({count - 1 - i * (count - 1) // gaps for i in range(gaps + 1)})
    return Curve(
        step=tuple(first + i + 1 for i in kept),
        loss=tuple(float(f"{loss[i]:.5g}") for i in kept),
        gradient_norm=tuple(float(f"{gradient[i]:.5g}") for i in kept),
    )


def test_scores(courses: Mapping[int, tuple[Course, int]]) -> tuple[TestScore, ...]:
    """Score finalists on the test split, each against the last one, the reference.

    Intervals are those of the normal distribution with the profile's sampling noise; what all
    genomes share cancels in differences.

    Args:
        courses: trial number to its course and last step.
    """
    readings = {
        trial: metrics_at(course, step, "test") for trial, (course, step) in courses.items()
    }
    reference = list(readings)[-1]
    scores = []
    for trial, (course, step) in courses.items():
        own, base = readings[trial], readings[reference]
        spreads = _spreads(course, step)
        apart = math.sqrt(2 * (1 - course.world.profile.noise.shared)) if trial != reference else 0
        scores.append(
            TestScore(
                trial=trial,
                metrics=own,
                intervals={name: _interval(own[name], s) for name, s in spreads.items()},
                difference={
                    name: _interval(own[name] - base[name], apart * s)
                    for name, s in spreads.items()
                },
            )
        )
    return tuple(scores)


def _spreads(course: Course, step: int) -> dict[str, float]:
    """Return the sampling deviation of each primary metric, and of their mean if it is one."""
    tasks, examples = course.world.tasks, _examples(course, "test")
    errors = course.errors_at(step)
    spreads = {
        f"{task}.{profile.primary_metric}": sampling_deviation(
            profile.metrics[profile.primary_metric], errors[task], examples[task]
        )
        for task, profile in tasks.items()
    }
    shared, *others = {profile.primary_metric for profile in tasks.values()}
    if not others:
        spreads[shared] = math.sqrt(sum(s**2 for s in spreads.values())) / len(tasks)
    return spreads


def _interval(estimate: float, deviation: float) -> Interval:
    return Interval(
        estimate=estimate,
        low=estimate - NORMAL_95 * deviation,
        high=estimate + NORMAL_95 * deviation,
    )
