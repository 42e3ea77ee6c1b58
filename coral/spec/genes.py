"""One gene as it is written in a config."""

from __future__ import annotations

import dataclasses
import math
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
    SimplexGene,
    SubsetGene,
    extremes,
    flag,
)
from coral.plan import TrainingPlan, plan_paths, value_at, with_values
from coral.records import GeneValue
from coral.spec.aliases import PLAN_ALIASES
from coral.spec.document import KeyPath, shown
from coral.spec.fields import Reader, named_rule
from coral.spec.training import PARTS, canonical

FORMS: Mapping[str, tuple[str, ...]] = {
    "choices": ("choices",),
    "subset": ("subset", "least"),
    "simplex": ("simplex", "floor"),
    "range": ("low", "high", "log"),
}
"""The forms a gene is written in, with their keys."""
KEYS = (*(key for keys in FORMS.values() for key in keys), "when")
FLAG, SIMPLEX = "flag", "simplex"
"""A gene that says no more than its kind."""


@dataclasses.dataclass(frozen=True, slots=True)
class GeneReader:
    """Reads one gene.

    Attributes:
        target: the field's dotted path.
        path: where the gene stands.
        plan: holds the value that the field keeps without the gene.
    """

    reader: Reader
    target: str
    path: KeyPath
    plan: TrainingPlan
    tasks: Sequence[str] | None

    def read(self, value: Any) -> Gene | None:
        """Return the gene, checked at its extremes against the field; None if it has faults."""
        before = len(self.reader.faults)
        block, home = self._block(value)
        if block is None:
            return None
        for key in block:
            if key not in KEYS:
                self.reader.unknown((*self.path, key), KEYS)
        forms = [form for form, keys in FORMS.items() if set(keys) & set(block)]
        if len(forms) > 1:
            told = ", ".join(key for key in block if key in KEYS)
            self._fault(f"a gene has one form, got {told}")
        when = self._condition(block["when"]) if "when" in block else self._declared()
        if len(self.reader.faults) > before:
            return None
        if self._kind == "shares" and self.tasks is None:
            return None  # the faults of the tasks come first
        try:
            gene = self._built(block, when)
        except GenomeError as error:
            self._fault(str(error))
            return None
        return self._checked(gene, home)

    @property
    def _kind(self) -> str:
        return field_kind(self.target)

    def _fault(self, rule: str, *inside: str | int) -> None:
        name = self.target.partition(".")[2].replace("_", " ")
        value = value_at(self.plan, self.target)
        told = f" ({shown(value)})" if value not in ({}, ()) else ""
        do = "Swap the bounds" if rule.startswith("low <= high") else "Correct it"
        remedy = f"{do}, or remove the gene to keep the default {name}{told}."
        self.reader.fault((*self.path, *inside), rule, remedy)

    def _block(self, value: Any) -> tuple[dict[str, Any] | None, KeyPath]:
        """Return the gene as a mapping, and where its choices stand."""
        if isinstance(value, list):
            return {"choices": value}, self.path
        if isinstance(value, dict):
            return value, (*self.path, "choices")
        if (value, self._kind) in ((FLAG, "flag"), (SIMPLEX, "shares")):
            return {}, self.path
        self.reader.fault(
            self.path,
            f"a gene is a list of choices or a mapping with low and high, got {shown(value)}",
            "Write `[8, 16, 32]` or `{low: 1.0e-4, high: 1.0e-2, log: true}`. To fix the field,"
            " set it under `training`.",
        )
        return None, self.path

    def _declared(self) -> Condition | None:
        """Return the condition that the plan's field declares."""
        declared = plan_paths()[self.target].metadata.get("active_when")
        if declared is None:
            return None
        part = self.target.partition(".")[0]
        return Condition(path=f"{part}.{declared[0]}", values=declared[1])

    def _condition(self, when: Any) -> Condition | None:
        """Return the condition as written."""
        if not isinstance(when, dict) or len(when) != 1:
            rule = f"when names one field and its values, got {shown(when)}"
            remedy = "Write, for example, `when: {curriculum.kind: progressive}`."
            self.reader.fault((*self.path, "when"), rule, remedy)
            return None
        name, values = next(iter(when.items()))
        where = (*self.path, "when", name)
        path = canonical(name)
        if path is None or path == self.target:
            self.reader.unknown(where, (*plan_paths(), *PLAN_ALIASES), plan_paths())
            return None
        part, _, field = path.partition(".")
        options = _frozen(values if isinstance(values, list) else [values])
        for option in options:
            self.reader.field(PARTS[part], field, _thawed(option), where)
        return Condition(path=path, values=options)

    def _built(self, block: Mapping[str, Any], when: Condition | None) -> Gene:
        if "choices" in block:
            if not isinstance(block["choices"], list):
                raise GenomeError(f"choices must be a list, got {shown(block['choices'])}")
            return ChoiceGene(path=self.target, options=_frozen(block["choices"]), when=when)
        if set(FORMS["subset"]) & set(block):
            return self._subset(block, when)
        if set(FORMS["range"]) & set(block):
            return self._range(block, when)
        if self._kind == "shares":
            return self._simplex(block, when)
        if self._kind == "flag" and not block.keys() & {"simplex", "floor"}:
            return flag(self.target, when=when)
        raise GenomeError(f"a gene needs `choices`, or `low` and `high`, got {shown(dict(block))}")

    def _subset(self, block: Mapping[str, Any], when: Condition | None) -> Gene:
        if self._kind != "names":
            raise GenomeError(f"{self.target} takes one value, not a subset of names")
        names, least = _names(block.get("subset")), block.get("least", 1)
        if not isinstance(least, int) or isinstance(least, bool):
            raise GenomeError(f"least must be a whole number, got {shown(least)}")
        return SubsetGene(path=self.target, options=names, least=least, when=when)

    def _simplex(self, block: Mapping[str, Any], when: Condition | None) -> Gene:
        tasks = list(self.tasks or ())
        names, floor = _names(block.get("simplex", tasks)), block.get("floor", 0.1)
        if unknown := [name for name in names if name not in tasks]:
            raise GenomeError(
                f"shares go to the run's tasks ({', '.join(tasks)}), got {', '.join(unknown)}"
            )
        if len(names) < 2:
            raise GenomeError(f"shares need at least two tasks, got {shown(list(names))}")
        if not isinstance(floor, int | float) or isinstance(floor, bool):
            raise GenomeError(f"floor must be a number, got {shown(floor)}")
        return SimplexGene(path=self.target, names=names, floor=floor, when=when)

    def _range(self, block: Mapping[str, Any], when: Condition | None) -> Gene:
        log = block.get("log", False)
        if self._kind not in ("int", "float"):
            raise GenomeError(f"{self.target} is not a number, so it needs `choices`")
        low, high = _bound(block, "low"), _bound(block, "high")
        if not isinstance(log, bool):
            raise GenomeError(f"log must be true or false, got {shown(log)}")
        if self._kind == "float":
            return FloatGene(path=self.target, low=float(low), high=float(high), log=log, when=when)
        if low != int(low) or high != int(high):
            raise GenomeError(f"{self.target} is a whole number, got low={low}, high={high}")
        return IntGene(path=self.target, low=int(low), high=int(high), log=log, when=when)

    def _checked(self, gene: Gene, choices: KeyPath) -> Gene | None:
        """Check that every extreme of a gene makes a valid plan of the right types."""
        before = len(self.reader.faults)
        match gene:
            case SimplexGene():
                return gene
            case ChoiceGene():
                places: list[KeyPath] = [(*choices, i) for i in range(len(gene.options))]
            case SubsetGene():
                places = [(*self.path, "subset")]
            case FloatGene() | IntGene():
                places = [(*self.path, "low"), (*self.path, "high")]
        values = [
            self._fitting(value, where) for value, where in zip(extremes(gene), places, strict=True)
        ]
        if len(self.reader.faults) > before:
            return None
        if isinstance(gene, ChoiceGene):
            return dataclasses.replace(gene, options=tuple(values))
        return gene

    def _fitting(self, value: GeneValue, where: KeyPath) -> Any:
        part, _, field = self.target.partition(".")
        fits, checked = self.reader.field(PARTS[part], field, _thawed(value), where)
        if fits:
            try:
                with_values(self.plan, {self.target: checked})
            except PlanError as error:
                rule = named_rule(error)[1]
                self.reader.fault(where, rule, "Keep the gene within what a plan allows.")
        return checked


def _bound(block: Mapping[str, Any], name: str) -> int | float:
    bound = block.get(name)
    if not isinstance(bound, int | float) or isinstance(bound, bool):
        raise GenomeError(f"{name} must be a number, got {shown(bound)}")
    try:
        finite = math.isfinite(bound)
    except OverflowError:
        finite = False
    if not finite:
        raise GenomeError(f"{name} must be finite, got {shown(bound)}")
    return bound


def _frozen(options: list[Any]) -> tuple[GeneValue, ...]:
    return tuple(tuple(option) if isinstance(option, list) else option for option in options)


def _thawed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _names(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise GenomeError(f"a list of names is needed, got {shown(names)}")
    return tuple(names)


def field_kind(path: str) -> str:
    """Return a field's kind: ``float``, ``int``, ``flag``, ``choice``, ``names`` or ``shares``."""
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
