"""From plain YAML values to records, one field at a time, so that every fault is found at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from coral.errors import Fault, PlanError
from coral.ports import BUILT_IN
from coral.spec.document import Document, KeyPath, shown
from coral.spec.sections import RETIRED

Record = TypeVar("Record")


class Reader:
    """Reads values of one document and collects the faults.

    Attributes:
        strategies: kind of strategy to the names that exist.
        faults: in the order found.
    """

    def __init__(
        self, document: Document, strategies: Mapping[str, Sequence[str]] = BUILT_IN
    ) -> None:
        self.document = document
        self.strategies = strategies
        self.faults: list[Fault] = []

    def fault(self, path: KeyPath, rule: str, remedy: str) -> None:
        """Note a fault of the key at ``path``."""
        self.faults.append(self.document.fault(path, rule, remedy))

    def unknown(self, path: KeyPath, known: Iterable[str], listed: Iterable[str] = ()) -> None:
        """Note a key that does not exist.

        Args:
            known: the keys that do.
            listed: those to list where none is alike; empty for all.
        """
        remedy = suggestion(str(path[-1]), tuple(known), "Known keys", tuple(listed))
        self.fault(path, "unknown key", RETIRED.get(path, remedy))

    def mapping(self, value: Any, path: KeyPath) -> dict[str, Any]:
        """Return a mapping; anything else is a fault and gives an empty one."""
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        self.fault(path, f"must be a mapping, got {shown(value)}", "Write `key: value` lines.")
        return {}

    def sequence(self, value: Any, path: KeyPath) -> list[Any]:
        """Return a list; anything else is a fault and gives an empty one."""
        if isinstance(value, list):
            return value
        self.fault(path, f"must be a list, got {shown(value)}", "Write `- item` lines.")
        return []

    def field(self, record: type, name: str, value: Any, path: KeyPath) -> tuple[bool, Any]:
        """Check a value against a record's field. Returns whether it fits, and the value."""
        try:
            if isinstance(value, int | float) and not math.isfinite(value):
                raise OverflowError
            fitting = _adapter(record, name).validate_json(json.dumps(value), strict=True)
            return self._exists(record, name, fitting, path), fitting
        except ValidationError as error:
            for inside, rule, got in _reasons(error, value):
                remedy = _remedy(record, name, got)
                self.fault((*path, *inside), f"{rule}, got {shown(got)}", remedy)
        except OverflowError:
            self.fault(path, f"must be finite, got {shown(value)}", _remedy(record, name, value))
        except TypeError:
            rule = f"must be a text, number, list or mapping, got {shown(value)}"
            self.fault(path, rule, _remedy(record, name, value))
        return False, None

    def _exists(self, record: type, name: str, value: Any, path: KeyPath) -> bool:
        """Check that a field which names a strategy names one that exists."""
        kind = _field(record, name).metadata.get("strategy")
        if kind is None or value in self.strategies[kind]:
            return True
        known = tuple(map(repr, self.strategies[kind]))
        rule = f"must be {' or '.join(filter(None, (', '.join(known[:-1]), known[-1])))}"
        close = difflib.get_close_matches(value, self.strategies[kind], n=1, cutoff=0.7)
        remedy = f"{_remedy(record, name, None)} Others need the folder of their plugin: --plugins."
        self.fault(
            path,
            f"{rule}, got {shown(value)}",
            f"Did you mean {close[0]!r}?" if close else remedy,
        )
        return False

    def record(
        self,
        record: type[Record],
        value: Any,
        path: KeyPath,
        given: Mapping[str, Any] | None = None,
    ) -> Record | None:
        """Read a record from a mapping; None if it has faults.

        Args:
            given: fields that were read elsewhere.
        """
        values = dict(given or {})
        before = len(self.faults)
        block = self.mapping(value, path)
        if len(self.faults) > before:
            return None
        fields = {field.name: field for field in dataclasses.fields(record)}  # type: ignore[arg-type]
        for name, item in block.items():
            if name not in fields:
                self.unknown((*path, name), fields)
            elif name not in values:
                fits, checked = self._member(record, name, item, (*path, name))
                if fits:
                    values[name] = checked
        required = [name for name, field in fields.items() if _is_required(field)]
        for name in required:
            if name not in values and name not in block:
                self.fault((*path, name), "must be given", f"Add `{name}: ...` here.")
        if any(name not in values for name in required):
            return None
        built = self.construct(record, values, path, whole=len(self.faults) == before)
        return built if len(self.faults) == before else None

    def _member(self, record: type, name: str, value: Any, path: KeyPath) -> tuple[bool, Any]:
        """Read a field, record by record where it holds records."""
        container, inner = _records_in(_hints(record)[name])
        if inner is None or value is None:
            return self.field(record, name, value, path)
        before = len(self.faults)
        read: Any
        match container:
            case "mapping":
                items = self.mapping(value, path)
                read = {key: self.record(inner, item, (*path, key)) for key, item in items.items()}
            case "tuple":
                listed = self.sequence(value, path)
                read = tuple(self.record(inner, item, (*path, i)) for i, item in enumerate(listed))
            case _:
                read = self.record(inner, value, path)
        return len(self.faults) == before, read

    def construct(
        self,
        record: type[Record],
        values: Mapping[str, Any],
        path: KeyPath,
        written: Mapping[str, KeyPath] | None = None,
        *,
        whole: bool = True,
    ) -> Record | None:
        """Build a record; each invariant that breaks becomes a fault of the field that it names.

        Args:
            written: where a field was written, if not at ``path``.
            whole: no value is missing for a fault of its own, so that faults between fields count.
        """
        kept = dict(values)
        while True:
            try:
                built = record(**kept)
            except PlanError as error:
                name, rule = named_rule(error)
                field = {f.name: f for f in dataclasses.fields(record)}.get(name)  # type: ignore[arg-type]
                if field is None or name not in kept:
                    if whole:
                        self.fault(path, str(error), "Correct the value.")
                    return None
                where = (written or {}).get(name, (*path, name))
                self.fault(where, rule, _remedy(record, name, kept[name]))
                if _is_required(field):
                    return None
                del kept[name]  # the next round finds the next fault
            else:
                return built if len(kept) == len(values) else None


def named_rule(error: Exception) -> tuple[str, str]:
    """Split ``rank must be > 0, got 0`` into the field and the rule without it."""
    name = re.split(r"[ .]", str(error), maxsplit=1)[0]
    return name, str(error).removeprefix(f"{name} ")


def suggestion(word: str, known: tuple[str, ...], title: str, listed: tuple[str, ...] = ()) -> str:
    """Return a remedy for a misspelt name: the one that is most alike, or all of them."""
    worth = sorted(name for name in known if len(name) > 2)
    close = difflib.get_close_matches(word, worth, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"{title}: {', '.join(listed or known)}."


def _field(record: type, name: str) -> dataclasses.Field[Any]:
    return {field.name: field for field in dataclasses.fields(record)}[name]


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


@cache
def _hints(record: type) -> dict[str, Any]:
    return get_type_hints(record, include_extras=True)


@cache
def _adapter(record: type, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_hints(record)[name])


def _records_in(hint: Any) -> tuple[str, type | None]:
    """Return how a type holds records (mapping, tuple or by itself), and which; None if none."""
    if dataclasses.is_dataclass(hint):
        return "", hint if isinstance(hint, type) else None
    containers = {Mapping: "mapping", tuple: "tuple"}
    for part in get_args(hint):
        if dataclasses.is_dataclass(part) and isinstance(part, type):
            return containers.get(get_origin(hint), ""), part
    return "", None


def _reasons(error: ValidationError, value: Any) -> list[tuple[KeyPath, str, Any]]:
    """Return where inside of ``value`` it is wrong, the rule, and the value there.

    Of two readings of a value, the one that gets further into it is meant.
    """
    reasons: dict[KeyPath, list[str]] = {}
    for detail in error.errors(include_url=False):
        inside, _ = _innermost(detail["loc"], value)
        reasons.setdefault(inside, []).append(_rule(detail["type"], detail.get("ctx", {})))
    deepest = max(map(len, reasons))
    return [
        (inside, f"must be {' or '.join(dict.fromkeys(rules))}", _innermost(inside, value)[1])
        for inside, rules in reasons.items()
        if len(inside) == deepest
    ]


def _innermost(loc: tuple[int | str, ...], value: Any) -> tuple[KeyPath, Any]:
    """Follow those parts of a pydantic location that are keys of the value; others name types."""
    path: KeyPath = ()
    for part in loc:
        inside = isinstance(value, list) and isinstance(part, int)
        if inside or (isinstance(value, dict) and part in value):
            path, value = (*path, part), value[part]
    return path, value


_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "none": "null",
}
_SIGNS = {
    "greater_than": ">",
    "greater_than_equal": ">=",
    "less_than": "<",
    "less_than_equal": "<=",
}
_LIMITS = {
    "greater_than": "gt",
    "greater_than_equal": "ge",
    "less_than": "lt",
    "less_than_equal": "le",
}


def _rule(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _SIGNS:
        return f"{_SIGNS[kind]} {context[_LIMITS[kind]]:g}"
    if kind == "literal_error":
        return str(context["expected"])
    return _TYPES.get(kind.partition("_")[0], kind.replace("_", " "))


def _remedy(record: type, name: str, got: Any) -> str:
    field = _field(record, name)
    if isinstance(got, str):
        options = _options(_hints(record)[name])
        close = difflib.get_close_matches(got, options, n=1, cutoff=0.7)
        if close:
            return f"Did you mean {close[0]!r}?"
    if _is_required(field):
        return "Correct the value."
    if field.default in (None, "", dataclasses.MISSING):
        return "Correct the value, or leave the key out."
    return f"Correct the value; the default is {shown(field.default)}."


def _options(hint: Any) -> list[str]:
    """Return the texts that a type hint allows by name."""
    if get_origin(hint) is Literal:
        return [option for option in get_args(hint) if isinstance(option, str)]
    return [option for arg in get_args(hint) for option in _options(arg)]
