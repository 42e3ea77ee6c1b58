"""The ``search_space`` block: fields of the plan that become genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
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
TASK_GENES = "task_genes"
"""Key of ``search_space`` that takes over what the tasks would search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGenes:
    """What a task would search.

    Attributes:
        path: where the config names the task.
        genes: as a ``search_space`` block has them.
    """

    task: str
    path: KeyPath
    genes: Mapping[str, Any]


def taken_over(reader: Reader, brought: Sequence[TaskGenes]) -> Sequence[TaskGenes]:
    """Return what the config takes over of the tasks' genes: all of it, or nothing.

    A config without a search space takes it over.
    """
    block = reader.document.data.get("search_space")
    wanted = block is None or (isinstance(block, dict) and block.get(TASK_GENES) is True)
    return brought if wanted else ()


def default_space(plan: TrainingPlan) -> Mapping[str, Any]:
    """Return the default search space without what the fixed fields leave no effect."""
    fixed = {"schedule.warmup_ratio"} if plan.schedule.warmup_steps else set()
    return {path: gene for path, gene in DEFAULT_SPACE.items() if path not in fixed}


def read_search_space(
    reader: Reader,
    plan: TrainingPlan,
    tasks: Sequence[str] | None,
    brought: Sequence[TaskGenes] = (),
) -> SearchSpace | None:
    """Read the genes over ``plan``; None if they have faults.

    Args:
        tasks: names of the run's tasks; None if they have faults.
        brought: what the tasks would search; the config's own genes go before them, and they before
            those of ``DEFAULT_SPACE``.
    """
    before = len(reader.faults)
    block = reader.document.data.get("search_space")
    written = default_space(plan) if block is None else block
    if isinstance(written, dict) and TASK_GENES in written:
        _check_switch(reader, written[TASK_GENES])
        written = {key: value for key, value in written.items() if key != TASK_GENES}
    own = entries_of(reader, written, ("search_space",))
    named = {_field(key) for key, _, _ in own} if block is not None else set()
    theirs = list(_brought(reader, plan, tasks, taken_over(reader, brought), named))
    genes = {target: gene for target, gene, _ in theirs}
    places = {target: path for target, _, path in theirs}
    for key, value, path in own:
        if block is None and key in places:
            continue
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


def _check_switch(reader: Reader, value: Any) -> None:
    if not isinstance(value, bool):
        rule = f"must be true or false, got {shown(value)}"
        remedy = "With true, what the tasks would search is searched; see `coral plugins`."
        reader.fault(("search_space", TASK_GENES), rule, remedy)


def _brought(
    reader: Reader,
    plan: TrainingPlan,
    tasks: Sequence[str] | None,
    brought: Sequence[TaskGenes],
    named: AbstractSet[str | None],
) -> Iterator[tuple[str, Gene, KeyPath]]:
    """Yield the genes that tasks bring, with their fields, but for those in ``named``."""
    seen: dict[str, tuple[str, Any]] = {}
    for source in brought:
        for key, value in source.genes.items():
            target = _field(key)
            if target in named:
                continue
            scratch = Reader(reader.document)
            gene = None
            if target is None:
                scratch.fault(source.path, "no field of the plan has this name", "")
            else:
                gene = GeneReader(scratch, target, source.path, plan, tasks).read(value)
                other, said = seen.setdefault(target, (source.task, value))
                if said != value:
                    rule = f"says something else than task {other!r}"
                    scratch.fault(source.path, rule, "")
                elif other != source.task:
                    continue
            for fault in scratch.faults:
                rule = f"task {source.task!r} brings the gene {key}: {fault.rule}"
                remedy = "Write it under `search_space` yourself, or correct the task's plugin."
                reader.fault(source.path, rule, remedy)
            if target is not None and gene is not None:
                yield target, gene, source.path


def _field(key: str) -> str | None:
    """Return the field of the plan that a name stands for; None if there is none."""
    return "schedule.batch_size" if key in BATCH_NAMES else canonical(key)


def _target(reader: Reader, key: str, value: Any, path: KeyPath) -> str | None:
    """Return the field that a key of the search space names; None if it is a fault."""
    if key in ALPHA_NAMES:
        rule = f"raw alpha can't be searched, got {shown(value)}"
        remedy = "Search `scaling` (alpha / r) instead: it keeps apart from the rank."
        reader.fault(path, rule, remedy)
        return None
    target = _field(key)
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
