"""What candidates train: jobs, the names of their results, and how lost weights come back."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coral.errors import CheckpointError, StrategyError
from coral.evolution import EvolutionState, ancestors
from coral.fidelity import Stage, ladder_steps
from coral.plan import (
    InferencePlan,
    TrainingPlan,
    digest_of,
    strategy_paths,
    training_digest,
    value_at,
)
from coral.ports import CheckpointStore, Inherited, Ports, Strategies, Survey, TrainingJob
from coral.records import Candidate, Failure, Legacy, Outcome, key_of, weights_of
from coral.settings import RunSpec
from coral.sharing import entrances, starts_of
from coral.strategies import objective_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one candidate trains, and the names of its results.

    Attributes:
        keys: by stage; equal keys give equal results.
        inherits: its parents' weights, the better parent's first.
    """

    candidate: Candidate
    plan: TrainingPlan
    stages: tuple[Stage, ...]
    seed: int
    keys: tuple[str, ...]
    inherits: tuple[Inherited, ...] = ()


def work_of(
    candidate: Candidate,
    state: EvolutionState,
    spec: RunSpec,
    survey: Survey,
    *,
    stages: tuple[Stage, ...] | None = None,
    seed: int | None = None,
) -> Work:
    """Return a candidate's work.

    Args:
        stages, seed: others than the run's, for the final confirmation.
    """
    stages, seed = stages or spec.training_stages, spec.seed if seed is None else seed
    inherits = tuple(_inherited(legacy, state) for legacy in candidate.legacy)
    plan = spec.plan_of(candidate)
    own: dict[str, Any] = {
        "plan": training_digest(plan),
        "horizon": float(stages[-1].epoch_budget),
        "seed": seed,
        "data": survey.data_digest,
        "model": survey.model_digest,
    }
    if versions := _versions(plan, survey):
        own["strategies"] = versions
    if inherits:
        own["inherits"] = [[item.key, item.weight] for item in inherits]
        own["entry"] = candidate.entry
    if candidate.derivation is not None:
        own["derivation"] = candidate.derivation
    rungs = [
        [
            float(value)
            for value in (rung.epoch_budget, rung.data_percentage, rung.evaluation_percentage)
        ]
        for rung in stages
    ]
    inference = "" if plan.inference == InferencePlan() else digest_of(plan.inference)
    return Work(
        candidate=candidate,
        plan=plan,
        stages=stages,
        seed=seed,
        keys=tuple(
            key_of(digest_of({**own, "ladder": rungs[: stage + 1]}), inference)
            for stage in range(len(rungs))
        ),
        inherits=inherits,
    )


def _versions(plan: TrainingPlan, survey: Survey) -> dict[str, str]:
    """Return the identity of each strategy of a plugin that a plan names, by its field."""
    named = {path: f"{kind}.{value_at(plan, path)}" for path, kind in strategy_paths().items()}
    return {
        path: survey.strategies[name] for path, name in named.items() if name in survey.strategies
    }


def _inherited(legacy: Legacy, state: EvolutionState) -> Inherited:
    outcome = state.outcome_of(legacy.trial, legacy.stage)
    assert outcome is not None and outcome.checkpoint is not None
    return Inherited(
        trial=legacy.trial,
        stage=legacy.stage,
        key=outcome.weights,
        address=outcome.checkpoint,
        weight=legacy.weight,
    )


def run(
    jobs: Sequence[TrainingJob], state: EvolutionState, spec: RunSpec, ports: Ports
) -> Iterator[Outcome]:
    """Run jobs; those whose inherited weights are lost run again, knowing how to make them.

    Outcomes come with the objectives of plugins among their metrics.
    """
    plans = [spec.plan_of(c) for c in state.candidates] or [job.plan for job in jobs]
    kept = entrances(plans, ports.survey, spec.prefix_bytes)
    entered = tuple(start.layer for start in starts_of(plans, ports.survey, kept))
    pending = [
        with_ancestors(job, state, spec, ports.survey)
        if not all(holds(ports.checkpoints, item.address) for item in job.inherits)
        else job
        for job in (replace(job, entrances=kept, entered=entered) for job in jobs)
    ]
    while pending:
        waiting = {job.key: job for job in pending}
        pending = []
        for outcome in ports.executor.run(list(waiting.values())):
            if outcome.failure is None or outcome.failure.kind != "lost":
                _look_again(waiting[outcome.key], ports.checkpoints)
                yield with_objectives(outcome, spec, ports.strategies)
            else:
                pending.append(with_ancestors(waiting[outcome.key], state, spec, ports.survey))


def with_objectives(outcome: Outcome, spec: RunSpec, strategies: Strategies) -> Outcome:
    """Return an outcome with the objectives of plugins that the run has; one that fails is its end.

    From here on they are metrics like others: a stored run asks no plugin what trials are worth.
    """
    wanted = [o.metric for o in spec.objectives if o.metric in strategies.objectives]
    if outcome.failure is not None or not wanted:
        return outcome
    try:
        values = {
            name: objective_value(name, strategies.objectives[name], outcome.metrics, outcome.cost)
            for name in wanted
        }
    except StrategyError as error:
        failure = Failure(
            kind="plugin",
            message=str(error).splitlines()[0],
            traceback="".join(traceback.format_exception(error)),
        )
        return replace(outcome, failure=failure)
    return replace(outcome, metrics={**outcome.metrics, **values})


def longest_first(jobs: Sequence[TrainingJob], survey: Survey) -> list[TrainingJob]:
    """Return jobs in the order in which workers end together."""

    def expected_cost(job: TrainingJob) -> int:
        """Examples, and a term for each step's overhead."""
        batch_size = job.plan.schedule.batch_size
        ends = [0, *ladder_steps(job.stages, survey.train_examples, batch_size)]
        return (ends[job.stage + 1] - ends[job.stage]) * (batch_size + 2)

    return sorted(jobs, key=lambda job: (-expected_cost(job), job.trial))


def holds(checkpoints: CheckpointStore, address: str) -> bool:
    """Return whether a checkpoint is known to be there; a store out of reach knows of none."""
    try:
        return checkpoints.holds(address)
    except CheckpointError:
        return False


def _look_again(job: TrainingJob, checkpoints: CheckpointStore) -> None:
    """Ask for what a job may have made again, for a store that remembers what is there."""
    if job.ancestors:
        makers = (job, *job.ancestors)
        for address in {item.address for maker in makers for item in maker.inherits}:
            holds(checkpoints, address)


def with_ancestors(
    job: TrainingJob, state: EvolutionState, spec: RunSpec, survey: Survey
) -> TrainingJob:
    """Return a job that says how everything it inherits was made."""
    highest: dict[int, int] = {}
    for item in job.inherits:
        for number, stage in ancestors(item.trial, item.stage, state).items():
            highest[number] = max(stage, highest.get(number, 0))
    makers = []
    for number in sorted(highest):
        candidate = state.candidate(number)
        work = work_of(candidate, state, spec, survey)
        for stage in range(candidate.entry, highest[number] + 1):
            maker = job_of(work, stage, spec)
            makers.append(replace(maker, key=weights_of(maker.key)))
    return replace(job, ancestors=tuple(makers))


def job_of(work: Work, stage: int, spec: RunSpec, resume_from: str | None = None) -> TrainingJob:
    """Return the job that brings a candidate to the end of a stage."""
    return TrainingJob(
        key=work.keys[stage],
        trial=work.candidate.number,
        plan=work.plan,
        stage=stage,
        stages=work.stages,
        seed=work.seed,
        resume_from=resume_from,
        entry=work.candidate.entry,
        inherits=work.inherits,
        derivation=work.candidate.derivation,
        min_retained_energy=spec.warm_start.min_retained_energy,
        micro_batch_size=spec.execution.micro_batch_size,
    )
