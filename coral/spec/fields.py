"""From plain YAML values to records, one field at a time, so that every fault is found at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from coral.errors import Fault, PlanError
from coral.spec.document import Document, KeyPath

Record = TypeVar("Record")
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class Reader:
    """Reads values of one document and collects the faults.

    Attributes:
        faults: in the order found.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.faults: list[Fault] = []

    def fault(self, path: KeyPath, rule: str, remedy: str) -> None:
        """Note a fault of the key at ``path``."""
        self.faults.append(self.document.fault(path, rule, remedy))

    def unknown(self, path: KeyPath, known: Iterable[str]) -> None:
        """Note a key that does not exist."""
        names = sorted(known)
        close = difflib.get_close_matches(str(path[-1]), names, n=1, cutoff=0.6)
        remedy = f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(names)}."
        self.fault(path, "unknown key", remedy)

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
            return True, _adapter(record, name).validate_json(_as_json(value), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            rule = first["msg"].replace("Input should be", "must be")
            if len(error.errors()) > 1 and not rule.startswith("must be 'auto'"):
                rules = dict.fromkeys(
                    e["msg"].replace("Input should be", "").strip() for e in error.errors()
                )
                rule = f"must be {' or '.join(rules)}"
            rule = rule if rule.startswith("must") else f"must hold: {rule}"
            self.fault(path, f"{rule}, got {shown(value)}", _remedy(record, name))
        except TypeError:
            self.fault(path, f"must be a plain value, got {shown(value)}", _remedy(record, name))
        return False, None

    def record(
        self, record: type[Record], value: Any, path: KeyPath, given: Mapping[str, Any] | None = None
    ) -> Record | None:
        """Read a record from a mapping; None if it has faults.

        Args:
            given: fields that were read elsewhere.
        """
        values = dict(given or {})
        before = len(self.faults)
        fields = {field.name: field for field in dataclasses.fields(record)}  # type: ignore[arg-type]
        for name, item in self.mapping(value, path).items():
            if name not in fields:
                self.unknown((*path, name), fields)
            elif name not in values:
                fits, checked = self.field(record, name, item, (*path, name))
                if fits:
                    values[name] = checked
        for name, field in fields.items():
            missing = field.default is field.default_factory is dataclasses.MISSING
            if missing and name not in values and not _is_given(value, name):
                self.fault((*path, name), "must be given", "Add the key.")
        if len(self.faults) > before:
            return None
        return self.construct(record, values, path)

    def construct(
        self, record: type[Record], values: Mapping[str, Any], path: KeyPath
    ) -> Record | None:
        """Build a record; an invariant that breaks becomes a fault of the field that it names."""
        try:
            return record(**values)
        except PlanError as error:
            word = re.split(r"[ .]", str(error), maxsplit=1)[0]
            named = (*path, word) if word in values else path
            self.fault(named, str(error), "Correct the value.")
            return None


def _is_given(value: Any, name: str) -> bool:
    return isinstance(value, dict) and name in value


@cache
def _adapter(record: type, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(record, include_extras=True)[name])


def _as_json(value: Any) -> str:
    return json.dumps(value)


def _remedy(record: type, name: str) -> str:
    field = {f.name: f for f in dataclasses.fields(record)}[name]
    if field.default is dataclasses.MISSING:
        return "Correct the value."
    return f"Correct the value; the default is {shown(field.default)}."


def shown(value: Any) -> str:
    """Return a value as YAML flow text, shortened."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def with_numbers(value: Any) -> Any:
    """Turn texts such as ``2e-4`` into numbers: YAML 1.1 wants a dot that people leave out."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        number = float(value)
        return number if math.isfinite(number) else value
    if isinstance(value, dict):
        return {key: with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_numbers(item) for item in value]
    return value
