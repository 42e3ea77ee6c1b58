from __future__ import annotations

import numpy as np
import pytest

from coral.errors import TaskError
from coral.ports import PLAIN
from coral.tasks import (
    PERTURBED,
    TEXT_ONLY,
    ClassificationScoring,
    expected_calibration_error,
    fpr_at_90_recall,
    macro_auroc,
    score_classification,
)

LABELS = np.array([0, 1, 0, 1, 1, 0])
FULL = np.array([0.1, 0.8, 0.4, 0.9, 0.6, 0.2])
BLIND = np.array([0.5, 0.6, 0.7, 0.4, 0.9, 0.2])
VIEWS = (PERTURBED, TEXT_ONLY)


def columns(scores: np.ndarray) -> np.ndarray:
    return np.stack([1 - scores, scores], axis=1)


def scoring(*names: str) -> ClassificationScoring:
    return ClassificationScoring.of("rumours", list(names), VIEWS)


def test_scores_are_those_asked_for_and_no_others() -> None:
    asked = scoring("auroc", "ece", "fpr_at_90_recall")
    assert asked.score(LABELS, columns(FULL)) == {
        "auroc": score_classification(LABELS, columns(FULL))["auroc"],
        "ece": expected_calibration_error(LABELS, columns(FULL)),
        "fpr_at_90_recall": fpr_at_90_recall(LABELS, columns(FULL)),
    }
    assert asked.metrics == {"auroc": "max", "ece": "min", "fpr_at_90_recall": "min"}
    assert asked.primary_metric == "auroc"


def test_no_view_is_predicted_that_no_metric_needs() -> None:
    assert scoring("auroc", "ece").views == ()
    assert scoring("auroc", "cross_modal_gain", "text_only_auroc").views == (TEXT_ONLY,)


def test_metrics_of_views_compare_the_same_labels() -> None:
    asked = scoring("auroc", "robust_auroc", "cross_modal_gain", "text_only_auroc")
    predictions = {PLAIN: columns(FULL), PERTURBED: columns(BLIND), TEXT_ONLY: columns(BLIND)}
    blind = macro_auroc(LABELS, columns(BLIND))
    assert asked.score_views(LABELS, predictions) == {
        "robust_auroc": blind,
        "cross_modal_gain": macro_auroc(LABELS, columns(FULL)) - blind,
        "text_only_auroc": blind,
    }
    assert set(asked.score(LABELS, columns(FULL))) == {"auroc"}


@pytest.mark.parametrize(
    ("names", "views", "message"),
    [
        (["auroc", "eec"], VIEWS, r"got 'eec' \(did you mean 'ece'\?\)"),
        ("auroc", VIEWS, "must be a list of names, got 'auroc'"),
        ([], VIEWS, r"must be a list of names, got \[\]"),
        (["auroc", "auroc"], VIEWS, "named once"),
        (["auroc", "text_only_auroc"], (PERTURBED,), "this task has no text_only examples"),
        (["robust_auroc", "auroc"], VIEWS, "can't be robust_auroc"),
        ([3], VIEWS, "must exist, got 3"),
    ],
)
def test_metrics_that_a_task_cannot_have_are_refused(
    names: object, views: tuple[str, ...], message: str
) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        ClassificationScoring.of("rumours", names, views)
    assert str(caught.value).startswith("task 'rumours': metrics ")
