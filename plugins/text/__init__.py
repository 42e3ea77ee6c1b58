"""Tasks on texts from files and from the hub, described in the config alone."""

from functools import partial

from .sft import FineTuning
from .suggesting import suggest
from .task import TextTask

TASKS = {
    "text-classification": partial(TextTask, "classification"),
    "text-pair-classification": partial(TextTask, "pair-classification"),
    "multilabel-classification": partial(TextTask, "multilabel"),
    "regression": partial(TextTask, "regression"),
    "sft": FineTuning,
}

__all__ = ["TASKS", "suggest"]
