"""Lineage: whose weights went into a trial's, and what all of them cost."""

from __future__ import annotations

from collections.abc import Iterable

from coral.evolution.fitness import earned_outcome
from coral.evolution.state import EvolutionState
from coral.fidelity import ladder_steps
from coral.genome import Genome, similarity
from coral.records import Candidate, Legacy, Objective, Outcome, Trial
from coral.settings import FIRST_STAGE, PARENTS_STAGE, RunSpec


def legacy_of(genome: Genome, parents: Iterable[Trial], spec: RunSpec) -> tuple[Legacy, ...]:
    """Return the weights that a child starts from, the better parent's first.

    They are those that made its parents parents: what an audit or the final confirmation trained
    beyond them is no part of the search. Parents that are too different are left out.
    """
    if spec.warm_start.mode == "none":
        return ()
    able = [
        (parent, outcome)
        for parent in parents
        if (outcome := earned_outcome(parent)) is not None
        and outcome.checkpoint is not None
        and similarity(spec.space, genome, parent.candidate.genome)
        >= spec.warm_start.min_similarity
    ]
    able.sort(key=lambda pair: _rank(pair[1], spec.objectives[0]))
    most = 2 if spec.warm_start.mode == "crossover" else 1
    return tuple(
        Legacy(trial=parent.number, stage=outcome.stage) for parent, outcome in able[:most]
    )


def _rank(outcome: Outcome, primary: Objective) -> tuple[int, float]:
    """Return what orders outcomes of several stages, the best first."""
    return -outcome.stage, -primary.sign * outcome.metrics[primary.metric]


def entry_of(legacy: tuple[Legacy, ...], spec: RunSpec) -> int:
    """Return the index of the stage that a child trains first."""
    if not legacy or spec.warm_start.entry == FIRST_STAGE:
        return 0
    if spec.warm_start.entry == PARENTS_STAGE:
        return legacy[0].stage
    return [stage.name for stage in spec.training_stages].index(spec.warm_start.entry)


def ancestors(
    number: int, stage: int, state: EvolutionState, *, in_weights: bool = False
) -> dict[int, int]:
    """Return every trial whose weights a trial's were made from, itself included.

    Args:
        stage: index of the stage at whose end its weights are meant.
        in_weights: leave out parents that were dropped because too little of a crossover was
            retained. To make the weights again they are needed all the same.

    Returns:
        Trial number to the highest stage whose weights went in, the trial itself first.
    """
    found: dict[int, int] = {}
    open_ends = [Legacy(trial=number, stage=stage)]
    while open_ends:
        legacy = open_ends.pop()
        known = found.get(legacy.trial)
        if known is None:
            open_ends += _legacy(state.candidate(legacy.trial), state, in_weights=in_weights)
        if known is None or known < legacy.stage:
            found[legacy.trial] = legacy.stage
    return found


def _legacy(candidate: Candidate, state: EvolutionState, *, in_weights: bool) -> tuple[Legacy, ...]:
    first = state.outcome_of(candidate.number, candidate.entry)
    if not in_weights or first is None or first.inheritance is None:
        return candidate.legacy
    return tuple(item for item in candidate.legacy if item.trial in first.inheritance.sources)


def lineage_steps(number: int, stage: int, state: EvolutionState, spec: RunSpec) -> int:
    """Return the optimizer steps of all training that went into a trial's weights, each once.

    By the ladder, so that what was trained again after a loss does not count.
    """
    return sum(
        own_steps(state.candidate(trial), highest, state, spec)
        for trial, highest in ancestors(number, stage, state, in_weights=True).items()
    )


def own_steps(candidate: Candidate, stage: int, state: EvolutionState, spec: RunSpec) -> int:
    """Return the optimizer steps that a candidate trains itself by the end of a stage."""
    if candidate.derivation is not None:
        return 0
    batch_size = spec.plan_of(candidate).schedule.batch_size
    ends = ladder_steps(spec.training_stages, state.train_examples, batch_size)
    return ends[stage] - (ends[candidate.entry - 1] if candidate.entry else 0)
