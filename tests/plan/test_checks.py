from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt

from coral.errors import CoralError, PlanError
from coral.plan import AdapterPlan, CurriculumPlan, EncodingPlan, SchedulePlan
from coral.plan.checks import Bound, Fraction, PositiveInt, bounds_of, check_bounds, describe_bound


@pytest.mark.parametrize(
    ("record", "field", "value", "message"),
    [
        (AdapterPlan, "rank", 0, "rank must be > 0, got 0"),
        (AdapterPlan, "scaling", 0.0, "scaling must be > 0, got 0.0"),
        (AdapterPlan, "dropout", -0.1, "dropout must be >= 0, got -0.1"),
        (AdapterPlan, "dropout", 1.5, "dropout must be <= 1, got 1.5"),
        (AdapterPlan, "dropout", 1.0, "dropout must be < 1, got 1.0"),
        (SchedulePlan, "learning_rate", 0.0, "learning_rate must be > 0, got 0.0"),
        (SchedulePlan, "head_lr_multiplier", -1.0, "head_lr_multiplier must be > 0, got -1.0"),
        (SchedulePlan, "warmup_ratio", 1.01, "warmup_ratio must be <= 1, got 1.01"),
        (SchedulePlan, "weight_decay", -1e-9, "weight_decay must be >= 0, got -1e-09"),
        (SchedulePlan, "gradient_clip", 0.0, "gradient_clip must be > 0, got 0.0"),
        (SchedulePlan, "batch_size", 0, "batch_size must be > 0, got 0"),
        (CurriculumPlan, "initial_difficulty", 0.0, "initial_difficulty must be > 0, got 0.0"),
        (CurriculumPlan, "final_difficulty", 1.1, "final_difficulty must be <= 1, got 1.1"),
        (CurriculumPlan, "ramp", -0.5, "ramp must be >= 0, got -0.5"),
        (EncodingPlan, "sequence_len", 0, "sequence_len must be > 0, got 0"),
    ],
)
def test_a_number_outside_its_bounds_is_refused_with_rule_and_value(
    record: type[Any], field: str, value: float, message: str
) -> None:
    with pytest.raises(PlanError, match=re.escape(message)):
        record(**{field: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(PlanError, match=f"learning_rate must be finite, got {value}"):
        SchedulePlan(learning_rate=value)


def test_a_plan_error_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="rank") as caught:
        AdapterPlan(rank=-1)
    assert isinstance(caught.value, CoralError)


def test_the_edges_of_closed_ranges_are_allowed() -> None:
    assert SchedulePlan(warmup_ratio=0.0, weight_decay=0.0).warmup_ratio == 0.0
    assert CurriculumPlan(ramp=1.0, initial_difficulty=1.0).ramp == 1.0


def test_bounds_are_read_from_the_annotations() -> None:
    assert bounds_of(AdapterPlan)["rank"] == (Gt(0),)
    assert bounds_of(AdapterPlan)["dropout"] == (Ge(0), Le(1))
    assert bounds_of(AdapterPlan)["layers"] == ()


@dataclass(frozen=True)
class Limits:
    workers: PositiveInt | str = 1
    share: Fraction | None = None
    enabled: bool = False


def test_bounds_inside_a_union_hold_for_its_numbers_only() -> None:
    check_bounds(Limits(workers="auto", share=None))
    with pytest.raises(PlanError, match="workers must be > 0, got 0"):
        check_bounds(Limits(workers=0))
    with pytest.raises(PlanError, match="share must be <= 1, got 2"):
        check_bounds(Limits(share=2))


@pytest.mark.parametrize(
    ("bound", "words"), [(Gt(0), "> 0"), (Ge(1), ">= 1"), (Lt(2), "< 2"), (Le(0.5), "<= 0.5")]
)
def test_a_bound_is_described_as_people_write_it(bound: Bound, words: str) -> None:
    assert describe_bound(bound) == words
