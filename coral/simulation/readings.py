"""What instruments show: metrics on a sample of examples, losses of single batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coral.fidelity import Stage
from coral.plan import SELECTIVE_METRICS
from coral.records import Curve, Interval, TestScore
from coral.rng import stream
from coral.simulation.course import Course, World
from coral.simulation.profile import MetricLink, TaskProfile
from coral.simulation.surface import SOFTNESS, Numbers, heat_of
from coral.simulation.weights import SimulatedWeights

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


def metrics_of(world: World, weights: SimulatedWeights, split: str) -> dict[str, float]:
    """Return the metrics of some weights on all of ``validation`` or ``test``."""
    return readings_of(world, weights, split, _examples(world, split))


def _examples(world: World, split: str) -> dict[str, int]:
    return {
        task: profile.test_examples if split == "test" else profile.validation_examples
        for task, profile in world.tasks.items()
    }


def examples_of(tasks: Mapping[str, TaskProfile], stage: Stage) -> dict[str, int]:
    """Return by task how many validation examples a stage is scored on."""
    share = stage.evaluation_percentage / 100
    return {name: math.ceil(task.validation_examples * share) for name, task in tasks.items()}


def readings_of(
    world: World,
    weights: SimulatedWeights,
    split: str,
    examples: Mapping[str, int],
    pull: float = 0.0,
) -> dict[str, float]:
    """Return ``task.metric``, and the mean of each metric that all tasks have.

    A part of the sampling noise is the split's own: all weights share it.

    Args:
        pull: added to every log-error that the metrics show, see ``agreement``.
    """
    shared = world.profile.noise.shared
    links = [
        (task, name, link)
        for task, profile in world.tasks.items()
        for name, link in profile.metrics.items()
    ]
    common = stream(world.seed, "simulated split", split).normal(size=len(links))
    own = np.zeros(len(links))
    for luck in weights.luck:
        rng = stream(world.seed, "simulated sample", split, luck.identity, luck.step)
        own += luck.share * rng.normal(size=len(links))
    deviations = math.sqrt(shared) * common + math.sqrt(1 - shared) * own
    values: dict[str, float] = {}
    for (task, name, link), deviation in zip(links, deviations.tolist(), strict=True):
        moved = min(0.0, weights.errors[task] + (link.overfitting - 1) * weights.overfitted)
        spread = sampling_deviation(link, moved, examples[task])
        value = _within(link, float(metric_of(link, moved)) + spread * deviation)
        values[f"{task}.{name}"] = _pulled(link, value, pull) if pull else value
    return {**values, **_means(world.tasks, values)}


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


def _means(tasks: Mapping[str, TaskProfile], values: Mapping[str, float]) -> dict[str, float]:
    shared = set.intersection(*(set(profile.metrics) for profile in tasks.values()))
    return {
        name: sum(values[f"{task}.{name}"] for task in tasks) / len(tasks)
        for name in sorted(shared)
    }


def selective_readings(
    world: World, metrics: Mapping[str, float], abstention: float
) -> dict[str, float]:
    """Return ``SELECTIVE_METRICS`` by task, and their means.

    Half of what a confidence that knows every error would gain: it would withhold errors alone.

    Args:
        metrics: as ``readings_of`` gives them.
    """
    values: dict[str, float] = {}
    for task, profile in world.tasks.items():
        link = profile.metrics.get("accuracy")
        error = 1 - metrics[f"{task}.accuracy"] if link else _error_of(profile, task, metrics)
        best = max(0.0, (error - abstention) / (1 - abstention))
        values[f"{task}.coverage"] = 1 - abstention
        values[f"{task}.selective_accuracy"] = 1 - (error + best) / 2
    means = {
        name: sum(values[f"{task}.{name}"] for task in world.tasks) / len(world.tasks)
        for name in SELECTIVE_METRICS
    }
    return {**values, **means}


def _error_of(profile: TaskProfile, task: str, metrics: Mapping[str, float]) -> float:
    """Return the share of wrong answers of a task whose accuracy is no metric."""
    name = profile.primary_metric
    shown = observed_error(profile.metrics[name], metrics[f"{task}.{name}"])
    return (1 - 1 / profile.labels) * math.exp(min(0.0, shown))


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


def test_scores(
    world: World, finalists: Sequence[tuple[int, SimulatedWeights]]
) -> tuple[TestScore, ...]:
    """Score finalists on the test split, each against the last one, the reference.

    Intervals are those of the normal distribution with the profile's sampling noise; what finalists
    share cancels in differences.

    Args:
        finalists: trial numbers and weights.
    """
    reference = finalists[-1][1]
    base = metrics_of(world, reference, "test")
    scores = []
    for trial, weights in finalists:
        own, spreads = metrics_of(world, weights, "test"), _spreads(world, weights)
        apart = math.sqrt((1 - world.profile.noise.shared) * _luck_apart(weights, reference))
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


def _luck_apart(one: SimulatedWeights, two: SimulatedWeights) -> float:
    """Return the variance of the difference between own lucks; 2 for two training runs."""
    shares: dict[tuple[str, int], float] = {}
    for sign, weights in ((1, one), (-1, two)):
        for luck in weights.luck:
            name = (luck.identity, luck.step)
            shares[name] = shares.get(name, 0.0) + sign * luck.share
    return math.fsum(share**2 for share in shares.values())


def _spreads(world: World, weights: SimulatedWeights) -> dict[str, float]:
    """Return the sampling deviation of each primary metric, and of their mean if it is one."""
    tasks, examples = world.tasks, _examples(world, "test")
    spreads = {
        f"{task}.{profile.primary_metric}": sampling_deviation(
            profile.metrics[profile.primary_metric], weights.errors[task], examples[task]
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
