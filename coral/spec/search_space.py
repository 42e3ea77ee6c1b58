"""The ``search_space`` block: fields of the plan that become genes."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from coral.errors import GenomeError, PlanError
from coral.genome import (
    ChoiceGene,
    Condition,
    FloatGene,
    Gene,
    IntGene,
    SearchSpace,
    SimplexGene,
    SubsetGene,
    extremes,
    flag,
)
from coral.plan import TrainingPlan, plan_paths, with_values
from coral.records import GeneValue
from coral.spec.aliases import ALPHA_NAMES, BATCH_NAMES, PLAN_ALIASES
from coral.spec.document import KeyPath
from coral.spec.fields import Reader, shown
from coral.spec.training import PARTS, canonical

KEYS = ("low", "high", "log", "choices", "subset", "least", "simplex", "floor", "when")

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


def read_search_space(
    reader: Reader, plan: TrainingPlan, tasks: Sequence[str]
) -> SearchSpace | None:
    """Read the genes over ``plan``; None if they have faults."""
    before = len(reader.faults)
    block = reader.document.data.get("search_space")
    written = DEFAULT_SPACE if block is None else reader.mapping(block, ("search_space",))
    genes: dict[str, Gene] = {}
    for name, value in _flattened(reader, written):
        path: KeyPath = ("search_space", *name)
        key = ".".join(name)
        if key in ALPHA_NAMES:
            reader.fault(
                path,
                "raw alpha can't be searched",
                "Search `scaling` (alpha / r): it keeps apart from the rank.",
            )
            continue
        target = "schedule.batch_size" if key in BATCH_NAMES else canonical(key)
        if target is None:
            reader.unknown(path, (*plan_paths(), *PLAN_ALIASES))
            continue
        if target in genes:
            reader.fault(path, f"{target} is searched twice", "Remove one of the two.")
            continue
        gene = _gene(reader, target, value, path, tasks)
        if gene is not None and _fits(reader, gene, plan, path):
            genes[target] = gene
    if block is not None and not genes and len(reader.faults) == before:
        reader.fault(
            ("search_space",), "must search at least one field", "Remove it for the default space."
        )
    if len(reader.faults) > before:
        return None
    return SearchSpace(base=plan, genes=tuple(genes[path] for path in sorted(genes)))


def _flattened(reader: Reader, block: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """Return entries with parts opened up: ``adapter: {rank: ...}`` is ``adapter.rank``."""
    entries: list[tuple[tuple[str, ...], Any]] = []
    for name, value in block.items():
        if name in PARTS:
            inner = reader.mapping(value, ("search_space", name))
            entries += [((name, field), item) for field, item in inner.items()]
        else:
            entries.append(((name,), value))
    return entries


def _gene(
    reader: Reader, target: str, value: Any, path: KeyPath, tasks: Sequence[str]
) -> Gene | None:
    if isinstance(value, list):
        value = {"choices": value}
    kind = field_kind(target)
    if value in ("flag", "simplex") or value is True:
        value = {}
    if not isinstance(value, dict):
        reader.fault(
            path,
            f"a gene is a list of choices or a mapping with low and high, got {shown(value)}",
            "Write `[8, 16, 32]` or `{low: 1.0e-4, high: 1.0e-2, log: true}`. To fix the field,"
            " set it under `training`.",
        )
        return None
    unknown = [key for key in value if key not in KEYS]
    for key in unknown:
        reader.unknown((*path, key), KEYS)
    if unknown:
        return None
    try:
        when = _condition(target, value.get("when"))
        return _built(target, kind, value, tasks, when)
    except (GenomeError, TypeError, ValueError) as error:
        reader.fault(path, str(error), _gene_remedy(target, error))
        return None


def _gene_remedy(target: str, error: Exception) -> str:
    default = getattr(TrainingPlan(), target.split(".")[0])
    value = getattr(default, target.split(".")[1])
    if "low <= high" in str(error):
        return f"Swap the bounds, or remove the gene to keep the default ({shown(value)})."
    return f"Correct the gene, or remove it to keep the default ({shown(value)})."


def _built(
    target: str, kind: str, value: dict[str, Any], tasks: Sequence[str], when: Condition | None
) -> Gene:
    if "choices" in value:
        return ChoiceGene(path=target, options=_options(value["choices"]), when=when)
    if "subset" in value:
        if kind != "names":
            raise GenomeError(f"{target} takes one value, not a subset of names")
        options = _names(value["subset"])
        return SubsetGene(path=target, options=options, least=value.get("least", 1), when=when)
    if "low" in value or "high" in value:
        return _range(target, kind, value, when)
    if kind == "flag":
        return flag(target, when=when)
    if kind == "shares":
        names = _names(value.get("simplex", list(tasks)))
        return SimplexGene(path=target, names=names, floor=value.get("floor", 0.1), when=when)
    raise GenomeError("a gene needs `choices`, or `low` and `high`")


def _range(target: str, kind: str, value: dict[str, Any], when: Condition | None) -> Gene:
    low, high, log = value.get("low"), value.get("high"), value.get("log", False)
    if kind not in ("int", "float"):
        raise GenomeError(f"{target} is not a number, so it needs `choices`")
    for name, bound in (("low", low), ("high", high)):
        if not isinstance(bound, int | float) or isinstance(bound, bool):
            raise GenomeError(f"{name} must be a number, got {shown(bound)}")
    if not isinstance(log, bool):
        raise GenomeError(f"log must be true or false, got {shown(log)}")
    if kind == "float":
        return FloatGene(path=target, low=float(low), high=float(high), log=log, when=when)  # type: ignore[arg-type]
    if low != int(low) or high != int(high):  # type: ignore[arg-type]
        raise GenomeError(f"{target} is a whole number, got low={low}, high={high}")
    return IntGene(path=target, low=int(low), high=int(high), log=log, when=when)  # type: ignore[arg-type]


def _options(choices: Any) -> tuple[GeneValue, ...]:
    if not isinstance(choices, list):
        raise GenomeError(f"choices must be a list, got {shown(choices)}")
    return tuple(tuple(option) if isinstance(option, list) else option for option in choices)


def _names(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise GenomeError(f"names must be a list of texts, got {shown(names)}")
    return tuple(names)


def _condition(target: str, when: Any) -> Condition | None:
    """Return the condition as written, else the one that the plan's field declares."""
    if when is None:
        declared = plan_paths()[target].metadata.get("active_when")
        if declared is None:
            return None
        return Condition(path=f"{target.split('.')[0]}.{declared[0]}", values=declared[1])
    if not isinstance(when, dict) or len(when) != 1:
        raise GenomeError(f"when must name one field and its values, got {shown(when)}")
    name, values = next(iter(when.items()))
    path = canonical(name)
    if path is None:
        raise GenomeError(f"when names {name!r}, which is no field of the plan")
    return Condition(path=path, values=_options(values if isinstance(values, list) else [values]))


def _fits(reader: Reader, gene: Gene, plan: TrainingPlan, path: KeyPath) -> bool:
    """Check that every extreme of a gene makes a valid plan of the right types."""
    part, _, field = gene.path.partition(".")
    for value in extremes(gene):
        if isinstance(gene, SimplexGene):
            continue
        plain = list(value) if isinstance(value, tuple) else value
        fits, checked = reader.field(PARTS[part], field, plain, path)
        if not fits:
            return False
        try:
            with_values(plan, {gene.path: checked})
        except PlanError as error:
            reader.fault(path, str(error), "Keep the gene within what a plan allows.")
            return False
    return True


def field_kind(path: str) -> str:
    """Return ``float``, ``int``, ``flag``, ``choice``, ``names`` or ``shares`` for a plan's field."""
    part, _, field = path.partition(".")
    return _kind_of(get_type_hints(PARTS[part], include_extras=True)[field])


def _kind_of(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Annotated:
        return _kind_of(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        kinds = {_kind_of(arg) for arg in get_args(hint)}
        return "names" if "names" in kinds else kinds.pop()
    if origin is Literal:
        return "choice"
    if origin is tuple:
        return "names"
    return {float: "float", int: "int", bool: "flag", str: "choice"}.get(hint, "shares")
