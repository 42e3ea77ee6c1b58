"""What a job starts from, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from coral.errors import CheckpointError
from coral.ports import Inherited, TrainingJob
from coral.records import Cost
from coral.simulation.costs import training_cost
from coral.simulation.course import Course, World, chart
from coral.simulation.transfer import Made, derived, inherited
from coral.simulation.weights import SimulatedWeights, weights_at


class LostWeightsError(Exception):
    """Weights to inherit can't be read. A trial's failure: it never leaves this room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a job starts from.

    Attributes:
        made: of its parents' weights; None for a cold start.
        cost: of making lost parents again.
        notes: what went another way than usual, in words.
    """

    made: Made | None = None
    cost: Cost = field(default_factory=Cost)
    notes: tuple[str, ...] = ()


def begin(world: World, job: TrainingJob, *, lost: bool = False) -> Begun:
    """Return what a job starts from; lost parents are made again as they were made first.

    Args:
        lost: no parent's weights can be read.

    Raises:
        LostWeightsError: inherited weights are lost, and the job doesn't say how they were made.
    """
    if not job.inherits:
        return Begun()
    sources, cost, notes = [], Cost(), []
    for item in job.inherits:
        weights = None if lost else _read(item)
        if weights is None:
            weights, spent = _again(world, item, job)
            cost += spent
            notes.append(f"trial {item.trial} made again, for its weights are lost")
        sources.append(weights)
    put_together = inherited if job.derivation is None else derived
    made = put_together(job, sources, world.profile.inheritance, world.survey)
    return Begun(made=made, cost=cost, notes=(*notes, *([made.note] if made.note else [])))


def course_of(world: World, job: TrainingJob, begun: Begun) -> Course:
    """Return the course of a job that trains."""
    return chart(world, job.plan, job.stages, job.seed, entry=job.entry, made=begun.made)


def weights_of(world: World, job: TrainingJob) -> SimulatedWeights:
    """Return the weights that a job ends with."""
    return _ended(world, job)[0]


def _ended(world: World, job: TrainingJob) -> tuple[SimulatedWeights, Cost]:
    """Return a job's weights, and what all of the way to them takes."""
    begun = begin(world, job)
    if job.derivation is not None:
        assert begun.made is not None
        return begun.made.weights, begun.cost
    course = course_of(world, job, begun)
    last = course.ends[job.stage]
    profile, steps = world.profile, last - course.first
    spent = training_cost(profile.cost, profile.model, world.survey, job.plan, steps)
    return course.weights_at(last), begun.cost + spent


def _again(world: World, item: Inherited, job: TrainingJob) -> tuple[SimulatedWeights, Cost]:
    maker = next((other for other in job.ancestors if other.key == item.key), None)
    if maker is None:
        raise LostWeightsError(f"simulated: the weights of trial {item.trial} are lost")
    return _ended(world, replace(maker, ancestors=job.ancestors))


def _read(item: Inherited) -> SimulatedWeights | None:
    try:
        return weights_at(item.address)
    except CheckpointError:
        return None
