"""The simulated trainer: outcomes from a response surface, without a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from coral.errors import CheckpointError
from coral.fidelity import gradient_norm, ladder_steps, loss_slope
from coral.flops import adapter_parameters
from coral.ports import Progress, Survey, TrainingJob
from coral.records import Cost, Failure, Outcome, TestScore
from coral.simulation.agreement import Pull
from coral.simulation.costs import evaluation_seconds, peak_memory_bytes, training_cost
from coral.simulation.course import Course, World
from coral.simulation.faults import fault_of, is_lost, parents_are_lost, slowdown
from coral.simulation.job import Begun, LostWeightsError, begin, course_of, weights_of
from coral.simulation.readings import (
    curves,
    examples_of,
    readings_of,
    selective_readings,
    test_scores,
    thinned,
)
from coral.simulation.weights import SimulatedWeights, address_of, weights_at


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
            yield self._run(job)

    def score(self, finalists: Sequence[TrainingJob], seed: int) -> tuple[TestScore, ...]:
        """Score finalists on the simulated test split, each against the last one."""
        weights = [(job.trial, weights_of(self._world, job)) for job in finalists]
        return tuple(
            replace(score, metrics=self._metrics(job, score.metrics))
            for job, score in zip(finalists, test_scores(self._world, weights), strict=True)
        )

    def export(self, finalist: TrainingJob, folder: Path, card: Mapping[str, Any]) -> None:
        """Write ``card`` as ``coral.json``, marked as simulated; there are no weights."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**card, "simulated": True}, indent=2, sort_keys=True)
        (folder / "coral.json").write_text(text + "\n", encoding="utf-8")

    def _run(self, job: TrainingJob) -> Outcome:
        try:
            return self._train_one(job) if job.derivation is None else self._derive_one(job)
        except LostWeightsError as error:
            failure = Failure(kind="lost", message=str(error))
            return Outcome(key=job.key, stage=job.stage, failure=failure)

    def _train_one(self, job: TrainingJob) -> Outcome:
        world, faults = self._world, self._world.settings.faults
        lost = job.resume_from is not None and is_lost(faults, job)
        known = not lost and self._is_trained(job)
        from_entry = not known and (job.stage == job.entry or job.resume_from is None or lost)
        begun = begin(world, job, lost=from_entry and parents_are_lost(faults, job))
        course = course_of(world, job, begun)
        parameters = adapter_parameters(
            job.plan.adapter, world.survey.linear_modules, world.survey.depth
        )
        begins, last = course.ends[job.stage - 1] if job.stage else 0, course.ends[job.stage]
        first = last if known else course.first if from_entry else begins
        failure = self._fault(job, parameters, trains=not known)
        failure = failure or _divergence(course, first, last)
        spent = self._cost(job, _reached(course, first, last, failure) - first)
        spent = replace(spent, train_seconds=spent.train_seconds * slowdown(faults, job))
        outcome = Outcome(
            key=job.key,
            stage=job.stage,
            cost=begun.cost + spent,
            failure=failure,
            peak_memory_bytes=self._memory(job, parameters, job.micro_batch_size),
            notes=(*(["made again, for its checkpoint is lost"] if lost else []), *begun.notes),
        )
        if failure is not None:
            return outcome
        loss, norm = curves(course, begins, last)
        self._report(
            Progress.of(
                job,
                step=last,
                end_step=last,
                loss=float(loss[-1]),
            )
        )
        pull = self._pull.of(course, job.stages, job.stage) if self._pull else 0.0
        weights = course.weights_at(last)
        scored = self._scored(
            job, outcome, begun, weights, parameters, loss.tolist(), norm.tolist(), pull
        )
        return replace(scored, curve=thinned(begins, loss, norm))

    def _is_trained(self, job: TrainingJob) -> bool:
        """Return whether a job resumes from the very weights that it is to end with."""
        if job.resume_from is None:
            return False
        batch_size = job.plan.schedule.batch_size
        ends = ladder_steps(job.stages, self._world.survey.train_examples, batch_size)
        try:
            luck = weights_at(job.resume_from).luck
        except CheckpointError:
            return False
        return bool(luck) and luck[-1].step == ends[job.stage]

    def _metrics(self, job: TrainingJob, metrics: Mapping[str, float]) -> dict[str, float]:
        """Add what is scored where genomes may leave examples without an answer."""
        if not self._world.abstains:
            return {**metrics}
        abstention = job.plan.inference.abstention
        return {**metrics, **selective_readings(self._world, metrics, abstention)}

    def _derive_one(self, job: TrainingJob) -> Outcome:
        """Put weights together of others', and score them."""
        survey, faults = self._world.survey, self._world.settings.faults
        begun = begin(self._world, job, lost=parents_are_lost(faults, job))
        assert begun.made is not None
        weights = begun.made.weights
        ranks = weights.ranks(survey)
        parameters = sum(
            ranks[module.name] * (module.in_features + module.out_features)
            + (module.out_features if job.plan.adapter.dora else 0)
            for module in survey.linear_modules
            if module.name in ranks
        )
        outcome = Outcome(
            key=job.key,
            stage=job.stage,
            cost=begun.cost,
            failure=self._fault(job, parameters, trains=False),
            peak_memory_bytes=self._memory(job, parameters, job.micro_batch_size),
            notes=begun.notes,
        )
        if outcome.failure is not None:
            return outcome
        return self._scored(job, outcome, begun, weights, parameters)

    def _scored(
        self,
        job: TrainingJob,
        outcome: Outcome,
        begun: Begun,
        weights: SimulatedWeights,
        parameters: int,
        loss: Sequence[float] = (),
        norm: Sequence[float] = (),
        pull: float = 0.0,
    ) -> Outcome:
        """Return an outcome with what its curve and an evaluation of its weights tell."""
        examples = examples_of(self._world.tasks, job.stages[job.stage])
        readings = readings_of(self._world, weights, "validation", examples, pull)
        seconds = self._evaluation(job, sum(examples.values()))
        return replace(
            outcome,
            metrics={
                **self._metrics(job, readings),
                "gradient_norm": gradient_norm(norm),
                "loss_slope": loss_slope(loss),
                "trainable_parameters": float(parameters),
                "train_cost": weights.teraflops,
            },
            cost=replace(outcome.cost, evaluation_seconds=seconds),
            cumulative_steps=weights.steps,
            trainable_parameters=parameters,
            checkpoint=address_of(weights),
            inheritance=begun.made.account if begun.made and job.stage == job.entry else None,
        )

    def _fault(self, job: TrainingJob, parameters: int, *, trains: bool) -> Failure | None:
        settings = self._world.settings

        def memory(micro_batch_size: int | None) -> int:
            return self._memory(job, parameters, micro_batch_size)

        return fault_of(settings.faults, job, memory, settings.memory_bytes, trains=trains)

    def _memory(self, job: TrainingJob, parameters: int, micro_batch_size: int | None) -> int:
        cost, survey = self._world.profile.cost, self._world.survey
        return peak_memory_bytes(cost, survey, job.plan, parameters, micro_batch_size)

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
