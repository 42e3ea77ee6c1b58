"""Conformance suites for plugin authors. They need pytest."""

import pytest

pytest.register_assert_rewrite(
    "coral.testing.strategy_conformance", "coral.testing.task_conformance"
)

from coral.testing.strategy_conformance import (
    CurriculumConformance,
    LossWeightingConformance,
    ObjectiveConformance,
    SamplerConformance,
    SelectionConformance,
)
from coral.testing.task_conformance import TaskConformance

__all__ = [
    "CurriculumConformance",
    "LossWeightingConformance",
    "ObjectiveConformance",
    "SamplerConformance",
    "SelectionConformance",
    "TaskConformance",
]
