"""Checks of what plugins provide. The suites, which are classes, need pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """Import a suite when it is first used: the checks themselves need no pytest."""
    if name not in __all__:
        raise AttributeError(f"module 'coral.testing' has no attribute {name!r}")
    import pytest

    pytest.register_assert_rewrite(
        "coral.testing.strategy_conformance", "coral.testing.task_conformance"
    )
    from coral.testing import strategy_conformance, task_conformance

    return getattr(task_conformance if name == "TaskConformance" else strategy_conformance, name)
