"""One job's way through the response surface."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from coral.errors import CheckpointError
from coral.fidelity import Stage, ladder_steps
from coral.plan import TrainingPlan, digest_of
from coral.ports import Survey
from coral.rng import stream
from coral.settings import SimulationSettings
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
from coral.simulation.weights import SimulatedWeights, Start, start_of, weights_at

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What all jobs of a run have in common.

    Attributes:
        profile: with the run's own tasks.
    """

    profile: Profile
    survey: Survey
    settings: SimulationSettings = field(default_factory=SimulationSettings)

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
    """

    collapse_step: int | None
    nan: bool
    deviation: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A plan's training over the whole horizon.

    Attributes:
        identity: digest of plan, seed and what was inherited; it names every draw.
        ends: cumulative optimizer steps by each stage's end.
        done: exposure after each step, ``(horizon,)``; inherited epochs included.
    """

    world: World
    plan: TrainingPlan
    identity: str
    seed: int
    features: Features
    start: Start
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

    def progress(self, task: str, done: Exposure) -> Progress:
        """Return head's and adapter's progress, what was inherited included."""
        return progress_of(self.world.profile, task, self.features, done, self.start.progress[task])

    def learned(self, task: str, done: Exposure) -> Array:
        """Return the log-error without noise, and without collapse."""
        error: Array = log_error(
            self.world.profile, task, self.features, done, self.start.progress[task]
        )
        return error

    def overfitted(self, done: Exposure) -> Array:
        """Return the part of the log-error that overfitting makes up."""
        part: Array = overfitting(self.world.profile.surface, self.features, done.epochs)
        return part

    def collapsed_at(self, step: int) -> bool:
        return self.fate.collapse_step is not None and step > self.fate.collapse_step

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
            task: min(0.0, float(self.learned(task, done)[0]) + self.fate.deviation[task] + own)
            for task, own in zip(self.world.tasks, luck, strict=True)
        }

    def mean_error_at(self, step: int) -> float:
        """Return the mean over tasks of ``errors_at``."""
        return fmean(self.errors_at(step).values())

    def weights_at(self, step: int) -> SimulatedWeights:
        """Return the weights after ``step``; collapsed ones have lost their progress."""
        done = self.exposed(step - 1, step)
        adapter = self.plan.adapter
        kept = 0.0 if self.collapsed_at(step) else 1.0
        progress = {
            task: (kept * float(own.head[0]), kept * float(own.adapter[0]))
            for task in self.world.tasks
            for own in (self.progress(task, done),)
        }
        return SimulatedWeights(
            steps=self.start.steps + step,
            epochs=float(done.epochs[0]),
            rank=adapter.rank,
            layers=adapter.layers,
            targets=adapter.target_modules,
            pooling=self.plan.encoding.pooling,
            shares=dict(self.features.shares),
            progress=progress,
        )


def chart(
    world: World,
    plan: TrainingPlan,
    stages: Sequence[Stage],
    seed: int,
    inherits: Sequence[str] = (),
) -> Course:
    """Return the course of a plan.

    Args:
        inherits: addresses of the parents' weights, the better parent first. Those that can't be
            read are left out.

    Raises:
        PlanError: the plan's targets match nothing in the model.
    """
    survey, names = world.survey, list(world.tasks)
    ends = ladder_steps(stages, survey.train_examples, plan.schedule.batch_size)
    features = features_of(plan, survey)
    parents = _readable(inherits)
    start = start_of(plan, parents, world.profile.inheritance, survey, names)
    identity = digest_of([digest_of(plan), seed, list(inherits)])
    return Course(
        world=world,
        plan=plan,
        identity=identity,
        seed=seed,
        features=features,
        start=start,
        ends=tuple(ends),
        done=exposure(plan, ends[-1], survey.train_examples, start.epochs),
        fate=_fate(world, features, identity, seed, ends[-1]),
    )


def _readable(addresses: Sequence[str]) -> list[SimulatedWeights]:
    found = []
    for address in addresses:
        try:
            found.append(weights_at(address))
        except CheckpointError:
            continue
    return found


def _fate(world: World, features: Features, identity: str, seed: int, horizon: int) -> Fate:
    """Draw a genome's fate: hot ones collapse more often, sooner, and into NaN."""
    surface, noise = world.profile.surface, world.profile.noise
    rng = stream(seed, "simulated fate", identity)
    odds = float(collapse_odds(surface, features))
    falls, when, nan, shared, *own = (*rng.random(3), *rng.normal(size=1 + len(world.tasks)))
    share = float(when) ** (1 + 2 * odds)
    return Fate(
        collapse_step=math.ceil(share * horizon) if falls < odds else None,
        nan=bool(nan < surface.nan_share),
        deviation={
            task: noise.trial_deviation * math.sqrt(0.5) * float(shared + z)
            for task, z in zip(world.tasks, own, strict=True)
        },
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
