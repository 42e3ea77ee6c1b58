"""The way of a config's keys from a dialect to Coral's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from coral.errors import Fault
from coral.spec.dialects.dialect import EMPTY, OWN_KEYS, Dialect, Understood
from coral.spec.document import Document, KeyPath, shown
from coral.spec.fields import suggestion
from coral.spec.sections import SECTIONS


class Translation:
    """A config on its way from a dialect to Coral's keys; every key's origin is remembered."""

    def __init__(self, document: Document, dialect: Dialect, read: Callable[[Path], str]) -> None:
        self.dialect = dialect
        self.notes: list[str] = []
        self.faults: list[Fault] = []
        self.data: dict[str, Any] = {}
        self.read = read
        self._document = document
        self._origins: dict[KeyPath, KeyPath] = {}

    def __contains__(self, key: str) -> bool:
        return self._document.data.get(key) not in EMPTY

    def __getitem__(self, key: str) -> Any:
        return self._document.data[key]

    @property
    def top(self) -> Mapping[str, Any]:
        """The config as written."""
        return self._document.data

    def get(self, key: str, default: Any = None) -> Any:
        """Return a key's value as written; the default where it says nothing."""
        return self._document.data[key] if key in self else default

    def where(self, path: KeyPath) -> str:
        """Return file and line of a key as written."""
        return self._document.where(path)

    def fault(self, path: KeyPath, rule: str, remedy: str) -> None:
        """Note a fault of the key at a path as written."""
        self.faults.append(self._document.fault(path, rule, remedy))

    def put(self, target: KeyPath, value: Any, origin: KeyPath) -> None:
        """Set one of Coral's keys; it must not be written in Coral's words as well."""
        *around, last = target
        block: Any = self.data
        for name in around:
            block = block.setdefault(name, {}) if isinstance(block, dict) else None
        if not isinstance(block, dict):
            return  # a fault of its own
        if last in block and self._origins.get(target) != origin:
            other = self._origins.get(target, target)
            told = ".".join(map(str, other))
            rule = f"says the same as {told} ({self._document.where(other)})"
            self.fault(origin, rule, "Remove one of the two.")
            return
        block[last] = value
        self._origins[target] = origin

    def come_from(self, target: KeyPath, origin: KeyPath) -> None:
        """Let faults of one of Coral's keys name the user's key."""
        self._origins[target] = origin

    def translate(self) -> None:
        """Sort every key, and put what is said in the dialect's own way into Coral's keys."""
        for key, value in self._document.data.items():
            self._sort(key, value)
        self.dialect.translate(self)

    def result(self) -> Understood:
        """Return the whole config in Coral's keys."""
        left_out = [
            key
            for key in self._document.data
            if self.dialect.ignores(key) and key in self and self._document.data[key] is not False
        ]
        if left_out:
            self.notes.append(f"ignored, no part of what is learned: {', '.join(left_out)}")
        document = replace(self._document, data=self.data, origins=self._origins)
        return Understood(document=document, notes=tuple(self.notes), faults=tuple(self.faults))

    def _sort(self, key: str, value: Any) -> None:
        """Copy what is Coral's own, refuse what must be, and pass over what is mapped later."""
        dialect = self.dialect
        if key in dialect.mapped or dialect.ignores(key):
            return
        if key in OWN_KEYS:
            if value is not None:
                self.data[key] = dict(value) if isinstance(value, dict) else value
        elif key in dialect.refused:
            refusal = dialect.refused[key]
            if value not in (*EMPTY, *refusal.harmless):
                rule = f"asks for {refusal.asks}, which Coral does not train, got {shown(value)}"
                self.fault((key,), rule, refusal.remedy)
        else:
            known = tuple(dict.fromkeys((*dialect.plain_keys(), *OWN_KEYS)))
            remedy = suggestion(key, known, "Known keys", SECTIONS)
            self.fault((key,), f"unknown key, to Coral and to {dialect.name}", remedy)
