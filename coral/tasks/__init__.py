"""What task plugins are made with, and how they are found."""

from coral.tasks.classification import CLASSIFICATION_METRICS, macro_auroc, score_classification
from coral.tasks.language import GENERATION_METRICS, LANGUAGE_METRICS, score_language
from coral.tasks.registry import Plugin, Registry, TaskFactory, discover

__all__ = [
    "CLASSIFICATION_METRICS",
    "GENERATION_METRICS",
    "LANGUAGE_METRICS",
    "Plugin",
    "Registry",
    "TaskFactory",
    "discover",
    "macro_auroc",
    "score_classification",
    "score_language",
]
