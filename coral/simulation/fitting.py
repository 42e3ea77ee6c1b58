"""Fitting the parts of a profile, each to what it explains.

scipy and scikit-learn are imported inside the functions: a simulation needs neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from coral.records import Interval
from coral.simulation.costs import evaluation_seconds, training_cost
from coral.simulation.profile import (
    CostProfile,
    CurveProfile,
    MetricLink,
    Profile,
    Remainder,
    StageNoise,
    Surface,
)
from coral.simulation.readings import examples_of, metric_of
from coral.simulation.recorded import (
    RecordedTrial,
    Recording,
    curves_of,
    log_error_of,
    observed_log_errors,
    primary_links,
    stacked_features,
    stage_exposure,
)
from coral.simulation.surface import TRAITS, heat_of, log_error, overfitting

Array = NDArray[np.float64]

COLLAPSED_ERROR = 0.8
"""Error of a hot trial at the end above which it is taken to have collapsed."""
SMALLEST_DEVIATION = 0.01
USUAL_DEVIATION = 0.1
"""Of a log-error from the surface; residuals beyond it lose weight."""
REMAINDER_RIDGE = 30.0
LARGEST_REST = 0.4
"""Log-errors left over beyond it are taken to be luck."""

SURFACE_RANGES: dict[str, tuple[float, float, float]] = {
    "heat_scaling": (0.0, 1.5, 0.5),
    "heat_coverage": (-0.5, 1.5, 0.5),
    "heat_rank": (-0.5, 1.0, 0.3),
    "heat_batch": (-0.5, 1.0, 0.5),
    "best_heat": (-4.0, -1.0, 0.7),
    "head_best": (-3.5, 0.0, 0.7),
    "speed": (0.2, 2.5, 0.5),
    "batch_progress": (-0.5, 1.5, 0.5),
    "power": (0.1, 8.0, 0.5),
    "hot": (0.0, 3.0, 0.5),
    "head_hot": (0.0, 3.0, 0.3),
    "rank_need": (0.0, 3.0, 0.5),
    "depth_need": (-1.0, 2.0, 0.5),
    "withheld": (-0.5, 1.0, 0.5),
    "narrowness": (-0.5, 2.0, 0.5),
    "transfer": (-0.1, 1.0, 0.3),
    "overfitting": (0.0, 1.0, 0.1),
}
"""Parameter to its lowest and highest value, and to how far the data may easily move it."""

TASK_RANGES: dict[str, tuple[float, float, float]] = {
    "probe_error": (0.02, 0.98, 0.3),
    "tuned_share": (0.02, 0.98, 0.3),
    "data_need": (0.0, 1.5, 0.3),
    "head_start": (-2.0, 4.0, 1.0),
    "adapter_start": (-2.0, 4.0, 1.0),
}
PRIOR_WEIGHT = 0.3
"""What a parameter's deviation from its prior counts, in residuals."""


def has_collapsed(profile: Profile, trials: Sequence[RecordedTrial]) -> list[bool]:
    """Return which trials knew nearly nothing at the end although their learning rate was high.

    High means above the median of the better half: a slow trial knows little too.
    """
    links = primary_links(profile)
    errors = np.exp(
        np.mean([table[:, -1] for table in observed_log_errors(trials, links).values()], axis=0)
    )
    rates = np.array([trial.features.rate + 0.5 * trial.features.scaling for trial in trials])
    usual = float(np.median(rates[errors <= np.median(errors)]))
    return [bool(e > COLLAPSED_ERROR and r > usual) for e, r in zip(errors, rates, strict=True)]


def fit_collapse(
    surface: Surface, trials: Sequence[RecordedTrial], fallen: Sequence[bool]
) -> Surface:
    """Fit the odds of a collapse by logistic regression; none or all fallen keep the prior."""
    from sklearn.linear_model import LogisticRegression

    if all(fallen) or not any(fallen):
        return surface
    f = stacked_features(trials)
    table = np.hstack([f.rate, f.scaling, f.coverage, f.rank, -f.batch])
    middle, spread = table.mean(axis=0), np.maximum(table.std(axis=0), 1e-9)
    model = LogisticRegression(C=3.0, max_iter=1000).fit((table - middle) / spread, fallen)
    slopes = model.coef_[0] / spread
    if slopes[0] <= 0:
        return surface
    offset = model.intercept_[0] - float(slopes @ middle)
    down = [trial for trial, is_down in zip(trials, fallen, strict=True) if is_down]
    diverged = 0  # trials that end every stage never met a loss that is not finite
    return replace(
        surface,
        collapse_rate=float(-offset / slopes[0]),
        collapse_width=float(1 / slopes[0]),
        collapse_scaling=float(slopes[1] / slopes[0]),
        collapse_coverage=float(slopes[2] / slopes[0]),
        collapse_rank=float(slopes[3] / slopes[0]),
        collapse_batch=float(slopes[4] / slopes[0]),
        nan_share=(diverged + 0.5) / (len(down) + 1),
    )


def fit_surface(profile: Profile, trials: Sequence[RecordedTrial]) -> Profile:
    """Fit surface and tasks to the log-errors of all stages, by robust least squares.

    Priors are those of the profile. Each task's residuals count alike.
    """
    from scipy.optimize import least_squares

    features, done = stacked_features(trials), stage_exposure(trials)
    seen = observed_log_errors(trials, primary_links(profile))
    layout = _Layout(profile)
    prior = layout.pack(profile)

    def residuals(point: Array) -> Array:
        fitted = layout.unpack(point)
        gaps = [log_error(fitted, name, features, done) - seen[name] for name in fitted.tasks]
        pull = PRIOR_WEIGHT * (point - prior) / layout.scale
        return np.concatenate([pull, *(gap.ravel() / USUAL_DEVIATION for gap in gaps)])

    found = least_squares(
        residuals,
        np.clip(prior, layout.low + 1e-6, layout.high - 1e-6),
        bounds=(layout.low, layout.high),
        x_scale=layout.scale,
        loss="soft_l1",
        max_nfev=200,
    )
    return layout.unpack(found.x)


class _Layout:
    """Where each parameter of surface and tasks lies in the optimizer's vector."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        ranges = [*SURFACE_RANGES.values(), *(list(TASK_RANGES.values()) * len(profile.tasks))]
        self.low, self.high, self.scale = (np.array(column) for column in zip(*ranges, strict=True))

    def pack(self, profile: Profile) -> Array:
        values = [getattr(profile.surface, name) for name in SURFACE_RANGES]
        for task in profile.tasks.values():
            values += [getattr(task, name) for name in TASK_RANGES]
        return np.array(values, dtype=np.float64)

    def unpack(self, point: Array) -> Profile:
        values = iter(point.tolist())
        surface = replace(self._profile.surface, **{name: next(values) for name in SURFACE_RANGES})
        tasks = {
            task_name: replace(task, **{name: next(values) for name in TASK_RANGES})
            for task_name, task in self._profile.tasks.items()
        }
        return replace(self._profile, surface=surface, tasks=tasks)


def fit_remainder(profile: Profile, trials: Sequence[RecordedTrial]) -> Profile:
    """Fit a quadratic to what the surface leaves over at the end, by ridge regression."""
    from sklearn.linear_model import Ridge

    features = stacked_features(trials)
    table = np.hstack([getattr(features, name) for name in TRAITS])
    middle, spread = table.mean(axis=0), np.maximum(table.std(axis=0), 1e-9)
    x = (table - middle) / spread
    rows, columns = np.triu_indices(len(TRAITS))
    model = Ridge(alpha=REMAINDER_RIDGE).fit(
        np.hstack([x, x[:, rows] * x[:, columns]]),
        np.clip(_left_over(profile, trials)[:, :, -1].mean(axis=0), -LARGEST_REST, LARGEST_REST),
    )
    weights = model.coef_.tolist()
    return replace(
        profile,
        remainder=Remainder(
            middle=tuple(middle.tolist()),
            spread=tuple(spread.tolist()),
            offset=float(model.intercept_),
            linear=tuple(weights[: len(TRAITS)]),
            quadratic=tuple(weights[len(TRAITS) :]),
        ),
    )


def _left_over(profile: Profile, trials: Sequence[RecordedTrial]) -> Array:
    """Return recorded minus expected log-errors, ``(tasks, trials, stages)``."""
    features, done = stacked_features(trials), stage_exposure(trials)
    seen = observed_log_errors(trials, primary_links(profile))
    return np.array([seen[name] - log_error(profile, name, features, done) for name in seen])


def fit_links(profile: Profile, trials: Sequence[RecordedTrial]) -> Profile:
    """Fit the secondary metrics to the error that the primary one shows, stage by stage."""
    seen = observed_log_errors(trials, primary_links(profile))
    tasks = {}
    for name, task in profile.tasks.items():
        metrics = dict(task.metrics)
        for metric, link in task.metrics.items():
            if metric != task.primary_metric:
                values = np.array(
                    [o.metrics[f"{name}.{metric}"] for trial in trials for o in trial.outcomes]
                )
                metrics[metric] = _fitted_link(link, seen[name].ravel(), values)
        tasks[name] = replace(task, metrics=metrics)
    return replace(profile, tasks=tasks)


def _fitted_link(link: MetricLink, log_error: Array, values: Array) -> MetricLink:
    from scipy.optimize import least_squares

    def at(point: Array) -> MetricLink:
        gamma, short = map(float, point)
        return replace(link, gamma=gamma, best=link.best + short * (link.chance - link.best))

    def gaps(point: Array) -> Array:
        return np.asarray(metric_of(at(point), log_error) - values)

    low, high = [0.1, 0.0], [10.0, 0.9]
    found = least_squares(gaps, [1.0, 0.05], bounds=(low, high), loss="soft_l1", f_scale=0.05)
    return at(found.x)


def predicted_losses(profile: Profile, trial: RecordedTrial, steps: NDArray[np.int64]) -> Array:
    """Return the training loss that a profile expects after ``steps``, without noise."""
    return _Curves(profile, [(trial, steps)]).losses(profile.curve)


class _Curves:
    """Points of training curves, one after the other, with the errors that a surface expects.

    Training batches are examples that were seen, so overfitting doesn't count.
    """

    def __init__(
        self, profile: Profile, curves: Sequence[tuple[RecordedTrial, NDArray[np.int64]]]
    ) -> None:
        logs: dict[str, list[Array]] = {name: [] for name in profile.tasks}
        shares: dict[str, list[Array]] = {name: [] for name in profile.tasks}
        for trial, steps in curves:
            done = trial.exposure_at(steps)
            unseen = overfitting(profile.surface, trial.features, done.epochs)
            for name in profile.tasks:
                logs[name].append(log_error(profile, name, trial.features, done) - unseen)
                shares[name].append(np.full(len(steps), trial.features.shares[name]))
        self._logs = np.array([np.concatenate(parts) for parts in logs.values()])
        self._shares = np.array([np.concatenate(parts) for parts in shares.values()])

    def losses(self, curve: CurveProfile) -> Array:
        """Return the training loss at each point."""
        error = (self._shares * np.exp(curve.gamma * self._logs)).sum(axis=0)
        return np.asarray(curve.best_loss + (curve.chance_loss - curve.best_loss) * error)


def fit_losses(profile: Profile, trials: Sequence[RecordedTrial]) -> Profile:
    """Fit the training loss to the curves of all stages, each counting alike, and its noise."""
    from scipy.optimize import least_squares

    recorded = [(trial, *curve) for trial in trials for curve in curves_of(trial)]
    curves = _Curves(profile, [(trial, steps) for trial, steps, _ in recorded])
    seen = np.log(np.concatenate([loss for *_, loss in recorded]))
    weights = np.concatenate([np.full(len(loss), len(loss) ** -0.5) for *_, loss in recorded])

    def at(point: Array) -> CurveProfile:
        chance, share, gamma = map(float, point)
        return replace(profile.curve, chance_loss=chance, best_loss=share * chance, gamma=gamma)

    def residuals(point: Array) -> Array:
        return np.asarray((np.log(curves.losses(at(point))) - seen) * weights)

    prior = profile.curve
    start = [prior.chance_loss, prior.best_loss / prior.chance_loss, prior.gamma]
    low, high = [0.05, 0.0, 0.05], [50.0, 0.95, 10.0]
    found = least_squares(
        residuals, np.clip(start, low, high), bounds=(low, high), loss="soft_l1", f_scale=0.1
    )
    rest = seen - np.log(curves.losses(at(found.x)))
    ends = np.cumsum([len(loss) for *_, loss in recorded])[:-1]
    spread = float(np.median([np.std(part) for part in np.split(rest, ends)]))
    noise = replace(profile.noise, loss_deviation=spread)
    return replace(profile, curve=at(found.x), noise=noise)


def fit_gradients(profile: Profile, trials: Sequence[RecordedTrial]) -> Profile:
    """Fit the gradient norm by linear regression in logarithms, and its noise."""
    from sklearn.linear_model import LinearRegression

    rows, norms = [], []
    for trial in trials:
        heat = max(0.0, heat_of(profile.surface, trial.features) - profile.surface.best_heat)
        for outcome in trial.outcomes:
            steps = np.array(outcome.curve.step)
            error = np.log(_validation_error(profile, trial, steps))
            for e, norm in zip(error, outcome.curve.gradient_norm, strict=True):
                if norm > 0:
                    rows.append([e, heat, trial.features.scaling, -trial.features.batch])
                    norms.append(math.log(norm))
    model = LinearRegression().fit(rows, norms)
    fall, *decades = model.coef_
    rest = np.array(norms) - model.predict(rows)
    heat, scaling, batch = (float(d) / math.log(10) for d in decades)
    curve = replace(
        profile.curve,
        gradient_norm=float(np.exp(model.intercept_)),
        gradient_fall=float(fall),
        gradient_heat=heat,
        gradient_scaling=scaling,
        gradient_batch=batch,
    )
    noise = replace(profile.noise, gradient_deviation=float(np.std(rest)))
    return replace(profile, curve=curve, noise=noise)


def _validation_error(profile: Profile, trial: RecordedTrial, steps: NDArray[np.int64]) -> Array:
    done = trial.exposure_at(steps)
    error = np.zeros(len(steps))
    for name in profile.tasks:
        log = log_error(profile, name, trial.features, done)
        error += trial.features.shares[name] * np.exp(log)
    return error


def fit_noise(
    profile: Profile, trials: Sequence[RecordedTrial], recordings: Sequence[Recording]
) -> Profile:
    """Split what the surface leaves over into the trial's own and the stage's own deviation.

    A trial's own is what its last two stages have in common; what the choice of validation
    examples explains is neither.
    """
    profile = _with_sampling(profile, recordings)
    rest = _left_over(profile, trials)
    rest = rest - rest.mean(axis=1, keepdims=True)
    variance = np.mean(rest**2, axis=(0, 1)) - _sampling_variance(profile, trials)
    count = len(variance)
    common = float(np.mean(rest[:, :, -2] * rest[:, :, -1])) if count > 1 else variance[-1] / 2
    own = float(np.clip(common, 0.0, max(0.0, variance[-1])))
    shares = np.array([[end / trial.ends[-1] for end in trial.ends] for trial in trials])
    stages = tuple(
        StageNoise(
            horizon_share=float(np.clip(shares[:, i].mean(), 1e-6, 1.0)),
            deviation=math.sqrt(max(SMALLEST_DEVIATION**2, variance[i] - own)),
        )
        for i in range(count)
    )
    noise = replace(profile.noise, trial_deviation=math.sqrt(own), stages=stages)
    return replace(profile, noise=noise)


def _sampling_variance(profile: Profile, trials: Sequence[RecordedTrial]) -> Array:
    """Return the variance of log-errors that a genome's own sampling noise makes, by stage."""
    seen = observed_log_errors(trials, primary_links(profile))
    examples = [examples_of(profile.tasks, stage) for stage in trials[0].stages]
    own = 1 - profile.noise.shared
    variances = []
    for name, (_, link) in primary_links(profile).items():
        counts = np.array([by_task[name] for by_task in examples])
        error = np.exp(seen[name])
        spread = link.sampling_deviation**2 * own * error * (2 - error) / counts
        # The metric's slope over the log-error turns one deviation into the other.
        slope = link.gamma * (link.chance - link.best) * error**link.gamma
        variances.append((spread / slope**2).mean(axis=0))
    return np.asarray(np.mean(variances, axis=0))


def _with_sampling(profile: Profile, recordings: Sequence[Recording]) -> Profile:
    """Take the sampling noise of the primary metrics from the bootstrap of the test scores."""
    tasks, kept = dict(profile.tasks), []
    for name, task in profile.tasks.items():
        metric = f"{name}.{task.primary_metric}"
        link = task.metrics[task.primary_metric]
        found = []
        for recording in recordings:
            for score in recording.scores[:-1]:
                error = math.exp(log_error_of(link, score.metrics[metric]))
                examples = next(t for t in recording.survey.tasks if t.name == name).test_examples
                deviation = _deviation(score.intervals[metric])
                found.append(deviation * math.sqrt(examples / (error * (2 - error))))
                apart = _deviation(score.difference[metric])
                kept.append(1 - apart**2 / (2 * deviation**2))
        if found:
            metrics = {
                **task.metrics,
                task.primary_metric: replace(link, sampling_deviation=float(np.median(found))),
            }
            tasks[name] = replace(task, metrics=metrics)
    shared = float(np.clip(np.median(kept), 0.0, 0.99)) if kept else profile.noise.shared
    return replace(profile, tasks=tasks, noise=replace(profile.noise, shared=shared))


def _deviation(interval: Interval) -> float:
    """Return the standard deviation behind a 95 % interval."""
    return max(1e-6, (interval.high - interval.low) / (2 * 1.96))


def predicted_train_seconds(
    profile: Profile, trials: Sequence[RecordedTrial]
) -> tuple[Array, Array]:
    """Return training times by trial and stage: expected and recorded."""
    expected, seen = [], []
    for trial in trials:
        for outcome in trial.outcomes:
            cost = training_cost(
                profile.cost,
                profile.model,
                trial.survey,
                trial.plan,
                outcome.cost.optimizer_steps,
            )
            expected.append(cost.train_seconds)
            seen.append(outcome.cost.train_seconds)
    return np.array(expected), np.array(seen)


def fit_costs(profile: Profile, trials: Sequence[RecordedTrial]) -> CostProfile:
    """Fit times by robust least squares on their logarithms; memory is the least that was seen."""
    from scipy.optimize import least_squares

    unit = replace(profile.cost, seconds_per_step=0.0, seconds_per_teraflop=1.0)
    work, seen = predicted_train_seconds(replace(profile, cost=unit), trials)
    steps = np.array([o.cost.optimizer_steps for trial in trials for o in trial.outcomes])
    prior = profile.cost

    def residuals(point: Array) -> Array:
        return np.asarray(np.log((point[0] * steps + point[1] * work) / seen))

    found = least_squares(
        residuals,
        [max(1e-5, prior.seconds_per_step), prior.seconds_per_teraflop],
        bounds=([0.0, 1e-9], [np.inf, np.inf]),
        x_scale=[0.01, 1.0],
        loss="soft_l1",
        f_scale=0.1,
    )
    flat = replace(prior, seconds_per_evaluated_teraflop=1.0)
    ratios, peaks = [], []
    for trial in trials:
        for outcome, stage in zip(trial.outcomes, trial.stages, strict=True):
            examples = sum(
                math.ceil(task.validation_examples * stage.evaluation_percentage / 100)
                for task in trial.survey.tasks
            )
            seconds = evaluation_seconds(flat, profile.model, trial.survey, trial.plan, examples)
            ratios.append(outcome.cost.evaluation_seconds / seconds)
            peaks.append(outcome.peak_memory_bytes)
    return replace(
        prior,
        seconds_per_step=float(found.x[0]),
        seconds_per_teraflop=float(found.x[1]),
        seconds_per_evaluated_teraflop=max(1e-9, float(np.median(ratios))),
        base_memory_bytes=float(max(1, min(peaks))),
    )
