"""After a generation: what its trained adapters are worth together, and at lower ranks.

Nothing is trained here. Soups and squeezed adapters are put together from checkpoints and evaluated
as the last stage evaluates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from coral.evaluate import record
from coral.evolution import (
    EvolutionState,
    held_by,
    objective_values,
    of_different_weights,
    ranked_finishers,
    soup_of,
    soup_pool,
    squeezes_of,
    tuned,
)
from coral.ports import Ports
from coral.records import Candidate, Cost, Outcome, Trial, TrialsDerived, Verdict
from coral.retention import give_up
from coral.rng import stream
from coral.settings import RunSpec
from coral.work import job_of, run, work_of

Members = list[tuple[Trial, float]]

_TOGETHER = 2
"""Soups evaluated side by side before the next ones start from the better of them. As many with any
number of workers, so that what they cost is the same too."""


def harvest(state: EvolutionState, spec: RunSpec, ports: Ports) -> EvolutionState:
    """Make the last generation's soup and squeezed adapters, unless that was done.

    They are trials like any other, in one event: a run that is killed before it makes them again.
    """
    if state.derived == state.generation or state.candidates:
        return state
    soup = _soup(state, spec, ports)
    made = [soup] if soup else []
    ranked = of_different_weights(ranked_finishers([*state.last_generation, *made], spec))
    sources = ranked[: spec.squeeze.sources]
    known = replace(state, trials=(*state.trials, *made))
    candidates: list[Candidate] = []
    for source in sources:
        candidates += squeezes_of(source, len(known.trials) + len(candidates), known, spec)
    outcomes = _evaluated(candidates, known, spec, ports)
    made += [
        _trial(candidate, outcome, spec)
        for candidate, outcome in zip(candidates, outcomes, strict=True)
    ]
    return record(
        state, TrialsDerived(generation=state.generation - 1, trials=tuple(made)), spec, ports
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """A soup that was put together and evaluated.

    Attributes:
        worth: of its outcome, more is better.
    """

    members: Members
    candidate: Candidate
    outcome: Outcome
    worth: float


def _soup(state: EvolutionState, spec: RunSpec, ports: Ports) -> Trial | None:
    """Return the soup that greedy selection finds, if it is better than the best trial alone.

    Trials join in the order of their validation scores and stay if the soup gets better. Then a few
    mutations of the weights are tried. Nothing is, if the pool is what it was a generation ago.

    Some are tried side by side. Those behind the first that stays are tried again with it, as if
    it had been one after another.

    Source: Wortsman et al. 2022 (greedy soup).
    """
    pool = soup_pool(state, spec)
    newest = max((trial.candidate.generation for trial in pool), default=-1)
    if len(pool) < 2 or newest < state.generation - 1:
        return None
    # A soup of the same weights may stand for another way to answer already.
    earlier: set[str | None] = {*held_by(state.trials)} if spec.space.shares_weights else set()
    members: Members = [(pool[0], 1.0)]
    best, worth = None, _worth(pool[0].scored[-1], spec)
    spent = Cost()

    def attempt(proposals: Sequence[Members]) -> list[_Attempt | None]:
        nonlocal spent
        made = _attempts(proposals, state, spec, ports)
        spent = sum((each.outcome.cost for each in made if each), start=spent)
        return made

    def settle(chosen: _Attempt | None, made: Sequence[_Attempt | None]) -> None:
        nonlocal members, best, worth
        made = [*made, best]
        if chosen:
            members, best, worth = chosen.members, chosen, chosen.worth
        # No event will name the others, so nobody could find them later.
        kept = earlier | {best.outcome.checkpoint if best else None}
        addresses = {each.outcome.checkpoint for each in made if each} - kept
        give_up(sorted(address for address in addresses if address), ports)

    line = pool[1:]
    while line:
        made = attempt([[*members, (trial, 1.0)] for trial in line[:_TOGETHER]])
        better = [i for i, each in enumerate(made) if each and each.worth > worth]
        settle(made[better[0]] if better else None, made)
        line = line[better[0] + 1 if better else len(made) :]
    for number in range(0, spec.soup.tunings if best else 0, _TOGETHER):
        rounds = range(number, min(number + _TOGETHER, spec.soup.tunings))
        rngs = [stream(spec.seed, "soup", state.generation, i) for i in rounds]
        made = attempt([tuned(members, rng) for rng in rngs])
        better_ones = [each for each in made if each and each.worth > worth]
        settle(max(better_ones, key=lambda each: each.worth, default=None), made)
    if best is None:
        return None
    return _trial(best.candidate, replace(best.outcome, cost=spent), spec)


def _attempts(
    proposals: Sequence[Members], state: EvolutionState, spec: RunSpec, ports: Ports
) -> list[_Attempt | None]:
    """Return soups of some members each, evaluated; None for one that the run knows already."""
    candidates = [soup_of(members, len(state.trials), state, spec) for members in proposals]
    fresh = [candidate for candidate in candidates if candidate.digest not in state.digests]
    outcomes = dict(
        zip((c.digest for c in fresh), _evaluated(fresh, state, spec, ports), strict=True)
    )
    return [
        _Attempt(
            members=members,
            candidate=candidate,
            outcome=outcomes[candidate.digest],
            worth=_worth(outcomes[candidate.digest], spec),
        )
        if candidate.digest in outcomes
        else None
        for members, candidate in zip(proposals, candidates, strict=True)
    ]


def _worth(outcome: Outcome, spec: RunSpec) -> float:
    """Return the primary objective, more is better; minus infinity for a failure."""
    values = objective_values(outcome, spec.objectives)
    if values is None:
        return float("-inf")
    return spec.objectives[0].sign * values[0]


def _evaluated(
    candidates: Sequence[Candidate], state: EvolutionState, spec: RunSpec, ports: Ports
) -> list[Outcome]:
    """Return the outcomes of derived candidates, in their order."""
    works = [work_of(candidate, state, spec, ports.survey) for candidate in candidates]
    jobs = [job_of(work, spec.last_stage, spec) for work in works]
    found = {outcome.key: outcome for outcome in run(jobs, state, spec, ports)}
    return [found[job.key] for job in jobs]


def _trial(candidate: Candidate, outcome: Outcome, spec: RunSpec) -> Trial:
    verdict = Verdict(status="completed", stage=spec.last_stage)
    if outcome.failure is not None:
        verdict = Verdict(
            status="failed",
            stage=spec.last_stage,
            reason=outcome.failure.message,
            rule=outcome.failure.kind,
        )
    return Trial(candidate=candidate, outcomes=(outcome,), verdict=verdict)
