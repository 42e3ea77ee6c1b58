"""One job's way through the response surface."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from coral.fidelity import Stage, ladder_steps
from coral.plan import TrainingPlan, digest_of, training_digest
from coral.ports import Survey
from coral.rng import stream
from coral.settings import SimulationSettings
from coral.simulation.costs import training_cost
from coral.simulation.profile import Noise, Profile, TaskProfile
from coral.simulation.surface import (
    Exposure,
    Features,
    Progress,
    collapse_odds,
    exposure,
    features_of,
    log_error,
    overfitting,
    progress_of,
)
from coral.simulation.transfer import Made
from coral.simulation.weights import Luck, Part, SimulatedWeights

Array = NDArray[np.float64]

DIMENSIONS = 6
"""Of the space in which weights lie apart, see ``transfer``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all jobs of a run have in common.

    Attributes:
        profile: with the run's own tasks.
        seed: of the run; it names the choice of examples, which jobs of any seed have in common.
        abstains: genomes may leave examples without an answer.
    """

    profile: Profile
    survey: Survey
    settings: SimulationSettings = field(default_factory=SimulationSettings)
    seed: int = 0
    abstains: bool = False

    @property
    def tasks(self) -> Mapping[str, TaskProfile]:
        return self.profile.tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What chance has in store for one genome, whatever the stage.

    Attributes:
        collapse_step: step at which training collapses; None if it does not.
        nan: the loss is not finite soon after.
        deviation: task to its log-error beyond the surface.
        direction: where its training leads in the space of weights; of length 1.
    """

    collapse_step: int | None
    nan: bool
    deviation: dict[str, float]
    direction: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A plan's training over the whole horizon, or from a later stage on with inherited weights.

    Steps are counted on the plan's schedule, so those of stages that are not trained count too.

    Attributes:
        identity: digest of what the plan trains, seed and what was inherited; it names every draw.
        start: the weights before the first step.
        first: steps on the schedule before the first one that is trained.
        ends: cumulative optimizer steps by each stage's end.
        done: exposure after each step, ``(horizon,)``; inherited epochs included.
    """

    world: World
    plan: TrainingPlan
    identity: str
    seed: int
    features: Features
    start: SimulatedWeights
    first: int
    ends: tuple[int, ...]
    done: Exposure
    fate: Fate

    @property
    def horizon(self) -> int:
        return self.ends[-1]

    def share_of_horizon(self, step: int) -> float:
        return step / self.horizon

    def exposed(self, first: int, last: int) -> Exposure:
        """Return the exposure after steps ``first + 1`` to ``last``."""
        return self.done.at(slice(first, last))

    def inherited(self, task: str) -> Progress:
        head, adapter = self.start.progress[task]
        return Progress(head=head, adapter=adapter)

    def progress(self, task: str, done: Exposure) -> Progress:
        """Return head's and adapter's progress, what was inherited included."""
        return progress_of(self.world.profile, task, self.features, done, self.inherited(task))

    def learned(self, task: str, done: Exposure) -> Array:
        """Return the log-error without noise, and without collapse."""
        error: Array = log_error(
            self.world.profile, task, self.features, done, self.inherited(task)
        )
        return error

    def overfitted(self, done: Exposure) -> Array:
        """Return the part of the log-error that overfitting makes up."""
        part: Array = overfitting(self.world.profile.surface, self.features, done.epochs)
        return part

    def collapsed_at(self, step: int) -> bool:
        return self.fate.collapse_step is not None and step > self.fate.collapse_step

    def own_share(self, step: int) -> float:
        """Return the share that its own training has in the weights after ``step``."""
        own = step - self.first
        return own / (own + self.start.steps)

    def deviation_at(self, step: int) -> dict[str, float]:
        """Return each task's log-error beyond the surface: inherited luck fades into one's own."""
        own = self.own_share(step)
        return {
            task: math.sqrt(1 - own) * self.start.deviation[task] + math.sqrt(own) * deviation
            for task, deviation in self.fate.deviation.items()
        }

    def errors_at(self, step: int) -> dict[str, float]:
        """Return each task's log-error after ``step``, as an evaluation would find it.

        What the choice of examples adds is not in it.
        """
        if self.collapsed_at(step):
            return dict.fromkeys(self.world.tasks, 0.0)
        done = self.exposed(step - 1, step)
        spread = stage_deviation(self.world.profile.noise, self.share_of_horizon(step))
        rng = stream(self.seed, "simulated stage", self.identity, step)
        luck = rng.normal(0.0, spread, size=len(self.world.tasks)).tolist()
        return {
            task: min(0.0, float(self.learned(task, done)[0]) + deviation + own)
            for (task, deviation), own in zip(self.deviation_at(step).items(), luck, strict=True)
        }

    def mean_error_at(self, step: int) -> float:
        """Return the mean over tasks of ``errors_at``."""
        return fmean(self.errors_at(step).values())

    def weights_at(self, step: int) -> SimulatedWeights:
        """Return the weights after ``step``; collapsed ones have lost their progress."""
        done = self.exposed(step - 1, step)
        start, world = self.start, self.world
        kept, own = 0.0 if self.collapsed_at(step) else 1.0, self.own_share(step)
        spent = training_cost(
            world.profile.cost, world.profile.model, world.survey, self.plan, step - self.first
        )
        progress = {task: self.progress(task, done) for task in world.tasks}
        return SimulatedWeights(
            steps=start.steps + step - self.first,
            teraflops=start.teraflops + spent.teraflops,
            epochs=float(done.epochs[0]),
            rank=self.plan.adapter.rank,
            parts=(_part(self.plan),),
            breadth=1 + (start.breadth - 1) * (1 - own),
            place=tuple(
                math.sqrt(1 - own) * before + math.sqrt(own) * after
                for before, after in zip(start.place, self.fate.direction, strict=True)
            ),
            has_moments=True,
            pooling=self.plan.encoding.pooling,
            shares=self.features.shares,
            progress={
                task: (kept * float(each.head[0]), kept * float(each.adapter[0]))
                for task, each in progress.items()
            },
            deviation=self.deviation_at(step),
            errors=self.errors_at(step),
            overfitted=float(self.overfitted(done)[0]),
            luck=(Luck(identity=self.identity, step=step),),
        )


def untrained(plan: TrainingPlan, shares: Mapping[str, float]) -> SimulatedWeights:
    """Return the weights of a cold start."""
    return SimulatedWeights(
        steps=0,
        teraflops=0.0,
        epochs=0.0,
        rank=plan.adapter.rank,
        parts=(_part(plan),),
        breadth=1.0,
        place=(0.0,) * DIMENSIONS,
        has_moments=False,
        pooling=plan.encoding.pooling,
        shares=shares,
        progress=dict.fromkeys(shares, (0.0, 0.0)),
        deviation=dict.fromkeys(shares, 0.0),
        errors=dict.fromkeys(shares, 0.0),
        overfitted=0.0,
        luck=(),
    )


def _part(plan: TrainingPlan) -> Part:
    adapter = plan.adapter
    return Part(rank=adapter.rank, layers=adapter.layers, targets=adapter.target_modules)


def chart(
    world: World,
    plan: TrainingPlan,
    stages: Sequence[Stage],
    seed: int,
    *,
    entry: int = 0,
    made: Made | None = None,
) -> Course:
    """Return the course of a plan.

    Args:
        entry: index of the stage that is trained first.
        made: what is inherited; None for a cold start.

    Raises:
        PlanError: the plan's targets match nothing in the model.
    """
    survey = world.survey
    ends = ladder_steps(stages, survey.train_examples, plan.schedule.batch_size)
    first = ends[entry - 1] if entry else 0
    features = features_of(plan, survey)
    start = made.weights if made else untrained(plan, features.shares)
    identity = digest_of([training_digest(plan), seed, [entry, *made.keys] if made else []])
    return Course(
        world=world,
        plan=plan,
        identity=identity,
        seed=seed,
        features=features,
        start=start,
        first=first,
        ends=tuple(ends),
        done=exposure(
            plan,
            ends[-1],
            survey.train_examples,
            first_step=first,
            inherited_epochs=start.epochs,
            rewarms=made is not None and not made.account.moments_kept,
        ),
        fate=_fate(world, features, identity, seed, first, ends[-1]),
    )


def _fate(
    world: World, features: Features, identity: str, seed: int, first: int, horizon: int
) -> Fate:
    """Draw a genome's fate: hot ones collapse more often, sooner, and into NaN.

    A collapse in a stage that is not trained does not happen.

    Args:
        first: steps before the first one that is trained.
    """
    surface, noise = world.profile.surface, world.profile.noise
    rng = stream(seed, "simulated fate", identity)
    odds = float(collapse_odds(surface, features))
    falls, when, nan, shared, *own = (*rng.random(3), *rng.normal(size=1 + len(world.tasks)))
    step = math.ceil(float(when) ** (1 + 2 * odds) * horizon)
    direction = rng.normal(size=DIMENSIONS)
    direction /= np.linalg.norm(direction)
    return Fate(
        collapse_step=step if falls < odds and step >= first else None,
        nan=bool(nan < surface.nan_share),
        deviation={
            task: noise.trial_deviation * math.sqrt(0.5) * float(shared + z)
            for task, z in zip(world.tasks, own, strict=True)
        },
        direction=tuple(direction.tolist()),
    )


def stage_deviation(noise: Noise, share: float) -> float:
    """Return the deviation of an evaluation at a share of the horizon, beyond the trial's own."""
    points = sorted(noise.stages, key=lambda stage: stage.horizon_share)
    if not points:
        return 0.0
    return float(
        np.interp(
            math.log(share),
            [math.log(point.horizon_share) for point in points],
            [point.deviation for point in points],
        )
    )
