from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coral.rng import stream
from coral.tasks import CLASSIFICATION_METRICS, macro_auroc, score_classification


def softmax_scores(
    examples: int, classes: int, *, seed: int = 0, decimals: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and weakly informative probabilities, rounded so that ties occur."""
    rng = stream(seed, "test_classification")
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, examples - classes)])
    logits = rng.normal(size=(examples, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(np.round(logits, decimals))
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3, 16])
def test_metrics_equal_those_of_scikit_learn(classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, probabilities = softmax_scores(300, classes)
    scores = score_classification(labels, probabilities)
    predicted = probabilities.argmax(axis=1)
    auroc = (
        metrics.roc_auc_score(labels, probabilities[:, 1])
        if classes == 2
        else metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    assert scores == pytest.approx(
        {
            "auroc": auroc,
            "accuracy": metrics.accuracy_score(labels, predicted),
            "macro_f1": metrics.f1_score(labels, predicted, average="macro"),
            "log_loss": metrics.log_loss(labels, probabilities),
        },
        abs=1e-12,
    )


@settings(max_examples=50, deadline=None)
@given(
    data=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=2, max_size=30).filter(
        lambda pairs: len({label for label, _ in pairs}) == 2
    )
)
def test_binary_auroc_is_the_share_of_pairs_in_the_right_order(
    data: list[tuple[int, int]],
) -> None:
    labels = np.array([label for label, _ in data])
    scores = np.array([score for _, score in data]) / 4
    wins = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high in scores[labels == 1]
        for low in scores[labels == 0]
    ]
    auroc = macro_auroc(labels, np.stack([1 - scores, scores], axis=1))
    assert auroc == pytest.approx(np.mean(wins), abs=1e-12)


def test_a_class_that_is_neither_true_nor_predicted_is_left_out_of_macro_f1() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 3])
    expected = metrics.f1_score(labels, predicted, average="macro")
    assert score_classification(labels, np.eye(6)[predicted])["macro_f1"] == pytest.approx(expected)


def test_log_loss_of_a_certain_mistake_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, probabilities = np.array([0, 1, 1]), np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    expected = metrics.log_loss(labels, probabilities)
    assert score_classification(labels, probabilities)["log_loss"] == pytest.approx(expected)


def test_a_class_missing_from_the_split_is_left_out_of_the_mean_auroc() -> None:
    labels, probabilities = softmax_scores(200, 4)
    kept = labels != 3
    auroc = macro_auroc(labels[kept], probabilities[kept])
    one_vs_rest = [
        macro_auroc((labels[kept] == c).astype(int), np.stack([1 - column, column], axis=1))
        for c, column in enumerate(probabilities[kept].T[:3])
    ]
    assert auroc == pytest.approx(np.mean(one_vs_rest))


def test_auroc_of_a_single_class_is_undefined() -> None:
    assert np.isnan(macro_auroc(np.zeros(3, int), np.full((3, 2), 0.5)))


def test_constant_predictions_have_an_auroc_of_one_half() -> None:
    labels, _ = softmax_scores(100, 5)
    assert macro_auroc(labels, np.full((100, 5), 0.2)) == 0.5


def test_perfect_predictions_have_perfect_scores() -> None:
    labels, _ = softmax_scores(100, 5)
    scores = score_classification(labels, np.eye(5)[labels])
    assert scores == pytest.approx({"auroc": 1, "accuracy": 1, "macro_f1": 1, "log_loss": 0})


def test_the_order_of_the_examples_does_not_matter() -> None:
    labels, probabilities = softmax_scores(200, 4, decimals=0)
    turned = score_classification(labels[::-1], probabilities[::-1])
    assert turned == pytest.approx(score_classification(labels, probabilities), abs=1e-12)


def test_scores_have_the_declared_names_and_only_log_loss_is_minimised() -> None:
    labels, probabilities = softmax_scores(50, 3)
    assert set(score_classification(labels, probabilities)) == set(CLASSIFICATION_METRICS)
    assert [m for m, d in CLASSIFICATION_METRICS.items() if d == "min"] == ["log_loss"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_are_refused_with_the_row(value: float) -> None:
    labels, probabilities = softmax_scores(50, 3)
    probabilities[7, 1] = value
    with pytest.raises(ValueError, match=r"1 of 50 rows \(first: row 7\)"):
        score_classification(labels, probabilities)


@pytest.mark.parametrize(
    ("labels", "shape", "message"),
    [
        ([0, 1, 0], (2, 2), "must agree on n"),
        ([0, 1], (2,), "must agree on n"),
        ([], (0, 2), "at least one example"),
        ([0, 0], (2, 1), "two classes"),
        ([0, 2], (2, 2), r"must lie in 0\.\.1, got 0\.\.2"),
        ([-1, 0], (2, 2), r"must lie in 0\.\.1, got -1\.\.0"),
    ],
)
def test_predictions_that_do_not_fit_the_labels_are_refused(
    labels: list[int], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score_classification(np.array(labels, dtype=np.int64), np.full(shape, 0.5))


def test_scoring_imports_neither_scikit_learn_nor_torch() -> None:
    code = (
        "import sys, numpy as np; from coral.tasks import score_classification as score;"
        "score(np.array([0, 1]), np.eye(2));"
        "sys.exit(', '.join({'sklearn', 'scipy', 'torch'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
