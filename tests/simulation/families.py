"""A family in the simulated world: a plan, its weights, and what children make of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coral.plan import TrainingPlan
from coral.simulation import Profile
from coral.simulation.job import begin
from coral.simulation.profile import Inheritance
from coral.simulation.transfer import Made
from tests.simulation.worlds import (
    LADDER,
    QUIET,
    climbed,
    job_of,
    legacy,
    plan_of,
    world_of,
)

PLAN = plan_of(adapter__rank=8, adapter__target_modules=("query", "value"))
KEEPING = replace(QUIET, inheritance=Inheritance(kept=1.0, pooling=0.5))
LAST = len(LADDER) - 1


def address(plan: TrainingPlan = PLAN, profile: Profile = KEEPING) -> str:
    found = climbed(plan, profile)[-1].checkpoint
    assert found is not None
    return found


def begun(plan: TrainingPlan, *parents: str, profile: Profile = KEEPING, **fields: Any) -> Made:
    """Return what a child of some parents begins with."""
    job = job_of(plan, entry=0, inherits=legacy(*parents), **fields)
    made = begin(world_of(profile=profile), job).made
    assert made is not None
    return made
