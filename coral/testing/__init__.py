"""Conformance suites for plugin authors. ``TaskConformance`` needs pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coral.testing.task_conformance import TaskConformance

__all__ = ["TaskConformance"]


def __getattr__(name: str) -> Any:
    """Import the suite when it is first used: the checks themselves need no pytest."""
    if name != "TaskConformance":
        raise AttributeError(f"module 'coral.testing' has no attribute {name!r}")
    from coral.testing.task_conformance import TaskConformance

    return TaskConformance
