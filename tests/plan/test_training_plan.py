from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from coral.errors import PlanError
from coral.plan import (
    TrainingPlan,
    as_canonical_json,
    digest_of,
    plan_paths,
    value_at,
    with_values,
)

IN_ANOTHER_PROCESS = """
from coral.plan import TrainingPlan, digest_of, with_values
plan = with_values(TrainingPlan(), {"tasks.weights": {"b": 0.75, "a": 0.25}, "adapter.rank": 3})
print(digest_of(plan))
"""


def test_every_path_names_a_field_that_can_be_read() -> None:
    plan = TrainingPlan()
    assert {"schedule.learning_rate", "adapter.rank", "tasks.weights", "curriculum.kind"} <= set(
        plan_paths()
    )
    for path, field in plan_paths().items():
        assert path.endswith(f".{field.name}")
        value_at(plan, path)


def test_the_paths_of_a_plan_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        plan_paths()["adapter.colour"] = None  # type: ignore[index]


def test_with_values_replaces_the_named_fields_and_leaves_the_rest() -> None:
    plan = TrainingPlan()
    values = {"schedule.learning_rate": 3e-3, "schedule.batch_size": 8, "adapter.rank": 4}
    changed = with_values(plan, values)
    for path in plan_paths():
        assert value_at(changed, path) == values.get(path, value_at(plan, path))
    assert plan == TrainingPlan()


def test_with_no_values_the_plan_stays_what_it_is() -> None:
    assert with_values(TrainingPlan(), {}) == TrainingPlan()


@pytest.mark.parametrize("path", ["schedule.lr", "schedule", "rank", "adapter.rank.deep", ""])
def test_a_path_that_no_plan_has_is_refused(path: str) -> None:
    with pytest.raises(PlanError, match=f"a plan has no field '{path}'"):
        with_values(TrainingPlan(), {path: 1})


def test_with_values_meets_the_same_checks_as_the_record() -> None:
    with pytest.raises(PlanError, match="rank must be > 0, got 0"):
        with_values(TrainingPlan(), {"adapter.rank": 0})


def test_equal_plans_have_equal_digests_whatever_the_order_of_their_weights() -> None:
    one = with_values(TrainingPlan(), {"tasks.weights": {"a": 0.25, "b": 0.75}})
    two = with_values(TrainingPlan(), {"tasks.weights": {"b": 0.75, "a": 0.25}})
    assert digest_of(one) == digest_of(two)


def test_every_field_that_differs_changes_the_digest() -> None:
    other = {
        "adapter.rank": 3,
        "schedule.learning_rate": 0.5,
        "curriculum.kind": "progressive",
        "tasks.weights": {"a": 1.0},
        "encoding.pooling": "cls",
    }
    digests = {digest_of(with_values(TrainingPlan(), {path: v})) for path, v in other.items()}
    assert len(digests | {digest_of(TrainingPlan())}) == len(other) + 1


def test_a_digest_is_the_same_in_another_process_with_another_hash_seed() -> None:
    plan = with_values(TrainingPlan(), {"adapter.rank": 3, "tasks.weights": {"a": 0.25, "b": 0.75}})
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == digest_of(plan)


def test_canonical_json_has_sorted_keys_and_no_spaces() -> None:
    assert as_canonical_json({"b": [1, 2.5], "a": {"d": True, "c": "x"}}) == (
        '{"a":{"c":"x","d":true},"b":[1,2.5]}'
    )
    assert json.loads(as_canonical_json(TrainingPlan()))["adapter"]["rank"] == 16


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("inheritance.mixing", 0.75),
        ("sampling.kind", "balanced"),
        ("loss.weighting", "inverse_frequency"),
    ],
)
def test_a_part_that_joined_later_leaves_the_digests_of_plans_without_it_alone(
    path: str, value: object
) -> None:
    plan = TrainingPlan()
    part, _, name = path.partition(".")
    assert f'"{part}"' not in as_canonical_json(plan)
    changed = with_values(plan, {path: value})
    assert f'"{name}":{json.dumps(value)}' in as_canonical_json(changed)
    assert digest_of(changed) != digest_of(plan)


def test_the_default_plan_has_the_digest_that_it_always_had() -> None:
    assert digest_of(TrainingPlan()) == (
        "bcf238e89231261b85a5c948838a2544f98e96602cc6a0e5073b4edfd7ee2e54"
    )


def test_canonical_json_of_a_record_is_that_of_its_fields_as_dicts() -> None:
    values = {"tasks.weights": {"b": 0.75, "a": 0.25}, "inheritance.mixing": 0.75}
    values |= {"sampling.strength": 0.5, "loss.strength": 0.5, "inference.top_p": 0.9}
    plan = with_values(TrainingPlan(), {**values, "schedule.warmup_steps": 5})
    assert as_canonical_json(plan) == as_canonical_json(asdict(plan))
    assert as_canonical_json({"plans": [plan]}) == as_canonical_json({"plans": [asdict(plan)]})


def test_a_field_that_joined_later_leaves_the_digests_of_plans_without_it_alone() -> None:
    plan = TrainingPlan()
    assert "warmup_steps" not in as_canonical_json(plan)
    assert '"warmup_steps":5' in as_canonical_json(with_values(plan, {"schedule.warmup_steps": 5}))


@pytest.mark.parametrize("value", [object(), TrainingPlan, {1, 2}])
def test_what_is_no_record_has_no_canonical_json(value: object) -> None:
    with pytest.raises(TypeError, match="has no canonical JSON"):
        as_canonical_json([value])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_without_a_canonical_form_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        as_canonical_json({"loss": value})
