"""From a ``RunSpec`` back to YAML: the resolved config of a run, which loads to the same spec."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from coral.genome import ChoiceGene, FloatGene, Gene, IntGene, SimplexGene, SubsetGene
from coral.settings import RunSpec, TaskSettings
from coral.spec.document import dump_yaml


def dump_spec(spec: RunSpec) -> str:
    """Return the spec as YAML with every default filled in."""
    data = {
        "mode": spec.mode,
        "base_model": spec.base_model,
        "tasks": [_task(task) for task in spec.tasks],
        "training": asdict(spec.training),
        "search_space": {gene.path: _gene(gene) for gene in spec.space.genes},
        "evolution": asdict(spec.evolution),
        "warm_start": asdict(spec.warm_start),
        "exploit": asdict(spec.exploit),
        "soup": asdict(spec.soup),
        "squeeze": asdict(spec.squeeze),
        "confirm": asdict(spec.confirm),
        "training_stages": [asdict(stage) for stage in spec.training_stages],
        "prune": {
            "rules": [
                {key: value for key, value in asdict(rule).items() if value not in (None, "")}
                for rule in spec.prune.rules
            ],
            "audit_fraction": spec.prune.audit_fraction,
        },
        "objectives": [asdict(objective) for objective in spec.objectives],
        "budget": asdict(spec.budget),
        "execution": asdict(spec.execution),
        "simulation": asdict(spec.simulation),
        "cache": spec.cache,
        "cache_bytes": spec.cache_bytes,
        "prefix_bytes": spec.prefix_bytes,
        "output_dir": spec.output_dir,
        "seed": spec.seed,
    }
    return dump_yaml(_plain(data))


def _task(task: TaskSettings) -> dict[str, Any]:
    kind = {"type": task.type} if task.type else {}
    return {"name": task.name, **kind, **task.options}


def _gene(gene: Gene) -> dict[str, Any]:
    match gene:
        case FloatGene() | IntGene():
            written: dict[str, Any] = {"low": gene.low, "high": gene.high, "log": gene.log}
        case ChoiceGene():
            written = {"choices": list(gene.options)}
        case SubsetGene():
            written = {"subset": list(gene.options), "least": gene.least}
        case SimplexGene():
            written = {"simplex": list(gene.names), "floor": gene.floor}
    if gene.when is not None:
        written["when"] = {gene.when.path: list(gene.when.values)}
    return written


def _plain(value: Any) -> Any:
    """Turn tuples into lists, which is all that YAML needs."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
