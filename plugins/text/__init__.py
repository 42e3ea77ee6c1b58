"""Tasks on texts from files and from the hub, described in the config alone."""

from .sft import FineTuning
from .task import TextClassification

TASKS = {"text-classification": TextClassification, "sft": FineTuning}
