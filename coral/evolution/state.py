"""The state of an evolution, and the one place where it changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

from coral.evolution.fitness import (
    by_stage,
    earned_outcome,
    is_fit,
    objective_values,
    of_different_weights,
    ranked_finishers,
)
from coral.evolution.toolbox import (
    build_toolbox,
    describe,
    dominated_volume,
    pareto_front,
    promote,
    select,
)
from coral.fidelity import Ledger, book
from coral.ports import BUILT_IN
from coral.records import (
    Candidate,
    CandidatesJoined,
    Cost,
    Event,
    GenerationFinished,
    GenerationStarted,
    Objective,
    Outcome,
    ParentsSelected,
    RunConfirmed,
    StageFinished,
    Trial,
    TrialsDerived,
    Verdict,
)
from coral.rng import derive_seed
from coral.settings import RunSpec

FINISHERS_KEPT = 4
"""Trials that are remembered for each place in a soup: not all of them can be added up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationStatistics:
    """A generation in numbers.

    Attributes:
        best: the primary objective of the best trial so far, at the highest stage; None if none.
        mean, std: of the primary objective over the generation, at each trial's highest stage.
        hypervolume: of the front, against the worst values of the first generation that had one.
    """

    generation: int
    trials: int
    pruned: int
    failed: int
    front: int
    best: float | None
    mean: float
    std: float
    hypervolume: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionState:
    """Attributes:
    train_examples: size of the full train set, all tasks together.
    generation: generations finished, and so the index of the next.
    derived: generations after which soup and squeezed adapters were made.
    selected: generations after which a plugin picked the parents.
    candidates, outcomes: the generation under way; outcomes by key. After the last generation, the
        outcomes of the final confirmation.
    trials: finished trials, by number.
    population: numbers of the parents kept, best first; all who may become one until a plugin has
        picked them.
    finishers: numbers of the best trained trials of the last stage, of different weights, best
        first: those that soups are made of.
    champion: number of the best trial so far: highest stage, then primary objective.
    front: numbers of the Pareto front's members, at the highest stage reached.
    worst: reference point of the hypervolume.
    """

    train_examples: int
    generation: int = 0
    derived: int = 0
    selected: int = 0
    candidates: tuple[Candidate, ...] = ()
    outcomes: Mapping[str, tuple[int, Outcome]] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    population: tuple[int, ...] = ()
    finishers: tuple[int, ...] = ()
    champion: int | None = None
    front: tuple[int, ...] = ()
    worst: tuple[float, ...] = ()
    history: tuple[GenerationStatistics, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)
    digests: frozenset[str] = frozenset()
    confirmation: RunConfirmed | None = None

    @property
    def last_generation(self) -> tuple[Trial, ...]:
        """The trials of the last finished generation, derived ones included."""
        last = self.generation - 1
        return tuple(takewhile(lambda t: t.candidate.generation == last, reversed(self.trials)))[
            ::-1
        ]

    def candidate(self, number: int) -> Candidate:
        """Return a candidate of this generation or an earlier one."""
        if number < len(self.trials):
            return self.trials[number].candidate
        return self.candidates[number - len(self.trials)]

    def outcome_of(self, trial: int, stage: int) -> Outcome | None:
        """Return what a trial did in a stage, in this generation or an earlier one; None if not."""
        if trial < len(self.trials):
            return self.trials[trial].outcome_at(stage)
        found = (o for number, o in self.outcomes.values() if (number, o.stage) == (trial, stage))
        return next((outcome for outcome in found if outcome.failure is None), None)


def advance(state: EvolutionState, event: Event, spec: RunSpec) -> EvolutionState:
    """Return the state after an event: the one fold behind running, resuming and showing."""
    match event:
        case GenerationStarted():
            return replace(state, candidates=event.candidates, outcomes={}, confirmation=None)
        case CandidatesJoined():
            return replace(state, candidates=state.candidates + event.candidates)
        case StageFinished():
            outcomes = {**state.outcomes, event.outcome.key: (event.trial, event.outcome)}
            return replace(state, outcomes=outcomes)
        case GenerationFinished():
            return _finish(state, event.verdicts, spec)
        case TrialsDerived():
            return _derive(state, event.trials, spec)
        case ParentsSelected():
            return replace(state, selected=state.generation, population=event.parents)
        case RunConfirmed():
            # By key, not by arrival: sums of floats depend on the order.
            by_key = [outcome.cost for _, (_, outcome) in sorted(state.outcomes.items())]
            spent = sum(by_key, start=Cost())
            ledger = replace(state.ledger, confirmation=state.ledger.confirmation + spent)
            return replace(state, confirmation=event, ledger=ledger, outcomes={})


def replay(events: Iterable[Event], spec: RunSpec, train_examples: int) -> EvolutionState:
    """Return the state that a run's events lead to."""
    state = EvolutionState(train_examples=train_examples)
    for event in events:
        state = advance(state, event, spec)
    return state


def promoted(outcomes: Sequence[Outcome], k: int, objectives: Sequence[Objective]) -> list[int]:
    """Return the positions of the ``k`` outcomes of one stage to promote, best first.

    Outcomes without finite objectives are never among them.
    """
    scores = [(i, objective_values(outcome, objectives)) for i, outcome in enumerate(outcomes)]
    finite = [(i, values) for i, values in scores if values is not None]
    return [finite[j][0] for j in promote([values for _, values in finite], k, objectives)]


def _finish(state: EvolutionState, verdicts: Sequence[Verdict], spec: RunSpec) -> EvolutionState:
    outcomes = _outcomes_by_trial(state)
    finished = tuple(
        Trial(
            candidate=candidate, outcomes=tuple(outcomes.get(candidate.number, ())), verdict=verdict
        )
        for candidate, verdict in zip(state.candidates, verdicts, strict=True)
    )
    batch_sizes = [
        spec.space.field_of(trial.candidate.genome, "schedule.batch_size") for trial in finished
    ]
    state = replace(
        state,
        generation=state.generation + 1,
        candidates=(),
        outcomes={},
        worst=state.worst or _worst(finished, spec),
        ledger=book(
            state.ledger,
            finished,
            batch_sizes,
            spec.training_stages,
            state.train_examples,
            {trial.number for trial in finished if _is_shared(trial, spec)},
        ),
    )
    return _joined(state, finished, spec)


def _is_shared(trial: Trial, spec: RunSpec) -> bool:
    """Return whether another had trained the weights that a trial began with."""
    first = next(iter(trial.scored), None)
    return spec.space.shares_weights and first is not None and not first.cost.optimizer_steps


def _derive(state: EvolutionState, derived: tuple[Trial, ...], spec: RunSpec) -> EvolutionState:
    """Return the state with trials that were made of others' weights after a generation."""
    state = replace(state, derived=state.generation)
    if not derived:
        return state
    spent = sum((trial.cost for trial in derived), start=Cost())
    search = (*state.ledger.search[:-1], state.ledger.search[-1] + spent)
    return _joined(replace(state, ledger=replace(state.ledger, search=search)), derived, spec)


def _joined(state: EvolutionState, new: tuple[Trial, ...], spec: RunSpec) -> EvolutionState:
    """Return the state with finished trials of the last generation: who leads, who breeds."""
    trials = state.trials + new
    numbers = {trial.number for trial in new}
    incumbent = set() if state.champion is None else {state.champion}
    champion = _champion(trials, incumbent | numbers, spec)
    front = _front(trials, {*state.front} | numbers, spec)
    last = state.generation - 1
    state = replace(state, trials=trials)
    statistics = _statistics(
        last, state.last_generation, trials, champion, front, state.worst, spec
    )
    return replace(
        state,
        finishers=_finishers(state, new, spec),
        population=_population(state, trials, new, spec),
        champion=champion,
        front=front,
        history=(*state.history[:last], statistics),
        digests=state.digests | {trial.candidate.digest for trial in new},
    )


def _outcomes_by_trial(state: EvolutionState) -> dict[int, list[Outcome]]:
    """Return the outcomes of the generation under way, each trial's from the lowest stage up."""
    grouped: dict[int, list[Outcome]] = {}
    for trial, outcome in sorted(state.outcomes.values(), key=lambda pair: pair[1].stage):
        grouped.setdefault(trial, []).append(outcome)
    return grouped


def _population(
    state: EvolutionState, trials: Sequence[Trial], finished: Sequence[Trial], spec: RunSpec
) -> tuple[int, ...]:
    """Keep the best of parents and children: by stage, then by the configured selection.

    Squeezed adapters are left out: they are their source over again, and would fill the population.
    A plugin's selection is not asked here, for the past must not depend on a plugin.
    """
    toolbox = build_toolbox(spec.space, spec.evolution, spec.objectives)
    own = [trial for trial in finished if not _is_squeezed(trial)]
    pool = [*(trials[number] for number in state.population), *own]
    seed = derive_seed(spec.seed, "select", state.generation - 1)
    own_selection = spec.evolution.selection in BUILT_IN["selections"]
    most = spec.evolution.population_size if own_selection else len(pool)
    kept: list[int] = []
    for members, scores in by_stage(pool, spec.objectives, earned_outcome):
        room = most - len(kept)
        if room <= 0:
            break
        kept += [members[i].number for i in select(toolbox, scores, room, spec.objectives, seed)]
    return tuple(kept)


def _is_squeezed(trial: Trial) -> bool:
    derivation = trial.candidate.derivation
    return derivation is not None and derivation.kind == "squeeze"


def _finishers(state: EvolutionState, new: Sequence[Trial], spec: RunSpec) -> tuple[int, ...]:
    own = [trial for trial in new if trial.candidate.derivation is None]
    known = [state.trials[number] for number in state.finishers]
    ranked = of_different_weights(ranked_finishers([*known, *own], spec))
    return tuple(trial.number for trial in ranked[: FINISHERS_KEPT * spec.soup.candidates])


def _champion(trials: Sequence[Trial], numbers: set[int], spec: RunSpec) -> int | None:
    """Return the best trial at the highest stage; objectives in their order break ties."""
    groups = by_stage([trials[number] for number in sorted(numbers)], spec.objectives)
    if not groups:
        return None
    members, scores = groups[0]

    def worth(place: int) -> list[float]:
        return [o.sign * value for o, value in zip(spec.objectives, scores[place], strict=True)]

    return members[max(range(len(members)), key=worth)].number


def _front(trials: Sequence[Trial], numbers: set[int], spec: RunSpec) -> tuple[int, ...]:
    """Return the non-dominated trials among those at the highest stage."""
    groups = by_stage([trials[number] for number in sorted(numbers)], spec.objectives)
    if not groups:
        return ()
    members, scores = groups[0]
    return tuple(members[i].number for i in pareto_front(scores, spec.objectives))


def _worst(finished: Sequence[Trial], spec: RunSpec) -> tuple[float, ...]:
    scores = [values for _, group in by_stage(finished, spec.objectives) for values in group]
    return tuple(
        (min if objective.direction == "max" else max)(values[i] for values in scores)
        for i, objective in enumerate(spec.objectives)
        if scores
    )


def _statistics(
    generation: int,
    finished: Sequence[Trial],
    trials: Sequence[Trial],
    champion: int | None,
    front: Sequence[int],
    worst: tuple[float, ...],
    spec: RunSpec,
) -> GenerationStatistics:
    primary = spec.objectives[0].metric
    scored = [
        values[0]
        for trial in finished
        if is_fit(trial)
        and (values := objective_values(trial.scored[-1], spec.objectives)) is not None
    ]
    summary = describe(scored)
    front_scores = [
        values
        for number in front
        if (values := objective_values(trials[number].scored[-1], spec.objectives)) is not None
    ]
    return GenerationStatistics(
        generation=generation,
        trials=len(finished),
        pruned=sum(trial.verdict.status == "pruned" for trial in finished),
        failed=sum(trial.verdict.status == "failed" for trial in finished),
        front=len(front),
        best=None if champion is None else trials[champion].scored[-1].metrics[primary],
        mean=summary.get("mean", math.nan),
        std=summary.get("std", math.nan),
        hypervolume=dominated_volume(front_scores, worst, spec.objectives) if worst else 0.0,
    )
