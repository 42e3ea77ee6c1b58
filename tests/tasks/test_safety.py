from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.rng import stream
from coral.tasks import expected_calibration_error, fpr_at_90_recall


def predictions(examples: int, classes: int, *, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and weakly informative probabilities, rounded so that ties occur."""
    rng = stream(0, "test_safety", classes)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, examples - classes)])
    logits = rng.normal(size=(examples, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(np.round(logits, decimals))
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def two_columns(scores: list[float]) -> np.ndarray:
    return np.stack([1 - np.array(scores), scores], axis=1)


@pytest.mark.parametrize("classes", [2, 3, 16])
@pytest.mark.parametrize("decimals", [0, 2])
def test_the_false_positive_rate_is_that_of_scikit_learns_curve(
    classes: int, decimals: int
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, probabilities = predictions(300, classes, decimals=decimals)
    rates = []
    for column in range(classes) if classes > 2 else (1,):
        curve = metrics.roc_curve(
            labels == column, probabilities[:, column], drop_intermediate=False
        )
        rates.append(curve[0][curve[1] >= 0.9].min())
    assert fpr_at_90_recall(labels, probabilities) == pytest.approx(np.mean(rates), abs=1e-12)


def test_nine_of_ten_positives_are_enough() -> None:
    labels = np.array([1] * 10 + [0] * 4)
    scores = [0.9] * 9 + [0.1] + [0.95, 0.5, 0.4, 0.05]
    assert fpr_at_90_recall(labels, two_columns(scores)) == 0.25


def test_a_negative_that_ties_with_the_threshold_is_a_false_alarm() -> None:
    assert fpr_at_90_recall(np.array([1, 0, 0]), two_columns([0.5, 0.5, 0.4])) == 0.5


def test_the_false_positive_rate_of_a_single_class_is_undefined() -> None:
    assert np.isnan(fpr_at_90_recall(np.ones(3, int), np.full((3, 2), 0.5)))


@pytest.mark.parametrize("classes", [2, 3, 16])
def test_calibration_error_is_that_of_scikit_learns_calibration_curve(classes: int) -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    labels, probabilities = predictions(400, classes, decimals=0)
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    accuracy, mean_confidence = calibration.calibration_curve(is_right, confidence, n_bins=15)
    bins = np.searchsorted(np.linspace(0, 1, 16)[1:-1], confidence)
    sizes = np.unique(bins, return_counts=True)[1]
    expected = (np.abs(accuracy - mean_confidence) * sizes).sum() / len(labels)
    found = expected_calibration_error(labels, probabilities)
    assert found == pytest.approx(expected, abs=1e-12)
    assert found > 0


def test_certainty_that_is_always_right_is_calibrated_and_always_wrong_is_not() -> None:
    labels, _ = predictions(50, 3)
    assert expected_calibration_error(labels, np.eye(3)[labels]) == 0
    assert expected_calibration_error(labels, np.eye(3)[(labels + 1) % 3]) == 1


def test_errors_of_opposite_sign_in_one_bin_make_up_for_each_other() -> None:
    probabilities = two_columns([0.75, 0.75, 0.75, 0.75])
    assert expected_calibration_error(np.array([1, 1, 1, 0]), probabilities) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_both_lie_between_0_and_1(pairs: list[tuple[int, float]]) -> None:
    labels = np.array([label for label, _ in pairs])
    probabilities = two_columns([score for _, score in pairs])
    assert 0 <= expected_calibration_error(labels, probabilities) <= 1
    rate = fpr_at_90_recall(labels, probabilities)
    assert np.isnan(rate) or 0 <= rate <= 1
