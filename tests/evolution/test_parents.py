"""Parents that a plugin picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from coral.errors import StrategyError
from coral.evolution import EvolutionState, advance, breed, must_select, parents_by
from coral.ports import SelectionPool
from coral.records import ParentsSelected
from coral.settings import RunSpec
from tests.evolution.generations import AUROC, SIZE, SPEC, live, reached, sized, start

MINE = replace(
    SPEC,
    evolution=replace(SPEC.evolution, selection="mine", population_size=3),
    objectives=(AUROC, SIZE),
)


def values(auroc: float, size: float) -> dict[str, float]:
    return {"auroc": auroc, "size": size}


def lived(spec: RunSpec = MINE) -> EvolutionState:
    """Two trials that ended the last stage, and three that ended the second one."""
    return live(
        start(),
        reached(values(0.6, 1), values(0.7, 1)),
        reached(values(0.6, 1), values(0.7, 1), values(0.8, 5)),
        reached(values(0.6, 1), values(0.9, 2)),
        reached(values(0.6, 1), values(0.7, 1), values(0.9, 6)),
        reached(values(0.6, 1), values(0.8, 3)),
        spec=spec,
    )


def test_until_a_plugin_has_picked_everybody_fit_is_in_line_by_stage() -> None:
    assert lived().population == (3, 1, 2, 4, 0)
    assert lived(sized(3)).population == (3, 1, 2)


def test_a_plugin_is_asked_stage_by_stage_until_there_are_enough() -> None:
    asked: list[tuple[SelectionPool, int]] = []

    def last_ones(pool: SelectionPool, count: int, rng: np.random.Generator) -> Sequence[int]:
        asked.append((pool, count))
        return range(len(pool))[::-1][:count]

    assert parents_by(last_ones, lived(), MINE) == (1, 3, 0)
    (top, two), (middle, one) = asked
    assert (two, one) == (2, 1)
    assert top.values.tolist() == [[0.9, -6], [0.8, -5]]
    assert middle.values.tolist() == [[0.9, -2], [0.8, -3], [0.7, -1]]
    assert top.ages.tolist() == [0, 0]
    assert top.genomes[0] == lived().trials[3].candidate.genome


def test_a_plugin_that_picks_nobody_is_refused() -> None:
    with pytest.raises(StrategyError, match="selection 'mine': it must return 2 different"):
        parents_by(lambda pool, count, rng: [], lived(), MINE)


def test_what_a_plugin_draws_is_the_same_again() -> None:
    def by_lot(pool: SelectionPool, count: int, rng: np.random.Generator) -> Sequence[int]:
        return [int(i) for i in rng.permutation(len(pool))[:count]]

    assert parents_by(by_lot, lived(), MINE) == parents_by(by_lot, lived(), MINE)
    others = {parents_by(by_lot, lived(), replace(MINE, seed=seed)) for seed in range(9)}
    assert len(others) > 1


def test_what_it_picked_is_bred_from_and_picked_once() -> None:
    state = lived()
    assert must_select(state, MINE)
    state = advance(state, ParentsSelected(generation=0, parents=(4,)), MINE)
    assert not must_select(state, MINE)
    assert state.population == (4,)
    assert {parent for c in breed(state, MINE) for parent in c.lineage.parents} == {4}
    again = live(state, reached(values(0.6, 1)), spec=MINE, candidates=breed(state, MINE)[:1])
    assert again.population == (4, 5)
    assert must_select(again, MINE)


def test_ages_count_generations() -> None:
    state = advance(lived(), ParentsSelected(generation=0, parents=(4,)), MINE)
    fate = reached(values(0.6, 1), values(0.7, 1))
    state = live(state, fate, spec=MINE, candidates=breed(state, MINE)[:1])
    ages: list[list[int]] = []

    def note(pool: SelectionPool, count: int, rng: np.random.Generator) -> Sequence[int]:
        ages.append(pool.ages.tolist())
        return range(count)

    parents_by(note, state, MINE)
    assert ages == [[1, 0]]


def test_corals_own_selections_are_never_asked_for() -> None:
    assert not must_select(lived(sized(3)), sized(3))
    assert not must_select(start(), MINE)
