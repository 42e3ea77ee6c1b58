"""What task plugins are made with, and how they are found."""

from coral.tasks.calling import TaskCalls, task_calls
from coral.tasks.classification import CLASSIFICATION_METRICS, macro_auroc, score_classification
from coral.tasks.language import GENERATION_METRICS, LANGUAGE_METRICS, score_language
from coral.tasks.multilabel import MULTILABEL_METRICS, score_multilabel
from coral.tasks.perturbations import perturb, perturbed
from coral.tasks.registry import Plugin, Registry, TaskFactory, discover
from coral.tasks.regression import REGRESSION_METRICS, score_regression
from coral.tasks.safety import expected_calibration_error, fpr_at_90_recall
from coral.tasks.scoring import PERTURBED, TEXT_ONLY, ClassificationScoring
from coral.tasks.splits import classification_data

__all__ = [
    "CLASSIFICATION_METRICS",
    "GENERATION_METRICS",
    "LANGUAGE_METRICS",
    "MULTILABEL_METRICS",
    "PERTURBED",
    "REGRESSION_METRICS",
    "TEXT_ONLY",
    "ClassificationScoring",
    "Plugin",
    "Registry",
    "TaskCalls",
    "TaskFactory",
    "classification_data",
    "discover",
    "expected_calibration_error",
    "fpr_at_90_recall",
    "macro_auroc",
    "perturb",
    "perturbed",
    "score_classification",
    "score_language",
    "score_multilabel",
    "score_regression",
    "task_calls",
]
