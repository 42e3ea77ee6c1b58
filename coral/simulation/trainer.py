"""The simulated trainer: outcomes from a response surface, without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coral.fidelity import gradient_norm, loss_slope
from coral.flops import adapter_parameters
from coral.ports import Progress, Survey, TrainingJob
from coral.records import Cost, Failure, Outcome, TestScore
from coral.simulation.agreement import Pull
from coral.simulation.costs import evaluation_seconds, peak_memory_bytes, training_cost
from coral.simulation.course import Course, World, chart
from coral.simulation.faults import fault_of, is_lost, slowdown
from coral.simulation.readings import curves, examples_of, readings_at, test_scores, thinned
from coral.simulation.weights import address_of


class SimulatedTrainer:
    """A ``ports.Trainer`` that trains nothing.

    Every draw is named after the plan, the seed and the step, so that a job gives the same outcome
    in every process, whenever and however often it runs.
    """

    def __init__(
        self,
        world: World,
        pull: Pull | None = None,
        report: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._world = world
        self._pull = pull
        self._report = report

    def survey(self) -> Survey:
        return self._world.survey

    def train(self, jobs: Sequence[TrainingJob]) -> Iterator[Outcome]:
        """Simulate jobs one after another; failures are outcomes too."""
        for job in jobs:
            yield self._train_one(job)

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        """Score finalists on the simulated test split, each against the last one."""
        charted = {job.trial: self._chart(job) for job in finalists}
        return test_scores(
            {
                job.trial: (charted[job.trial], charted[job.trial].ends[job.stage])
                for job in finalists
            }
        )

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        """Write ``card`` as ``coral.json``, marked as simulated; there are no weights."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**card, "simulated": True}, indent=2, sort_keys=True)
        (folder / "coral.json").write_text(text + "\n", encoding="utf-8")

    def _chart(self, job: TrainingJob) -> Course:
        return chart(self._world, job.plan, job.stages, job.seed, job.inherits)

    def _train_one(self, job: TrainingJob) -> Outcome:
        world, faults = self._world, self._world.settings.faults
        course = self._chart(job)
        parameters = adapter_parameters(
            job.plan.adapter, world.survey.linear_modules, world.survey.depth
        )

        def memory(micro_batch_size: int | None) -> int:
            return peak_memory_bytes(
                world.profile.cost, world.survey, job.plan, parameters, micro_batch_size
            )

        begin = course.ends[job.stage - 1] if job.stage else 0
        lost = job.resume_from is None or is_lost(faults, job)
        first, last = 0 if lost else begin, course.ends[job.stage]
        failure = fault_of(faults, job, memory, world.settings.memory_bytes)
        failure = failure or _divergence(course, first, last)
        spent = self._cost(job, _reached(course, first, last, failure) - first)
        outcome = Outcome(
            key=job.key,
            stage=job.stage,
            cost=replace(spent, train_seconds=spent.train_seconds * slowdown(faults, job)),
            failure=failure,
            peak_memory_bytes=memory(job.micro_batch_size),
        )
        if failure is not None:
            return outcome
        loss, norm = curves(course, begin, last)
        self._report(
            Progress(
                trial=job.trial, stage=job.stage, step=last, end_step=last, loss=float(loss[-1])
            )
        )
        examples = examples_of(world.tasks, job.stages[job.stage])
        pull = self._pull.of(course, job.stages, job.stage) if self._pull else 0.0
        return replace(
            outcome,
            metrics={
                **readings_at(course, last, "validation", examples, pull),
                "gradient_norm": gradient_norm(norm.tolist()),
                "loss_slope": loss_slope(loss.tolist()),
                "trainable_parameters": float(parameters),
                "train_cost": self._cost(job, last).teraflops,
            },
            cost=replace(
                outcome.cost, evaluation_seconds=self._evaluation(job, sum(examples.values()))
            ),
            curve=thinned(begin, loss, norm),
            cumulative_steps=course.start.steps + last,
            trainable_parameters=parameters,
            checkpoint=address_of(course.weights_at(last)),
        )

    def _cost(self, job: TrainingJob, steps: int) -> Cost:
        profile = self._world.profile
        return training_cost(profile.cost, profile.model, self._world.survey, job.plan, steps)

    def _evaluation(self, job: TrainingJob, examples: int) -> float:
        profile = self._world.profile
        return evaluation_seconds(
            profile.cost, profile.model, self._world.survey, job.plan, examples
        )


def _divergence(course: Course, first: int, last: int) -> Failure | None:
    """Return the failure of a collapse that ends in NaN by ``last``."""
    if not course.fate.nan or not course.collapsed_at(last):
        return None
    assert course.fate.collapse_step is not None
    step = max(first, course.fate.collapse_step) + 1
    return Failure(kind="diverged", message=f"simulated: the loss is not finite at step {step}")


def _reached(course: Course, first: int, last: int, failure: Failure | None) -> int:
    """Return the step that a job comes to: its end, or the failure's step.

    The first batch shows whether memory suffices; a crash comes half-way.
    """
    if failure is None:
        return last
    match failure.kind:
        case "oom":
            return first + 1
        case "diverged" if course.collapsed_at(last):
            assert course.fate.collapse_step is not None
            return max(first, course.fate.collapse_step) + 1
        case _:
            return first + (last - first + 1) // 2
