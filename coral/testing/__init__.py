"""Conformance suites for plugin authors. They need pytest."""

import pytest

pytest.register_assert_rewrite("coral.testing.task_conformance")

from coral.testing.task_conformance import TaskConformance

__all__ = ["TaskConformance"]
