r"""The response surface: from a plan and the steps trained to the error that remains.

A task's error is 1 for a model that knows nothing and 0 for one that knows everything. Two things
learn: the head on top of the base (a *probe*), and the adapter that tunes the base for it. Each
follows a power law in its own progress; the adapter takes off a share of what the probe leaves::

    error = (p + (1 - p) f(H)) · (t + (1 - t) f(A)) · exp(penalties),   f(x) = (1 + x) ** -power

``p`` and ``t`` are the task's ``probe_error`` and ``tuned_share``, larger where data is scarce.
Progress is the sum over steps of the schedule's learning-rate share, times a speed that rises with
*heat* until the best heat and then no more. Heat is the log10 learning rate, moved by scaling,
coverage (the share of the stack that is adapted), rank and batch size: that is how the optimum
moves with them.

Penalties are added to the log-error: too much heat; too little rank or depth, with diminishing
returns; overfitting with every repetition of the data.

Every function takes floats or numpy arrays that broadcast, so that one genome's curve and a whole
record of trials go through the same code.

Source of the shape: power laws of learning curves (Hestness et al. 2017); fading value of repeated
data (Muennighoff et al. 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coral.plan import (
    TrainingPlan,
    adapted_modules,
    layer_indices,
    learning_rate_shares,
    rewarmup_share,
    task_shares,
)
from coral.ports import Survey
from coral.simulation.profile import Profile, Remainder, Surface

Numbers = Any
"""A float, or an array of floats that broadcasts with the others."""

USUAL_RANK = 16
USUAL_BATCH = 16
USUAL_EXAMPLES = 1000
LARGEST_FLOOR = 0.98
REPEAT_VALUE = 15.39
GRID = 64
"""Points of the horizon over which a feature is a mean."""
SOFTNESS = 0.15
"""Decades over which the speed bends at the best heat."""
TRAITS = (
    "rate",
    "head_rate",
    "scaling",
    "rank",
    "coverage",
    "batch",
    "depth",
    "decay",
    "patience",
    "shelter",
)
"""The features that a ``Remainder`` looks at, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What of a plan the surface looks at, as floats or ``(n,)`` arrays.

    Attributes:
        rate, head_rate, scaling, rank, coverage, batch: log10 of the adapter's and the head's
            learning rate, of the effective scaling, of rank / 16, of the adapted share of the
            stack's features, of batch size / 16.
        depth: share of the layers that are adapted, in (0, 1].
        data: log10 of the train examples of all tasks together / 1000.
        regularization: dropout / 0.1 plus weight decay / 0.1, at most 2.
        decay: log10 of the weight decay, at least -6.
        patience: mean over the horizon of the schedule's learning-rate share.
        shelter: mean over the horizon of the share of the data that the curriculum holds back.
        shares: task name to its share of the training examples.
    """

    rate: Numbers
    head_rate: Numbers
    scaling: Numbers
    rank: Numbers
    coverage: Numbers
    batch: Numbers
    depth: Numbers
    data: Numbers
    regularization: Numbers
    decay: Numbers
    patience: Numbers
    shelter: Numbers
    shares: dict[str, Numbers]


def features_of(plan: TrainingPlan, survey: Survey) -> Features:
    """Return a plan's features on a model and data."""
    modules = survey.linear_modules
    named = [(module.name, module.layer) for module in modules]
    adapted = set(adapted_modules(plan.adapter, named, survey.depth))
    stack = [m for m in modules if m.layer is not None]
    width = sum(m.in_features + m.out_features for m in stack)
    covered = sum(m.in_features + m.out_features for m in modules if m.name in adapted)
    schedule, adapter = plan.schedule, plan.adapter
    steps = np.arange(GRID)
    return Features(
        rate=math.log10(schedule.learning_rate),
        head_rate=math.log10(schedule.learning_rate * schedule.head_lr_multiplier),
        scaling=math.log10(adapter.scaling),
        rank=math.log10(adapter.rank / USUAL_RANK),
        coverage=math.log10(covered / width),
        batch=math.log10(schedule.batch_size / USUAL_BATCH),
        depth=len(layer_indices(adapter.layers, survey.depth)) / survey.depth,
        data=math.log10(survey.train_examples / USUAL_EXAMPLES),
        regularization=min(2.0, adapter.dropout / 0.1 + schedule.weight_decay / 0.1),
        decay=math.log10(max(schedule.weight_decay, 1e-6)),
        patience=float(learning_rate_shares(schedule, steps, GRID).mean()),
        shelter=1 - float(_limits(plan, steps / GRID).mean()),
        shares=task_shares(plan.tasks, [task.name for task in survey.tasks]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What training has gone through by some steps, as arrays of equal shape.

    Attributes:
        time: sum of the learning-rate shares so far, those of repeated examples at less: steps at
            the peak learning rate on fresh examples.
        withheld: the same sum, each step weighted with the share of the data held back by then.
        epochs: passes over the full train set.
        hidden: share of the data that the curriculum holds back now.
    """

    time: Numbers
    withheld: Numbers
    epochs: Numbers
    hidden: Numbers

    def at(self, steps: slice | NDArray[np.int64]) -> Exposure:
        """Return the exposure after some of the steps, by index from 0."""
        return Exposure(
            time=self.time[steps],
            withheld=self.withheld[steps],
            epochs=self.epochs[steps],
            hidden=self.hidden[steps],
        )


def exposure(
    plan: TrainingPlan,
    horizon_steps: int,
    train_examples: int,
    *,
    first_step: int = 0,
    inherited_epochs: float = 0.0,
    rewarms: bool = False,
) -> Exposure:
    """Return the exposure after each step of the horizon, arrays of ``(horizon_steps,)``.

    Args:
        first_step: index of the first step that is trained; those before teach nothing.
        inherited_epochs: passes over the train set that the first weights have behind them.
        rewarms: the learning rate rises again over the first steps, as after lost moments.
    """
    steps = np.arange(horizon_steps)
    share = learning_rate_shares(plan.schedule, steps, horizon_steps)
    hidden = 1 - _limits(plan, steps / horizon_steps)
    trained = np.maximum(0, steps + 1 - first_step)
    epochs = inherited_epochs + trained * plan.schedule.batch_size / train_examples
    share = np.where(trained > 0, share, 0.0)
    for step in range(first_step, horizon_steps if rewarms else 0):
        rewarmed = rewarmup_share(plan.inheritance, step - first_step, horizon_steps)
        if rewarmed == 1:
            break
        share[step] *= rewarmed
    worth = share * freshness(epochs)
    return Exposure(
        time=np.cumsum(worth),
        withheld=np.cumsum(worth * hidden),
        epochs=epochs,
        hidden=hidden,
    )


def _limits(plan: TrainingPlan, progress: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``plan.difficulty_limit`` at every share of the horizon."""
    curriculum = plan.curriculum
    if curriculum.kind != "progressive":  # nothing is known of those of plugins
        return np.ones(len(progress))
    if curriculum.ramp == 0:
        return np.full(len(progress), curriculum.final_difficulty)
    rise = curriculum.final_difficulty - curriculum.initial_difficulty
    limits: NDArray[np.float64] = np.minimum(1.0, progress / curriculum.ramp) * rise
    return curriculum.initial_difficulty + limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far head and adapter have come; inherited progress is added to one's own."""

    head: Numbers = 0.0
    adapter: Numbers = 0.0


NOTHING = Progress()


def heat_of(surface: Surface, features: Features) -> Numbers:
    """Return the log10 learning rate of the adapter that the usual plan would need instead."""
    return (
        features.rate
        + surface.heat_scaling * features.scaling
        + surface.heat_coverage * features.coverage
        + surface.heat_rank * features.rank
        - surface.heat_batch * features.batch
    )


def collapse_odds(surface: Surface, features: Features) -> Numbers:
    """Return the probability that training collapses within the horizon."""
    heat = (
        features.rate
        + surface.collapse_scaling * features.scaling
        + surface.collapse_coverage * features.coverage
        + surface.collapse_rank * features.rank
        - surface.collapse_batch * features.batch
    )
    decades = (heat - surface.collapse_rate) / surface.collapse_width
    return 0.5 * (1 + np.tanh(decades / 2))  # the logistic function, which can't overflow so


def progress_of(
    profile: Profile,
    task: str,
    features: Features,
    done: Exposure,
    inherited: Progress = NOTHING,
) -> Progress:
    """Return the progress of a task's head and adapter, what was inherited included."""
    surface, parameters = profile.surface, profile.tasks[task]
    steps = done.time - surface.withheld * done.withheld
    steps = steps * 10 ** (surface.batch_progress * features.batch)
    own, count = features.shares[task], len(features.shares)
    felt = np.maximum(0.0, own + surface.transfer * (1 - own))
    felt = count * felt / (1 + surface.transfer * (count - 1))
    heat = heat_of(surface, features) - surface.best_heat
    head_heat = features.head_rate - surface.head_best
    head_speed = 10 ** (surface.speed * _bent(head_heat) - parameters.head_start)
    adapter_speed = 10 ** (surface.speed * _bent(heat) - parameters.adapter_start)
    return Progress(
        head=inherited.head + steps * count * own * head_speed,
        adapter=inherited.adapter + steps * felt * adapter_speed,
    )


def freshness(epochs: Numbers) -> Numbers:
    """Return what an example is worth after so many passes over the data; 1 in the first.

    It fades exponentially with repetition, by a factor e in ``REPEAT_VALUE`` passes.

    Source: Muennighoff et al. 2023, equation 5 and the fit R* = 15.39.
    """
    return np.exp(-np.maximum(0.0, epochs - 1) / REPEAT_VALUE)


def log_error(
    profile: Profile,
    task: str,
    features: Features,
    done: Exposure,
    inherited: Progress = NOTHING,
) -> Numbers:
    """Return the natural logarithm of a task's error on the validation split, without noise.

    At most 0, whatever the penalties.
    """
    surface, parameters = profile.surface, profile.tasks[task]
    progress = progress_of(profile, task, features, done, inherited)
    scarcity = 10 ** (-parameters.data_need * features.data)
    probe = np.minimum(LARGEST_FLOOR, parameters.probe_error * scarcity)
    tuned = np.minimum(LARGEST_FLOOR, parameters.tuned_share * scarcity)
    error = (
        np.log(probe + (1 - probe) * _fall(progress.head, surface.power))
        + np.log(tuned + (1 - tuned) * _fall(progress.adapter, surface.power))
        + penalties(surface, features)
        + remainder_of(profile.remainder, features)
        + overfitting(surface, features, done.epochs)
        + surface.narrowness * done.hidden
    )
    return np.minimum(0.0, error)


def penalties(surface: Surface, features: Features) -> Numbers:
    """Return the log-error of too much heat, too little rank and too little depth."""
    heat = np.maximum(0.0, heat_of(surface, features) - surface.best_heat)
    head_heat = np.maximum(0.0, features.head_rate - surface.head_best)
    return (
        surface.hot * heat**2
        + surface.head_hot * head_heat**2
        + surface.rank_need * (10**-features.rank / USUAL_RANK) ** 0.5
        + surface.depth_need * (1 - features.depth)
    )


def remainder_of(remainder: Remainder | None, features: Features) -> Numbers:
    """Return the log-error that a remainder adds; 0 without one."""
    if remainder is None:
        return 0.0
    linear, quadratic = _weights(remainder)
    traits = np.array([getattr(features, name) for name in TRAITS])
    shape = (len(TRAITS),) + (1,) * (traits.ndim - 1)
    x = (traits - np.reshape(remainder.middle, shape)) / np.reshape(remainder.spread, shape)
    total = remainder.offset + np.einsum("i...,i->...", x, linear)
    total = total + np.einsum("i...,ij,j...->...", x, quadratic, x)
    return np.clip(total, -remainder.limit, remainder.limit)


@cache
def _weights(remainder: Remainder) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a remainder's linear weights, and its quadratic ones as an upper triangle."""
    count = len(remainder.linear)
    quadratic = np.zeros((count, count))
    quadratic[np.triu_indices(count)] = remainder.quadratic
    return np.array(remainder.linear), quadratic


def overfitting(surface: Surface, features: Features, epochs: Numbers) -> Numbers:
    """Return the log-error of seeing the same examples again, more with a larger adapter."""
    doublings = np.log2(np.maximum(1.0, epochs))
    capacity = 10 ** (0.5 * (features.rank + features.coverage))
    relief = 1 - surface.decay_relief * np.minimum(1.0, features.regularization)
    return surface.overfitting * doublings * capacity * relief


def _bent(heat: Numbers) -> Numbers:
    """Return ``heat`` below 0 and 0 above, with a smooth bend."""
    return -SOFTNESS * np.logaddexp(0.0, -heat / SOFTNESS)


def _fall(progress: Numbers, power: float) -> Numbers:
    return (1 + progress) ** -power
