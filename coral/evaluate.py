"""One generation up the ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from coral.evolution import (
    EXPLOITED,
    EvolutionState,
    advance,
    exchanges,
    promoted,
)
from coral.fidelity import Contender, judge, ladder_steps
from coral.ports import Ports, Survey
from coral.records import (
    CandidatesJoined,
    Event,
    GenerationFinished,
    Outcome,
    StageFinished,
    Verdict,
)
from coral.retention import give_up, make_room
from coral.settings import RunSpec
from coral.work import Work, job_of, longest_first, run, work_of


def record(state: EvolutionState, event: Event, spec: RunSpec, ports: Ports) -> EvolutionState:
    """Make an event durable, then believe it."""
    ports.runs.append(event)
    state = advance(state, event, spec)
    ports.observer.on_event(event, state)
    make_room(state, spec, ports)
    return state


def evaluate(state: EvolutionState, spec: RunSpec, ports: Ports) -> EvolutionState:
    """Train the candidates of ``state`` stage by stage, judge them, and finish the generation.

    Work whose outcome the state already holds is not done again, so a resumed generation goes on
    within the stage where it was.
    """
    verdicts: dict[int, Verdict | None] = {}
    climbing: list[Work] = []
    for stage in range(len(spec.training_stages)):
        joining = [c for c in state.candidates if c.entry == stage]
        verdicts |= {candidate.number: None for candidate in joining}
        climbing += [work_of(c, state, spec, ports.survey) for c in joining]
        climbing.sort(key=lambda work: work.candidate.number)
        if not climbing:
            continue
        state = _train_stage(state, climbing, stage, spec, ports)
        decisions = judge(
            [
                _contender(work, stage, state, verdicts[work.candidate.number], ports.survey)
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
        if stage < spec.last_stage:
            state, given_up = _exploit(climbing, stage, verdicts, state, spec, ports)
            verdicts |= given_up
            climbing = [work for work in climbing if work.candidate.number not in given_up]
    reached = tuple(verdicts[candidate.number] for candidate in state.candidates)
    event = GenerationFinished(
        generation=state.generation,
        verdicts=tuple(verdict for verdict in reached if verdict is not None),
    )
    # Before the event, or a run killed in between would keep them for ever.
    give_up(_superseded(state, verdicts), ports)
    return record(state, event, spec, ports)


def _contender(
    work: Work, stage: int, state: EvolutionState, verdict: Verdict | None, survey: Survey
) -> Contender:
    outcome = state.outcomes[work.keys[stage]][1]
    batch_size = work.plan.schedule.batch_size
    cold = ladder_steps(work.stages, survey.train_examples, batch_size)[stage]
    return Contender(
        trial=work.candidate.number,
        outcome=outcome,
        verdict=verdict,
        exempt=work.candidate.lineage.operator == "reference",
        experience=outcome.cumulative_steps / cold if work.inherits else 1.0,
    )


def _exploit(
    climbing: Sequence[Work],
    stage: int,
    verdicts: Mapping[int, Verdict | None],
    state: EvolutionState,
    spec: RunSpec,
    ports: Ports,
) -> tuple[EvolutionState, dict[int, Verdict | None]]:
    """Let mutated copies of the best take the places of the worst; return who gave theirs."""
    able = [
        work
        for work in climbing
        if verdicts[work.candidate.number] is None
        and work.candidate.lineage.operator != "reference"
    ]
    outcomes = [state.outcomes[work.keys[stage]][1] for work in able]
    order = promoted(outcomes, len(able), spec.objectives)
    made = exchanges([able[i].candidate for i in order], stage, state, spec)
    known = {candidate.number for candidate in state.candidates}
    new = [item for item in made if item.candidate.number not in known]
    if new:
        event = CandidatesJoined(
            candidates=tuple(item.candidate for item in new),
            replaced=tuple(item.loser for item in new),
        )
        state = record(state, event, spec, ports)
    return state, {
        item.loser: Verdict(
            status="pruned",
            stage=stage,
            rule=EXPLOITED,
            reason=f"gave its place to trial {item.candidate.number}",
        )
        for item in made
    }


def _train_stage(
    state: EvolutionState,
    climbing: Sequence[Work],
    stage: int,
    spec: RunSpec,
    ports: Ports,
) -> EvolutionState:
    """Train whoever has no outcome yet."""
    jobs = [
        job_of(work, stage, spec, resume_from=_checkpoint(work, stage - 1, state))
        for work in climbing
        if work.keys[stage] not in state.outcomes
    ]
    numbers = {job.key: job.trial for job in jobs}
    for outcome in run(longest_first(jobs, ports.survey), state, spec, ports):
        event = StageFinished(trial=numbers[outcome.key], outcome=outcome)
        state = record(state, event, spec, ports)
    return state


def _checkpoint(work: Work, stage: int, state: EvolutionState) -> str | None:
    known = state.outcomes.get(work.keys[stage]) if stage >= 0 else None
    return known[1].checkpoint if known else None


def _superseded(state: EvolutionState, verdicts: Mapping[int, Verdict | None]) -> list[str]:
    """Return the generation's checkpoints that nobody starts from any more.

    Of each trial two may be kept: its latest, and the one that it is worth as a parent.
    """
    latest: dict[int, Outcome] = {}
    kept: set[str | None] = set()
    for trial, outcome in state.outcomes.values():
        if outcome.failure is not None:
            continue
        if trial not in latest or latest[trial].stage < outcome.stage:
            latest[trial] = outcome
        verdict = verdicts[trial]
        if verdict is not None and verdict.stage == outcome.stage:
            kept.add(outcome.checkpoint)
    kept |= {outcome.checkpoint for outcome in latest.values()}
    return [
        outcome.checkpoint
        for _, outcome in state.outcomes.values()
        if outcome.checkpoint and outcome.checkpoint not in kept
    ]
