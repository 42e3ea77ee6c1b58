"""Lineage: whose weights went into a trial's, and what all of them cost."""

from __future__ import annotations

from collections.abc import Iterable

from coral.evolution.fitness import earned_outcome
from coral.evolution.state import EvolutionState
from coral.fidelity import ladder_steps
from coral.genome import Genome, similarity
from coral.plan import training_digest
from coral.records import Candidate, Legacy, Objective, Outcome, Trial
from coral.settings import FIRST_STAGE, PARENTS_STAGE, RunSpec


def legacy_of(genome: Genome, parents: Iterable[Trial], spec: RunSpec) -> tuple[Legacy, ...]:
    """Return the weights that a child starts from, the better parent's first.

    They are those that made its parents parents: what an audit or the final confirmation trained
    beyond them is no part of the search. Parents that are too different are left out, and of
    parents that have the same weights the worse one.
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
    able = list({outcome.weights: (parent, outcome) for parent, outcome in reversed(able)}.values())
    able.reverse()
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
    first = state.outcome_of(candidate.number, candidate.first_stage)
    if not in_weights or first is None or first.inheritance is None:
        return candidate.legacy
    return tuple(item for item in candidate.legacy if item.trial in first.inheritance.sources)


def lineage_steps(number: int, stage: int, state: EvolutionState, spec: RunSpec) -> int:
    """Return the optimizer steps of all training that went into a trial's weights, each once.

    By the ladder, so that what was trained again after a loss does not count.
    """
    longest: dict[str, int] = {}
    for trial, highest in ancestors(number, stage, state, in_weights=True).items():
        trainer = _trainer(state.candidate(trial), state)
        first = state.outcome_of(trainer.number, trainer.entry)
        training = first.weights if first else trainer.digest
        steps = own_steps(trainer, highest, state, spec)
        longest[training] = max(steps, longest.get(training, 0))
    return sum(longest.values())


def lineage_teraflops(number: int, stage: int, state: EvolutionState) -> float:
    """Return the 1e12 operations of all training that went into a trial's weights, each once.

    As they were spent. Of several trials with the same weights one has trained, the others cost
    nothing.
    """
    passed: set[str] = set()
    for trial, highest in ancestors(number, stage, state, in_weights=True).items():
        shared: Legacy | None = Legacy(trial=trial, stage=highest)
        while shared is not None:
            passed |= {
                o.weights for o in state.trials[shared.trial].scored if o.stage <= shared.stage
            }
            shared = state.candidate(shared.trial).shares
    spent: dict[str, float] = {}
    for outcome in (outcome for trial in state.trials for outcome in trial.scored):
        if outcome.weights in passed:
            most = max(outcome.cost.teraflops, spent.get(outcome.weights, 0.0))
            spent[outcome.weights] = most
    return sum(spent.values())


def _trainer(candidate: Candidate, state: EvolutionState) -> Candidate:
    """Return whoever trained the weights that a candidate shares, itself if it shares none."""
    while candidate.shares is not None:
        candidate = state.candidate(candidate.shares.trial)
    return candidate


def shared_with(
    genome: Genome, parents: Iterable[Trial], spec: RunSpec
) -> tuple[Trial, Legacy] | None:
    """Return the first parent that trains as a genome would, and the weights that both then have.

    None if there is none. Of derived weights a child is an heir, as of all others.
    """
    for parent in parents if spec.space.shares_weights else ():
        outcome, candidate = earned_outcome(parent), parent.candidate
        if (
            outcome is not None
            and outcome.checkpoint is not None
            and candidate.derivation is None
            and training_digest(spec.plan_of(candidate))
            == training_digest(spec.space.express(genome))
        ):
            return parent, Legacy(trial=parent.number, stage=outcome.stage)
    return None


def own_steps(candidate: Candidate, stage: int, state: EvolutionState, spec: RunSpec) -> int:
    """Return the optimizer steps that a candidate trains itself by the end of a stage."""
    if candidate.derivation is not None:
        return 0
    batch_size = spec.plan_of(candidate).schedule.batch_size
    ends = ladder_steps(spec.training_stages, state.train_examples, batch_size)
    return ends[stage] - (ends[candidate.entry - 1] if candidate.entry else 0)
