"""The training plan: everything that decides one training run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from coral.errors import PlanError
from coral.plan.adapter import AdapterPlan
from coral.plan.curriculum import CurriculumPlan
from coral.plan.encoding import EncodingPlan
from coral.plan.inference import InferencePlan
from coral.plan.inheritance import InheritancePlan
from coral.plan.loss import LossPlan
from coral.plan.sampling import SamplingPlan
from coral.plan.schedule import SchedulePlan
from coral.plan.tasks import TasksPlan

_LATER = MappingProxyType({"later": True})
"""Marks a part or field that joined after digests were stored: not in them at its default."""

_UNTRAINED = MappingProxyType({**_LATER, "trained": False})
"""Marks a part that has no say in what the weights become."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """One training run, as nested frozen records: one field a part.

    Adding a part is adding a field here; configs, genes and digests follow from it.
    """

    adapter: AdapterPlan = field(default_factory=AdapterPlan)
    schedule: SchedulePlan = field(default_factory=SchedulePlan)
    curriculum: CurriculumPlan = field(default_factory=CurriculumPlan)
    tasks: TasksPlan = field(default_factory=TasksPlan)
    encoding: EncodingPlan = field(default_factory=EncodingPlan)
    inheritance: InheritancePlan = field(default_factory=InheritancePlan, metadata=_LATER)
    sampling: SamplingPlan = field(default_factory=SamplingPlan, metadata=_LATER)
    loss: LossPlan = field(default_factory=LossPlan, metadata=_LATER)
    inference: InferencePlan = field(default_factory=InferencePlan, metadata=_UNTRAINED)


@cache
def plan_paths() -> Mapping[str, Field[Any]]:
    """Return every dotted field path of a plan (``schedule.learning_rate``) with its field."""
    plan = TrainingPlan()
    return MappingProxyType(
        {
            f"{part.name}.{item.name}": item
            for part in fields(plan)
            for item in fields(getattr(plan, part.name))
        }
    )


@cache
def strategy_paths() -> Mapping[str, str]:
    """Return the dotted paths of fields that name a strategy, with the kind of strategy."""
    return MappingProxyType(
        {
            path: item.metadata["strategy"]
            for path, item in plan_paths().items()
            if "strategy" in item.metadata
        }
    )


def value_at(plan: TrainingPlan, path: str) -> Any:
    """Return the value at a dotted path such as ``schedule.learning_rate``."""
    value: Any = plan
    for name in path.split("."):
        value = getattr(value, name)
    return value


UNWEIGHED: Mapping[str, Any] = {
    path: value_at(TrainingPlan(), path) for path in ("loss.weighting", "sampling.kind")
}
"""The fields that can weigh examples by all labels together, with the values that don't."""


def with_values(plan: TrainingPlan, values: Mapping[str, Any]) -> TrainingPlan:
    """Return ``plan`` with the values at the given dotted paths replaced.

    Raises:
        PlanError: a path does not exist, or a part's invariant breaks.
    """
    known = plan_paths()
    parts: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        if path not in known:
            raise PlanError(f"a plan has no field {path!r}")
        part, name = path.split(".")
        parts.setdefault(part, {})[name] = value
    return replace(
        plan, **{part: replace(getattr(plan, part), **changes) for part, changes in parts.items()}
    )


def as_canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces, the same in every process."""
    return _CANONICAL.encode(value)


def _as_dict(record: Any) -> dict[str, Any]:
    """Return the fields of a record, for the encoder; those that are records come here again."""
    always, later = _names_of(record.__class__)
    values = {name: getattr(record, name) for name in always}
    for name, default in later:
        if (value := getattr(record, name)) != default:
            values[name] = value
    return values


@cache
def _names_of(record: Any) -> tuple[tuple[str, ...], tuple[tuple[str, Any], ...]]:
    """Return the fields that are always written, and those left out at their defaults."""
    if not is_dataclass(record):
        raise TypeError(f"a {record.__name__} has no canonical JSON")
    own = fields(record)
    later = [item for item in own if "later" in item.metadata]
    return (
        tuple(item.name for item in own if item not in later),
        tuple((item.name, _default_of(item)) for item in later),
    )


def _default_of(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, default=_as_dict
)


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(as_canonical_json(value).encode()).hexdigest()


@cache
def _untrained() -> Mapping[str, Any]:
    """Return the parts that need no training, by name, at their defaults."""
    parts = (item for item in fields(TrainingPlan) if not item.metadata.get("trained", True))
    return {item.name: item.default_factory() for item in parts}  # type: ignore[operator]


def is_trained(path: str) -> bool:
    """Return whether the field at a dotted path has a say in what the weights become."""
    return path.partition(".")[0] not in _untrained()


def training_digest(plan: TrainingPlan) -> str:
    """Return the digest of what a plan trains: equal for plans that share their weights."""
    return digest_of(replace(plan, **_untrained()))
