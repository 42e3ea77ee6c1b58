"""One generation up the ladder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from coral.evolution import (
    EXPLOITED,
    EvolutionState,
    advance,
    exchanges,
    held_by,
    promoted,
)
from coral.fidelity import CURVE_PROXIES, Contender, judge, ladder_steps
from coral.ports import Ports, Survey, TrainingJob
from coral.records import (
    CandidatesJoined,
    Event,
    GenerationFinished,
    Outcome,
    StageFinished,
    Verdict,
    weights_of,
)
from coral.retention import give_up, make_room
from coral.settings import RunSpec
from coral.work import Work, holds, job_of, longest_first, run, work_of


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
    earlier = _trained_earlier(state, spec)
    for stage in range(len(spec.training_stages)):
        joining = [c for c in state.candidates if c.first_stage == stage]
        verdicts |= {candidate.number: None for candidate in joining}
        climbing += [work_of(c, state, spec, ports.survey) for c in joining]
        climbing.sort(key=lambda work: work.candidate.number)
        if not climbing:
            continue
        state = _train_stage(state, climbing, stage, earlier, spec, ports)
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
    give_up(_superseded(state, verdicts, spec), ports)
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


def _trained_earlier(state: EvolutionState, spec: RunSpec) -> dict[str, Outcome]:
    """Return what earlier generations trained, by the identity of the weights."""
    if not spec.space.shares_weights:
        return {}
    return {
        outcome.weights: outcome
        for trial in state.trials
        if trial.candidate.derivation is None
        for outcome in trial.scored
    }


def _train_stage(
    state: EvolutionState,
    climbing: Sequence[Work],
    stage: int,
    earlier: Mapping[str, Outcome],
    spec: RunSpec,
    ports: Ports,
) -> EvolutionState:
    """Train whoever has no outcome yet, and whose weights nobody has.

    Of those that share their weights the first trains; the others wait, and are evaluated with what
    it has trained. Should it fail, the next one trains.

    Args:
        earlier: outcomes of earlier generations, by the identity of the weights.
    """
    while missing := [work for work in climbing if work.keys[stage] not in state.outcomes]:
        order = _order(missing, stage, earlier, state, spec, ports)
        for event in order.settled:
            state = record(state, event, spec, ports)
        works = {work.keys[stage]: work for work in missing}
        jobs = [*longest_first(order.training, ports.survey), *order.evaluating]
        for found in run(jobs, state, spec, ports):
            work, source = works[found.key], order.sources.get(found.key)
            outcome = found if source is None else _with_training_of(source, found, work, state)
            event = StageFinished(trial=work.candidate.number, outcome=outcome)
            state = record(state, event, spec, ports)
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What can be done next of a stage.

    Attributes:
        training, evaluating: jobs with steps to train, and those without.
        sources: outcomes of those who trained the weights of ``evaluating``, by job key.
        settled: what needs no job: training that has diverged does so for all who share it.
    """

    training: Sequence[TrainingJob]
    evaluating: Sequence[TrainingJob]
    sources: Mapping[str, Outcome]
    settled: Sequence[StageFinished]


def _order(
    missing: Sequence[Work],
    stage: int,
    earlier: Mapping[str, Outcome],
    state: EvolutionState,
    spec: RunSpec,
    ports: Ports,
) -> _Order:
    now = {outcome.weights: outcome for outcome in _scored(state)}
    diverged = {
        outcome.weights: outcome.failure
        for _, outcome in state.outcomes.values()
        if outcome.failure is not None and outcome.failure.kind == "diverged"
    }
    training: dict[str, TrainingJob] = {}
    evaluating: list[TrainingJob] = []
    sources: dict[str, Outcome] = {}
    settled: list[StageFinished] = []
    for work in missing:
        key, weights = work.keys[stage], weights_of(work.keys[stage])
        source = now.get(weights) or earlier.get(weights)
        if weights in diverged:
            outcome = Outcome(key=key, stage=stage, failure=diverged[weights])
            settled.append(StageFinished(trial=work.candidate.number, outcome=outcome))
        elif source and source.checkpoint and holds(ports.checkpoints, source.checkpoint):
            evaluating.append(job_of(work, stage, spec, resume_from=source.checkpoint))
            sources[key] = source
        elif weights not in training:
            before = _checkpoint(work, stage - 1, state)
            training[weights] = job_of(work, stage, spec, resume_from=before)
    return _Order(
        training=list(training.values()), evaluating=evaluating, sources=sources, settled=settled
    )


def _scored(state: EvolutionState) -> Iterator[Outcome]:
    return (outcome for _, outcome in state.outcomes.values() if outcome.failure is None)


def _with_training_of(
    source: Outcome, outcome: Outcome, work: Work, state: EvolutionState
) -> Outcome:
    """Return an outcome with what another that trained the same weights tells of the training.

    Its cost remains its own: nothing, unless the weights were lost.
    """
    if outcome.failure is not None or outcome.cost.optimizer_steps:
        return outcome
    told = {name: source.metrics[name] for name in CURVE_PROXIES if name in source.metrics}
    inheritance, shares = source.inheritance, work.candidate.shares
    if shares is not None and outcome.stage == shares.stage:
        first = state.outcome_of(shares.trial, state.candidate(shares.trial).first_stage)
        inheritance = first.inheritance if first else None
    return replace(
        outcome,
        metrics={**outcome.metrics, **told},
        curve=source.curve,
        checkpoint_bytes=source.checkpoint_bytes,
        inheritance=inheritance,
    )


def _checkpoint(work: Work, stage: int, state: EvolutionState) -> str | None:
    known = state.outcomes.get(work.keys[stage]) if stage >= 0 else None
    return known[1].checkpoint if known else None


def _superseded(
    state: EvolutionState, verdicts: Mapping[int, Verdict | None], spec: RunSpec
) -> list[str]:
    """Return the generation's checkpoints that nobody starts from any more.

    Of each trial two may be kept: its latest, and the one that it is worth as a parent. Trials of
    earlier generations may have the same.
    """
    latest: dict[int, Outcome] = {}
    kept: set[str | None] = {*held_by(state.trials)} if spec.space.shares_weights else set()
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
