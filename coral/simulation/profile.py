"""A simulation profile: everything that the simulator believes about a model and its tasks.

Profiles are YAML files, fitted to recorded trials by ``coral calibrate``. Their fields are the
parameters of ``surface``, ``curves`` and ``costs``; the formulas stand there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from coral.errors import PlanError
from coral.plan.checks import (
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveFraction,
    PositiveInt,
    check_bounds,
)
from coral.records import Direction

FORMAT = 1
"""Grows by one whenever an older Coral could misread a newer profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleShape:
    """A linear map of the model; ``{layer}`` in the name stands for every layer's index."""

    name: str
    in_features: PositiveInt
    out_features: PositiveInt


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The base model as the cost model needs it.

    Attributes:
        mean_tokens: of a text, uncut.
    """

    base_model: str
    depth: PositiveInt
    mean_tokens: Positive
    modules: tuple[ModuleShape, ...]
    max_tokens: PositiveInt | None = None

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricLink:
    """From a task's error in [0, 1] to one of its metrics.

    ``metric = best + (chance - best) * error ** gamma``

    Attributes:
        chance: value of a model that knows nothing.
        best: value of a model that knows everything.
        sampling_deviation: standard deviation that the choice of examples causes, times the square
            root of their number.
        overfitting: how many times as much overfitting moves this metric as the primary one.
    """

    direction: Direction
    chance: float
    best: float
    gamma: Positive = 1.0
    sampling_deviation: NonNegative = 0.4
    overfitting: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.best > self.chance) != (self.direction == "max"):
            raise PlanError(
                f"best must be better than chance for a metric to {self.direction}imize,"
                f" got best={self.best:g}, chance={self.chance:g}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProfile:
    """One task.

    Attributes:
        metrics: name to link.
        labels: number of classes.
        probe_error: error that remains when the head alone is trained, for ever, on 1000 examples.
        tuned_share: share of it that remains when an adapter of full capacity is, too.
        data_need: power of the number of train examples by which both of them fall.
        head_start: log10 of the head's progress that halves nothing yet, see ``surface``.
        adapter_start: the same for the adapter.
    """

    metrics: Mapping[str, MetricLink]
    primary_metric: str
    labels: PositiveInt = 2
    train_examples: PositiveInt = 1000
    validation_examples: PositiveInt = 300
    test_examples: PositiveInt = 300
    probe_error: PositiveFraction = 0.3
    tuned_share: PositiveFraction = 0.3
    data_need: NonNegative = 0.1
    head_start: float = 0.0
    adapter_start: float = 0.0

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.primary_metric not in self.metrics:
            raise PlanError(
                f"primary_metric must be one of {', '.join(self.metrics)}, got"
                f" {self.primary_metric}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """How a plan decides what training reaches. See ``surface`` for the formulas.

    Attributes:
        heat_scaling, heat_coverage, heat_rank, heat_batch: how many decades of adapter learning
            rate a decade of scaling, coverage, rank and 1 / batch size are worth.
        best_heat: decades above which more heat speeds nothing up.
        head_best: log10 of the head's learning rate above which the same holds for the head.
        speed: decades of progress for a decade of heat below the best.
        batch_progress: power of the batch size in the progress of one step.
        power: exponent of the learning curve.
        hot: log-error for each squared decade above ``best_heat``.
        head_hot: the same for the head above ``head_best``.
        rank_need: log-error of rank 1 over unlimited rank.
        depth_need: log-error of one adapted layer over all of them.
        withheld: share of an example's worth that is lost while the curriculum withholds another.
        narrowness: log-error while the curriculum withholds everything.
        transfer: what an example of one task is worth to another.
        overfitting: log-error for each doubling of epochs above one, at rank 16 everywhere.
        decay_relief: share of overfitting that weight decay 0.1 or dropout 0.1 takes away.
        collapse_rate: log10 of the learning rate at which half of the usual genomes collapse.
        collapse_width: decades from there to odds of e to 1.
        collapse_scaling, collapse_coverage, collapse_rank, collapse_batch: how many decades of
            learning rate a decade of scaling, coverage, rank and 1 / batch size are worth in it.
        nan_share: share of collapses that end in a loss that is not finite.
    """

    heat_scaling: float = 0.7
    heat_coverage: float = 0.2
    heat_rank: float = 0.1
    heat_batch: float = 0.3
    best_heat: float = -2.3
    head_best: float = -1.5
    speed: Positive = 1.0
    batch_progress: float = 0.5
    power: Positive = 0.7
    hot: NonNegative = 0.3
    head_hot: NonNegative = 0.05
    rank_need: NonNegative = 0.2
    depth_need: float = 0.1
    withheld: float = 0.2
    narrowness: float = 0.2
    transfer: float = 0.2
    overfitting: NonNegative = 0.05
    decay_relief: Fraction = 0.2
    collapse_rate: float = -1.6
    collapse_width: Positive = 0.15
    collapse_scaling: float = 0.5
    collapse_coverage: float = 0.3
    collapse_rank: float = 0.2
    collapse_batch: float = 0.2
    nan_share: Fraction = 0.2

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remainder:
    """What the formulas of the surface miss, as a quadratic in standardized features.

    ``log-error += offset + linear · x + sum over i <= j of quadratic[i, j] x_i x_j``, kept within
    ``limit``, with ``x = (features - middle) / spread`` in the order of ``surface.TRAITS``.

    Attributes:
        quadratic: row by row, each from its diagonal on.
    """

    middle: tuple[float, ...]
    spread: tuple[float, ...]
    offset: float
    linear: tuple[float, ...]
    quadratic: tuple[float, ...]
    limit: NonNegative = 0.3

    def __post_init__(self) -> None:
        check_bounds(self)
        count = len(self.middle)
        for name, wanted in (
            ("spread", count),
            ("linear", count),
            ("quadratic", count * (count + 1) // 2),
        ):
            if len(getattr(self, name)) != wanted:
                raise PlanError(
                    f"{name} must hold {wanted} numbers for {count} in middle, got"
                    f" {len(getattr(self, name))}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageNoise:
    """Standard deviation of the log-error at a share of the horizon, beyond the trial's own."""

    horizon_share: PositiveFraction
    deviation: NonNegative


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What the surface can't tell.

    Attributes:
        trial_deviation: of a trial's log-error, the same in all its stages.
        stages: of single stages, interpolated between them over the log of the horizon.
        shared: share of the variance from the choice of examples that all genomes have in common.
        loss_deviation: of the log of one step's training loss.
        gradient_deviation: of the log of one step's gradient norm.
    """

    trial_deviation: NonNegative = 0.1
    stages: tuple[StageNoise, ...] = (
        StageNoise(horizon_share=0.05, deviation=0.3),
        StageNoise(horizon_share=1.0, deviation=0.05),
    )
    shared: Fraction = 0.7
    loss_deviation: NonNegative = 0.2
    gradient_deviation: NonNegative = 0.3

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveProfile:
    """The training loss and the gradient norm.

    Attributes:
        chance_loss, best_loss: training loss at error 1 and 0.
        gamma: power of the error between them.
        gradient_norm: at error 1, at the best heat.
        gradient_fall: power of the error in it.
        gradient_heat, gradient_scaling, gradient_batch: decades of norm for a decade of heat above
            the best, of scaling, of 1 / batch size.
    """

    chance_loss: Positive = 2.0
    best_loss: NonNegative = 0.1
    gamma: Positive = 1.0
    gradient_norm: Positive = 1.5
    gradient_fall: float = 0.0
    gradient_heat: float = 0.2
    gradient_scaling: float = 0.1
    gradient_batch: float = 0.4

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostProfile:
    """Time and memory of one worker.

    Attributes:
        seconds_per_step, seconds_per_teraflop: of training.
        seconds_per_evaluated_teraflop: of a forward pass.
        base_memory_bytes: of a worker that has the base model loaded.
        bytes_per_parameter: of an adapter in training: weight, gradient, two moments.
        bytes_per_activation: for each token and each output feature of an adapted stack.
    """

    seconds_per_step: NonNegative = 0.01
    seconds_per_teraflop: Positive = 15.0
    seconds_per_evaluated_teraflop: Positive = 15.0
    base_memory_bytes: Positive = 7e8
    bytes_per_parameter: NonNegative = 16.0
    bytes_per_activation: NonNegative = 8.0

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What weights keep of those that they are made from.

    All of it is set by hand from a few measurements, and not calibrated.

    Attributes:
        kept: share of its parent's progress that a child with its parent's own plan keeps.
        pooling: share of the head's progress kept where the pooling differs.
        spectrum: ranks over which the energy that is left of a trained update falls by a factor e.
        squeeze_loss: log-error of cutting all of the energy; of a share of it, that share.
        diversity: log-error that blending takes off where all blended weights are unlike, for an
            infinite number of them; of two equal shares, half of it.
    """

    kept: Fraction = 0.9
    pooling: Fraction = 0.3
    spectrum: Positive = 1.4
    squeeze_loss: NonNegative = 0.2
    diversity: NonNegative = 0.13

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageAgreement:
    """Kendall tau between a stage's ranking and the last one's, over the recorded trials."""

    stage: str
    horizon_share: PositiveFraction
    real: float
    simulated: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodness:
    """How well the profile tells trials that it was not fitted to, by cross-validation.

    Attributes:
        recorded_trials: trials fitted to.
        folds: parts of the cross-validation.
        tau: Kendall tau of the final quality, predicted without noise against recorded.
        tau_low, tau_high: 95 % bootstrap interval over trials.
        quality_error: mean absolute error of the final primary metric, mean over tasks.
        loss_error: median relative error of the training loss along the curves.
        train_seconds_error: median relative error of a stage's training time.
        agreement: by stage.
    """

    recorded_trials: NonNegativeInt
    folds: PositiveInt
    tau: float
    tau_low: float
    tau_high: float
    quality_error: float
    loss_error: float
    train_seconds_error: float
    agreement: tuple[StageAgreement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A whole profile.

    Attributes:
        format: version of the file's layout.
        remainder: None leaves the surface to its formulas.
        fitted_to: ``real`` or ``simulated`` trials, or ``nothing``.
        goodness: None for a profile that nobody measured.
    """

    format: PositiveInt
    name: str
    fitted_to: Literal["real", "simulated", "nothing"]
    model: ModelShape
    tasks: Mapping[str, TaskProfile]
    surface: Surface = field(default_factory=Surface)
    remainder: Remainder | None = None
    curve: CurveProfile = field(default_factory=CurveProfile)
    noise: Noise = field(default_factory=Noise)
    cost: CostProfile = field(default_factory=CostProfile)
    inheritance: Inheritance = field(default_factory=Inheritance)
    goodness: Goodness | None = None

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise PlanError(
                f"format must be {FORMAT}, got {self.format}; calibrate the profile again"
            )
        if not self.tasks:
            raise PlanError("tasks must hold at least one task, got none")
