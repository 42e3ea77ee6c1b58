"""Tasks on texts from files and from the hub, described in the config alone."""

from .task import TextClassification

TASKS = {"text-classification": TextClassification}
