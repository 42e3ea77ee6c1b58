"""The ``search_space`` block: fields of the plan that become genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coral.errors import GenomeError
from coral.genome import Gene, SearchSpace
from coral.plan import TrainingPlan, plan_paths, value_at
from coral.records import GeneValue
from coral.spec.aliases import ALPHA_NAMES, BATCH_NAMES, PLAN_ALIASES
from coral.spec.document import KeyPath, dotted, shown
from coral.spec.fields import Reader
from coral.spec.genes import GeneReader
from coral.spec.training import canonical, entries_of

DEFAULT_SPACE: Mapping[str, Any] = {
    "adapter.rank": {"low": 2, "high": 32, "log": True},
    "adapter.scaling": {"low": 0.25, "high": 4.0, "log": True},
    "adapter.layers": ["all", "top-4", "top-3", "top-2"],
    "adapter.dropout": {"low": 0.0, "high": 0.2},
    "schedule.learning_rate": {"low": 2.0e-4, "high": 8.0e-3, "log": True},
    "schedule.head_lr_multiplier": {"low": 1.0, "high": 10.0, "log": True},
    "schedule.scheduler": ["linear", "cosine", "constant_with_warmup"],
    "schedule.warmup_ratio": {"low": 0.0, "high": 0.2},
    "schedule.batch_size": [8, 16, 32],
}
"""The search space of a config that has none."""


def default_space(plan: TrainingPlan) -> Mapping[str, Any]:
    """Return the default search space without what the fixed fields leave no effect."""
    fixed = {"schedule.warmup_ratio"} if plan.schedule.warmup_steps else set()
    return {path: gene for path, gene in DEFAULT_SPACE.items() if path not in fixed}


def read_search_space(
    reader: Reader, plan: TrainingPlan, tasks: Sequence[str] | None
) -> SearchSpace | None:
    """Read the genes over ``plan``; None if they have faults.

    Args:
        tasks: names of the run's tasks; None if they have faults.
    """
    before = len(reader.faults)
    block = reader.document.data.get("search_space")
    written = default_space(plan) if block is None else block
    genes: dict[str, Gene] = {}
    places: dict[str, KeyPath] = {}
    for key, value, path in entries_of(reader, written, ("search_space",)):
        target = _target(reader, key, value, path)
        if target is None:
            continue
        if target in places:
            other = dotted(places[target])
            rule = f"says the same as {other} ({reader.document.where(places[target])})"
            reader.fault(path, rule, "Remove one of the two.")
            continue
        places[target] = path
        gene = GeneReader(reader, target, path, plan, tasks).read(value)
        if gene is not None:
            genes[target] = gene
    if block is not None and not places and len(reader.faults) == before:
        remedy = "Add a gene, or remove the key for the default space."
        reader.fault(("search_space",), "must search at least one field, got none", remedy)
    if len(reader.faults) == before:
        _check_conditions(reader, genes, places, plan)
    if len(reader.faults) > before:
        return None
    return SearchSpace(base=plan, genes=tuple(genes[path] for path in sorted(genes)))


def _target(reader: Reader, key: str, value: Any, path: KeyPath) -> str | None:
    """Return the field that a key of the search space names; None if it is a fault."""
    if key in ALPHA_NAMES:
        rule = f"raw alpha can't be searched, got {shown(value)}"
        remedy = "Search `scaling` (alpha / r) instead: it keeps apart from the rank."
        reader.fault(path, rule, remedy)
        return None
    target = "schedule.batch_size" if key in BATCH_NAMES else canonical(key)
    if target is None:
        reader.unknown(path, (*plan_paths(), *PLAN_ALIASES), plan_paths())
    return target


def _check_conditions(
    reader: Reader, genes: Mapping[str, Gene], places: Mapping[str, KeyPath], plan: TrainingPlan
) -> None:
    """Refuse a gene that nothing can ever make active: it would be searched in vain."""
    for gene in genes.values():
        if gene.when is None:
            continue
        path, values = gene.when.path, gene.when.values
        if path in genes:
            possible = any(_allows(genes[path], value) for value in values)
        else:
            possible = value_at(plan, path) in values
        if not possible:
            wanted = " or ".join(map(shown, values))
            fixed = "searched without it" if path in genes else shown(value_at(plan, path))
            reader.fault(
                places[gene.path],
                f"only has an effect where {path} is {wanted}, got {fixed}",
                f"Set {path} under `training`, search it, or remove the gene.",
            )


def _allows(gene: Gene, value: GeneValue) -> bool:
    try:
        gene.check(value)
    except GenomeError:
        return False
    return True
