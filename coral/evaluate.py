"""One generation up the ladder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from coral.evolution import EvolutionState, advance, promoted
from coral.fidelity import Contender, judge, ladder_steps
from coral.plan import digest_of
from coral.ports import Ports, Survey, TrainingJob
from coral.records import (
    Candidate,
    Event,
    GenerationFinished,
    Outcome,
    StageFinished,
    Verdict,
)
from coral.settings import RunSpec


def work_key(candidate: Candidate, stage: int, spec: RunSpec, survey: Survey) -> str:
    """Return the identity of a piece of work: equal keys give equal results."""
    return digest_of(
        {
            "plan": digest_of(spec.plan_of(candidate)),
            "ladder": [
                [
                    float(value)
                    for value in (
                        rung.epoch_budget,
                        rung.data_percentage,
                        rung.evaluation_percentage,
                    )
                ]
                for rung in spec.training_stages[: stage + 1]
            ],
            "horizon": float(spec.training_stages[-1].epoch_budget),
            "seed": spec.seed,
            "data": survey.data_digest,
            "model": survey.model_digest,
        }
    )


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
    climbing = list(state.candidates)
    for stage in range(len(spec.training_stages)):
        state = _train_stage(state, climbing, stage, spec, ports)
        outcomes = [
            state.outcomes[work_key(candidate, stage, spec, ports.survey)][1]
            for candidate in climbing
        ]
        decisions = judge(
            [
                Contender(
                    trial=candidate.number,
                    outcome=outcome,
                    verdict=verdicts[candidate.number],
                    exempt=candidate.lineage.operator == "reference",
                )
                for candidate, outcome in zip(climbing, outcomes, strict=True)
            ],
            spec.training_stages,
            stage,
            spec.prune,
            partial(promoted, objectives=spec.objectives),
            spec.seed,
        )
        for candidate, decision in zip(climbing, decisions, strict=True):
            verdicts[candidate.number] = decision.verdict
        climbing = [c for c, decision in zip(climbing, decisions, strict=True) if decision.climbs]
        if not climbing:
            break
    reached = tuple(verdict for verdict in verdicts.values() if verdict is not None)
    event = GenerationFinished(generation=state.generation, verdicts=reached)
    # Before the event, or a run killed in between would keep them for ever.
    ports.checkpoints.discard(_superseded(state))
    return record(state, event, spec, ports)


def _train_stage(
    state: EvolutionState,
    climbing: Sequence[Candidate],
    stage: int,
    spec: RunSpec,
    ports: Ports,
) -> EvolutionState:
    """Train whoever has no outcome yet, the longest jobs first so that workers end together."""
    jobs = [
        _job(candidate, stage, state, spec, ports.survey)
        for candidate in climbing
        if work_key(candidate, stage, spec, ports.survey) not in state.outcomes
    ]
    numbers = {job.key: job.trial for job in jobs}
    jobs.sort(key=lambda job: (-_expected_cost(job, ports.survey), job.trial))
    for outcome in ports.executor.run(jobs):
        event = StageFinished(trial=numbers[outcome.key], outcome=outcome)
        state = record(state, event, spec, ports)
    return state


def _job(
    candidate: Candidate, stage: int, state: EvolutionState, spec: RunSpec, survey: Survey
) -> TrainingJob:
    previous: Outcome | None = None
    if stage > 0:
        previous = state.outcomes[work_key(candidate, stage - 1, spec, survey)][1]
    return TrainingJob(
        key=work_key(candidate, stage, spec, survey),
        trial=candidate.number,
        plan=spec.plan_of(candidate),
        stage=stage,
        stages=spec.training_stages,
        seed=spec.seed,
        resume_from=previous.checkpoint if previous else None,
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
    return [
        outcome.checkpoint
        for _, outcome in scored
        if outcome.checkpoint and outcome.checkpoint not in latest.values()
    ]
