"""One generation up the ladder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from coral.evolution import EvolutionState, advance, earned_outcome, promoted
from coral.fidelity import Contender, judge, ladder_steps
from coral.plan import TrainingPlan, digest_of
from coral.ports import Ports, Survey, TrainingJob
from coral.records import (
    Candidate,
    Event,
    GenerationFinished,
    Objective,
    Outcome,
    StageFinished,
    Trial,
    Verdict,
)
from coral.settings import RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one candidate trains, and the names of its results.

    Attributes:
        keys: by stage; equal keys give equal results.
        inherits: addresses of its parents' weights, the better parent first.
    """

    candidate: Candidate
    plan: TrainingPlan
    keys: tuple[str, ...]
    inherits: tuple[str, ...] = ()


def work_of(candidate: Candidate, trials: Sequence[Trial], spec: RunSpec, survey: Survey) -> Work:
    """Return a candidate's work.

    Args:
        trials: finished trials by number; warm starts take the parents' weights from them.
    """
    plan = spec.plan_of(candidate)
    parents = _inherited(candidate, trials, spec)
    own = {
        "plan": digest_of(plan),
        "horizon": float(spec.training_stages[-1].epoch_budget),
        "seed": spec.seed,
        "data": survey.data_digest,
        "model": survey.model_digest,
        **({"inherits": [outcome.key for outcome in parents]} if parents else {}),
    }
    rungs = [
        [
            float(value)
            for value in (rung.epoch_budget, rung.data_percentage, rung.evaluation_percentage)
        ]
        for rung in spec.training_stages
    ]
    return Work(
        candidate=candidate,
        plan=plan,
        keys=tuple(digest_of({**own, "ladder": rungs[: stage + 1]}) for stage in range(len(rungs))),
        inherits=tuple(outcome.checkpoint for outcome in parents if outcome.checkpoint),
    )


def _inherited(candidate: Candidate, trials: Sequence[Trial], spec: RunSpec) -> list[Outcome]:
    """Return the outcomes whose weights a candidate starts from, the better one first.

    They are those that made its parents parents: what an audit or the final confirmation trained
    beyond them is no part of the search.
    """
    if not spec.evolution.warm_start:
        return []
    parents = [earned_outcome(trials[number]) for number in candidate.lineage.parents]
    outcomes = [outcome for outcome in parents if outcome is not None]
    return sorted(outcomes, key=lambda outcome: _rank(outcome, spec.objectives[0]))


def _rank(outcome: Outcome, primary: Objective) -> tuple[int, float]:
    """Return what orders outcomes of several stages, the best first."""
    value = outcome.metrics[primary.metric]
    return -outcome.stage, -value if primary.direction == "max" else value


def record(state: EvolutionState, event: Event, spec: RunSpec, ports: Ports) -> EvolutionState:
    """Make an event durable, then believe it."""
    ports.runs.append(event)
    state = advance(state, event, spec)
    ports.observer.on_event(event, state)
    return state


def evaluate(state: EvolutionState, spec: RunSpec, ports: Ports) -> EvolutionState:
    """Train the candidates of ``state`` stage by stage, judge them, and finish the generation.

    Work whose outcome the state already holds is not done again, so a resumed generation goes on
    within the stage where it was.
    """
    verdicts: dict[int, Verdict | None] = {candidate.number: None for candidate in state.candidates}
    climbing = [work_of(c, state.trials, spec, ports.survey) for c in state.candidates]
    for stage in range(len(spec.training_stages)):
        state = _train_stage(state, climbing, stage, spec, ports)
        decisions = judge(
            [
                Contender(
                    trial=work.candidate.number,
                    outcome=state.outcomes[work.keys[stage]][1],
                    verdict=verdicts[work.candidate.number],
                    exempt=work.candidate.lineage.operator == "reference",
                )
                for work in climbing
            ],
            spec.training_stages,
            stage,
            spec.prune,
            partial(promoted, objectives=spec.objectives),
            spec.seed,
        )
        for work, decision in zip(climbing, decisions, strict=True):
            verdicts[work.candidate.number] = decision.verdict
        climbing = [w for w, decision in zip(climbing, decisions, strict=True) if decision.climbs]
        if not climbing:
            break
    reached = tuple(verdict for verdict in verdicts.values() if verdict is not None)
    event = GenerationFinished(generation=state.generation, verdicts=reached)
    # Before the event, or a run killed in between would keep them for ever.
    ports.checkpoints.discard(_superseded(state))
    return record(state, event, spec, ports)


def _train_stage(
    state: EvolutionState,
    climbing: Sequence[Work],
    stage: int,
    spec: RunSpec,
    ports: Ports,
) -> EvolutionState:
    """Train whoever has no outcome yet, the longest jobs first so that workers end together."""
    jobs = [
        job_of(work, stage, spec, resume_from=_checkpoint(work, stage - 1, state))
        for work in climbing
        if work.keys[stage] not in state.outcomes
    ]
    numbers = {job.key: job.trial for job in jobs}
    jobs.sort(key=lambda job: (-_expected_cost(job, ports.survey), job.trial))
    for outcome in ports.executor.run(jobs):
        event = StageFinished(trial=numbers[outcome.key], outcome=outcome)
        state = record(state, event, spec, ports)
    return state


def _checkpoint(work: Work, stage: int, state: EvolutionState) -> str | None:
    return state.outcomes[work.keys[stage]][1].checkpoint if stage >= 0 else None


def job_of(work: Work, stage: int, spec: RunSpec, resume_from: str | None) -> TrainingJob:
    """Return the job that brings a candidate to the end of a stage."""
    return TrainingJob(
        key=work.keys[stage],
        trial=work.candidate.number,
        plan=work.plan,
        stage=stage,
        stages=spec.training_stages,
        seed=spec.seed,
        resume_from=resume_from,
        inherits=work.inherits,
        micro_batch_size=spec.execution.micro_batch_size,
    )


def _expected_cost(job: TrainingJob, survey: Survey) -> float:
    """Return a job's cost up to a constant: examples, and a term for each step's overhead."""
    batch_size = job.plan.schedule.batch_size
    ends = [0, *ladder_steps(job.stages, survey.train_examples, batch_size)]
    return (ends[job.stage + 1] - ends[job.stage]) * (batch_size + 2)


def _superseded(state: EvolutionState) -> list[str]:
    """Return the generation's checkpoints that the same trial's later stage has replaced."""
    scored = sorted(
        ((trial, outcome) for trial, outcome in state.outcomes.values() if not outcome.failure),
        key=lambda pair: pair[1].stage,
    )
    latest = {trial: outcome.checkpoint for trial, outcome in scored}
    kept = {*latest.values()}
    return [
        outcome.checkpoint
        for _, outcome in scored
        if outcome.checkpoint and outcome.checkpoint not in kept
    ]
