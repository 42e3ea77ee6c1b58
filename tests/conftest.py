"""Hypothesis for all tests: enough examples for arithmetic, and no deadline for first imports."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("coral", max_examples=40, deadline=None)
settings.load_profile("coral")
