"""Recorded trials as arrays, the way the calibration looks at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coral.errors import RunError
from coral.fidelity import Stage, ladder_steps
from coral.plan import TrainingPlan
from coral.ports import Survey
from coral.records import Outcome, TestScore, Trial
from coral.settings import RunSpec
from coral.simulation.profile import MetricLink, Profile
from coral.simulation.surface import Exposure, Features, exposure, features_of

FEWEST_TRIALS = 24
SMALLEST_ERROR = 0.003

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A stored run to calibrate with.

    Attributes:
        trials: finished ones.
        scores: on the test split.
    """

    spec: RunSpec
    survey: Survey
    trials: tuple[Trial, ...]
    scores: tuple[TestScore, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTrial:
    """One trial that was trained through every stage.

    Attributes:
        ends: cumulative optimizer steps by each stage's end.
        done: exposure after each step of the horizon.
        outcomes: one a stage.
    """

    plan: TrainingPlan
    survey: Survey
    stages: tuple[Stage, ...]
    seed: int
    features: Features
    ends: tuple[int, ...]
    done: Exposure
    outcomes: tuple[Outcome, ...]

    def exposure_at(self, steps: NDArray[np.int64]) -> Exposure:
        """Return the exposure after ``steps``, counted from 1."""
        return self.done.at(steps - 1)


def recorded_trials(recordings: Sequence[Recording]) -> list[RecordedTrial]:
    """Return every trial that ended all stages.

    Raises:
        RunError: the runs have other base models, tasks or numbers of stages than the first, or
            there are too few trials.
    """
    first = recordings[0]
    for other in recordings[1:]:
        _require_alike(first, other)
    found = [
        _recorded(recording, trial)
        for recording in recordings
        for trial in recording.trials
        if len(trial.scored) == len(recording.spec.training_stages)
    ]
    if len(found) < FEWEST_TRIALS:
        raise RunError(
            f"a calibration needs at least {FEWEST_TRIALS} trials that went through every stage,"
            f" got {len(found)}.\nRecord some: coral record CONFIG --trials 160"
        )
    return found


def _require_alike(first: Recording, other: Recording) -> None:
    def nature(recording: Recording) -> dict[str, object]:
        return {
            "base model": recording.spec.base_model,
            "tasks": [task.name for task in recording.spec.tasks],
            "number of stages": len(recording.spec.training_stages),
            "mode": recording.spec.mode,
        }

    one, two = nature(first), nature(other)
    for what, value in one.items():
        if two[what] != value:
            raise RunError(
                f"runs that are calibrated together must have the same {what}, got {value} in"
                f" {first.spec.output_dir} and {two[what]} in {other.spec.output_dir}.\n"
                "Calibrate them apart."
            )


def _recorded(recording: Recording, trial: Trial) -> RecordedTrial:
    spec, survey = recording.spec, recording.survey
    plan = spec.plan_of(trial.candidate)
    ends = ladder_steps(spec.training_stages, survey.train_examples, plan.schedule.batch_size)
    return RecordedTrial(
        plan=plan,
        survey=survey,
        stages=spec.training_stages,
        seed=spec.seed,
        features=features_of(plan, survey),
        ends=tuple(ends),
        done=exposure(plan, ends[-1], survey.train_examples),
        outcomes=trial.scored,
    )


def stacked_features(trials: Sequence[RecordedTrial]) -> Features:
    """Return all trials' features, each ``(trials, 1)``."""

    def column(value: Callable[[Features], float]) -> Array:
        return np.array([[value(trial.features)] for trial in trials])

    return Features(
        rate=column(lambda f: f.rate),
        head_rate=column(lambda f: f.head_rate),
        scaling=column(lambda f: f.scaling),
        rank=column(lambda f: f.rank),
        coverage=column(lambda f: f.coverage),
        batch=column(lambda f: f.batch),
        depth=column(lambda f: f.depth),
        data=column(lambda f: f.data),
        regularization=column(lambda f: f.regularization),
        decay=column(lambda f: f.decay),
        patience=column(lambda f: f.patience),
        shelter=column(lambda f: f.shelter),
        shares={
            task: np.array([[trial.features.shares[task]] for trial in trials])
            for task in trials[0].features.shares
        },
    )


def stage_exposure(trials: Sequence[RecordedTrial]) -> Exposure:
    """Return the exposure by each stage's end, ``(trials, stages)``."""

    def table(of: Callable[[Exposure], Array]) -> Array:
        return np.array([[of(trial.done)[end - 1] for end in trial.ends] for trial in trials])

    return Exposure(
        time=table(lambda done: done.time),
        withheld=table(lambda done: done.withheld),
        epochs=table(lambda done: done.epochs),
        hidden=table(lambda done: done.hidden),
    )


def observed_log_errors(
    trials: Sequence[RecordedTrial], links: Mapping[str, tuple[str, MetricLink]]
) -> dict[str, Array]:
    """Return each task's log-error by stage, ``(trials, stages)``, from its primary metric.

    Args:
        links: task name to its primary metric's name and link.
    """
    return {
        task: np.array(
            [
                [
                    log_error_of(link, outcome.metrics[f"{task}.{metric}"])
                    for outcome in trial.outcomes
                ]
                for trial in trials
            ]
        )
        for task, (metric, link) in links.items()
    }


def primary_links(profile: Profile) -> dict[str, tuple[str, MetricLink]]:
    """Return each task's primary metric and its link."""
    return {
        name: (task.primary_metric, task.metrics[task.primary_metric])
        for name, task in profile.tasks.items()
    }


def curves_of(trial: RecordedTrial) -> list[tuple[NDArray[np.int64], Array]]:
    """Return each stage's training curve: steps counted from 1, and losses above 0."""
    curves = []
    for outcome in trial.outcomes:
        steps, loss = np.array(outcome.curve.step), np.array(outcome.curve.loss)
        usable = np.isfinite(loss) & (loss > 0)
        if usable.any():
            curves.append((steps[usable], loss[usable]))
    return curves


def log_error_of(link: MetricLink, value: float) -> float:
    """Return the log-error that a metric's value stands for, at most 0."""
    error = (value - link.best) / (link.chance - link.best)
    return float(np.log(np.clip(error, SMALLEST_ERROR, 1.0)) / link.gamma)


def quality(trials: Sequence[RecordedTrial], primary: Mapping[str, str], stage: int) -> Array:
    """Return the mean over tasks of the primary metric after a stage, ``(trials,)``."""
    return np.array(
        [
            np.mean([trial.outcomes[stage].metrics[f"{t}.{m}"] for t, m in primary.items()])
            for trial in trials
        ]
    )
