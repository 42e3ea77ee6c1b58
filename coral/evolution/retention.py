"""Retention: what a run's checkpoints are still good for, and which of them to give up first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from coral.evolution.fitness import earned_outcome, of_different_weights, ranked_finishers
from coral.evolution.soup import soup_pool
from coral.evolution.state import EvolutionState
from coral.records import Legacy, Outcome, Trial
from coral.settings import RunSpec

DERIVED_SHARE = 1 / 3
"""Of a trained checkpoint, what its weights take; the rest are the optimizer's two moments."""


class Use(IntEnum):
    """What a checkpoint is still good for, the least first."""

    SUPERSEDED = 0
    UNUSED = 1
    ANCESTOR = 2
    SOUP = 3
    FRONT = 4
    POPULATION = 5
    REFERENCE = 6
    CHAMPION = 7
    QUEUED = 8


NEEDED_BY_NOBODY = Use.UNUSED
"""The highest use of what no part of the run asks for any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The use that a run has for a checkpoint.

    Attributes:
        trial: whose weights they are.
        stage: at whose end they stood; None for a rematch of the final confirmation.
        size: bytes, as their trainer told; 0 if it did not.
        place: among those of the same use, the greater the more valuable.
        reason: in words.
    """

    address: str
    trial: int
    stage: int | None
    size: int
    use: Use
    reason: str
    place: int = 0


def claims(
    state: EvolutionState, spec: RunSpec, made: Iterable[tuple[int, Outcome]] = ()
) -> list[Claim]:
    """Return every checkpoint of a run with its most valuable use, the least valuable first.

    Args:
        made: trial numbers with outcomes, all that the run ever had. The state forgets the
            rematches of a confirmation when the run is extended.
    """
    best: dict[str, Claim] = {}
    for claim in (*_trained(state, made), *_alive(state, spec), *_queued(state, spec)):
        known = best.get(claim.address)
        if known is None or (known.use, known.place) < (claim.use, claim.place):
            best[claim.address] = claim
    return sorted(best.values(), key=lambda claim: (claim.use, claim.place, claim.trial))


def spare(found: Sequence[Claim], sizes: Mapping[str, int], limit: float) -> list[Claim]:
    """Return which checkpoints to give up so that the others take no more than ``limit`` bytes.

    What a queued job needs is never among them, so more may be left.

    Args:
        found: the least valuable first.
        sizes: bytes by address; 0 for those that are gone already.
    """
    left = sum(sizes[claim.address] for claim in found)
    given_up = []
    for claim in found:
        if left <= limit or claim.use is Use.QUEUED:
            break
        if sizes[claim.address]:
            given_up.append(claim)
            left -= sizes[claim.address]
    return given_up


def writes_ahead(state: EvolutionState, spec: RunSpec, workers: int) -> float:
    """Return how many checkpoints may be written before the next event, as trained ones."""
    if state.candidates or state.derived == state.generation:
        return workers
    squeezed = spec.squeeze.sources * (len(spec.squeeze.ranks) + len(spec.squeeze.energies))
    return max(workers, (workers + 1 + squeezed) * DERIVED_SHARE)


def held_by(trials: Iterable[Trial]) -> set[str]:
    """Return the checkpoints of finished trials: of each its last, and what it is as a parent."""
    outcomes = (o for trial in trials for o in (*trial.scored[-1:], earned_outcome(trial)))
    return {outcome.checkpoint for outcome in outcomes if outcome and outcome.checkpoint}


def _claim(trial: int, outcome: Outcome, use: Use, reason: str, place: int = 0) -> Iterator[Claim]:
    if outcome.checkpoint and outcome.failure is None:
        yield Claim(
            address=outcome.checkpoint,
            trial=trial,
            stage=outcome.stage,
            size=outcome.checkpoint_bytes,
            use=use,
            reason=reason,
            place=place,
        )


def _final(trial: Trial, use: Use, reason: str, place: int = 0) -> Iterator[Claim]:
    for outcome in trial.scored[-1:]:
        yield from _claim(trial.number, outcome, use, reason, place)


def _left(legacy: Legacy, state: EvolutionState, use: Use, reason: str) -> Iterator[Claim]:
    outcome = state.outcome_of(legacy.trial, legacy.stage)
    if outcome is not None:
        yield from _claim(legacy.trial, outcome, use, reason)


def _rematch(
    trial: int, address: str | None, size: int, use: Use, reason: str, place: int = 0
) -> Iterator[Claim]:
    if address:
        yield Claim(
            address=address,
            trial=trial,
            stage=None,
            size=size,
            use=use,
            reason=reason,
            place=place,
        )


def _trained(state: EvolutionState, made: Iterable[tuple[int, Outcome]]) -> Iterator[Claim]:
    """Claim everything for the least use; whoever has a better one claims it again."""
    for number, outcome in made:
        reason = "of an earlier confirmation"
        size = outcome.checkpoint_bytes
        yield from _rematch(number, outcome.checkpoint, size, Use.SUPERSEDED, reason, place=-1)
    for trial in state.trials:
        earned = earned_outcome(trial)
        for outcome in trial.scored:
            use, reason = Use.SUPERSEDED, "the trial went on from it"
            if outcome is trial.scored[-1] or outcome is earned:
                use, reason = Use.UNUSED, f"{trial.verdict.status}, and in nothing that is left"
            yield from _claim(trial.number, outcome, use, reason)
    for number, outcome in state.outcomes.values():
        yield from _claim(number, outcome, Use.SUPERSEDED, "the trial went on from it")
    for contestant in state.confirmation.contestants if state.confirmation else ():
        reason = "scored in the confirmation, and not handed over"
        yield from _rematch(contestant.trial, contestant.checkpoint, 0, Use.UNUSED, reason)


def _alive(state: EvolutionState, spec: RunSpec) -> Iterator[Claim]:
    """Claim what breeding, soups and the end of the run may ask for."""
    leaders = () if state.champion is None else (state.champion,)
    for legacy, heir in _inherited((*state.population, *state.front, *leaders), state):
        yield from _left(legacy, state, Use.ANCESTOR, f"it went into trial {heir}")
    for trial in soup_pool(state, spec):
        yield from _final(trial, Use.SOUP, "may go into the next soup")
    for number in state.front:
        trial = state.trials[number]
        is_trained = trial.candidate.derivation is None
        yield from _final(trial, Use.FRONT, "on the front", place=int(is_trained))
    for place, number in enumerate(reversed(state.population)):
        earned = earned_outcome(state.trials[number])
        if earned is not None:
            yield from _claim(number, earned, Use.POPULATION, "in the population", place)
    for trial in state.trials[:1]:
        if trial.candidate.lineage.operator == "reference":
            yield from _final(trial, Use.REFERENCE, "the default recipe")
    for number in leaders:
        yield from _final(state.trials[number], Use.CHAMPION, "the best so far")


def _inherited(heirs: Sequence[int], state: EvolutionState) -> Iterator[tuple[Legacy, int]]:
    """Yield all weights that went into trials' weights, each once, with one of these trials."""
    open_ends = [(legacy, heir) for heir in heirs for legacy in state.candidate(heir).legacy]
    seen: set[tuple[int, int]] = set()
    while open_ends:
        legacy, heir = open_ends.pop()
        if (legacy.trial, legacy.stage) not in seen:
            seen.add((legacy.trial, legacy.stage))
            yield legacy, heir
            open_ends += [(item, heir) for item in state.candidate(legacy.trial).legacy]


def _queued(state: EvolutionState, spec: RunSpec) -> Iterator[Claim]:
    """Claim what jobs that are about to run start from."""
    if state.candidates:
        yield from _needed_under_way(state)
    elif state.derived < state.generation:
        last = [t for t in state.trials if t.candidate.generation == state.generation - 1]
        squeezed = of_different_weights(ranked_finishers(last, spec))[: spec.squeeze.sources]
        for trial in (*soup_pool(state, spec), *squeezed):
            yield from _final(trial, Use.QUEUED, "soups and smaller adapters are made of it")
    elif state.outcomes or state.confirmation or state.generation >= spec.evolution.generations:
        yield from _needed_at_the_end(state)


def _needed_under_way(state: EvolutionState) -> Iterator[Claim]:
    """Claim each candidate's latest checkpoint, or its parents' before it has one."""
    latest: dict[int, Outcome] = {}
    for number, outcome in state.outcomes.values():
        if number not in latest or latest[number].stage < outcome.stage:
            latest[number] = outcome
    for candidate in state.candidates:
        if candidate.number in latest:  # where that is a failure, nothing is needed any more
            own = latest[candidate.number]
            yield from _claim(candidate.number, own, Use.QUEUED, "the trial goes on from it")
            continue
        for legacy in (candidate.shares,) if candidate.shares else candidate.legacy:
            reason = f"trial {candidate.number} starts from it"
            yield from _left(legacy, state, Use.QUEUED, reason)


def _needed_at_the_end(state: EvolutionState) -> Iterator[Claim]:
    """Claim what is scored on the test split, and what is handed over."""
    for number in state.front:
        yield from _final(state.trials[number], Use.QUEUED, "handed over with the front")
    if state.confirmation and state.confirmation.contestants:
        winner = state.confirmation.contestants[state.confirmation.winner]
        reason = "handed over as the champion"
        yield from _rematch(winner.trial, winner.checkpoint, 0, Use.QUEUED, reason)
        return
    reason = "scored in the confirmation"
    for number, outcome in state.outcomes.values():
        if outcome.failure is None:
            size = outcome.checkpoint_bytes
            yield from _rematch(number, outcome.checkpoint, size, Use.QUEUED, reason)
    for number in () if state.champion is None else (0, state.champion):
        yield from _final(state.trials[number], Use.QUEUED, reason)
