"""The suites on Coral's own strategies, on a plugin's, and on some that break the rules."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from coral.errors import StrategyError
from coral.evolution.toolbox import build_toolbox, select
from coral.genome import SearchSpace
from coral.plan import CURRICULA, LOSS_WEIGHTINGS, SAMPLERS, CurriculumPlan, LossPlan, SamplingPlan
from coral.ports import (
    BUILT_IN,
    Curriculum,
    LossWeighting,
    ObjectiveFunction,
    Sampler,
    Selection,
    SelectionPool,
    Strategies,
)
from coral.records import Objective
from coral.settings import EvolutionSettings
from coral.tasks import discover
from coral.testing import (
    CurriculumConformance,
    LossWeightingConformance,
    ObjectiveConformance,
    SamplerConformance,
    SelectionConformance,
)
from coral.testing.strategy_conformance import METRICS, check_repeatable, rows_of
from tests.thrifty import THRIFTY


def thrifty() -> Strategies:
    """The strategies of the example plugin, found as a run finds them."""
    registry = discover([THRIFTY])
    [plugin] = [plugin for plugin in registry.plugins if plugin.origin == str(THRIFTY)]
    assert plugin.error is None
    used = [(kind, name) for kind, names in plugin.strategies.items() for name in names]
    assert {kind for kind, _ in used} == set(BUILT_IN)
    return registry.strategies(used)


@pytest.mark.parametrize("kind", CURRICULA)
class TestOwnCurricula(CurriculumConformance):
    @pytest.fixture
    def curriculum(self, kind: str) -> Curriculum:
        return CURRICULA[kind]

    @pytest.fixture
    def plan(self, kind: str) -> CurriculumPlan:
        return CurriculumPlan(kind=kind)


@pytest.mark.parametrize("kind", SAMPLERS)
class TestOwnSamplers(SamplerConformance):
    @pytest.fixture
    def sampler(self, kind: str) -> Sampler:
        return SAMPLERS[kind]


@pytest.mark.parametrize("kind", LOSS_WEIGHTINGS)
class TestOwnLossWeightings(LossWeightingConformance):
    @pytest.fixture
    def weighting(self, kind: str) -> LossWeighting:
        return LOSS_WEIGHTINGS[kind]


@pytest.mark.parametrize("kind", BUILT_IN["selections"])
class TestOwnSelections(SelectionConformance):
    @pytest.fixture
    def selection(self, kind: str) -> Selection:
        settings = EvolutionSettings(selection=kind)

        def by_toolbox(pool: SelectionPool, count: int, rng: np.random.Generator) -> Sequence[int]:
            objectives = [Objective(metric=str(i)) for i in range(pool.values.shape[1])]
            toolbox = build_toolbox(SearchSpace(), settings, objectives)
            scores = [tuple(row) for row in pool.values.tolist()]
            return select(toolbox, scores, count, objectives, int(rng.integers(2**32)))

        return by_toolbox


class TestThriftyCurriculum(CurriculumConformance):
    @pytest.fixture
    def curriculum(self) -> Curriculum:
        return thrifty().curricula["hard_first"]


class TestThriftySampler(SamplerConformance):
    @pytest.fixture
    def sampler(self) -> Sampler:
        return thrifty().samplers["long_texts_often"]


class TestThriftyWeighting(LossWeightingConformance):
    @pytest.fixture
    def weighting(self) -> LossWeighting:
        return thrifty().loss_weightings["rare_and_long"]


class TestThriftySelection(SelectionConformance):
    @pytest.fixture
    def selection(self) -> Selection:
        return thrifty().selections["youngest"]


class TestThriftyObjective(ObjectiveConformance):
    @pytest.fixture
    def objective(self) -> ObjectiveFunction:
        return thrifty().objectives["auroc_per_million"]


def refused(check: Callable[..., None], *arguments: Any) -> str:
    """What a suite's check says of a strategy that breaks the rules."""
    with pytest.raises((StrategyError, AssertionError)) as caught:
        check(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("curriculum", "rule"),
    [
        (lambda plan, progress, difficulty: difficulty, "100 booleans, got float64"),
        (lambda plan, progress, difficulty: np.array([True]), r"of shape \(1,\)"),
        (lambda plan, progress, difficulty: difficulty.nothing, "raised AttributeError"),
        (lambda plan, progress, difficulty: difficulty.sort(), "raised ValueError.*read-only"),
    ],
)
def test_a_curriculum_that_breaks_the_rules_fails_its_suite(curriculum: Any, rule: str) -> None:
    suite, plan = CurriculumConformance(), CurriculumPlan(kind="broken")
    with pytest.raises(StrategyError, match=rule):
        suite.test_it_says_of_every_example_whether_it_is_let_in_and_is_repeatable(curriculum, plan)


def test_a_curriculum_that_lets_nothing_in_fails_its_suite() -> None:
    suite, plan = CurriculumConformance(), CurriculumPlan(kind="broken")
    refused(
        suite.test_at_any_time_it_lets_something_in,
        lambda plan, progress, difficulty: difficulty < progress / 2,
        plan,
    )


@pytest.mark.parametrize(
    ("weights", "rule"),
    [
        (lambda plan, rows: np.ones(3), "100 weights"),
        (lambda plan, rows: -np.ones(len(rows)), ">= 0"),
        (lambda plan, rows: np.zeros(len(rows)), "some > 0"),
        (lambda plan, rows: np.full(len(rows), np.nan), "finite"),
        (lambda plan, rows: ["heavy"] * len(rows), "must return weights"),
        (lambda plan, rows: np.random.rand(len(rows)), "not from `numpy.random`"),
        (lambda plan, rows: [random.random()] * len(rows), "not from `random`"),
    ],
)
def test_weights_that_break_the_rules_fail_their_suites(weights: Any, rule: str) -> None:
    sampler, weighting = SamplerConformance(), LossWeightingConformance()
    name = "test_every_example_has_a_weight_and_it_is_repeatable"
    assert rule in refused(getattr(sampler, name), weights, SamplingPlan(kind="broken"))
    assert rule in refused(getattr(weighting, name), weights, LossPlan(weighting="broken"))


@pytest.mark.parametrize(
    ("selection", "rule"),
    [
        (lambda pool, count, rng: range(count + 1), "1 different positions below 1, got [0, 1]"),
        (lambda pool, count, rng: [0] * count, "2 different positions below 2, got [0, 0]"),
        (lambda pool, count, rng: np.arange(count) - 1, "got [-1]"),
        (lambda pool, count, rng: None, "raised TypeError"),
    ],
)
def test_a_selection_that_breaks_the_rules_fails_its_suite(selection: Any, rule: str) -> None:
    suite = SelectionConformance()
    name = "test_it_picks_as_many_different_trials_as_it_is_asked_for_and_is_repeatable"
    assert rule in refused(getattr(suite, name), selection)


@pytest.mark.parametrize(
    ("objective", "rule"),
    [
        (lambda metrics, cost: None, "must return a number, got None"),
        (lambda metrics, cost: metrics["nowhere"], "raised KeyError"),
        (lambda metrics, cost: metrics.update(auroc=1), "raised AttributeError"),
        (lambda metrics, cost: np.nan, "it must be finite"),
    ],
)
def test_an_objective_that_breaks_the_rules_fails_its_suite(objective: Any, rule: str) -> None:
    check = ObjectiveConformance().test_it_is_a_finite_number_and_repeatable
    assert rule in refused(check, objective, dict(METRICS))


def test_what_changes_from_call_to_call_is_not_repeatable() -> None:
    calls = iter(range(9))
    with pytest.raises(AssertionError):
        check_repeatable(lambda: [np.array(next(calls))])


def test_rows_under_test_have_the_classes_asked_for() -> None:
    rows = rows_of((3, 2))
    assert sorted(rows.class_sizes) == [2, 2, 3, 3, 3]
