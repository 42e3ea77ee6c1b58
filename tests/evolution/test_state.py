from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.evolution import EvolutionState, advance, promoted, replay
from coral.records import (
    Event,
    FailureKind,
    GenerationFinished,
    GenerationStarted,
    Outcome,
    RunConfirmed,
    StageFinished,
    Verdict,
)
from tests.evolution.generations import (
    AUROC,
    LADDER,
    SIZE,
    SPEC,
    Fate,
    condemned,
    failed,
    live,
    reached,
    sized,
    start,
    strangers,
)

Selection = Literal["nsga2", "nsga3", "tournament"]

TWO = replace(SPEC, objectives=(AUROC, SIZE))
FLAT = replace(TWO, training_stages=LADDER[:1])

value = st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
generations = st.lists(
    st.lists(st.tuples(value, value), min_size=4, max_size=4), min_size=1, max_size=4
)


def scored(auroc: float, size: float) -> Fate:
    return reached({"auroc": auroc, "size": size})


def test_a_trial_that_climbed_higher_ranks_first_whatever_the_values() -> None:
    state = live(start(), reached(0.99), reached(0.5, 0.6), reached(0.1, 0.1, 0.2), reached(0.98))
    assert state.population == (2, 1, 0, 3)


def test_the_champion_is_the_best_at_the_highest_stage_reached() -> None:
    state = live(start(), reached(0.99), reached(0.5, 0.6, 0.7), reached(0.5, 0.6, 0.8))
    assert state.champion == 2
    assert state.front == (2,)


def test_the_champion_stays_until_a_better_one_or_a_higher_stage_comes() -> None:
    state = live(start(), reached(0.5, 0.8), reached(0.4))
    assert state.champion == 0
    state = live(state, reached(0.9), reached(0.5, 0.8))
    assert state.champion == 0
    state = live(state, reached(0.5, 0.9), reached(0.4))
    assert state.champion == 4
    state = live(state, reached(0.1, 0.2, 0.3), reached(0.4))
    assert state.champion == 6


def test_the_champion_follows_the_direction_of_the_first_objective() -> None:
    spec = replace(SPEC, objectives=(SIZE, AUROC))
    fates = [reached({"auroc": 0.9, "size": 5.0}), reached({"auroc": 0.5, "size": 2.0})]
    assert live(start(), *fates, spec=spec).champion == 1


def test_a_champion_equal_in_the_first_objective_is_the_better_one_in_the_next() -> None:
    spec = replace(SPEC, objectives=(SIZE, AUROC))
    fates = [reached({"auroc": auroc, "size": 5.0}) for auroc in (0.5, 0.9, 0.7, 0.9)]
    state = live(start(), *fates, spec=spec)
    assert state.champion == 1
    assert state.front == (1,)


@pytest.mark.parametrize("failure", get_args(FailureKind))
def test_a_trial_that_failed_or_diverged_never_outranks_a_finished_one(
    failure: FailureKind,
) -> None:
    state = live(start(), failed(failure, 0.9, 0.99), reached(0.5))
    assert state.champion == 1
    assert state.population == (1,)
    assert state.front == (1,)


def test_an_audit_can_make_a_champion_but_no_parent() -> None:
    state = live(
        start(),
        condemned(0, 0.99),
        condemned(0, 0.5, 0.6, 0.9, audited=True),
        reached(0.5, 0.6, 0.7),
    )
    assert state.champion == 1
    assert state.population == (2,)


@pytest.mark.parametrize("selection", get_args(Selection))
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_trial_with_an_objective_that_is_not_finite_is_never_selected(
    selection: Selection, bad: float
) -> None:
    evolution = replace(TWO.evolution, population_size=3, selection=selection)
    spec = replace(FLAT, evolution=evolution)
    fates = [scored(bad, 0.1), scored(0.9, bad), *[scored(0.1 * i, 0.1 * i) for i in range(5)]]
    state = live(start(), *fates, spec=spec)
    assert len(state.population) == 3
    assert not {0, 1} & {*state.population, *state.front, state.champion}


def test_a_generation_without_a_finite_objective_leaves_nobody() -> None:
    state = live(start(), scored(0.9, math.nan), scored(0.8, math.inf), spec=FLAT)
    assert (state.champion, state.population, state.front) == (None, (), ())
    assert state.history[0].best is None
    assert state.history[0].hypervolume == 0


def test_the_population_holds_the_best_of_parents_and_children() -> None:
    spec = sized(2, replace(SPEC, training_stages=LADDER[:1]))
    state = live(start(), reached(0.9), reached(0.5), spec=spec)
    state = live(state, reached(0.7), reached(0.6), spec=spec)
    assert state.population == (0, 2)


def test_places_that_the_highest_stage_leaves_go_to_the_next() -> None:
    state = live(
        start(), reached(0.1, 0.1), reached(0.7), reached(0.9), reached(0.8), spec=sized(3)
    )
    assert state.population == (0, 2, 3)


@settings(max_examples=50)
@given(generations)
def test_the_front_is_what_no_trial_of_the_run_dominates(
    scores: list[list[tuple[float, float]]],
) -> None:
    state = start()
    for generation in scores:
        state = live(state, *[scored(*pair) for pair in generation], spec=FLAT)
    everyone = [pair for generation in scores for pair in generation]
    best = {
        one
        for one in everyone
        if not any(two[0] >= one[0] and two[1] <= one[1] and two != one for two in everyone)
    }
    assert {everyone[number] for number in state.front} == best
    assert len(state.front) == len(best)


@settings(max_examples=50)
@given(generations)
def test_hypervolume_never_shrinks_at_one_highest_stage(
    scores: list[list[tuple[float, float]]],
) -> None:
    state = start()
    for generation in scores:
        state = live(state, *[scored(*pair) for pair in generation], spec=FLAT)
    volumes = [statistics.hypervolume for statistics in state.history]
    assert volumes == sorted(volumes)


def test_hypervolume_grows_when_the_front_does() -> None:
    state = live(start(), scored(0.5, 0.5), scored(0.4, 0.6), spec=FLAT)
    state = live(state, scored(0.9, 0.1), scored(0.4, 0.6), spec=FLAT)
    first, second = (statistics.hypervolume for statistics in state.history)
    assert first == pytest.approx(0.1 * 0.1)
    assert second == pytest.approx(0.5 * 0.5)


def test_a_generation_in_numbers() -> None:
    state = live(
        start(),
        reached(0.5, 0.6, 0.8),
        reached(0.5, 0.6),
        failed("oom"),
        failed("diverged", 0.9),
        condemned(0, 0.1),
    )
    statistics = state.history[0]
    assert (statistics.generation, statistics.trials, statistics.front) == (0, 5, 1)
    assert (statistics.pruned, statistics.failed) == (3, 1)
    assert statistics.best == 0.8
    assert statistics.mean == pytest.approx(0.7)
    assert statistics.std == pytest.approx(0.1)


def test_a_generations_trials_hold_their_own_outcomes_by_stage() -> None:
    candidates = strangers(start(), 2)
    state = advance(start(), GenerationStarted(generation=0, candidates=candidates), SPEC)
    for trial, stage in ((1, 0), (0, 1), (0, 0)):
        outcome = Outcome(key=f"{trial}/{stage}", stage=stage, metrics={"auroc": 0.5})
        state = advance(state, StageFinished(trial=trial, outcome=outcome), SPEC)
    verdicts = (Verdict(status="pruned", stage=1, rule="x"), Verdict(status="pruned", stage=0))
    state = advance(state, GenerationFinished(generation=0, verdicts=verdicts), SPEC)
    assert [[o.key for o in trial.outcomes] for trial in state.trials] == [["0/0", "0/1"], ["1/0"]]
    assert [trial.verdict for trial in state.trials] == list(verdicts)
    assert (state.candidates, state.outcomes, state.generation) == ((), {}, 1)
    assert state.digests == {candidate.digest for candidate in candidates}


def test_the_state_remembers_every_digest_of_the_run() -> None:
    state = live(live(start(), reached(0.5), reached(0.6)), reached(0.7))
    assert state.digests == {trial.candidate.digest for trial in state.trials}
    assert len(state.digests) == 3


def test_what_a_generation_spent_is_in_the_ledger() -> None:
    state = live(start(), reached(0.5, 0.6, 0.7), reached(0.5), failed("oom", 0.5))
    assert [cost.optimizer_steps for cost in state.ledger.search] == [30, 10, 10]
    full = state.ledger.naive.optimizer_steps
    assert live(state, *[reached(0.5)] * 3).ledger.naive.optimizer_steps == 2 * full


def events_of_a_run() -> list[Event]:
    candidates = strangers(start(), 2)
    outcome = Outcome(key="a", stage=0, metrics={"auroc": 0.5})
    verdict = Verdict(status="pruned", stage=0, rule="not promoted")
    return [
        GenerationStarted(generation=0, candidates=candidates),
        StageFinished(trial=0, outcome=outcome),
        StageFinished(trial=1, outcome=replace(outcome, key="b")),
        GenerationFinished(generation=0, verdicts=(verdict, verdict)),
        RunConfirmed(champion=0, reference=None, scores=()),
    ]


def test_an_event_leaves_the_state_before_it_as_it_was() -> None:
    state = start()
    for event in events_of_a_run():
        before = copy.deepcopy(state)
        after = advance(state, event, SPEC)
        assert state == before
        assert after != before
        assert advance(state, event, SPEC) == after
        state = after


def test_replaying_is_folding() -> None:
    state = start()
    for event in events_of_a_run():
        state = advance(state, event, SPEC)
    assert replay(events_of_a_run(), SPEC, 1000) == state
    assert replay([], SPEC, 1000) == EvolutionState(train_examples=1000)


def test_a_confirmation_holds_until_a_new_generation_starts() -> None:
    events = events_of_a_run()
    state = replay(events, SPEC, 1000)
    assert state.confirmation == events[-1]
    again = GenerationStarted(generation=1, candidates=strangers(state, 2))
    assert advance(state, again, SPEC).confirmation is None


def test_outcomes_without_finite_objectives_are_not_promoted() -> None:
    outcomes = [
        Outcome(key=str(i), stage=0, metrics={"auroc": auroc})
        for i, auroc in enumerate([math.nan, 0.5, math.inf, 0.9, 0.7])
    ]
    assert promoted(outcomes, 2, (AUROC,)) == [3, 4]
    assert promoted(outcomes, 5, (AUROC,)) == [3, 4, 1]
    assert promoted(outcomes[:1], 1, (AUROC,)) == []
