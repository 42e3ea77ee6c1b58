"""Examples of a task, and the strategies of Coral's own that weigh them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coral.errors import PlanError
from coral.plan import LOSS_WEIGHTINGS, SAMPLERS, LossPlan, SamplingPlan, TaskRows

counts_of_classes = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def rows_of(labels: list[object], problem: str = "single_label") -> TaskRows:
    given = np.array(labels)
    return TaskRows(
        task="task",
        labels=given,
        lengths=np.arange(len(given)),
        difficulty=np.linspace(1 / len(given), 1, len(given)),
        problem=problem,
    )


def balanced(rows: TaskRows, strength: float = 1.0) -> NDArray[np.float64]:
    return SAMPLERS["balanced"](SamplingPlan(kind="balanced", strength=strength), rows)


def test_an_examples_class_is_as_large_as_it_is() -> None:
    assert rows_of([2, 0, 2, 2]).class_sizes.tolist() == [3, 1, 3, 3]


def test_examples_with_several_labels_stand_between_them_and_those_without_are_a_class() -> None:
    labels: list[object] = [[1, 0], [1, 0], [1, 1], [0, 0], [0, 0]]
    sizes = rows_of(labels, "multi_label").class_sizes
    assert sizes == pytest.approx([3, 3, 1.5, 2, 2])


def test_numbers_have_no_classes() -> None:
    assert rows_of([[0.5], [2.0], [2.0]], "regression").class_sizes.tolist() == [3, 3, 3]


def test_some_of_the_examples_keep_what_is_known_of_them() -> None:
    part = rows_of([5, 6, 7]).take(np.array([2, 0]))
    assert (part.labels.tolist(), part.lengths.tolist()) == ([7, 5], [2, 0])
    assert part.difficulty.tolist() == pytest.approx([1, 1 / 3])
    assert rows_of([[1]], "multi_label").take(np.array([0])).problem == "multi_label"


@given(counts_of_classes)
def test_balanced_weights_give_every_class_the_same_sum(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    weights = balanced(rows_of(labels.tolist()))
    assert np.bincount(labels, weights) == pytest.approx(np.ones(len(counts)))
    loss = LOSS_WEIGHTINGS["inverse_frequency"](LossPlan(), rows_of(labels.tolist()))
    assert loss.tolist() == weights.tolist()


@given(counts_of_classes, st.floats(0.01, 1), st.floats(0.01, 1))
def test_more_strength_takes_more_of_the_classes_sizes_away(
    counts: list[int], one: float, two: float
) -> None:
    weak, strong = sorted((one, two))
    labels = np.repeat(np.arange(len(counts)), counts)
    spread = [
        np.ptp(np.log(np.bincount(labels, balanced(rows_of(labels.tolist()), strength))))
        for strength in (weak, strong)
    ]
    assert spread[1] <= spread[0] + 1e-9


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_strength_lies_between_nothing_and_all(strength: float) -> None:
    for plan in (SamplingPlan, LossPlan):
        with pytest.raises(PlanError, match="strength must be"):
            plan(strength=strength)
