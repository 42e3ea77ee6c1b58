from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from typing import Literal, get_args

import numpy as np
import pytest
from deap import tools
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coral.evolution.toolbox import (
    Scores,
    build_toolbox,
    describe,
    dominated_volume,
    individuals_of,
    pareto_front,
    promote,
    seeded_globals,
    select,
)
from coral.records import Direction, Objective
from tests.evolution.generations import AUROC, SIZE, SPACE, SPEC

Selection = Literal["nsga2", "nsga3", "tournament"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
SPEED = Objective(metric="speed")
BOTH = (AUROC, SIZE)

# A coarse grid, so that ties and equal scores come up.
value = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
pairs = st.lists(st.tuples(value, value), min_size=1, max_size=10)


def survivors(
    selection: Selection, scores: Scores, k: int, objectives: tuple[Objective, ...], seed: int = 0
) -> list[int]:
    toolbox = build_toolbox(SPACE, replace(SPEC.evolution, selection=selection), objectives)
    return select(toolbox, scores, k, objectives, seed)


def dominates(one: tuple[float, ...], two: tuple[float, ...]) -> bool:
    """Maximize the first, minimize the second."""
    return one[0] >= two[0] and one[1] <= two[1] and one != two


@given(pairs)
def test_the_front_is_what_nothing_dominates(scores: list[tuple[float, float]]) -> None:
    front = pareto_front(scores, BOTH)
    expected = {s for s in scores if not any(dominates(other, s) for other in scores)}
    assert {scores[i] for i in front} == expected
    assert len(front) == len(expected)
    assert all(scores.index(scores[i]) == i for i in front)


def test_the_front_of_one_objective_is_its_best() -> None:
    assert pareto_front([(0.5,), (0.9,), (0.7,), (0.9,)], (AUROC,)) == [1]
    assert pareto_front([(0.5,), (0.9,), (0.7,)], (SIZE,)) == [0]
    assert pareto_front([], (AUROC,)) == []


@given(pairs, st.integers(1, 10))
def test_the_promoted_come_front_by_front_and_then_by_the_first_objective(
    scores: list[tuple[float, float]], k: int
) -> None:
    def rank(i: int) -> int:
        better = [j for j in range(len(scores)) if dominates(scores[j], scores[i])]
        return 1 + max((rank(j) for j in better), default=-1)

    expected = sorted(range(len(scores)), key=lambda i: (rank(i), -scores[i][0], i))
    assert promote(scores, k, BOTH) == expected[:k]


def test_a_single_place_goes_to_the_best_on_the_first_objective_not_to_the_smallest() -> None:
    assert promote([(0.5, 1.0), (0.9, 100.0), (0.7, 10.0)], 1, BOTH) == [1]


def test_nobody_is_promoted_where_nobody_stands() -> None:
    assert promote([], 3, BOTH) == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("objectives", [(AUROC,), BOTH, (*BOTH, SPEED)])
@settings(max_examples=40)
@given(data=st.data())
def test_survivors_are_as_many_as_wanted_and_none_twice(
    selection: Selection, objectives: tuple[Objective, ...], data: st.DataObject
) -> None:
    scores = data.draw(
        st.lists(st.tuples(*[value for _ in objectives]), min_size=1, max_size=12), label="scores"
    )
    k = data.draw(st.integers(1, 12), label="k")
    chosen = survivors(selection, scores, k, objectives, seed=data.draw(st.integers(0, 99)))
    assert len(set(chosen)) == len(chosen) == min(k, len(scores))
    firsts = [scores[i][0] for i in chosen]
    assert firsts == sorted(firsts, reverse=True)


@given(pairs, st.integers(0, 99))
def test_elitist_selection_keeps_the_front_if_it_fits(
    scores: list[tuple[float, float]], seed: int
) -> None:
    front = {scores[i] for i in pareto_front(scores, BOTH)}
    k = sum(score in front for score in scores)
    assume(k < len(scores))
    for selection in ("nsga2", "nsga3"):
        assert {scores[i] for i in survivors(selection, scores, k, BOTH, seed)} == front


@pytest.mark.parametrize("selection", ["nsga2", "nsga3"])
def test_with_one_objective_the_best_survive(selection: Selection) -> None:
    scores = [(0.3,), (0.9,), (0.1,), (0.8,), (0.5,)]
    assert survivors(selection, scores, 3, (AUROC,)) == [1, 3, 4]
    assert survivors(selection, scores, 3, (SIZE,)) == [2, 0, 4]


def test_a_tournament_of_everyone_takes_the_best_on_the_first_objective() -> None:
    scores = [(0.1 * i, 0.0) for i in range(6)]
    toolbox = build_toolbox(
        SPACE, replace(SPEC.evolution, selection="tournament", tournament_size=60), BOTH
    )
    assert select(toolbox, scores, 2, BOTH, seed=0) == [5, 4]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_same_seed_selects_the_same_survivors(selection: Selection) -> None:
    scores = [(0.5, 0.5)] * 4 + [(0.1 * i, 0.1 * i) for i in range(8)]
    chosen = set()
    for global_seed in range(10):
        random.seed(global_seed)
        np.random.seed(global_seed)
        chosen.add(tuple(survivors(selection, scores, 6, BOTH, seed=5)))
    assert len(chosen) == 1


@pytest.mark.parametrize("selection", SELECTIONS)
def test_selection_leaves_the_global_generators_alone(selection: Selection) -> None:
    def draws() -> list[float]:
        return [random.random(), float(np.random.random())]

    def reseed() -> None:
        random.seed(11)
        np.random.seed(11)

    reseed()
    expected = draws()
    reseed()
    survivors(selection, [(0.1 * i, 0.1 * i) for i in range(9)], 4, BOTH)
    assert draws() == expected


def test_the_global_generators_are_restored_after_an_error_too() -> None:
    random.seed(11)
    expected = random.random()
    random.seed(11)
    with pytest.raises(IndexError), seeded_globals(3):
        random.choice([])
    assert random.random() == expected


def grid_volume(scores: Scores, worst: tuple[float, float]) -> float:
    """Count cells of the grid of quarters that some score dominates."""
    cells = [
        (x, y)
        for x in (0.25, 0.5, 0.75, 1.0)
        for y in (0.0, 0.25, 0.5, 0.75)
        if x > worst[0] and y < worst[1] and any(s[0] >= x and s[1] <= y for s in scores)
    ]
    return len(cells) / 16


@given(pairs, st.tuples(value, value))
def test_hypervolume_is_the_area_that_the_front_dominates(
    scores: list[tuple[float, float]], worst: tuple[float, float]
) -> None:
    assert dominated_volume(scores, worst, BOTH) == pytest.approx(grid_volume(scores, worst))


@st.composite
def scored(draw: st.DrawFn) -> tuple[Scores, tuple[Objective, ...]]:
    """Scores on one to four objectives, ties likely, and the objectives."""
    directions = draw(st.lists(st.sampled_from(get_args(Direction)), min_size=1, max_size=4))
    objectives = tuple(
        Objective(metric=f"metric {i}", direction=direction)
        for i, direction in enumerate(directions)
    )
    number = st.one_of(value, st.floats(0, 1))
    rows = st.lists(st.tuples(*[number for _ in objectives]), min_size=1, max_size=25)
    return draw(rows), objectives


@given(scored(), value)
def test_hypervolume_is_that_of_deap(
    case: tuple[Scores, tuple[Objective, ...]], level: float
) -> None:
    from deap.benchmarks.tools import hypervolume

    scores, objectives = case
    worst = (level,) * len(objectives)
    signs = [-1.0 if objective.direction == "max" else 1.0 for objective in objectives]
    expected = hypervolume(individuals_of(scores, objectives), np.multiply(worst, signs))
    assert dominated_volume(scores, worst, objectives) == pytest.approx(expected)


@given(scored())
def test_fronts_are_those_of_deap(case: tuple[Scores, tuple[Objective, ...]]) -> None:
    scores, objectives = case
    fronts = tools.sortNondominated(individuals_of(scores, objectives), len(scores))
    order = iter(promote(scores, len(scores), objectives))
    for front in fronts:
        assert {individual.position for individual in front} == set(islice(order, len(front)))
    assert {scores[i] for i in pareto_front(scores, objectives)} == {
        scores[i.position] for i in fronts[0]
    }


def test_hypervolume_of_one_objective_is_the_gain_over_the_worst() -> None:
    assert dominated_volume([(0.5,), (0.75,)], (0.25,), (AUROC,)) == pytest.approx(0.5)
    assert dominated_volume([(3.0,)], (5.0,), (SIZE,)) == pytest.approx(2)
    assert dominated_volume([(0.2,)], (0.25,), (AUROC,)) == 0
    assert dominated_volume([], (0.25,), (AUROC,)) == 0


def test_statistics_of_a_generation() -> None:
    assert describe([1.0, 2.0, 3.0, 6.0]) == pytest.approx(
        {"mean": 3, "std": 3.5**0.5, "min": 1, "max": 6}
    )
    assert describe([]) == {}


def test_genomes_plans_and_fidelity_do_not_import_deap_or_scipy() -> None:
    program = (
        "import sys, coral.plan, coral.genome, coral.fidelity;"
        "print([name for name in ('deap', 'scipy', 'torch') if name in sys.modules])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[]"
