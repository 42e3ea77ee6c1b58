"""Fitting a profile to recorded trials, and measuring how well it tells others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coral.fidelity import kendall_tau
from coral.rng import stream
from coral.simulation.course import World, chart
from coral.simulation.fitting import (
    fit_collapse,
    fit_costs,
    fit_gradients,
    fit_links,
    fit_losses,
    fit_noise,
    fit_remainder,
    fit_surface,
    has_collapsed,
    predicted_losses,
    predicted_train_seconds,
)
from coral.simulation.profile import (
    FORMAT,
    Goodness,
    ModelShape,
    ModuleShape,
    Profile,
    StageAgreement,
    TaskProfile,
)
from coral.simulation.readings import metric_of
from coral.simulation.recorded import (
    RecordedTrial,
    Recording,
    curves_of,
    quality,
    recorded_trials,
    stacked_features,
    stage_exposure,
)
from coral.simulation.surface import collapse_odds, log_error
from coral.simulation.survey import invented_links

FOLDS = 5
RESAMPLES = 1000
NOISE_SEEDS = 5

Array = NDArray[np.float64]


def calibrate(recordings: Sequence[Recording], name: str) -> Profile:
    """Fit a profile to every recorded trial; its goodness comes from cross-validation.

    Raises:
        RunError: too few trials, or runs that don't belong together.
    """
    trials = recorded_trials(recordings)
    prior = starting_profile(recordings[0], name)
    profile = fit(prior, trials, recordings)
    return replace(profile, goodness=measure_goodness(prior, profile, trials, recordings))


def starting_profile(recording: Recording, name: str) -> Profile:
    """Return a profile of a recording's model and tasks, everything fitted at its prior."""
    survey = recording.survey
    inside = [module for module in survey.linear_modules if module.layer == 0]
    outside = [module for module in survey.linear_modules if module.layer is None]
    shapes = [
        ModuleShape(
            name=module.name.replace(".0.", ".{layer}.", 1),
            in_features=module.in_features,
            out_features=module.out_features,
        )
        for module in inside
    ] + [
        ModuleShape(
            name=module.name, in_features=module.in_features, out_features=module.out_features
        )
        for module in outside
    ]
    tasks = {
        task.name: TaskProfile(
            metrics=invented_links(
                task.name, task.metrics, len(task.label_names), task.primary_metric
            ),
            primary_metric=task.primary_metric,
            labels=len(task.label_names),
            train_examples=task.train_examples,
            validation_examples=task.validation_examples,
            test_examples=task.test_examples,
        )
        for task in survey.tasks
    }
    return Profile(
        format=FORMAT,
        name=name,
        fitted_to="simulated" if recording.spec.simulated else "real",
        model=ModelShape(
            base_model=recording.spec.base_model,
            depth=survey.depth,
            mean_tokens=survey.mean_tokens,
            max_tokens=survey.max_tokens,
            modules=tuple(shapes),
        ),
        tasks=tasks,
    )


def fit(
    start: Profile, trials: Sequence[RecordedTrial], recordings: Sequence[Recording]
) -> Profile:
    """Fit every part of a profile, beginning at ``start``."""
    fallen = has_collapsed(start, trials)
    standing = [trial for trial, is_down in zip(trials, fallen, strict=True) if not is_down]
    profile = replace(start, surface=fit_collapse(start.surface, trials, fallen))
    profile = fit_surface(profile, standing)
    profile = fit_remainder(profile, standing)
    profile = fit_links(profile, standing)
    profile = fit_losses(profile, standing)
    profile = fit_gradients(profile, standing)
    profile = fit_noise(profile, standing, recordings)
    return replace(profile, cost=fit_costs(profile, trials))


def expected_quality(profile: Profile, trials: Sequence[RecordedTrial]) -> Array:
    """Return the final primary metric that a profile expects, mean over tasks, ``(trials,)``.

    It is the median: what the surface says, or near chance where a collapse is more likely than
    not.
    """
    features, done = stacked_features(trials), stage_exposure(trials)
    stands = 1 - collapse_odds(profile.surface, features)[:, 0]
    values = []
    for name, task in profile.tasks.items():
        link = task.metrics[task.primary_metric]
        reached = metric_of(link, log_error(profile, name, features, done)[:, -1])
        fallen = link.chance + (reached - link.chance) * stands
        values.append(np.where(stands > 0.5, reached, fallen))
    return np.asarray(np.mean(values, axis=0))


def measure_goodness(
    prior: Profile,
    profile: Profile,
    trials: Sequence[RecordedTrial],
    recordings: Sequence[Recording],
) -> Goodness:
    """Return how well profiles tell trials that they were not fitted to.

    Args:
        prior: where every fit begins; it has seen no trial.
        profile: the fit to all trials, whose simulated stages are compared with the recorded ones.
    """
    order = stream(0, "folds").permutation(len(trials))
    told, losses, seconds = np.empty(len(trials)), [], []
    for fold in range(FOLDS):
        held = np.sort(order[fold::FOLDS])
        kept = [trials[i] for i in sorted(set(order) - set(held))]
        out = [trials[i] for i in held]
        fitted = fit(prior, kept, recordings)
        told[held] = expected_quality(fitted, out)
        losses += _loss_errors(fitted, out)
        seconds += _time_errors(fitted, out)
    primary = {name: task.primary_metric for name, task in profile.tasks.items()}
    seen = quality(trials, primary, -1)
    low, high = _interval(seen, told)
    return Goodness(
        recorded_trials=len(trials),
        folds=FOLDS,
        tau=kendall_tau(seen.tolist(), told.tolist()),
        tau_low=low,
        tau_high=high,
        quality_error=float(np.mean(np.abs(seen - told))),
        loss_error=float(np.median(losses)),
        train_seconds_error=float(np.median(seconds)),
        agreement=_agreement(profile, trials, primary),
    )


def _interval(seen: Array, told: Array) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of Kendall tau over trials."""
    rng = stream(0, "bootstrap")
    draws = [
        kendall_tau(seen[rows].tolist(), told[rows].tolist())
        for rows in rng.integers(len(seen), size=(RESAMPLES, len(seen)))
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _loss_errors(profile: Profile, trials: Sequence[RecordedTrial]) -> list[float]:
    """Return the relative error of the mean loss over the last half of every stage's curve.

    Single batches are noise; half a stage's curve is what a curve can be held to.
    """
    fallen = has_collapsed(profile, trials)
    errors = []
    for trial, is_down in zip(trials, fallen, strict=True):
        for steps, loss in [] if is_down else curves_of(trial):
            half = slice(len(loss) // 2, None)
            expected = predicted_losses(profile, trial, steps[half])
            errors.append(abs(float(expected.mean() / loss[half].mean()) - 1))
    return errors


def _time_errors(profile: Profile, trials: Sequence[RecordedTrial]) -> list[float]:
    expected, seen = predicted_train_seconds(profile, trials)
    return list(np.abs(expected / seen - 1))


def _agreement(
    profile: Profile, trials: Sequence[RecordedTrial], primary: Mapping[str, str]
) -> tuple[StageAgreement, ...]:
    """Compare how stages rank the trials, recorded and simulated with noise."""
    count = len(trials[0].stages)
    final = quality(trials, primary, count - 1)
    simulated = [_simulated_errors(profile, trials, seed) for seed in range(NOISE_SEEDS)]
    return tuple(
        StageAgreement(
            stage=trials[0].stages[stage].name,
            horizon_share=float(np.mean([trial.ends[stage] / trial.ends[-1] for trial in trials])),
            real=kendall_tau(quality(trials, primary, stage).tolist(), final.tolist()),
            simulated=float(
                np.median([kendall_tau(e[stage].tolist(), e[-1].tolist()) for e in simulated])
            ),
        )
        for stage in range(count - 1)
    )


def _simulated_errors(profile: Profile, trials: Sequence[RecordedTrial], seed: int) -> Array:
    """Return the log-errors of the same plans in a simulation, ``(stages, trials)``."""
    courses = [
        chart(
            World(profile=profile, survey=trial.survey),
            trial.plan,
            trial.stages,
            seed,
        )
        for trial in trials
    ]
    errors = [[course.mean_error_at(end) for end in course.ends] for course in courses]
    return np.array(errors).T
