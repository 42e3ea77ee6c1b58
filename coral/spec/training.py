"""The ``training`` block, and Axolotl's names at the top level: the fixed fields of the plan."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, get_type_hints

from coral.plan import SchedulePlan, TrainingPlan, plan_paths, scaling_of, value_at, with_values
from coral.plan.adapter import ALL_LINEAR
from coral.spec.aliases import (
    ACCUMULATION,
    ALPHA_NAMES,
    BATCH_NAMES,
    LLAMA_FACTORY_TARGET,
    PLAN_ALIASES,
    TARGET_LINEAR,
    TRAINING_SHORTHANDS,
)
from coral.spec.document import Document, KeyPath, dotted, shown
from coral.spec.fields import Reader

PARTS: dict[str, type] = get_type_hints(TrainingPlan)
"""Part name to its record."""

Entry = tuple[str, Any, KeyPath]
"""A name as written, its value, and where it stands."""
Said = dict[str, tuple[Any, KeyPath]]
"""A field's dotted path, or a shorthand, with its value and where it stands."""


def plan_fields(part: str) -> list[str]:
    """Return the field names of a part."""
    return [field.name for field in dataclasses.fields(PARTS[part])]


def canonical(name: str) -> str | None:
    """Return the plan's dotted path for an alias or a dotted path; None if it is neither."""
    name = PLAN_ALIASES.get(name, name)
    return name if name in plan_paths() else None


def entries_of(reader: Reader, block: Any, path: KeyPath) -> list[Entry]:
    """Return a block's entries with parts opened: ``adapter: {rank: 8}`` is ``adapter.rank``."""
    entries: list[Entry] = []
    for name, value in reader.mapping(block, path).items():
        if name in PARTS:
            for field, item in reader.mapping(value, (*path, name)).items():
                entries.append((f"{name}.{field}", item, (*path, name, field)))
        else:
            entries.append((name, value, (*path, name)))
    return entries


def training_entries(reader: Reader) -> list[Entry]:
    """Return what fixes fields of the plan, at the top level and under ``training``."""
    data = reader.document.data
    top = [(name, value, (name,)) for name, value in data.items() if name in TRAINING_SHORTHANDS]
    return [*top, *entries_of(reader, data.get("training"), ("training",))]


def written_at(document: Document, target: str, *, searched: bool = False) -> KeyPath:
    """Return the key path under which the user wrote a field of the plan, in their spelling."""
    reader, block = Reader(document), ("search_space",)
    entries = (
        entries_of(reader, document.data.get("search_space"), block)
        if searched
        else training_entries(reader)
    )
    home = "search_space" if searched else "training"
    written = (path for name, _, path in entries if canonical(name) == target)
    return next(written, (home, *target.split(".")))


def read_training(reader: Reader, searched: Iterable[str]) -> TrainingPlan | None:
    """Read the plan's fixed fields; None if they have faults.

    Args:
        searched: names in ``search_space``, which settle whether alpha has a meaning.
    """
    values = read_plan_values(
        reader,
        training_entries(reader),
        TrainingPlan(),
        searched={canonical(name) or name for name in searched},
    )
    return None if values is None else with_values(TrainingPlan(), values)


def read_plan_values(
    reader: Reader,
    entries: Sequence[Entry],
    base: TrainingPlan,
    searched: Iterable[str] = (),
) -> dict[str, Any] | None:
    """Return the plan's fields that entries set, by dotted path; None if they have faults.

    Args:
        base: plan whose rank alpha refers to where the entries set none.
        searched: dotted paths of the genes.
    """
    before = len(reader.faults)
    said: Said = {}
    shorthands: Said = {}
    for name, value, path in entries:
        target = canonical(name)
        if target is not None:
            plain = _targets(value) if name == LLAMA_FACTORY_TARGET else value
            _enter(reader, said, target, plain, path)
        elif name in TRAINING_SHORTHANDS:
            key = "alpha" if name in ALPHA_NAMES else "batch" if name in BATCH_NAMES else name
            _enter(reader, shorthands, key, value, path)
        else:
            _unknown(reader, name, path)
    _batch(reader, said, shorthands)
    _target_linear(reader, said, shorthands)
    values = _checked(reader, said)
    _alpha(reader, values, said, shorthands, base, set(searched))
    return values if len(reader.faults) == before else None


def _unknown(reader: Reader, name: str, path: KeyPath) -> None:
    part = name.partition(".")[0]
    if part in PARTS and name != path[-1]:
        reader.unknown(path, plan_fields(part))
    else:
        reader.unknown(path, (*PARTS, *plan_paths(), *TRAINING_SHORTHANDS), plan_paths())


def _enter(reader: Reader, said: Said, name: str, value: Any, path: KeyPath) -> None:
    if name in said:
        other = said[name][1]
        where = reader.document.where(other)
        rule = f"says the same as {dotted(reader.document.written(other))} ({where})"
        reader.fault(path, rule, "Remove one of the two.")
    else:
        said[name] = (value, path)


def _targets(value: Any) -> Any:
    """Read LLaMA-Factory's spelling: ``all``, or names joined by commas."""
    if value == "all":
        return ALL_LINEAR
    if isinstance(value, str) and "," in value:
        return [name.strip() for name in value.split(",")]
    return value


def _checked(reader: Reader, said: Said) -> dict[str, Any]:
    """Return the values that fit their field and its part's invariants."""
    checked: dict[str, Any] = {}
    for part, record in PARTS.items():
        values: dict[str, Any] = {}
        written: dict[str, KeyPath] = {}
        for target, (value, path) in said.items():
            owner, _, field = target.partition(".")
            if owner == part:
                fits, item = reader.field(record, field, value, path)
                if fits:
                    values[field], written[field] = item, path
        if reader.construct(record, values, ("training", part), written) is not None:
            checked |= {f"{part}.{field}": value for field, value in values.items()}
    return checked


def _batch(reader: Reader, said: Said, shorthands: Said) -> None:
    """Make ``micro_batch_size`` and accumulation the batch of one optimizer step."""
    micro, accumulation = shorthands.get("batch"), shorthands.get(ACCUMULATION)
    if accumulation is not None and micro is None:
        reader.fault(
            accumulation[1],
            f"needs micro_batch_size beside it, got {shown(accumulation[0])} alone",
            "Add micro_batch_size, or set batch_size to the examples of an optimizer step.",
        )
    if micro is None:
        return
    sizes = [size for size in (micro, accumulation) if size is not None]
    fits = [reader.field(SchedulePlan, "batch_size", value, path)[0] for value, path in sizes]
    if all(fits):
        product = math.prod(value for value, _ in sizes)
        _enter(reader, said, "schedule.batch_size", product, micro[1])


def _target_linear(reader: Reader, said: Said, shorthands: Said) -> None:
    if TARGET_LINEAR in shorthands:
        value, path = shorthands[TARGET_LINEAR]
        if value is True:
            _enter(reader, said, "adapter.target_modules", ALL_LINEAR, path)
        elif value is not False:
            remedy = "Write true for all linear maps, or name them in lora_target_modules."
            reader.fault(path, f"must be true or false, got {shown(value)}", remedy)


def _alpha(
    reader: Reader,
    values: dict[str, Any],
    said: Said,
    shorthands: Said,
    base: TrainingPlan,
    searched: set[str],
) -> None:
    """Turn alpha into the effective scaling that it means at the plan's rank."""
    if "alpha" not in shorthands:
        return
    alpha, path = shorthands["alpha"]
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not (number and 0 < alpha < math.inf):
        rule = f"must be a number > 0, got {shown(alpha)}"
        reader.fault(path, rule, "Correct the value, or set `scaling` (alpha / r) instead.")
    elif searched & {"adapter.rank", "adapter.rslora"}:
        reader.fault(
            path,
            f"alpha has no one meaning while the rank is searched, got {shown(alpha)}",
            "Set `scaling` (alpha / r) instead: it stays the same at every rank.",
        )
    elif "adapter.scaling" in said:
        other = dotted(reader.document.written(said["adapter.scaling"][1]))
        rule = f"says the same as {other} (alpha / r), got {shown(alpha)}"
        reader.fault(path, rule, "Remove one of the two.")
    else:
        rank, rslora = (
            values.get(name, value_at(base, name)) for name in ("adapter.rank", "adapter.rslora")
        )
        values["adapter.scaling"] = scaling_of(alpha, rank, rslora=rslora)
