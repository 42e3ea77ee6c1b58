from __future__ import annotations

import numpy as np
import pytest

from coral.rng import stream
from coral.tasks import REGRESSION_METRICS, score_regression


def drawn(numbers: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = stream(0, "test_regression")
    labels = np.round(rng.normal(size=(120, numbers)), 1)
    return labels, np.round(labels + rng.normal(size=labels.shape), 1)


def test_metrics_equal_those_of_scikit_learn_and_scipy() -> None:
    metrics, stats = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.stats")
    labels, predictions = drawn()
    assert score_regression(labels, predictions) == pytest.approx(
        {
            "spearman": stats.spearmanr(labels[:, 0], predictions[:, 0]).statistic,
            "pearson": stats.pearsonr(labels[:, 0], predictions[:, 0]).statistic,
            "r2": metrics.r2_score(labels, predictions),
            "rmse": metrics.root_mean_squared_error(labels, predictions),
            "mae": metrics.mean_absolute_error(labels, predictions),
        },
        abs=1e-12,
    )


def test_of_several_numbers_every_metric_is_the_mean() -> None:
    labels, predictions = drawn(3)
    each = [score_regression(labels[:, [i]], predictions[:, [i]]) for i in range(3)]
    whole = score_regression(labels, predictions)
    for metric in REGRESSION_METRICS:
        assert whole[metric] == pytest.approx(np.mean([one[metric] for one in each]))


def test_a_constant_has_no_correlation() -> None:
    labels, _ = drawn()
    scores = score_regression(labels, np.full_like(labels, labels.mean()))
    assert (scores["spearman"], scores["pearson"]) == (0.0, 0.0)
    assert scores["r2"] == pytest.approx(0.0)
    assert score_regression(np.ones((3, 1)), np.zeros((3, 1)))["r2"] == 0.0


@pytest.mark.parametrize(
    ("labels", "predictions", "told"),
    [
        (np.zeros((2, 1)), np.zeros((2, 2)), "both be"),
        (np.zeros((0, 1)), np.zeros((0, 1)), "at least one example"),
        (np.zeros((1, 1)), np.full((1, 1), np.inf), "finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    labels: np.ndarray, predictions: np.ndarray, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        score_regression(labels, predictions)
