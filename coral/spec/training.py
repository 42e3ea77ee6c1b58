"""The ``training`` block, and Axolotl's names at the top level: the fixed fields of the plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from coral.plan import TrainingPlan, scaling_of
from coral.spec.aliases import (
    ACCUMULATION,
    ALPHA_NAMES,
    BATCH_NAMES,
    PLAN_ALIASES,
    TARGET_LINEAR,
    TRAINING_SHORTHANDS,
)
from coral.spec.document import KeyPath, dotted
from coral.spec.fields import Reader, shown

PARTS = {field.name: type(getattr(TrainingPlan(), field.name)) for field in dataclasses.fields(TrainingPlan)}
"""Part name to its record."""


def plan_fields(part: str) -> set[str]:
    """Return the field names of a part."""
    return {field.name for field in dataclasses.fields(PARTS[part])}


def canonical(name: str) -> str | None:
    """Return the plan's dotted path for an alias or a dotted path; None if it is neither."""
    name = PLAN_ALIASES.get(name, name)
    part, _, field = name.partition(".")
    return name if part in PARTS and field in plan_fields(part) else None


Entry = tuple[Any, KeyPath]


def read_training(reader: Reader, searched: Iterable[str]) -> TrainingPlan | None:
    """Read the plan's fixed fields; None if they have faults.

    Args:
        searched: names in ``search_space``, which settle whether alpha has a meaning.
    """
    data = reader.document.data
    entries: list[tuple[str, Any, KeyPath]] = [
        (name, value, (name,)) for name, value in data.items() if name in TRAINING_SHORTHANDS
    ]
    for name, value in reader.mapping(data.get("training"), ("training",)).items():
        path: KeyPath = ("training", name)
        if name in PARTS:
            for field, item in reader.mapping(value, path).items():
                entries.append((f"{name}.{field}", item, (*path, field)))
        else:
            entries.append((name, value, path))
    values: dict[str, Entry] = {}
    special: dict[str, Entry] = {}
    for name, value, path in entries:
        target = canonical(name)
        if target is not None:
            _enter(reader, values, target, value, path)
        elif name in TRAINING_SHORTHANDS:
            key = "alpha" if name in ALPHA_NAMES else "batch" if name in BATCH_NAMES else name
            _enter(reader, special, key, value, path)
        else:
            part = name.partition(".")[0]
            known = plan_fields(part) if part in PARTS else (*PARTS, *TRAINING_SHORTHANDS)
            reader.unknown(path, known)
    _batch(reader, values, special)
    _target_linear(reader, values, special)
    before = len(reader.faults)
    plan = _build(reader, values)
    if plan is None or len(reader.faults) > before:
        return None
    return _with_alpha(reader, plan, values, special, {canonical(n) or n for n in searched})


def _enter(
    reader: Reader, values: dict[str, Entry], name: str, value: Any, path: KeyPath
) -> None:
    if name in values:
        other = dotted(values[name][1])
        reader.fault(path, f"says the same as {other}", "Remove one of the two.")
    else:
        values[name] = (value, path)


def _build(reader: Reader, values: dict[str, Entry]) -> TrainingPlan | None:
    parts: dict[str, Any] = {}
    for part, record in PARTS.items():
        checked: dict[str, Any] = {}
        paths: dict[str, KeyPath] = {}
        for target, (value, path) in values.items():
            name, _, field = target.partition(".")
            if name == part:
                fits, item = reader.field(record, field, value, path)
                if fits:
                    checked[field], paths[field] = item, path
        around = next(iter(paths.values()), ("training", part))
        parts[part] = reader.construct(record, checked, around[:-1] or around)
    return None if None in parts.values() else TrainingPlan(**parts)


def _batch(reader: Reader, values: dict[str, Entry], special: dict[str, Entry]) -> None:
    """Make ``micro_batch_size`` and accumulation the batch of one optimizer step."""
    micro, accumulation = special.get("batch"), special.get(ACCUMULATION)
    if accumulation is not None and micro is None:
        reader.fault(
            accumulation[1],
            "needs micro_batch_size beside it",
            "Add micro_batch_size, or set batch_size to the examples of an optimizer step.",
        )
    if micro is None:
        return
    sizes = [micro, accumulation or (1, micro[1])]
    for value, path in sizes:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            reader.fault(path, f"must be a whole number > 0, got {shown(value)}", "Correct it.")
            return
    _enter(reader, values, "schedule.batch_size", sizes[0][0] * sizes[1][0], micro[1])


def _target_linear(reader: Reader, values: dict[str, Entry], special: dict[str, Entry]) -> None:
    if TARGET_LINEAR in special:
        value, path = special[TARGET_LINEAR]
        if value is True:
            _enter(reader, values, "adapter.target_modules", "all-linear", path)
        elif value is not False:
            reader.fault(path, f"must be true or false, got {shown(value)}", "Correct it.")


def _with_alpha(
    reader: Reader,
    plan: TrainingPlan,
    values: dict[str, Entry],
    special: dict[str, Entry],
    searched: set[str],
) -> TrainingPlan | None:
    if "alpha" not in special:
        return plan
    value, path = special["alpha"]
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        reader.fault(path, f"must be a number > 0, got {shown(value)}", "Correct it.")
        return None
    if searched & {"adapter.rank", "adapter.rslora"}:
        reader.fault(
            path,
            "alpha has no one meaning while the rank is searched",
            "Set `scaling` (alpha / r) instead: it stays the same at every rank.",
        )
        return None
    if "adapter.scaling" in values:
        reader.fault(path, "says the same as scaling (alpha / r)", "Remove one of the two.")
        return None
    adapter = plan.adapter
    scaling = scaling_of(value, adapter.rank, rslora=adapter.rslora)
    return dataclasses.replace(plan, adapter=dataclasses.replace(adapter, scaling=scaling))
