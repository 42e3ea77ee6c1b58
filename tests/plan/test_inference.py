from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from coral.errors import PlanError
from coral.plan import (
    InferencePlan,
    TrainingPlan,
    as_canonical_json,
    confidence,
    decided,
    digest_of,
    is_trained,
    least_confidence,
    plan_paths,
    training_digest,
    with_values,
)
from coral.rng import stream
from coral.tasks.classification import macro_auroc

Logits = NDArray[np.float64]


def logits(classes: int, count: int = 60) -> Logits:
    return stream(0, "logits", classes).normal(scale=3.0, size=(count, classes))


def softmax(values: Logits) -> Logits:
    shares = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def sigmoid(values: Logits) -> Logits:
    return np.asarray(1 / (1 + np.exp(-values)))


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_defaults_hand_on_the_very_same_numbers(exclusive: bool) -> None:
    probabilities = softmax(logits(2))
    assert decided(InferencePlan(), probabilities, exclusive=exclusive) is probabilities


@pytest.mark.parametrize("temperature", [0.3, 1.7, 20.0])
def test_the_temperature_divides_what_goes_into_the_softmax(temperature: float) -> None:
    values = logits(5)
    made = decided(InferencePlan(temperature=temperature), softmax(values))
    np.testing.assert_allclose(made, softmax(values / temperature), rtol=1e-9)


def test_the_temperature_divides_what_goes_into_the_sigmoid() -> None:
    values = logits(4)
    made = decided(InferencePlan(temperature=1.7), sigmoid(values), exclusive=False)
    np.testing.assert_allclose(made, sigmoid(values / 1.7), rtol=1e-9)


@given(st.floats(0.01, 0.99), st.floats(0.1, 10.0))
def test_from_the_threshold_on_the_second_class_of_two_is_decided(
    threshold: float, temperature: float
) -> None:
    values = logits(2)
    made = decided(InferencePlan(threshold=threshold, temperature=temperature), softmax(values))
    positive = softmax(values / temperature)[:, 1]
    clear = np.abs(positive - threshold) > 1e-9
    assert ((made[:, 1] > 0.5) == (positive > threshold))[clear].all()
    np.testing.assert_allclose(made.sum(axis=1), 1)


@given(st.floats(0.01, 0.99), st.floats(0.5, 10.0))
def test_the_order_of_the_examples_and_so_the_auroc_stays(
    threshold: float, temperature: float
) -> None:
    probabilities = softmax(logits(2) / 2)
    labels = stream(0, "labels").integers(2, size=len(probabilities))
    plan = InferencePlan(threshold=threshold, temperature=temperature)
    assert macro_auroc(labels, decided(plan, probabilities)) == macro_auroc(labels, probabilities)


def test_each_of_several_labels_has_the_threshold() -> None:
    values = logits(3)
    made = decided(InferencePlan(threshold=0.2), sigmoid(values), exclusive=False)
    assert ((made > 0.5) == (sigmoid(values) > 0.2)).all()


def test_of_more_than_two_classes_the_most_probable_is_decided_whatever_the_threshold() -> None:
    probabilities = softmax(logits(3))
    assert decided(InferencePlan(threshold=0.9), probabilities) is probabilities


@pytest.mark.parametrize("exclusive", [True, False])
def test_certainty_stays_certain(exclusive: bool) -> None:
    plan = InferencePlan(temperature=2.0, threshold=0.9)
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_array_equal(decided(plan, sure, exclusive=exclusive), sure)


@given(st.floats(0, 0.99), st.integers(1, 200))
def test_the_share_that_goes_without_an_answer_is_the_plans(share: float, count: int) -> None:
    confidences = stream(0, "confidences").permutation(count) / count
    needed = least_confidence(InferencePlan(abstention=share), confidences)
    withheld = int((confidences < needed).sum())
    assert withheld <= share * count + 1e-6 < withheld + 1 + 2e-6
    assert withheld < count


def test_examples_that_are_equally_sure_share_their_fate() -> None:
    confidences = np.array([0.9, 0.6, 0.6, 0.6])
    assert least_confidence(InferencePlan(abstention=0.5), confidences) == 0.6


def test_an_answer_of_several_labels_is_as_sure_as_its_least_sure_label() -> None:
    probabilities = np.array([[0.9, 0.2], [0.99, 0.45]])
    np.testing.assert_allclose(confidence(probabilities, exclusive=False), [0.8, 0.55])
    np.testing.assert_allclose(confidence(probabilities), [0.9, 0.99])


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"temperature": 0.0}, "temperature must be > 0, got 0"),
        ({"threshold": 0.0}, "threshold must be > 0, got 0"),
        ({"threshold": 1.0}, "threshold must be < 1, got 1"),
        ({"abstention": 1.0}, "abstention must be < 1, got 1"),
        ({"abstention": -0.1}, "abstention must be >= 0, got -0.1"),
        ({"generation_temperature": -1.0}, "generation_temperature must be >= 0, got -1"),
        ({"top_p": 0.0}, "top_p must be > 0, got 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be > 0, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be > 0, got 0"),
    ],
)
def test_a_value_without_a_meaning_is_refused(values: dict[str, float], rule: str) -> None:
    with pytest.raises(PlanError, match=rule):
        InferencePlan(**values)  # type: ignore[arg-type]


def test_the_part_has_no_place_in_digests_while_it_is_untouched() -> None:
    assert "inference" not in as_canonical_json(TrainingPlan())
    assert training_digest(TrainingPlan()) == digest_of(TrainingPlan())


def test_plans_that_differ_in_inference_alone_train_the_same_and_are_not_the_same() -> None:
    plan = with_values(TrainingPlan(), {"adapter.rank": 3})
    for path in plan_paths():
        if path.startswith("inference."):
            other = with_values(plan, {path: 0.25 if path != "inference.max_new_tokens" else 9})
            assert training_digest(other) == training_digest(plan) == digest_of(plan)
            assert digest_of(other) != digest_of(plan)
            assert not is_trained(path)
        else:
            assert is_trained(path)
