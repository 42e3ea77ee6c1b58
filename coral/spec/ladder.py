"""The ``training_stages`` and ``prune`` blocks, and ``num_epochs``, which stretches the ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from coral.errors import PlanError
from coral.fidelity import (
    DEFAULT_LADDER,
    DEFAULT_RULES,
    PruneRule,
    PruneSettings,
    Stage,
    check_ladder,
)
from coral.settings import FIRST_STAGE, PARENTS_STAGE
from coral.spec.aliases import EPOCH_NAMES
from coral.spec.document import KeyPath, shown
from coral.spec.fields import Reader, named_rule, suggestion

PROXIES = (
    "gradient_norm",
    "loss_slope",
    "trainable_parameters",
    "train_cost",
    "peak_memory_bytes",
)
"""What a prune rule may name besides the tasks' metrics."""


def read_stages(reader: Reader) -> tuple[Stage, ...] | None:
    """Read the ladder; None if it has faults."""
    epochs = _epochs(reader)
    if "training_stages" not in reader.document.data:
        return DEFAULT_LADDER if epochs is None else _stretched(reader, epochs)
    before = len(reader.faults)
    path: KeyPath = ("training_stages",)
    items = reader.sequence(reader.document.data["training_stages"], path)
    if items == [] == reader.document.data["training_stages"]:
        remedy = "Add a stage, or remove the key for the default ladder."
        reader.fault(path, "must hold at least one stage, got []", remedy)
    stages = [reader.record(Stage, item, (*path, i)) for i, item in enumerate(items)]
    _check_rungs(reader, stages)
    whole = [stage for stage in stages if stage is not None]
    if epochs is not None and len(reader.faults) == before:
        _check_epochs(reader, epochs, whole[-1])
    return tuple(whole) if len(reader.faults) == before else None


def _epochs(reader: Reader) -> str | None:
    """Return the name under which the epochs are given."""
    given = [name for name in EPOCH_NAMES if name in reader.document.data]
    for other in given[1:]:
        rule = f"says the same as {given[0]} ({reader.document.where((given[0],))})"
        reader.fault((other,), rule, "Remove one of the two.")
    return given[0] if given else None


def _check_rungs(reader: Reader, stages: Sequence[Stage | None]) -> None:
    """Check each stage against the one before; stages with faults of their own are passed over."""
    names: set[str] = set()
    for i, stage in enumerate(stages):
        if stage is None:
            continue
        path: KeyPath = ("training_stages", i)
        if stage.name in names:
            rule = f"stage names must differ, {shown(stage.name)} is already above"
            reader.fault((*path, "name"), rule, "Rename one of the two.")
        names.add(stage.name)
        if stage.name in (FIRST_STAGE, PARENTS_STAGE):
            rule = f"{stage.name} stands for another stage in warm_start.entry"
            reader.fault((*path, "name"), rule, "Give the stage another name, such as S0_sanity.")
        earlier = stages[i - 1] if i else None
        if earlier is None:
            continue
        later = stage if stage.name != earlier.name else replace(stage, name=f"{stage.name} (2)")
        _check_pair(reader, earlier, later, path)


def _check_pair(reader: Reader, earlier: Stage, later: Stage, path: KeyPath) -> None:
    """Report every invariant that breaks between two stages: mend one, look for the next."""
    mended: dict[str, Any] = {
        "epoch_budget": earlier.epoch_budget * 2,
        "data_percentage": earlier.data_percentage,
        "evaluation_percentage": earlier.evaluation_percentage,
    }
    while True:
        try:
            check_ladder((earlier, later))
        except PlanError as error:
            name, rule = named_rule(error)
            if name not in mended:
                reader.fault(path, str(error), "Order the stages from cheap to full.")
                return
            remedy = f"Raise it, or lower that of {earlier.name}."
            reader.fault((*path, name), rule, remedy)
            later = replace(later, **{name: mended.pop(name)})
        else:
            return


def _check_epochs(reader: Reader, key: str, last: Stage) -> None:
    epochs, budget = reader.document.data[key], last.epoch_budget
    if epochs != budget:
        reader.fault(
            (key,),
            f"must equal the last stage's epoch_budget ({budget:g}), got {shown(epochs)}",
            "Remove it: training_stages says how long training is.",
        )


def _stretched(reader: Reader, key: str) -> tuple[Stage, ...] | None:
    """Stretch the default ladder so that its last stage ends after ``num_epochs``."""
    fits, epochs = reader.field(Stage, "epoch_budget", reader.document.data[key], (key,))
    if not fits:
        return None
    factor = epochs / DEFAULT_LADDER[-1].epoch_budget
    return tuple(
        replace(stage, epoch_budget=stage.epoch_budget * factor) for stage in DEFAULT_LADDER
    )


def read_prune(
    reader: Reader,
    stages: tuple[Stage, ...] | None,
    metrics: AbstractSet[str] | None,
    proxies: Mapping[str, int] | None = None,
) -> PruneSettings | None:
    """Read the prune rules; None if they have faults.

    Args:
        stages: None if they have faults.
        metrics: what the tasks give; None if the tasks have faults.
        proxies: what the tasks give at one stage alone, with its index.
    """
    block = reader.document.data.get("prune")
    path: KeyPath = ("prune",) if isinstance(block, list) else ("prune", "rules")
    if isinstance(block, list):
        block = {"rules": block}
    if isinstance(block, dict) and "rules" in block:
        rules = _rules(reader, block, path, stages, metrics, proxies or {})
    else:
        rules = _default_rules(stages or DEFAULT_LADDER, metrics)
    return reader.record(PruneSettings, block, ("prune",), given={"rules": rules})


def _rules(
    reader: Reader,
    block: Mapping[str, Any],
    path: KeyPath,
    stages: Sequence[Stage] | None,
    metrics: AbstractSet[str] | None,
    proxies: Mapping[str, int],
) -> tuple[PruneRule, ...]:
    rules = []
    for i, item in enumerate(reader.sequence(block["rules"], path)):
        rule = reader.record(PruneRule, item, (*path, i))
        if rule is None:
            continue
        names = tuple(stage.name for stage in stages or ())
        if stages is not None and rule.stage and rule.stage not in names:
            remedy = suggestion(rule.stage, names, "Stages of this run")
            told = f"no stage of this run has this name, got {rule.stage}"
            reader.fault((*path, i, "stage"), told, remedy)
        if stages is not None and rule.metric in proxies:
            _check_served(reader, (*path, i), rule, proxies[rule.metric], names)
        if metrics is not None and rule.metric not in (*metrics, *PROXIES, *proxies):
            every = (*metrics, *PROXIES, *proxies)
            known = tuple(sorted(every, key=lambda name: (name.count("."), name)))
            told = f"neither a proxy nor a metric of this run's tasks, got {rule.metric}"
            remedy = suggestion(rule.metric, known, "Metrics that exist")
            reader.fault((*path, i, "metric"), told, remedy)
        rules.append(rule)
    return tuple(rules)


def _check_served(
    reader: Reader, path: KeyPath, rule: PruneRule, served: int, stages: Sequence[str]
) -> None:
    """Check that a rule looks at a task's proxy where it is computed, before the last stage."""
    if served >= len(stages) - 1:
        told = f"{rule.metric} serves stage {served}, counted from 0; {len(stages)} stages are here"
        remedy = "Rules are checked before the last stage; add a stage, or remove the rule."
        reader.fault((*path, "metric"), told, remedy)
    elif rule.stage in stages and rule.stage != stages[served]:
        told = f"{rule.metric} is computed at {stages[served]} alone, got {rule.stage}"
        reader.fault((*path, "stage"), told, f"Write `stage: {stages[served]}`, or leave it out.")


def _default_rules(
    stages: Sequence[Stage], metrics: AbstractSet[str] | None
) -> tuple[PruneRule, ...]:
    """Return the default rules, moved to the first two stages of the run's ladder."""
    moved = {
        default.name: stage.name
        for default, stage in zip(DEFAULT_LADDER[:2], stages[:-1], strict=False)
    }
    return tuple(
        replace(rule, stage=moved[rule.stage])
        for rule in DEFAULT_RULES
        if rule.stage in moved
        and (metrics is None or rule.metric in metrics or rule.metric in PROXIES)
    )
