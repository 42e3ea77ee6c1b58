"""How far early stages can be trusted: Kendall tau with the last one, measured and set.

Both look at what a run would see: the tasks' primary metrics, sampling noise included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coral.errors import PlanError
from coral.fidelity import Stage, kendall_tau
from coral.genome import SearchSpace, sobol_design
from coral.rng import derive_seed
from coral.simulation.course import Course, World, chart
from coral.simulation.readings import bounded, examples_of, observed_error, readings_of

SAMPLE = 128
"""Genomes over which an agreement is measured."""
STRONGEST = 64.0
HALVINGS = 40

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """How a stage's ranking is drawn towards the last one's, or away from it.

    Attributes:
        strength: by stage; what is added to a stage's log-errors for each unit by which the final
            one is above ``middle``. Negative misleads.
        middle: mean final log-error over the search space.
    """

    strength: tuple[float, ...]
    middle: float

    def of(self, course: Course, stages: Sequence[Stage], stage: int) -> float:
        """Return what is added to a genome's log-errors at the end of a stage."""
        if stage == len(stages) - 1 or not self.strength[stage]:
            return 0.0
        final = _overall(np.array(errors_seen(course, stages, len(stages) - 1)))
        return self.strength[stage] * (float(final) - self.middle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Log-errors of a Sobol sample of the search space.

    Attributes:
        errors: ``(stages, tasks, genomes)``, as evaluations find them.
    """

    errors: Array

    @property
    def final(self) -> Array:
        """The last stage's log-error over all tasks, ``(genomes,)``."""
        return _overall(self.errors[-1])

    def tau(self, stage: int, strength: float = 0.0) -> float:
        """Return the Kendall tau of a stage's ranking with the last one's, under a pull."""
        final = self.final
        pulled = self.errors[stage]
        if strength:
            pulled = bounded(pulled + strength * (final - final.mean()))
        return kendall_tau(_overall(pulled).tolist(), final.tolist())

    def pull(self, wanted: Mapping[int, float]) -> Pull:
        """Return the pull under which stages agree with the last as ``wanted``, by stage.

        A sample that the last stage can't rank is not pulled at all.
        """
        final = self.final
        if final.size < 2 or np.ptp(final) == 0:
            return Pull(strength=(0.0,) * len(self.errors), middle=0.0)
        strength = [
            self._strength(stage, wanted[stage]) if stage in wanted else 0.0
            for stage in range(len(self.errors))
        ]
        return Pull(strength=tuple(strength), middle=float(final.mean()))

    def _strength(self, stage: int, tau: float) -> float:
        """Bisect: the agreement grows with the strength."""
        low, high = -STRONGEST, STRONGEST
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self.tau(stage, middle) < tau:
                low = middle
            else:
                high = middle
        return (low + high) / 2


def _overall(errors: Array) -> Array:
    """Return the log of the mean error over tasks, the first axis."""
    overall: Array = np.log(np.exp(errors).mean(axis=0))
    return overall


def errors_seen(course: Course, stages: Sequence[Stage], stage: int) -> list[float]:
    """Return by task the log-error that the primary metric shows at the end of a stage."""
    world = course.world
    weights, tasks = course.weights_at(course.ends[stage]), world.tasks
    values = readings_of(world, weights, "validation", examples_of(tasks, stages[stage]))
    return [
        observed_error(task.metrics[task.primary_metric], values[f"{name}.{task.primary_metric}"])
        for name, task in tasks.items()
    ]


def measure_agreement(
    world: World, space: SearchSpace, stages: Sequence[Stage], seed: int
) -> Agreement:
    """Simulate a Sobol sample of the search space through all stages.

    Genomes that fail are left out, for nothing ranks them.
    """
    courses = []
    for genome in sobol_design(space, SAMPLE, derive_seed(seed, "agreement")):
        try:
            course = chart(world, space.express(genome), stages, seed)
        except PlanError:
            continue
        if not (course.fate.nan and course.collapsed_at(course.horizon)):
            courses.append(course)
    errors = [
        [errors_seen(course, stages, stage) for course in courses] for stage in range(len(stages))
    ]
    shape = (len(stages), len(courses), len(world.tasks))
    return Agreement(errors=np.array(errors).reshape(shape).transpose(0, 2, 1))
