"""What every strategy of a kind must keep to, as pytest classes.

class TestMySampler(SamplerConformance):
    @pytest.fixture
    def sampler(self):
        return my_sampler
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from coral.plan import CurriculumPlan, LossPlan, SamplingPlan, TaskRows
from coral.ports import (
    Curriculum,
    LossWeighting,
    ObjectiveFunction,
    Problem,
    Sampler,
    Selection,
    SelectionPool,
    Strategies,
)
from coral.records import Cost
from coral.rng import stream
from coral.strategies import (
    chosen_parents,
    let_in,
    loss_weights,
    objective_value,
    sampling_weights,
)

NAME = "under-test"
PROGRESS = (0.0, 0.1, 0.5, 0.9, 0.999)
TASKS = ((60, 30, 9, 1), (25, 25), (12,), (1,))
"""Examples of each class, of several tasks."""
POOLS = ((1, 1), (2, 1), (7, 2), (16, 2), (16, 3))
"""Trials and objectives."""


_SCORES = {"auroc": 0.9, "accuracy": 0.7, "macro_f1": 0.6, "log_loss": 0.8}
METRICS = {
    **{f"task.{name}": value for name, value in _SCORES.items()},
    **_SCORES,
    "gradient_norm": 1.5,
    "loss_slope": -0.01,
    "trainable_parameters": 250_000.0,
    "train_cost": 3.5,
}
"""Of a run with one task called ``task``, as an outcome has them."""


class CurriculumConformance:
    """Checks a curriculum. Subclasses give a fixture ``curriculum``, and ``plan`` if needed."""

    @pytest.fixture
    def curriculum(self) -> Curriculum:
        pytest.fail("override the fixture 'curriculum' to return the curriculum under test")

    @pytest.fixture
    def plan(self) -> CurriculumPlan:
        return CurriculumPlan(kind=NAME)

    def test_it_says_of_every_example_whether_it_is_let_in_and_is_repeatable(
        self, curriculum: Curriculum, plan: CurriculumPlan
    ) -> None:
        check_repeatable(lambda: _masks(curriculum, plan))

    def test_at_any_time_it_lets_something_in(
        self, curriculum: Curriculum, plan: CurriculumPlan
    ) -> None:
        assert all(mask.any() for mask in _masks(curriculum, plan) if len(mask) >= 100)


class SamplerConformance:
    """Checks a sampler. Subclasses give a fixture ``sampler``, and ``plan`` if it needs one."""

    @pytest.fixture
    def sampler(self) -> Sampler:
        pytest.fail("override the fixture 'sampler' to return the sampler under test")

    @pytest.fixture
    def plan(self) -> SamplingPlan:
        return SamplingPlan(kind=NAME)

    def test_every_example_has_a_weight_and_it_is_repeatable(
        self, sampler: Sampler, plan: SamplingPlan
    ) -> None:
        known = Strategies(samplers={plan.kind: sampler})
        check_repeatable(lambda: [sampling_weights(known, plan, rows) for rows in all_rows()])


class LossWeightingConformance:
    """Checks a loss weighting. Subclasses give a fixture ``weighting``, and ``plan`` if needed."""

    @pytest.fixture
    def weighting(self) -> LossWeighting:
        pytest.fail("override the fixture 'weighting' to return the loss weighting under test")

    @pytest.fixture
    def plan(self) -> LossPlan:
        return LossPlan(weighting=NAME)

    def test_every_example_has_a_weight_and_it_is_repeatable(
        self, weighting: LossWeighting, plan: LossPlan
    ) -> None:
        known = Strategies(loss_weightings={plan.weighting: weighting})
        check_repeatable(lambda: [loss_weights(known, plan, rows) for rows in all_rows()])


class SelectionConformance:
    """Checks a selection. Subclasses give a fixture ``selection``."""

    @pytest.fixture
    def selection(self) -> Selection:
        pytest.fail("override the fixture 'selection' to return the selection under test")

    def test_it_picks_as_many_different_trials_as_it_is_asked_for_and_is_repeatable(
        self, selection: Selection
    ) -> None:
        check_repeatable(
            lambda: [
                np.array(chosen_parents(NAME, selection, pool_of(size, objectives), count, _rng()))
                for size, objectives in POOLS
                for count in {1, (size + 1) // 2, size}
            ]
        )

    def test_it_picks_among_equals(self, selection: Selection) -> None:
        pool = pool_of(8, 2)
        equal = SelectionPool(
            values=_still(np.ones((8, 2))), ages=pool.ages, genomes=pool.genomes[:1] * 8
        )
        assert len(chosen_parents(NAME, selection, equal, 4, _rng())) == 4


class ObjectiveConformance:
    """Checks an objective. Subclasses give a fixture ``objective``, and ``metrics`` if needed."""

    @pytest.fixture
    def objective(self) -> ObjectiveFunction:
        pytest.fail("override the fixture 'objective' to return the objective under test")

    @pytest.fixture
    def metrics(self) -> dict[str, float]:
        return dict(METRICS)

    def test_it_says_which_direction_is_better(self, objective: ObjectiveFunction) -> None:
        assert objective.direction in ("max", "min")

    def test_it_is_a_finite_number_and_repeatable(
        self, objective: ObjectiveFunction, metrics: dict[str, float]
    ) -> None:
        cost = Cost(
            optimizer_steps=100,
            examples=1600,
            tokens=40_000,
            teraflops=1.5,
            train_seconds=20.0,
            evaluation_seconds=2.0,
        )
        assert np.isfinite(objective_value(NAME, objective, metrics, cost)), "it must be finite"
        check_repeatable(lambda: [np.array(objective_value(NAME, objective, metrics, cost))])


def _masks(curriculum: Curriculum, plan: CurriculumPlan) -> list[NDArray[np.bool_]]:
    known = Strategies(curricula={plan.kind: curriculum})
    return [
        let_in(known, plan, progress, rows_of(counts).difficulty)
        for counts in TASKS
        for progress in PROGRESS
    ]


def check_repeatable(ask: Callable[[], list[NDArray[Any]]]) -> None:
    """Check that answers are the same again, and draw nothing from the global generators."""
    with _unused_globals():
        first, second = ask(), ask()
    assert all(np.array_equal(one, two) for one, two in zip(first, second, strict=True))


def all_rows() -> list[TaskRows]:
    """Return examples of tasks of every problem; nothing may write to them."""
    return [rows_of(counts, problem) for problem in get_args(Problem) for counts in TASKS]


def rows_of(counts: tuple[int, ...], problem: Problem = "single_label") -> TaskRows:
    """Return examples with so many of each class, in random order; nothing may write to them.

    With several labels the class is one, some have others, and one has none; a number is the class.
    """
    rng = stream(0, "conformance", *counts)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    told: NDArray[Any] = labels.astype(np.int64)
    if problem == "multi_label":
        told = np.eye(len(counts), dtype=np.int64)[labels]
        told |= rng.random(told.shape) < 0.2
        told[0] = 0
    elif problem == "regression":
        told = labels[:, None].astype(np.float64)
    elif problem == "causal_lm":
        told = np.zeros(len(labels), dtype=np.int64)
    return TaskRows(
        task="task",
        problem=problem,
        labels=_still(told),
        lengths=_still(rng.integers(3, 65, len(labels))),
        difficulty=_still(rng.permutation(np.linspace(1 / len(labels), 1, len(labels)))),
    )


def pool_of(size: int, objectives: int) -> SelectionPool:
    """Return a pool of trials with random values; nothing may write to them."""
    rng = stream(0, "conformance", size, objectives)
    return SelectionPool(
        values=_still(rng.normal(size=(size, objectives))),
        ages=_still(rng.integers(0, 5, size)),
        genomes=tuple(
            {"adapter.rank": int(rng.integers(2, 32)), "schedule.learning_rate": float(rate)}
            for rate in rng.uniform(1e-4, 1e-2, size)
        ),
    )


def _rng() -> np.random.Generator:
    return stream(0, "conformance")


def _still(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


@contextmanager
def _unused_globals() -> Iterator[None]:
    python, numpy = random.getstate(), repr(np.random.get_state())
    yield
    assert random.getstate() == python, "draw from the generator that is given, not from `random`"
    told = "draw from the generator that is given, not from `numpy.random`"
    assert repr(np.random.get_state()) == numpy, told
