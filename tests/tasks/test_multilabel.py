from __future__ import annotations

import numpy as np
import pytest

from coral.rng import stream
from coral.tasks import MULTILABEL_METRICS, score_multilabel


def drawn(examples: int = 200, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = stream(0, "test_multilabel")
    truth = (rng.random((examples, labels)) < 0.3).astype(np.int64)
    return truth, np.clip(0.4 * truth + 0.7 * rng.random(truth.shape), 0.01, 0.99)


def test_metrics_equal_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, probabilities = drawn()
    predicted = probabilities >= 0.5
    assert score_multilabel(labels, probabilities) == pytest.approx(
        {
            "auroc": metrics.roc_auc_score(labels, probabilities, average="macro"),
            "macro_f1": metrics.f1_score(labels, predicted, average="macro"),
            "micro_f1": metrics.f1_score(labels, predicted, average="micro"),
            "exact_match": metrics.accuracy_score(labels, predicted),
            "log_loss": np.mean(
                [metrics.log_loss(a, p) for a, p in zip(labels.T, probabilities.T, strict=True)]
            ),
        },
        abs=1e-12,
    )


def test_a_label_that_all_examples_have_or_none_has_no_area() -> None:
    labels, probabilities = drawn()
    labels[:, 0], labels[:, 1] = 0, 1
    rest = score_multilabel(labels[:, 2:], probabilities[:, 2:])
    assert score_multilabel(labels, probabilities)["auroc"] == rest["auroc"]


def test_no_labels_at_all_and_none_predicted_is_right() -> None:
    scores = score_multilabel(np.zeros((3, 2), np.int64), np.full((3, 2), 0.1))
    assert (scores["macro_f1"], scores["micro_f1"], scores["exact_match"]) == (1.0, 1.0, 1.0)
    assert set(scores) == set(MULTILABEL_METRICS)


@pytest.mark.parametrize(
    ("labels", "probabilities", "told"),
    [
        (np.zeros((2, 3)), np.zeros((2, 2)), "both be"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "at least one example"),
        (np.full((1, 2), 2), np.zeros((1, 2)), "0 or 1"),
        (np.zeros((1, 2)), np.full((1, 2), np.nan), r"lie in \[0, 1\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    labels: np.ndarray, probabilities: np.ndarray, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        score_multilabel(labels, probabilities)
